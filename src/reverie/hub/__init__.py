"""In and out: house models and model files, diffusers' pipelines and schedulers, k-diffusion's samplers, and big jobs into folders."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from reverie.hub.house import embed_classes, house_models, load
from reverie.hub.jobs import Filled, sample_folder
from reverie.hub.k_diffusion import kdiffusion
from reverie.hub.process import betas_of, predicts_of, process_of
from reverie.hub.wrap import model

if TYPE_CHECKING:
    from reverie.hub.save import save_pipeline
    from reverie.hub.schedulers import Scheduler, scheduler

_LATER = {"Scheduler": "schedulers", "save_pipeline": "save", "scheduler": "schedulers"}
"""What needs diffusers to be imported, by its module."""

__all__ = [
    "Filled", "Scheduler", "betas_of", "embed_classes", "house_models", "kdiffusion", "load", "model", "predicts_of", "process_of",
    "sample_folder", "save_pipeline", "scheduler",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'reverie.hub' has no attribute {name!r}")
    from reverie.hub.tokenizer import missing

    try:
        return getattr(importlib.import_module(f"reverie.hub.{_LATER[name]}"), name)
    except ImportError as error:
        if (error.name or "").startswith("reverie"):
            raise
        raise missing() from None
