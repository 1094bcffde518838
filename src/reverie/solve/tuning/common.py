"""What every fit to a model needs: the shape of its states."""

from __future__ import annotations

from collections.abc import Sequence

from reverie.base import ShapeError
from reverie.model import Model

__all__ = ["state_shape"]


def state_shape(m: Model, shape: Sequence[int] | None) -> tuple[int, ...]:
    """The given shape of one state, or the model's own. Raises `ShapeError` where there is none."""
    found = m.shape if shape is None else tuple(shape)
    if found is None:
        raise ShapeError(
            "the model does not know its state's shape; give shape=(channels, height, width), without the batch"
        )
    return found
