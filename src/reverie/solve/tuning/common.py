"""What every fit to a model needs: the shape of its states, and conditions for its trajectories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, ShapeError
from reverie.model import Model

__all__ = ["at_least", "in_turn", "state_shape"]


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


def in_turn(cond: Mapping[str, Any] | None, n: int, rows: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """Conditions of n samples: of a tensor with K rows sample i gets row i mod K, or row `rows[key][i mod K]`; the rest is shared.

    Raises `ArgumentError` for a tensor without rows.

    >>> in_turn({"label": torch.tensor([4, 5]), "size": 2}, 3)
    {'label': tensor([4, 5, 4]), 'size': 2}
    """
    out, index = dict[str, Any](), torch.arange(n)
    for key, value in (cond or {}).items():
        if not (isinstance(value, Tensor) and value.ndim):
            out[key] = value
            continue
        if not len(value):
            raise ArgumentError(f"the condition {key!r} has no rows; give at least one")
        at = index % len(value)
        out[key] = value[(at if rows is None or key not in rows else rows[key][at]).to(value.device)]
    return out
