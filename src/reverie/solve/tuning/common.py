"""What every fit to a model needs: whole numbers, and the shape of its states."""

from __future__ import annotations

from collections.abc import Sequence

from reverie.base import ArgumentError, ShapeError
from reverie.model import Model

__all__ = ["at_least", "state_shape"]


def at_least(**numbers: tuple[object, int]) -> None:
    """Raise `ArgumentError` unless each number, given as (value, least), is whole and not below its least.

    >>> at_least(steps=(4, 1), noises=(16, 2))
    """
    for name, (value, least) in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ArgumentError(f"{name} must be a whole number of at least {least}, got {value!r}")


def state_shape(m: Model, shape: Sequence[int] | None) -> tuple[int, ...]:
    """The given shape of one state, or the model's own. Raises `ShapeError` where there is none."""
    found = m.shape if shape is None else tuple(shape)
    if found is None:
        raise ShapeError(
            "the model does not know its state's shape; give shape=(channels, height, width), without the batch"
        )
    return found
