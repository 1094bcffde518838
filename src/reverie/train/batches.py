"""Batches as a pure function of (seed, step): what makes a killed training resume with the same bits.

Order: epoch e is the permutation that sorts N uniform numbers drawn for e; step k takes positions k B to (k + 1) B of
the epochs laid end to end. Times, noise, dropped classes and augmentation are drawn for (step, slot in the batch).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from reverie.base.noise import DATA, Noise
from reverie.train.recipe import Augment

__all__ = ["augmented", "rows"]


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, size: int) -> Tensor:
    return Noise(seed).uniform((size,), index=[epoch], stage=0, stream=DATA)[0].argsort(stable=True)


def rows(seed: int, step: int, batch: int, size: int) -> Tensor:
    """Which of `size` samples step `step` (from 0) is trained on, `(batch,)`: every sample once an epoch, in a new
    order each.

    >>> sorted(rows(0, 0, 3, 6).tolist() + rows(0, 1, 3, 6).tolist())
    [0, 1, 2, 3, 4, 5]
    """
    at = torch.arange(step * batch, (step + 1) * batch)
    epochs, places = at // size, at % size
    out = torch.empty_like(at)
    for e in epochs.unique().tolist():
        out[epochs == e] = _epoch(seed, e, size)[places[epochs == e]]
    return out


def augmented(x: Tensor, augment: Augment, seed: int, step: int) -> Tensor:
    """Pictures shifted, turned, resized (bilinearly; what comes in from outside is -1) and made noisy at random.

    Args:
        x: `(B, C, H, W)` in [-1, 1]. augment: how much at most; all 0 returns x itself. seed, step: what the draws
            depend on.
    """
    if augment == Augment():
        return x
    slots, noise = range(len(x)), Noise(seed)
    u = noise.uniform((5,), index=slots, stage=1 + step, stream=DATA) * 2 - 1
    if augment.shift or augment.turn or augment.scale:
        angle, size = u[:, 0] * math.radians(augment.turn), 1 + u[:, 1] * augment.scale
        shift = u[:, 2:4] * augment.shift * 2 / torch.tensor([x.shape[3], x.shape[2]])
        cos, sin = angle.cos() / size, angle.sin() / size
        theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).reshape(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        x = F.grid_sample(x + 1, grid, align_corners=False) - 1
    if augment.noise:
        draw = noise.normal(tuple(x.shape[1:]), index=slots, stage=1 + step, stream=DATA)
        x = x + draw * (augment.noise * (u[:, 4].abs().reshape(-1, 1, 1, 1)))
    return x
