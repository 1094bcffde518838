"""Models by name or path: house models, files of the same format, and pipelines in diffusers' layout.

House models are small models of our own. `digits` comes with the package; the others lie in the folder `models` beside the sources, or in those
that the environment variable REVERIE_MODELS names. A model is a pair of files, `<name>.json` (process, prediction type, network, card) and
`<name>.safetensors` (weights), or a pipeline's folder (see `pipeline`):

    {"format": 1, "kind": "reverie-model", "process": {...}, "predicts": "v", "label": "lam", "net": {"name": "unet", "args": {...}},
     "null": {"class_labels": 10}, "shape": [1, 8, 8], "classes": ["0", ...], "sampling": {"grid": "logsnr:0.8", "end": "zero"}, ...}
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reverie.base import ArgumentError, FileError, ReverieError, unknown
from reverie.base.files import read_bytes
from reverie.hub.folder import read_pipeline
from reverie.model import Cond, Model
from reverie.nets import build, models_in, read_tensors
from reverie.process import from_spec

__all__ = ["FORMAT", "KIND", "find", "house_models", "load"]

FORMAT, KIND = 1, "reverie-model"
INDEX = "model_index.json"
_PACKAGE = Path(str(resources.files("reverie.hub"))) / "models"
_CHECKOUT = Path(__file__).resolve().parents[3]


def _places() -> list[Path]:
    """Folders that are searched for house models, the first that has a name wins."""
    named = [Path(place) for place in os.environ.get("REVERIE_MODELS", "").split(os.pathsep) if place]
    beside = [_CHECKOUT / "models"] if (_CHECKOUT / "pyproject.toml").is_file() else []
    return [*named, _PACKAGE, *beside]


def _house() -> dict[str, Path]:
    """Name -> its card, or its pipeline's folder."""
    found: dict[str, Path] = {}
    for place in _places():
        for card in [*place.glob("*.json"), *place.glob("*/*.json")]:
            if card.name == INDEX:
                found.setdefault(card.parent.name, card.parent)
            elif card.with_suffix(".safetensors").is_file() and card.parent.name in (place.name, card.stem):
                found.setdefault(card.stem, card)
    return found


def house_models() -> list[str]:
    """Names of the models that come with the package, and of those in the folders that are searched.

    >>> "digits" in house_models()
    True
    """
    return sorted(_house())


def load(name: str | Path, device: torch.device | str = "cpu", **options: Any) -> Model:
    """A model ready to sample: a house model by name, a model of the same format or a diffusers pipeline by path.

    Args:
        name: "digits", "shapes", or the path of `<name>.json`, of a folder that holds exactly one such file, or of a pipeline's folder.
        device: where its network goes. options: of a pipeline's folder `size`, `dtype` and `variant`, see `hub.model`.

    Returns:
        A `Model` with `embed` (class names, or a pipeline's prompts, to a condition), `null`, `shape`, and `card` (the JSON file's content); a
        pipeline has its autoencoder as `codec`, and makes pictures.

    Raises:
        UnknownNameError: neither a house model nor a path. FileError: malformed, truncated or newer files, weights that are pickles.

    >>> m = load("digits")
    >>> m.shape, m.embed("7")
    ((1, 8, 8), {'class_labels': tensor([7])})
    """
    source = find(name)
    if source.is_dir():
        return read_pipeline(source, device, **options)
    if options:
        raise ArgumentError(f"only a pipeline's folder takes {', '.join(options)}, and {str(source)!r} is none")
    card = _card(source)
    try:
        process = from_spec(card["process"])
        net = build(card["net"]["name"], card["net"].get("args"))
        classes = card.get("classes")
        null = card.get("null")
        weights, _ = read_tensors(source.with_suffix(".safetensors"))
        _fill(net, weights, source)
        net = net.to(device).eval().requires_grad_(False)
        model = Model(
            net, process, card["predicts"], label=card.get("label"), null=null, shape=card.get("shape"), name=source.stem,
            sampling=card.get("sampling"), embed=None if classes is None else embed_classes(classes),
        )  # fmt: skip
    except FileError:
        raise
    except ReverieError as error:
        raise FileError(f"{str(source)!r} is a malformed model: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{str(source)!r} is a malformed model: {type(error).__name__} {error}") from None
    model.card = card
    return model


def embed_classes(classes: Sequence[str]) -> Callable[[str | Sequence[str]], Cond]:
    """Class names to a condition: one name, several (a list, or separated by commas), or "all".

    The returned function raises `UnknownNameError` for a name that is no class.

    >>> embed_classes(["cat", "dog"])("dog, cat")
    {'class_labels': tensor([1, 0])}
    """
    known = {str(c): i for i, c in enumerate(classes)}

    def embed(prompt: str | Sequence[str]) -> Cond:
        words = prompt.split(",") if isinstance(prompt, str) else [str(w) for w in prompt]
        words = list(known) if prompt == "all" else [w.strip() for w in words if w.strip()]
        if not words:
            raise ArgumentError(f"name a class, got {prompt!r}; known: {', '.join(known)}")
        for w in words:
            if w not in known:
                raise unknown("class", w, known)
        return {"class_labels": torch.tensor([known[w] for w in words])}

    return embed


def find(name: str | Path) -> Path:
    """Where a model lies, by name or path: its card, or a pipeline's folder. Raises `UnknownNameError` and `FileError` as `load`."""
    house = _house()
    if isinstance(name, str) and name in house:
        return house[name]
    path = Path(name)
    if path.is_dir():
        if (path / INDEX).is_file():
            return path
        found = models_in(path)
        if len(found) != 1:
            raise FileError(
                f"{str(path)!r} holds {len(found)} models (<name>.json with <name>.safetensors) and no pipeline ({INDEX}); name one by its path"
            )
        return found[0]
    if path.is_file():
        return path.with_suffix(".json") if path.suffix == ".safetensors" else path
    if path.suffix or len(path.parts) > 1:
        raise FileError(f"{str(path)!r} does not exist; house models are {', '.join(house)}")
    raise unknown("model", str(name), house)


def _card(source: Path) -> dict[str, Any]:
    try:
        card = json.loads(read_bytes(source, 1 << 20))
    except ValueError as error:
        raise FileError(f"{str(source)!r} is not a model: not valid JSON ({error})") from None
    if not isinstance(card, dict) or card.get("kind") != KIND:
        raise FileError(f"{str(source)!r} is not a model: its 'kind' is not {KIND!r}")
    if not isinstance(card.get("format"), int) or card["format"] > FORMAT:
        raise FileError(
            f"{str(source)!r} has model format {card.get('format')!r}, this Reverie reads up to {FORMAT}; upgrade Reverie"
        )
    return card


def _fill(net: nn.Module, weights: dict[str, torch.Tensor], source: Path) -> None:
    want = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    have = {k: tuple(v.shape) for k, v in weights.items()}
    if want != have:
        wrong = sorted(k for k in want.keys() | have.keys() if want.get(k) != have.get(k))
        raise FileError(
            f"the weights beside {str(source)!r} do not fit its network: {wrong[0]!r} and {len(wrong) - 1} more differ"
        )
    net.load_state_dict({k: v.to(net.state_dict()[k].dtype) for k, v in weights.items()})
