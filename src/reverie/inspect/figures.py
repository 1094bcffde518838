"""Figures with their noise: what a number measured on n samples can and cannot tell.

A median over samples is resampled (bootstrap); a distance between distributions, which resampling would bias by the copies that it makes,
is recomputed with a twentieth of the samples left out, in turn (the delete-a-group jackknife):

    se^2 = (G - 1) / G sum_g (theta_g - mean theta)^2,     interval = theta +- t_0.975(G - 1) se.

All methods of a comparison see the same noises and leave out the same samples, so that the noise of a *difference* is measured on
differences: what is common to both cancels.

Sources: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapters 11 and 13; Shao & Wu 1989 (delete-d jackknife).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from reverie.base import Noise

__all__ = ["GROUPS", "Figure", "distance", "groups", "median"]

GROUPS = 20
_T = 2.093
"""97.5 % point of Student's t with GROUPS - 1 degrees of freedom."""
_DRAWS = 1000
_STREAM = 0x0F16


@dataclass(frozen=True)
class Figure:
    """A number, its 95 % interval, and what of it is left to pair it with another's.

    Attributes:
        value, low, high: the figure and its interval. kind: "median" or "distance".
        parts: of a median, one value a sample; of a distance, its values with a group of samples left out.
    """

    value: float
    low: float
    high: float
    kind: Literal["median", "distance"]
    parts: tuple[float, ...]

    def less(self, other: Figure) -> bool:
        """Whether this figure is lower than another of the same samples by more than the noise (two-sided 95 %, paired)."""
        if len(self.parts) != len(other.parts) or self.value >= other.value:
            return False
        a, b = (torch.tensor(f.parts, dtype=torch.float64) for f in (self, other))
        if self.kind == "median":
            return _quantile(_resampled(b) - _resampled(a), 0.025) > 0
        return other.value - self.value > _T * _se(b - a)

    def __str__(self) -> str:
        half = (self.high - self.low) / 2
        if not 0 < half < math.inf:
            return f"{self.value:.3g}"
        least = min(half, abs(self.value)) if self.value else half
        places = max(0, 1 - math.floor(math.log10(least)))  # two digits of the interval, and of the figure
        return f"{self.value:.{places}f} ± {half:.{places}f}"


def median(values: Tensor) -> Figure:
    """The median of one value a sample, `(n,)`.

    >>> f = median(torch.arange(101.0))
    >>> f.value, f.low < 50 < f.high
    (50.0, True)
    """
    values = values.double().cpu()
    drawn = _resampled(values)
    return Figure(
        values.median().item(), _quantile(drawn, 0.025), _quantile(drawn, 0.975), "median", tuple(values.tolist())
    )


def distance(whole: float, without: Callable[[Tensor], float], n: int) -> Figure:
    """A distance of n samples to something fixed.

    Args:
        whole: of all samples. without: indices that are kept -> the distance of these.
    """
    group = groups(n)
    parts = [without((group != g).nonzero().squeeze(1)) for g in range(GROUPS)]
    half = _T * _se(torch.tensor(parts, dtype=torch.float64))
    return Figure(whole, max(0.0, whole - half), whole + half, "distance", tuple(parts))


def groups(n: int) -> Tensor:
    """Which of the groups each of n samples is in, `(n,)`: by chance, of sizes that differ by one at most."""
    order = Noise(0).uniform((n,), index=[0], stream=_STREAM)[0].argsort(stable=True)
    out = torch.empty(n, dtype=torch.long)
    out[order] = torch.arange(n) % GROUPS
    return out


def _resampled(values: Tensor) -> Tensor:
    """Medians of resampled samples; the same draws for every method."""
    n = len(values)
    drawn = Noise(0).integers(n, (n,), index=range(_DRAWS), stage=1, stream=_STREAM)
    return values[drawn].median(1).values


def _quantile(values: Tensor, q: float) -> float:
    return torch.quantile(values, q).item()


def _se(parts: Tensor) -> float:
    return ((len(parts) - 1) / len(parts) * (parts - parts.mean()).square().sum()).sqrt().item()
