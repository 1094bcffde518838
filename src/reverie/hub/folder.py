"""Reading a pipeline of diffusers from its folder, its parts by diffusers and transformers themselves.

Nothing is downloaded and nothing is unpickled: weights are `.safetensors` files of the folder. `card.json`, where there is one, adds what the
layout has no place for: a name, how the model is best sampled and guided, and whether its vocabulary is closed (`"vocabulary": "whole"`: a word
that is no token was never trained on, and is refused).
"""

from __future__ import annotations

import importlib
import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import torch

from reverie.base import ArgumentError, FileError, ReverieError
from reverie.base.files import read_bytes
from reverie.hub.pipelines import Ask, Family, find, known, wrapped
from reverie.hub.pipelines.common import quiet
from reverie.hub.process import predicts_of, process_of
from reverie.hub.tokenizer import missing
from reverie.model import Model

__all__ = ["read_parts", "read_pipe", "read_pipeline"]

_TOLD = {"solver", "grid", "end", "guide"}
_OURS = "reverie.hub.schedulers"
"""Where a pipeline that was saved with our scheduler says that it lies."""
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
"""Components that no denoiser needs."""
_SAID = {"requires_safety_checker": False, "add_watermarker": False}


def read_parts(folder: str | Path, dtype: torch.dtype = torch.float32, variant: str | None = None) -> dict[str, Any]:
    """The parts of a pipeline's folder by name, networks frozen and in evaluation mode, and None for a part that it may lack and does.

    Args:
        dtype: of the networks' weights. variant: of their files, "fp16"; by default the plain ones, "fp16" where these alone are there.

    Raises:
        FileError: no pipeline, or one that Reverie does not know; a part that is missing, damaged or of another class; weights that are pickles, with
            how to convert them.
        ArgumentError: diffusers or transformers is not installed.
    """
    return _read(Path(folder), dtype, variant)[2]


def read_pipe(folder: str | Path, dtype: torch.dtype = torch.float32, variant: str | None = None) -> Any:
    """A pipeline's folder as a pipeline object of diffusers, without safety checker and image encoder.

    Arguments and errors as `read_parts`.
    """
    place = Path(folder)
    index, cls, parts = _read(place, dtype, variant)
    given: dict[str, Any] = {}
    for name in inspect.signature(cls).parameters:
        if name in parts or name in _LEFT_OUT:
            given[name] = parts.get(name)
        elif name in _SAID:
            given[name] = _SAID[name]
        elif name in index and not isinstance(index[name], list):
            given[name] = index[name]
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what pipelines find outdated in a scheduler's config is of their own runs
            return cls(**given)
    except Exception as error:  # diffusers has errors of its own for parts that do not fit
        raise FileError(f"{str(place)!r} cannot be put together: {_short(error)}") from error


def read_pipeline(
    folder: str | Path,
    device: torch.device | str = "cpu",
    *,
    name: str | None = None,
    size: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
) -> Model:
    """A pipeline's folder as a `Model`; see `hub.model`.

    Args:
        device: where its networks go. name: by default the card's, or the folder's. size: of pictures, (height, width) in pixels. dtype, variant: as
            `read_parts`.

    Raises as `read_parts`, and `ArgumentError` for a size that it cannot make.
    """
    place = Path(folder)
    pipe = read_pipe(place, dtype, variant)
    card = _json(place / "card.json") if (place / "card.json").is_file() else {}
    sampling = _sampling(card, place)
    try:
        pipe.to(device)
        ask = Ask(name or str(card.get("name", place.resolve().name)), size, whole=card.get("vocabulary") == "whole")
        model = wrapped(pipe, ask)
    except ReverieError:
        raise
    except Exception as error:  # parts that were read, and do not fit each other
        raise FileError(f"{str(place)!r} cannot be sampled: {_short(error)}") from error
    model.sampling = sampling
    model.card = model.card | card
    return model


def _read(place: Path, dtype: torch.dtype, variant: str | None) -> tuple[dict[str, Any], type, dict[str, Any]]:
    """The index, the pipeline's class, and its parts."""
    index = _index(place)
    try:
        import diffusers
        import transformers
    except ImportError:
        raise missing() from None
    cls, family = _class(index, place, diffusers)
    parts: dict[str, Any] = {}
    for name in family.parts:
        if name not in inspect.signature(cls).parameters:
            continue
        if name in family.optional and index.get(name) in (None, [None, None]):
            parts[name] = None
            continue
        own = place / name
        library, kind = _named(index, place, name, family)
        if not own.is_dir():
            raise FileError(
                f"{str(place)!r} lacks the folder of its {name} ({kind}); copy the whole pipeline, or save it again: "
                f"pipe.save_pretrained({place.name!r})"
            )
        own_kind = importlib.import_module(_OURS) if library == _OURS else None
        part = getattr(own_kind or (diffusers if library == "diffusers" else transformers), kind, None)
        if part is None:
            raise FileError(
                f"the {name} of {str(place)!r} is a {kind}, which the installed {library} lacks; upgrade it"
            )
        if name == "scheduler" and not issubclass(part, diffusers.SchedulerMixin):
            raise FileError(f"the scheduler of {str(place)!r} is {library}.{kind}, a scheduler of diffusers is needed")
        try:
            parts[name] = _part(part, own, name, library, dtype, variant)
        except FileError:
            raise
        except Exception as error:  # each library has errors of its own for damaged files
            raise FileError(f"the {name} in {str(own)!r} cannot be read: {_short(error)}") from error
    return index, cls, parts


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _class(index: dict[str, Any], place: Path, diffusers: Any) -> tuple[type, Family]:
    """The pipeline's class, and its family."""
    kind = index.get("_class_name")
    cls = getattr(diffusers, kind, None) if isinstance(kind, str) else None
    if isinstance(cls, type):
        try:
            return cls, find(cls)
        except ArgumentError:
            pass
    raise FileError(
        f"{str(place)!r} is a {kind}, no pipeline that Reverie can read ({known()}). Load its denoiser yourself and wrap it: "
        "rv.Model(net, process, predicts=...)"
    )


def _sampling(card: dict[str, Any], place: Path) -> dict[str, str]:
    """How the card says that the model is best sampled, without the guide."""
    said = card.get("sampling", {})
    if not isinstance(said, dict) or not all(isinstance(v, str) for v in said.values()) or set(said) - _TOLD:
        raise FileError(
            f"the card of {str(place)!r} says sampling: {said!r}; it is a mapping of {', '.join(sorted(_TOLD))} to names"
        )
    return {k: v for k, v in said.items() if k != "guide"}


def _index(place: Path) -> dict[str, Any]:
    if not (place / "model_index.json").is_file():
        raise FileError(f"{str(place)!r} is not a pipeline: it has no model_index.json")
    return _json(place / "model_index.json")


def _named(index: dict[str, Any], place: Path, name: str, family: Family) -> tuple[str, str]:
    """A part's library and class, as the index names them."""
    said = index.get(name)
    if not (isinstance(said, list) and len(said) == 2 and all(isinstance(word, str) for word in said)):
        raise FileError(f"the pipeline {str(place)!r} has no {name}: its model_index.json says {said!r}")
    library, kind = said
    wanted = family.parts[name]
    ours = name == "scheduler" and said == [_OURS, "Scheduler"]
    if (library not in ("diffusers", "transformers") and not ours) or (
        wanted and kind.removesuffix("Fast") not in wanted
    ):
        needed = " or ".join(wanted) or "a class of diffusers"
        raise FileError(f"the {name} of {str(place)!r} is {library}.{kind}, {needed} is needed")
    return library, kind


def _part(cls: Any, own: Path, name: str, library: str, dtype: torch.dtype, variant: str | None) -> Any:
    if name == "scheduler":
        part = cls.from_pretrained(own, local_files_only=True)
        try:
            predicts_of(part)
            process_of(part, tokens=256)
        except ArgumentError as error:
            raise FileError(f"the scheduler in {str(own)!r}, a {cls.__name__}, cannot be sampled: {error}") from None
        return part
    if name.startswith("tokenizer"):
        part = cls.from_pretrained(own, local_files_only=True)
        bounded = part.model_max_length < 1 << 20 or not cls.__name__.startswith("CLIP")
        if not bounded or len(part) <= 2:
            raise FileError(f"the tokenizer in {str(own)!r} has no vocabulary, or no length (model_max_length)")
        return part
    stem = "diffusion_pytorch_model" if library == "diffusers" else "model"
    chosen = _variant(own, name, stem, variant)
    precision = {"torch_dtype" if library == "diffusers" else "dtype": dtype}
    with quiet():
        part, info = cls.from_pretrained(
            own, local_files_only=True, use_safetensors=True, output_loading_info=True, variant=chosen, **precision
        )
    lacking = sorted({*info.get("missing_keys", ()), *(str(key) for key in info.get("mismatched_keys", ()))})
    if lacking:
        raise FileError(
            f"the weights in {str(own)!r} do not fit its config.json: {lacking[0]} and {len(lacking) - 1} more are missing or differ"
        )
    return part.eval().requires_grad_(False)


def _variant(own: Path, name: str, stem: str, variant: str | None) -> str | None:
    """Which weights of a folder are read: of the variant asked for, else the plain ones, else "fp16".

    Raises `FileError` where there are none.
    """
    files = {file.name for file in own.iterdir()}

    def has(v: str | None) -> bool:
        dot = f".{v}" if v else ""
        return bool(files & {f"{stem}{dot}.safetensors", f"{stem}.safetensors.index{dot}.json"})

    for v in (variant,) if variant else (None, "fp16"):
        if has(v):
            return v
    there = sorted(f for f in files if f.startswith(stem) and f.endswith((".safetensors", ".index.json")))
    if variant and there:
        raise FileError(f"{str(own)!r} has no weights of the variant {variant!r}; it has {', '.join(there[:3])}")
    pickles = sorted(f for f in files if f.endswith(_PICKLES))
    if pickles:
        raise FileError(
            f"the weights of the {name} are a pickle, {str(own / pickles[0])!r}, which can run any code when it is read and is refused. If you "
            "trust its source, convert the folder once in a place of its own: pipe = diffusers.DiffusionPipeline.from_pretrained(FOLDER, "
            'use_safetensors=False); pipe.save_pretrained("NEW")'
        )
    raise FileError(f"{str(own)!r} has no weights: {stem}.safetensors is missing")


def _json(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(read_bytes(path, 1 << 20))
    except ValueError as error:
        raise FileError(f"{str(path)!r} is not valid JSON ({error})") from None
    if not isinstance(said, dict):
        raise FileError(f"{str(path)!r} is not an object of JSON")
    return said
