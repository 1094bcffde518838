"""Words of the command line as Reverie's nouns: guides, options, processes, prompts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from reverie.base import ArgumentError, FileError, UnknownNameError, unknown
from reverie.base.files import read_bytes
from reverie.guide import CFG
from reverie.hub import house_models, load
from reverie.model import Model, in_turn
from reverie.process import Process, edm, flow, subvp, ve, vp

__all__ = [
    "conditions_in_turn",
    "cycled",
    "device",
    "guide",
    "names",
    "options",
    "own_guide",
    "process",
    "read_prompts",
    "told",
]

_PROCESSES: dict[str, Callable[[], Process]] = {
    "vp": vp,
    "vp:linear": vp,
    "vp:cosine": lambda: vp("cosine"),
    "vp:scaled_linear": lambda: vp("scaled_linear"),
    "subvp": subvp,
    "ve": ve,
    "edm": edm,
    "flow": flow,
}


def own_guide(model: Model, text: str | None) -> str | None:
    """The words of the guide: those given, else the model's own recommendation; "none" is none."""
    if text is None:
        text = model.card.get("sampling", {}).get("guide")
    return None if text == "none" else text


def guide(text: str) -> CFG:
    """A guide: cfg:SCALE[:LO,HI][:rescale=PHI].

    Raises:
        UnknownNameError: no such guide. ArgumentError: numbers that are none, or out of range.

    >>> guide("cfg:4:0.1,0.9:rescale=0.7").interval
    (0.1, 0.9)
    """
    form = "write cfg:SCALE[:LO,HI][:rescale=PHI], for example cfg:4 or cfg:4:0.1,0.9:rescale=0.7"
    name, *parts = text.split(":")
    if name != "cfg":
        raise unknown("guide", name, ["cfg", "none"])
    known: dict[str, Any] = {}
    try:
        for i, part in enumerate(parts):
            if i == 0:
                known["scale"] = float(part)
            elif part.startswith("rescale="):
                known["rescale"] = float(part.removeprefix("rescale="))
            else:
                low, high = part.split(",")
                known["interval"] = (float(low), float(high))
    except ValueError:
        raise ArgumentError(f"the guide {text!r} has a part {part!r} that is not understood; {form}") from None
    if "scale" not in known:
        raise ArgumentError(f"the guide {text!r} lacks its scale; {form}")
    return CFG(**known)


def options(pairs: Iterable[str]) -> dict[str, Any]:
    """A solver's options from words NAME=VALUE: numbers, true, false, none, lists with commas, nested lists in brackets, or text.

    Raises:
        ArgumentError: a word without '=', or an option said twice.

    >>> options(["eta=0.5", "released=true", "orders=3,3,1"])
    {'eta': 0.5, 'released': True, 'orders': (3, 3, 1)}
    """
    from reverie.inspect.entries import value

    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, said = pair.partition("=")
        if not (name and equals and said):
            raise ArgumentError(f"an option is written NAME=VALUE, for example eta=0.5, got {pair!r}")
        if name in found:
            raise ArgumentError(f"the option {name!r} is given twice")
        found[name] = value(said)
    return found


def process(text: str) -> Process:
    """A process by name (vp, vp:cosine, vp:scaled_linear, subvp, ve, edm, flow, flow:SHIFT), or that of a model.

    Raises:
        UnknownNameError: neither a process nor a model. ArgumentError: a shift that is no number. FileError: a model that cannot be read.

    >>> process("flow:3").shift
    3.0
    """
    if text in _PROCESSES:
        return _PROCESSES[text]()
    name, _, argument = text.partition(":")
    if name == "flow":
        try:
            return flow(float(argument))
        except ValueError as error:
            raise (
                error
                if isinstance(error, ArgumentError)
                else ArgumentError(f"flow:SHIFT takes a number, got {argument!r}")
            ) from None
    try:
        return load(text).process
    except UnknownNameError:
        raise unknown("process or model", text, [*_PROCESSES, *house_models()]) from None


def told(prompt: Sequence[str] | None, file: str | None) -> str | list[str] | None:
    """What a command was told to draw, by its arguments or by a file.

    Raises `ArgumentError` for both, and as `read_prompts`.

    >>> told(["a cat"], None), told(["a cat", "a dog"], None), told(None, None)
    ('a cat', ['a cat', 'a dog'], None)
    """
    if file is not None:
        if prompt:
            raise ArgumentError("give prompts as arguments or as --prompts FILE, not both")
        return read_prompts(file)
    return prompt[0] if prompt and len(prompt) == 1 else list(prompt) if prompt else None


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a text file, one a line; empty lines and those that begin with '#' are left out. Raises `FileError`."""
    try:
        text = read_bytes(Path(path), 16 << 20).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{str(path)!r} is no text in UTF-8 ({error})") from None
    found = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    if not found:
        raise FileError(f"{str(path)!r} holds no prompt; write one a line")
    return found


def conditions_in_turn(
    model: Model, prompt: str | Sequence[str] | None, pictures: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The conditions that samples take in turn, one entry each; empty for a model that takes none.

    Args:
        prompt: classes ("7", "0,1,2", "all"), or texts. None: all classes, or nothing said. pictures: what else `embed` is told.

    Raises as `cycled`.
    """
    if model.embed is None:
        if prompt:
            raise ArgumentError(
                f"{model.name} takes no prompt, got {prompt if isinstance(prompt, str) else prompt[0]!r}; leave it out"
            )
        return {}
    if model.card.get("classes") is not None:
        return model.embed(prompt if isinstance(prompt, str) else ",".join(prompt or ["all"]))
    if not prompt and not pictures:
        return dict(model.null or {})
    return dict(model.embed(prompt or "", **(pictures or {})))


def cycled(
    model: Model, prompt: str | Sequence[str] | None, ids: Sequence[int]
) -> tuple[dict[str, Any], list[str] | None, int]:
    """The condition of each sample, what to call it, and K: sample i gets entry i mod K of the prompt's K.

    So what a sample shows is a function of its id, in any job. Without a prompt, a model of classes cycles through all of them.

    Raises:
        ArgumentError: a prompt for a model that takes none. UnknownNameError: a class that it does not have.
    """
    pool = conditions_in_turn(model, prompt)
    cond = in_turn(pool, ids)
    return cond, names(model, prompt, cond, ids), max(map(len, pool.values()), default=1)


def device(name: str) -> str:
    """A device's name, checked. Under torchrun "cuda" is the process's own, where there are several."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if name == "cuda" and torch.cuda.device_count() > 1:
            name = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
        device = torch.empty(0, device=name).device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        return name
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ArgumentError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from None


def names(
    model: Model, prompt: str | Sequence[str] | None, cond: dict[str, Any], ids: Sequence[int]
) -> list[str] | None:
    """What to call each sample, by its class or its text; None where nothing was said."""
    classes = model.card.get("classes")
    if classes is not None:
        return [str(classes[c]) for c in cond["class_labels"].tolist()] if "class_labels" in cond else None
    if model.embed is None or not prompt:
        return None
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    return [texts[i % len(texts)] for i in ids]


def size(text: str) -> tuple[int, int]:
    """ "768x512", width and height as they are written of pictures, as (height, width). Raises `ArgumentError`.

    >>> size("768x512")
    (512, 768)
    """
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() and int(side) > 0 for side in sides):
        raise ArgumentError(f"--size is WIDTHxHEIGHT in pixels, such as 768x512, got {text!r}")
    return int(sides[1]), int(sides[0])
