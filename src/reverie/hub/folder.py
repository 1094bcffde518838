"""Reading a text-to-image pipeline from a folder in diffusers' layout, its parts by diffusers and transformers themselves.

Nothing is downloaded and nothing is unpickled: weights are `.safetensors` files of the folder. `card.json`, where there is one, adds what the
layout has no place for: a name, how the model is best sampled and guided, and whether its vocabulary is closed (`"vocabulary": "whole"`: a word
that is no token was never trained on, and is refused).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from reverie.base import FileError, ReverieError
from reverie.base.files import read_bytes
from reverie.hub.pipeline import PARTS, text_to_image
from reverie.hub.tokenizer import missing
from reverie.model import Model

__all__ = ["read_parts", "read_pipeline"]

_CLASSES = {
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
    "unet": "UNet2DConditionModel",
}
_TOLD = {"solver", "grid", "end", "guide"}
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def read_parts(folder: str | Path) -> dict[str, Any]:
    """The five parts of a `StableDiffusionPipeline`'s folder (`PARTS`), networks in single precision, frozen and in evaluation mode.

    Raises:
        FileError: no such pipeline; a part that is missing, damaged or of another class; weights that are pickles, with how to convert them.
        ArgumentError: diffusers or transformers is not installed.
    """
    place = Path(folder)
    index = _index(place)
    try:
        import diffusers
        import transformers
    except ImportError:
        raise missing() from None
    parts: dict[str, Any] = {}
    for name in PARTS:
        own = place / name
        library, kind = _named(index, place, name)
        if not own.is_dir():
            raise FileError(
                f"{str(place)!r} lacks the folder of its {name} ({kind}); copy the whole pipeline, or save it again: "
                f"pipe.save_pretrained({place.name!r})"
            )
        cls = getattr(diffusers if library == "diffusers" else transformers, kind, None)
        if cls is None:
            raise FileError(
                f"the {name} of {str(place)!r} is a {kind}, which the installed {library} lacks; upgrade it"
            )
        try:
            parts[name] = _part(cls, own, name)
        except FileError:
            raise
        except Exception as error:  # each library has errors of its own for damaged files
            raise FileError(
                f"the {name} in {str(own)!r} cannot be read: {' '.join(str(error).split())[:300] or type(error).__name__}"
            ) from error
    return parts


def read_pipeline(folder: str | Path, device: torch.device | str = "cpu") -> Model:
    """A pipeline's folder as a `Model`, see `text_to_image`.

    Args:
        device: where its networks go.

    Raises as `read_parts`.
    """
    place = Path(folder)
    card = _json(place / "card.json") if (place / "card.json").is_file() else {}
    parts = read_parts(place)
    try:
        for part in parts.values():
            if isinstance(part, torch.nn.Module):
                part.to(device)
        model = text_to_image(
            **parts, name=str(card.get("name", place.resolve().name)), whole=card.get("vocabulary") == "whole"
        )
        model.sampling = _sampling(card, place)
    except FileError:
        raise
    except (ReverieError, AttributeError, TypeError) as error:
        raise FileError(f"{str(place)!r} cannot be sampled: {error}") from None
    model.card = card
    model.net.eval()  # type: ignore[attr-defined]
    return model


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
    index = _json(place / "model_index.json")
    kind = index.get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise FileError(
            f"{str(place)!r} is a {kind}; of pipelines, a StableDiffusionPipeline can be read. Load its denoiser yourself and wrap it: "
            "rv.Model(net, process, predicts=...)"
        )
    return index


def _named(index: dict[str, Any], place: Path, name: str) -> tuple[str, str]:
    """A part's library and class, as the index names them."""
    said = index.get(name)
    if not (isinstance(said, list) and len(said) == 2 and all(isinstance(word, str) for word in said)):
        raise FileError(f"the pipeline {str(place)!r} has no {name}: its model_index.json says {said!r}")
    library, kind = said
    wanted = _CLASSES.get(name)
    if library not in ("diffusers", "transformers") or (wanted is not None and kind.removesuffix("Fast") != wanted):
        raise FileError(
            f"the {name} of {str(place)!r} is {library}.{kind}, {wanted or 'a class of diffusers'} is needed"
        )
    return library, kind


def _part(cls: Any, own: Path, name: str) -> Any:
    if name in ("tokenizer", "scheduler"):
        part = cls.from_pretrained(own, local_files_only=True)
        config = getattr(part, "config", {})
        if name == "scheduler" and (getattr(part, "alphas_cumprod", None) is None or config.get("use_flow_sigmas")):
            raise FileError(f"the scheduler in {str(own)!r}, a {cls.__name__}, has no noise levels by alphas_cumprod")
        if name == "tokenizer" and not (part.model_max_length < 1 << 20 and len(part) > 2):
            raise FileError(f"the tokenizer in {str(own)!r} has no vocabulary, or no length (model_max_length)")
        return part
    stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
    files = {file.name for file in own.iterdir()}
    variants = [v for v in (None, "fp16") if f"{stem}.{f'{v}.' if v else ''}safetensors" in files]
    sharded = f"{stem}.safetensors.index.json" in files
    if not variants and not sharded:
        pickles = sorted(f for f in files if f.endswith(_PICKLES))
        if pickles:
            raise FileError(
                f"the weights of the {name} are a pickle, {str(own / pickles[0])!r}, which can run any code when it is read and is refused. If you "
                "trust its source, convert the folder once in a place of its own: pipe = diffusers.StableDiffusionPipeline.from_pretrained(FOLDER, "
                'use_safetensors=False); pipe.save_pretrained("NEW")'
            )
        raise FileError(f"{str(own)!r} has no weights: {stem}.safetensors is missing")
    more = {} if sharded or variants[0] is None else {"variant": variants[0]}
    with _quiet():
        part, info = cls.from_pretrained(
            own, local_files_only=True, use_safetensors=True, output_loading_info=True, **more
        )
    lacking = sorted({*info.get("missing_keys", ()), *(str(key) for key in info.get("mismatched_keys", ()))})
    if lacking:
        raise FileError(
            f"the weights in {str(own)!r} do not fit its config.json: {lacking[0]} and {len(lacking) - 1} more are missing or differ"
        )
    return part.float().eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and warnings of both libraries; what matters of them becomes an error."""
    from diffusers.utils import logging as theirs
    from transformers.utils import logging as others

    levels, bar = (theirs.get_verbosity(), others.get_verbosity()), others.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    others.set_verbosity_error()
    others.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(levels[0])
        others.set_verbosity(levels[1])
        if bar:
            others.enable_progress_bar()


def _json(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(read_bytes(path, 1 << 20))
    except ValueError as error:
        raise FileError(f"{str(path)!r} is not valid JSON ({error})") from None
    if not isinstance(said, dict):
        raise FileError(f"{str(path)!r} is not an object of JSON")
    return said
