"""Levels of noise: how noisy a state is, sigma / alpha, read from the state itself by a classifier.

    p(S_j | y) = p_{S_j}(y) / sum_i p_{S_i}(y),        y = x / alpha,  S = sigma / alpha

with p_S the law of the data with noise of standard deviation S, all levels as likely beforehand.

Source: Kim & Ye 2023 (2209.14593, section 3), who train the classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from reverie.base import ArgumentError
from reverie.model import select
from reverie.process import Process

__all__ = ["Classify", "exact_levels", "level_loss", "noise_levels", "times_of"]

Classify = Callable[..., Tensor]
"""`(y, **cond) -> (B, J)`, log p(S_j | y) up to a constant of each sample, for y = x / alpha."""


def noise_levels(p: Process, n: int = 1000) -> Tensor:
    """The paper's levels sigma / alpha, `(n,)`, float64, falling: low (high / low)^u with u even from 1 to 1 / n, between the process's ends.

    >>> import reverie as rv
    >>> noise_levels(rv.process.ve(0.01, 100.0), 4).round(decimals=9).tolist()
    [100.0, 10.0, 1.0, 0.1]
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 2:
        raise ArgumentError(f"n must be a whole number of at least 2, got {n!r}")
    low, high = p.lam_range
    u = torch.arange(n, 0, -1, dtype=torch.float64) / n
    return (-(high + u * (low - high))).exp()


def exact_levels(oracle: Any, levels: Sequence[float] | Tensor) -> Classify:
    """The exact classifier of an oracle with `log_prob`: y -> log p_{S_j}(y), the density of y = x / alpha at every level.

    Args:
        oracle: a `Mixture`, `Gaussian`, `Points`; conditions of the run are given to its `log_prob`. levels: `(J,)`, sigma / alpha.

    >>> import reverie as rv
    >>> o = rv.oracle.Gaussian([0.0], [[0.25]], process=rv.process.ve())
    >>> logits = exact_levels(o, [10.0, 1.0, 0.1])(torch.tensor([[0.2], [9.0]]))
    >>> logits.argmax(1).tolist()
    [2, 0]
    """
    p, ratios = oracle.process, torch.as_tensor(levels, dtype=torch.float64)
    times = times_of(p, ratios)
    alphas = p.alpha(times)

    def classify(y: Tensor, **cond: Any) -> Tensor:
        batch, j, size = len(y), len(times), y.shape[1:].numel()
        t, alpha = times.repeat(batch), alphas.repeat(batch)
        rows = torch.arange(batch, device=y.device).repeat_interleave(j)
        x = y.double()[rows] * alpha.to(y.device).reshape(-1, *[1] * (y.ndim - 1))
        found: Tensor = oracle.log_prob(x, t, **select(cond, rows, batch)).cpu() + size * alpha.log()
        return found.reshape(batch, j)

    return classify


def level_loss(
    classify: Classify, x0: Tensor, level: Tensor, z: Tensor, levels: Sequence[float] | Tensor, **cond: Any
) -> Tensor:
    """The objective of a classifier of levels: the cross-entropy of `classify(x0 + S_level z)` and the level, a mean over the batch.

    Args:
        x0: clean states `(B, *shape)`. level: `(B,)` integers, even in 0 .. J - 1. z: standard normal, as x0. levels: `(J,)`, sigma / alpha.

    >>> import math
    >>> loss = level_loss(lambda y: torch.zeros(2, 4), torch.zeros(2, 3), torch.tensor([0, 3]), torch.ones(2, 3), [8.0, 4.0, 2.0, 1.0])
    >>> bool((loss - math.log(4)).abs() < 1e-6)
    True
    """
    s = torch.as_tensor(levels, dtype=torch.float64)[level.cpu()].to(x0).reshape(-1, *[1] * (x0.ndim - 1))
    return cross_entropy(classify(x0 + s * z, **cond), level)


def times_of(p: Process, ratios: Tensor) -> Tensor:
    """The times of levels, held inside the process where rounding leads out."""
    return p.t_of_ratio(ratios).clamp(p.t_min, p.t_max)
