"""A pipeline, with a plan of Reverie's as its scheduler, as a folder that diffusers loads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from reverie.base import ArgumentError, FileError
from reverie.base.files import atomic_folder
from reverie.hub.folder import read_pipe
from reverie.hub.house import INDEX
from reverie.hub.schedulers import scheduler
from reverie.solve import Plan

__all__ = ["save_pipeline"]


def save_pipeline(
    source: Any, folder: str | Path, *, solver: str | Plan | None = None, half: bool = False, **options: Any
) -> Path:
    """Write a pipeline's folder, whole or not at all: safetensors, and a scheduler that runs the wanted plan.

    `DiffusionPipeline.from_pretrained(folder)` loads it wherever Reverie is installed, whose scheduler its `model_index.json` names.

    Args:
        source: a pipeline of diffusers, or its folder. folder: where to; a pipeline that is there is replaced.
        solver: a solver's name or a plan, see `hub.scheduler`; None keeps the pipeline's own scheduler. options: of `hub.scheduler`.
        half: whether the weights of a folder are written in half precision; of a pipeline object, `pipe.half()` does it.

    Returns:
        The folder.

    Raises:
        ArgumentError: as `hub.scheduler`; a pipeline whose scheduler is of another kind. FileError: a folder that cannot be read or written.
        OriginWarning: a plan that was fitted to another network.
    """
    given = isinstance(source, str | Path)
    if half and not given:
        raise ArgumentError("half is for folders; pipe.half() makes a pipeline's weights so")
    target = Path(folder)
    pipe = read_pipe(source, torch.float16 if half else torch.float32) if given else source
    if not hasattr(pipe, "components") or not hasattr(pipe, "save_pretrained"):
        raise ArgumentError(f"a pipeline of diffusers, or its folder, is needed, got {source!r:.100}")
    before = pipe.scheduler
    try:
        if solver is not None:
            pipe.scheduler = scheduler(solver, pipe, **options)
        elif options:
            raise ArgumentError(f"{', '.join(options)} belong to a solver; name one")
        with atomic_folder(target, INDEX) as made:
            pipe.save_pretrained(made, safe_serialization=True)
            card = Path(source) / "card.json" if given else None
            if card is not None and card.is_file():
                shutil.copyfile(card, made / "card.json")
            if not (made / INDEX).is_file():
                raise FileError(f"{type(pipe).__name__} wrote no {INDEX}; it cannot be saved")
    finally:
        pipe.scheduler = before
    return target
