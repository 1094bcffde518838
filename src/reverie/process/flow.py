"""The straight path of rectified flow and flow matching, with the time shift of large pictures.

    s = shift t / (1 + (shift - 1) t),        alpha = 1 - s,        sigma = s,        t in [0, 1].

alpha(1) = 0 and sigma(0) = 0: lam is infinite at both ends, so solvers that step in lam stay between
s = 0.999 and s = 0.001.

Sources: Liu et al. 2022 (2209.03003), Lipman et al. 2022 (2210.02747), Esser et al. 2024 (2403.03206, the shift,
section 5.3.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from reverie.base import ArgumentError
from reverie.process.process import Process, Time, register

__all__ = ["Flow", "dynamic_shift", "flow"]


@register
@dataclass(frozen=True)
class Flow(Process):
    """alpha = 1 - s(t), sigma = s(t), s(t) = shift t / (1 + (shift - 1) t)."""

    name: ClassVar[str] = "flow"
    t_min: float = 0.0
    t_max: float = 1.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.shift < math.inf:
            raise ArgumentError(f"shift must be positive and finite, got {self.shift}")
        if not 0 <= self.t_min < self.t_max <= 1:
            raise ArgumentError(f"0 <= t_min < t_max <= 1 is needed, got {self.t_min} and {self.t_max}")

    def _sigma(self, t: Tensor) -> Tensor:
        return self.shift * t / (1 + (self.shift - 1) * t)

    def _alpha(self, t: Tensor) -> Tensor:
        return (1 - t) / (1 + (self.shift - 1) * t)

    def _log_alpha(self, t: Tensor) -> Tensor:
        return torch.log1p(-t) - torch.log1p((self.shift - 1) * t)

    def _log_sigma(self, t: Tensor) -> Tensor:
        return (self.shift * t).log() - torch.log1p((self.shift - 1) * t)

    def _unshift(self, s: Tensor) -> Tensor:
        return s / (self.shift - (self.shift - 1) * s)

    def _t_of_lam(self, lam: Tensor) -> Tensor:
        return self._unshift(torch.sigmoid(-lam))

    def t_of_sigma(self, sigma: Time) -> Time:
        """The time at which sigma(t) is `sigma`: flow schedulers name sigma itself, not sigma / alpha."""
        return self._lift(self._unshift, sigma)

    @property
    def lam_range(self) -> tuple[float, float]:
        """Between sigma = 0.999 and sigma = 0.001, and inside [t_min, t_max]."""
        edge = math.log(999.0)
        return max(-edge, self.lam(self.t_max)), min(edge, self.lam(self.t_min))


def flow(shift: float = 1.0) -> Flow:
    """The straight path x_t = (1 - s) x0 + s eps on t in [0, 1].

    Args:
        shift: > 0; above 1 it spends more of the time at high noise (Stable Diffusion 3: 3). Networks of that family
            are told sigma: give the model `label="sigma"` (or a function of it).

    >>> flow(3.0).sigma(0.5)
    0.75
    """
    return Flow(shift=float(shift))


def dynamic_shift(
    tokens: int, base: float = 0.5, top: float = 1.15, base_tokens: int = 256, top_tokens: int = 4096
) -> float:
    """The shift for a picture of so many tokens: exp(mu), mu linear in the number of tokens (Flux).

    Args:
        tokens: height x width of the picture in patches, e.g. 4096 for 1024 x 1024 pixels on Flux. base, top: mu at base_tokens and top_tokens.

    Source: Esser et al. 2024 (2403.03206, section 5.3.2); the constants are those of the released FLUX.1 code.

    >>> round(flow(dynamic_shift(4096)).shift, 4)
    3.1582
    """
    if isinstance(tokens, bool) or not isinstance(tokens, int | float) or not 0 < tokens < math.inf:
        raise ArgumentError(f"tokens must be a positive number, got {tokens!r}")
    if base_tokens == top_tokens:
        raise ArgumentError(f"base_tokens and top_tokens must differ, got {base_tokens} for both")
    mu = base + (tokens - base_tokens) * (top - base) / (top_tokens - base_tokens)
    if not abs(mu) < 700:  # exp(709) is the largest float
        raise ArgumentError(f"tokens = {tokens!r} gives exp({mu:.4g}), which is no shift; count patches, not pixels")
    return math.exp(mu)
