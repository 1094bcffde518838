"""Memorisation: which samples are copies of a reference sample."""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.base import ArgumentError, ShapeError

__all__ = ["memorised"]


def memorised(x: Tensor, reference: Tensor, ratio: float = 1 / 3, batch: int = 2000) -> Tensor:
    """Which samples lie much nearer to one reference than to any other, `(N,)` bool: d_1 < ratio d_2, the two least Euclidean distances.

    The rate is its mean. It has no unit, and needs no held-out data; data that the model has not seen, measured the same way, tell what rate
    chance and near-duplicates give. Where the reference holds a sample twice, a copy of it does not count.

    Args:
        x: samples `(N, ...)`. reference: training data `(M, ...)`, M >= 2, of the same shape each. ratio: in (0, 1]. batch: samples at a time.

    Raises:
        ShapeError: the shapes differ. ArgumentError: fewer than two references, ratio out of range.

    Source: Yoon et al. 2023, "Diffusion Probabilistic Models Generalize when They Fail to Memorize".

    >>> memorised(torch.tensor([[0.1], [2.0]]), torch.tensor([[0.0], [3.0]])).tolist()
    [True, False]
    """
    if x.shape[1:] != reference.shape[1:]:
        raise ShapeError(f"samples of shape {tuple(x.shape[1:])} and references of shape {tuple(reference.shape[1:])}")
    if len(reference) < 2:
        raise ArgumentError(f"the reference set needs at least 2 samples to compare distances, got {len(reference)}")
    if not 0 < ratio <= 1:
        raise ArgumentError(f"ratio lies in (0, 1], got {ratio!r}")
    ref, parts = reference.flatten(1).double(), [torch.empty(0, dtype=torch.bool)]
    for part in x.flatten(1).double().split(batch):
        d = torch.cdist(part, ref, compute_mode="donot_use_mm_for_euclid_dist").topk(2, largest=False).values
        parts.append((d[:, 0] < ratio * d[:, 1]).cpu())
    return torch.cat(parts)
