"""Distances to the nearest neighbour: whether samples copy their training data."""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.base import ArgumentError, ShapeError

__all__ = ["nearest_distance"]


def nearest_distance(x: Tensor, reference: Tensor, batch: int = 2000) -> Tensor:
    """min_j |x_i - r_j|: each sample's Euclidean distance to the nearest of a reference set, `(N,)`, float64.

    A model that copies draws samples closer to its training data than held-out data are; one that does not, about as
    far. Compare with equally many references: a larger set is nearer to everything.

    Args:
        x: samples `(N, ...)`. reference: `(M, ...)`, of the same shape each. batch: samples at a time.

    Raises:
        ShapeError: the shapes differ. ArgumentError: the reference is empty.

    >>> nearest_distance(torch.tensor([[0.0], [9.0]]), torch.tensor([[1.0], [5.0]])).tolist()
    [1.0, 4.0]
    """
    if x.shape[1:] != reference.shape[1:]:
        raise ShapeError(f"samples of shape {tuple(x.shape[1:])} and references of shape {tuple(reference.shape[1:])}")
    if not len(reference):
        raise ArgumentError("the reference set is empty")
    ref = reference.flatten(1).double()
    parts = [
        torch.cdist(part, ref, compute_mode="donot_use_mm_for_euclid_dist").min(1).values
        for part in x.flatten(1).double().split(batch)
    ]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)
