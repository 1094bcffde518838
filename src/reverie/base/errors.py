"""Errors: one family, so that `except ReverieError` catches whatever Reverie itself found wrong.

Every message names the offending value and the remedy. Each kind also derives from the built-in exception that a Python
user would expect (`ValueError`, `OSError`, ...), so that ordinary handlers keep working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ArgumentError",
    "FileError",
    "NonFiniteError",
    "OriginWarning",
    "ReverieError",
    "ShapeError",
    "TimeError",
    "UnknownNameError",
    "unknown",
]


class ReverieError(Exception):
    """Base of every error that Reverie raises on purpose."""


class ArgumentError(ReverieError, ValueError):
    """An argument has a value that cannot work; the message names it and what would."""


class UnknownNameError(ArgumentError):
    """A name (solver, grid, process, model, ...) is not registered; the message lists the nearest ones."""


class TimeError(ArgumentError):
    """A time lies outside the process, or a grid is not strictly decreasing."""


class ShapeError(ArgumentError):
    """A tensor has a shape (batch, channels, ...) that does not fit."""


class NonFiniteError(ReverieError, ArithmeticError):
    """NaN or infinity appeared during a run.

    Attributes:
        stage: index of the first stage whose state was not finite.
        samples: ids of the samples concerned.
    """

    def __init__(self, message: str, stage: int = -1, samples: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.stage = stage
        self.samples = samples


class FileError(ReverieError, OSError):
    """A file is missing, malformed, truncated, too large, of a newer version, or cannot be written."""


class OriginWarning(UserWarning):
    """Fitted numbers are used on something else than they were fitted to."""


def unknown(kind: str, name: object, known: Iterable[str], listed: str = "") -> UnknownNameError:
    """The error for a name that is not registered, with the nearest known names.

    Args:
        kind: of what, in words. name: what was asked for. known: all names. listed: where all are listed, if they are too many for a line.

    >>> str(unknown("solver", "dpmpp2m", ["dpmpp-2m", "euler"]))
    "unknown solver 'dpmpp2m'; did you mean 'dpmpp-2m'? Known: dpmpp-2m, euler"
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else "."
    rest = f"All {len(names)} are listed by {listed}" if listed else f"Known: {', '.join(names)}"
    return UnknownNameError(f"unknown {kind} {name!r}{hint} {rest}")
