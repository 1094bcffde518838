"""A diffusers pipeline, as an object or a folder, as a `Model`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from reverie.base import ArgumentError
from reverie.hub.folder import read_pipeline
from reverie.hub.pipelines import Ask, find, wrapped
from reverie.model import Model

__all__ = ["model"]


def model(
    source: Any,
    *,
    name: str | None = None,
    device: torch.device | str | None = None,
    size: tuple[int, int] | None = None,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
) -> Model:
    """A pipeline of diffusers as a `Model`: its denoiser, process, prediction type, codec and prompts, all as its own config says.

    It calls the pipeline's own modules, so that LoRA weights (fused, or as layers with their scales) and textual inversions are in effect; load
    those of text encoders first, for the null condition is made here. The pipeline's networks are put into evaluation mode. What the network is told
    as time is the scheduler's own timestep.

    Args:
        source: a pipeline, or its folder (`save_pretrained`'s; safetensors only, nothing is downloaded). Stable Diffusion 1, 2, XL and 3, Flux, DiT,
            PixArt, DDPM and DDIM, with their variants of the same denoiser (`hub.pipelines.FAMILIES`).
        name: what the model is called. device: where its networks go; by default where they are, the CPU for a folder.
        size: (height, width) of pictures in pixels; by default that of the pipeline's config. A shift that follows the size follows it.
        dtype: of a folder's weights, float32 by default. variant: of its files, "fp16"; by default the plain ones, or "fp16" where there are no
            others.

    Returns:
        A `Model` with `embed(prompt, ...)`, one row a prompt; `null`, the empty prompt or what the pipeline has in its place (`m.with_null(m.embed(
        "blurry"))` has a negative prompt); `shape`; and `codec`, so that samples are pictures in [-1, 1]. `embed` raises `ArgumentError` for a
        prompt that is too long, with the words that do not fit.

    Raises:
        ArgumentError: no pipeline, one that Reverie does not know, a size that it cannot make. FileError: a folder that cannot be read (no pipeline,
        pickles, missing or damaged parts).
    """
    if isinstance(source, str | Path):
        return read_pipeline(
            source, device or "cpu", name=name, size=size, dtype=dtype or torch.float32, variant=variant
        )
    if isinstance(source, type) or not hasattr(type(source), "components"):
        raise ArgumentError(
            f"a pipeline of diffusers, or its folder, is needed, got {source!r:.100}; a network alone is wrapped by "
            "rv.Model(net, process, predicts=...)"
        )
    for key, value, way in (("dtype", dtype, "pipe.to(dtype)"), ("variant", variant, "from_pretrained(..., variant=)")):
        if value is not None:
            raise ArgumentError(f"{key} is for folders, got {value!r} for a pipeline that is loaded; {way} sets it")
    if device is not None:
        source.to(device)
    find(type(source))
    own = Path(str(source.config.get("_name_or_path") or "")).name
    return wrapped(source, Ask(name or own or type(source).__name__, size))
