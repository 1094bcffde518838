"""Exponential moving average of the weights, with a ramp.

    average <- d average + (1 - d) weights,        d(step) = min(decay, (1 + step) / (10 + step))

The ramp forgets the random start: with a decay of 0.999 from the first step, half of it would still be there after 700.
"""

from __future__ import annotations

from collections.abc import Mapping

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
def update(average: Mapping[str, Tensor], values: nn.Module | Mapping[str, Tensor], step: int, decay: float) -> None:
    """Move `average` towards the values after optimiser step `step`; what is no floating-point number is copied.

    Args:
        average: tensors by name. values: the current ones by the same names, or a module for its state. step: from 0. decay: in [0, 1).
    """
    weight = 1 - decay_at(step, decay)
    for name, value in (values.state_dict() if isinstance(values, nn.Module) else values).items():
        if value.is_floating_point():
            average[name].lerp_(value, weight)
        else:
            average[name].copy_(value)
