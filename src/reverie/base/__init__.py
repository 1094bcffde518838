"""Base: errors, the register of papers, noise, and files written whole or not at all."""

from reverie.base.errors import (
    ArgumentError,
    FileError,
    NonFiniteError,
    OriginWarning,
    ReverieError,
    ShapeError,
    TimeError,
    UnknownNameError,
    unknown,
)
from reverie.base.noise import DATA, HOOK, PLAN, PRIOR, TRAIN, Noise
from reverie.base.registry import Implementation, cites, implementations, implements

__all__ = [
    "DATA", "HOOK", "PLAN", "PRIOR", "TRAIN",
    "ArgumentError", "FileError", "Implementation", "Noise", "NonFiniteError", "OriginWarning", "ReverieError", "ShapeError", "TimeError",
    "UnknownNameError",
    "cites", "implementations", "implements", "unknown",
]  # fmt: skip
