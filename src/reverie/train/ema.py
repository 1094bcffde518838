"""Exponential moving average of the weights, with a ramp.

    average <- d average + (1 - d) weights,        d(step) = min(decay, (1 + step) / (10 + step))

The ramp forgets the random start: with a decay of 0.999 from the first step, half of it would still be there after 700.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["decay_at", "update"]


def decay_at(step: int, decay: float) -> float:
    """d(step), for steps counted from 0.

    >>> decay_at(0, 0.999), decay_at(10**6, 0.999)
    (0.1, 0.999)
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update(average: dict[str, Tensor], net: nn.Module, step: int, decay: float) -> None:
    """Move `average`, tensors by the names of `net.state_dict()`, towards the weights after optimiser step `step`;
    buffers are copied.
    """
    weight = 1 - decay_at(step, decay)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, weight)
        else:
            average[name].copy_(value)
