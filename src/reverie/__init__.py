"""Reverie: everything that is done with a trained diffusion or flow model, in one small algebra.

Six nouns: process, model, plan, guide, hook, objective. Rooms and names are loaded when first used.

>>> import reverie as rv
>>> rv.process.vp("linear").t_max
1.0
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from reverie import (
        base,
        data,
        edit,
        guide,
        hub,
        inspect,
        measure,
        model,
        nets,
        oracle,
        papers,
        process,
        restore,
        solve,
        train,
    )
    from reverie.base import Noise, ReverieError, implementations, implements
    from reverie.hub import load
    from reverie.inspect import compare
    from reverie.model import Model, Prediction, Target
    from reverie.papers import cite
    from reverie.solve import Plan, run, sample

_ROOMS = (
    "base", "process", "model", "oracle", "solve", "data", "measure", "nets", "hub", "guide", "edit", "train", "restore", "inspect", "papers",
)  # fmt: skip
_NAMES = {
    "ReverieError": "base",
    "Noise": "base",
    "implements": "base",
    "implementations": "base",
    "Model": "model",
    "Prediction": "model",
    "Target": "model",
    "Plan": "solve",
    "run": "solve",
    "sample": "solve",
    "load": "hub",
    "compare": "inspect",
    "cite": "papers",
}

__all__ = [
    "Model", "Noise", "Plan", "Prediction", "ReverieError", "Target",
    "__version__", "base", "cite", "compare", "data", "edit", "guide", "hub", "implementations", "implements", "inspect", "load", "measure", "model",
    "nets", "oracle", "papers", "process", "restore", "run", "sample", "solve", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"reverie.{name}")
    if name in _NAMES:
        value = getattr(importlib.import_module(f"reverie.{_NAMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'reverie' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
