"""A discretely trained process: time is the training label, fractions allowed.

Labels 0 .. N-1 carry abar_n = alpha_n^2; label -1 is clean data (abar = 1). Between labels log alpha is linear, so
that t -> lam is invertible exactly. A schedule rescaled to zero terminal signal (abar_{N-1} = 0) is linear in alpha on
its last interval.

Sources: Ho et al. 2020 (2006.11239); the interpolation follows DPM-Solver (2206.00927, section 3.4), in float64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from reverie.base import ArgumentError
from reverie.process.process import register
from reverie.process.vp import VP

__all__ = ["DDPM", "ddpm"]


@register
@dataclass(frozen=True, init=False, repr=False)
class DDPM(VP):
    """abar at the training labels; `t` in [0, N-1] is a label, -1 is clean."""

    name: ClassVar[str] = "ddpm"
    t_clean: ClassVar[float] = -1.0
    alphas_cumprod: tuple[float, ...]

    def __init__(self, alphas_cumprod: Sequence[float], t_min: float = 0.0, t_max: float | None = None) -> None:
        values = tuple(float(a) for a in alphas_cumprod)
        if len(values) < 2:
            raise ArgumentError(f"alphas_cumprod needs at least 2 values, got {len(values)}")
        bad = [n for n, (a, b) in enumerate(zip((1.0, *values), values, strict=False)) if not 0 <= b < a]
        if bad:
            raise ArgumentError(
                f"alphas_cumprod must fall strictly inside (1, 0], label {bad[0]} has {values[bad[0]]!r}"
            )
        object.__setattr__(self, "alphas_cumprod", values)
        object.__setattr__(self, "t_min", float(t_min))
        object.__setattr__(self, "t_max", float(len(values) - 1 if t_max is None else t_max))
        if not 0 <= self.t_min < self.t_max <= len(values) - 1:
            raise ArgumentError(f"0 <= t_min < t_max <= {len(values) - 1} is needed, got {t_min} and {t_max}")

    def __repr__(self) -> str:
        abar = self.alphas_cumprod
        return f"DDPM({len(abar)} labels, abar {abar[0]:.6g} .. {abar[-1]:.6g})"

    @functools.cached_property
    def _knots(self) -> Tensor:
        """log alpha at the labels -1, 0, ..., with the last finite one when abar ends at 0."""
        finite = [a for a in self.alphas_cumprod if a > 0]
        return torch.tensor([1.0, *finite], dtype=torch.float64).log() / 2

    @property
    def _to_zero(self) -> bool:
        return self.alphas_cumprod[-1] == 0

    def _log_alpha(self, t: Tensor) -> Tensor:
        knots = self._knots.to(t.device)
        i = (t.detach().floor().long() + 1).clamp(0, len(knots) - 2)
        value = knots[i] + (t + 1 - i) * (knots[i + 1] - knots[i])
        if not self._to_zero:
            return value
        last = len(self.alphas_cumprod) - 1
        final = t > last - 1
        remaining = torch.where(final, last - t, torch.ones_like(t))
        return torch.where(final, knots[-1] + remaining.log(), value)

    def _t_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        knots = self._knots.to(log_alpha.device)
        i = (torch.searchsorted(-knots, -log_alpha.detach().contiguous()) - 1).clamp(0, len(knots) - 2)
        t = i - 1 + (log_alpha - knots[i]) / (knots[i + 1] - knots[i])
        if not self._to_zero:
            return t
        last = len(self.alphas_cumprod) - 1
        return torch.where(log_alpha < knots[-1], last - (log_alpha - knots[-1]).exp(), t)

    @property
    def lam_range(self) -> tuple[float, float]:
        """Between t_max and t_min; with zero terminal signal, from a thousandth of a label before the end."""
        start = min(self.t_max, len(self.alphas_cumprod) - 1 - 1e-3) if self._to_zero else self.t_max
        return self.lam(start), self.lam(self.t_min)


def ddpm(alphas_cumprod: Sequence[float] | Tensor) -> DDPM:
    """The process of a network trained on N discrete labels.

    Args:
        alphas_cumprod: (N,) values of alpha^2, strictly falling inside (1, 0]; a final 0 (zero terminal signal) is
            accepted.

    Raises:
        ArgumentError: fewer than 2 values, or not strictly falling (the first offending label is named).

    >>> betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    >>> p = ddpm((1 - betas).cumprod(0))
    >>> p.t_max, round(p.t_of_lam(p.lam(10.25)), 9)
    (999.0, 10.25)
    """
    values = alphas_cumprod.detach().double().cpu().tolist() if isinstance(alphas_cumprod, Tensor) else alphas_cumprod
    try:
        finite = all(math.isfinite(a) for a in values)
    except TypeError:
        finite = False
    if not finite:
        raise ArgumentError(f"alphas_cumprod must be a sequence of finite numbers, got {values!r:.100}")
    return DDPM(values)
