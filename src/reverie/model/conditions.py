"""Conditions: which part of them belongs to a sample and which is shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, ShapeError

__all__ = ["Cond", "Shared", "conditions", "in_turn", "merge", "select", "unwrap"]

Cond = dict[str, Any]


@dataclass(frozen=True)
class Shared:
    """A tensor that every sample shares although its first dimension is neither 1 nor the batch.

    >>> Shared(torch.zeros(3, 64, 64)).value.shape
    torch.Size([3, 64, 64])
    """

    value: Tensor


def conditions(
    cond: Mapping[str, Any] | None,
    batch: int,
    null: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> Cond:
    """Conditions ready for a batch.

    A tensor whose first dimension is the batch is per sample; one whose first dimension is 1 is expanded to it; a
    number under a key that `null` has too becomes one entry a sample; tensors without dimensions and everything that
    is no tensor are shared.

    Raises:
        ShapeError: a tensor of another batch size. Wrap what is meant for all samples in `Shared`.

    >>> conditions({"class_labels": torch.tensor([7])}, 3)["class_labels"]
    tensor([7, 7, 7])
    """
    if cond is None:
        return {}
    if not isinstance(cond, Mapping):
        raise ArgumentError(f"cond is a dict of what the network is told, got {type(cond).__name__}")
    out: Cond = {}
    for key, value in cond.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and null is not None and key in null:
            value = torch.tensor([value], device=device)
        if isinstance(value, Tensor):
            value = value.to(device)
            if value.ndim and value.shape[0] == 1 and batch != 1:
                value = value.expand(batch, *value.shape[1:])
            elif value.ndim and value.shape[0] != batch:
                raise ShapeError(
                    f"cond[{key!r}] has shape {tuple(value.shape)} for a batch of {batch}; its first dimension "
                    f"must be {batch} or 1 (wrap a tensor that all samples share in rv.model.Shared)"
                )
        out[key] = Shared(value.value.to(device)) if isinstance(value, Shared) else value
    return out


def unwrap(cond: Cond) -> Cond:
    """What the network is given: `Shared` values without their mark."""
    for value in cond.values():
        if type(value) is Shared:
            return {k: v.value if type(v) is Shared else v for k, v in cond.items()}
    return cond


def select(cond: Mapping[str, Any], rows: Tensor, batch: int) -> Cond:
    """The conditions of some rows of a batch; shared ones stay."""
    return {k: v[rows] if isinstance(v, Tensor) and v.ndim and v.shape[0] == batch else v for k, v in cond.items()}


def in_turn(cond: Mapping[str, Any] | None, ids: Sequence[int], rows: Mapping[str, Tensor] | None = None) -> Cond:
    """Conditions of some samples: of a tensor with K rows sample i gets row i mod K, or row `rows[key][i mod K]`; the rest is shared.

    So what a sample is told is a function of its id, in any job and any batch.

    Raises `ArgumentError` for a tensor without rows.

    >>> in_turn({"label": torch.tensor([4, 5]), "size": 2}, range(1, 4))
    {'label': tensor([5, 4, 5]), 'size': 2}
    """
    out, index = Cond(), torch.tensor(list(ids))
    for key, value in (cond or {}).items():
        if not (isinstance(value, Tensor) and value.ndim):
            out[key] = value
            continue
        if not len(value):
            raise ArgumentError(f"the condition {key!r} has no rows; give at least one")
        at = index % len(value)
        out[key] = value[(at if rows is None or key not in rows else rows[key][at]).to(value.device)]
    return out


def merge(parts: list[Cond], batch: int) -> Cond | None:
    """The conditions of several branches as those of one batch of `len(parts) * batch` rows; None if that cannot be.

    Per-sample tensors are concatenated; shared values must be the same in all branches.
    """
    if any(set(p) != set(parts[0]) for p in parts):
        return None
    out: Cond = {}
    for key in parts[0]:
        values = [p[key] for p in parts]
        if all(isinstance(v, Tensor) and v.ndim and v.shape[0] == batch for v in values):
            first = values[0]
            if any(
                v.shape[1:] != first.shape[1:] or v.is_floating_point() != first.is_floating_point() for v in values
            ):
                return None
            out[key] = torch.cat([v.to(first.dtype) for v in values])
        elif all(v is values[0] for v in values) or _same(values):
            out[key] = values[0]
        else:
            return None
    return out


def _same(values: list[Any]) -> bool:
    if any(type(v) is not type(values[0]) for v in values):
        return False  # a per-sample tensor and a shared one with equal entries, say
    values = [v.value if isinstance(v, Shared) else v for v in values]
    if all(isinstance(v, Tensor) for v in values):
        return all(torch.equal(v, values[0]) for v in values)
    if any(isinstance(v, Tensor) for v in values):
        return False
    try:
        return all(bool(v == values[0]) for v in values)
    except (RuntimeError, ValueError):  # containers of tensors or arrays, whose comparison has no single answer
        return False
