"""Variance-preserving processes: alpha^2 + sigma^2 = 1, t in [0, 1], and their sub-VP relative.

With log alpha known, log sigma = log(-expm1(2 log alpha)) / 2, and from lam = log(alpha / sigma)

    log alpha = -softplus(-2 lam) / 2,

so a schedule needs only log alpha(t) and its inverse.

Sources: Ho et al. 2020 (2006.11239, linear), Song et al. 2021 (2011.13456, continuous linear and sub-VP), Nichol &
Dhariwal 2021 (2102.09672, cosine), Rombach et al. 2022 (2112.10752, scaled linear).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from reverie.base import ArgumentError, unknown
from reverie.process.process import Process, register

__all__ = ["VP", "Cosine", "Linear", "ScaledLinear", "SubVP", "subvp", "vp"]


@dataclass(frozen=True)
class VP(Process):
    """alpha^2 + sigma^2 = 1; a schedule defines `_log_alpha` and `_t_of_log_alpha`."""

    def _t_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        raise NotImplementedError

    def _variance(self, t: Tensor) -> Tensor:
        return -torch.expm1(2 * self._log_alpha(t))

    def _log_sigma(self, t: Tensor) -> Tensor:
        return self._variance(t).log() / 2

    def _t_of_lam(self, lam: Tensor) -> Tensor:
        return self._t_of_log_alpha(-torch.nn.functional.softplus(-2 * lam, threshold=700.0) / 2)

    def prior_std(self, t: float | None = None) -> float:
        """1: data of unit variance stay of unit variance."""
        return 1.0


def _check_range(t_min: float, t_max: float) -> None:
    if not 0 <= t_min < t_max <= 1:
        raise ArgumentError(f"0 <= t_min < t_max <= 1 is needed, got {t_min} and {t_max}")


@dataclass(frozen=True)
class _Betas(VP):
    t_min: float = 1e-3
    t_max: float = 1.0
    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min < self.beta_max < math.inf:
            raise ArgumentError(f"0 < beta_min < beta_max is needed, got {self.beta_min} and {self.beta_max}")
        _check_range(self.t_min, self.t_max)


@register
@dataclass(frozen=True)
class Linear(_Betas):
    """beta(t) = b0 + t (b1 - b0):  log alpha = -t^2 (b1 - b0) / 4 - t b0 / 2."""

    name: ClassVar[str] = "vp-linear"

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -t * (t * (self.beta_max - self.beta_min) / 4 + self.beta_min / 2)

    def _t_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        a = -4 * (self.beta_max - self.beta_min) * log_alpha
        return a / (((self.beta_min**2 + a).sqrt() + self.beta_min) * (self.beta_max - self.beta_min))


@register
@dataclass(frozen=True)
class ScaledLinear(_Betas):
    """sqrt(beta) linear, as in Stable Diffusion.

    log alpha = -((s0 + t d)^3 - s0^3) / (6 d),  s0 = sqrt(b0), d = sqrt(b1) - s0.
    """

    name: ClassVar[str] = "vp-scaled-linear"
    beta_min: float = 0.85
    beta_max: float = 12.0

    def _roots(self) -> tuple[float, float]:
        return math.sqrt(self.beta_min), math.sqrt(self.beta_max) - math.sqrt(self.beta_min)

    def _log_alpha(self, t: Tensor) -> Tensor:
        s0, d = self._roots()
        return -t * (3 * s0**2 + 3 * s0 * d * t + d**2 * t**2) / 6

    def _t_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        s0, d = self._roots()
        cube = -6 * d * log_alpha  # (s0 + t d)^3 - s0^3
        root = (s0**3 + cube) ** (1 / 3)
        return cube / (root**2 + root * s0 + s0**2) / d


@register
@dataclass(frozen=True)
class Cosine(VP):
    """alpha = cos a / cos a0 with a = pi/2 (t + s) / (1 + s), a0 = a(0), s = 0.008.

    alpha(1) = 0, so solvers that step in lam start at t = 0.9946.
    """

    name: ClassVar[str] = "vp-cosine"
    t_min: float = 1e-3
    t_max: float = 1.0
    s: float = 0.008

    def __post_init__(self) -> None:
        if not 0 < self.s < math.inf:
            raise ArgumentError(f"s must be positive, got {self.s}")
        _check_range(self.t_min, self.t_max)

    def _angle(self, t: Tensor | float) -> Tensor | float:
        return (t + self.s) / (1 + self.s) * (math.pi / 2)

    def _log_alpha(self, t: Tensor) -> Tensor:
        # cos a = sin(pi/2 - a), written with 1 - t, is accurate where alpha vanishes.
        return torch.sin((1 - t) / (1 + self.s) * (math.pi / 2)).log() - math.log(math.cos(self._angle(0.0)))

    def _variance(self, t: Tensor) -> Tensor:
        # 1 - alpha^2 = sin(a - a0) sin(a + a0) / cos(a0)^2: no cancellation where sigma vanishes.
        a0, minus = self._angle(0.0), t / (1 + self.s) * (math.pi / 2)
        return minus.sin() * (minus + 2 * a0).sin() / math.cos(a0) ** 2

    def _t_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        a0 = float(self._angle(0.0))
        sine = (math.sin(a0) ** 2 - math.cos(a0) ** 2 * torch.expm1(2 * log_alpha)).sqrt()
        return torch.atan2(sine, math.cos(a0) * log_alpha.exp()) * (1 + self.s) / (math.pi / 2) - self.s

    @property
    def lam_range(self) -> tuple[float, float]:
        """From t = 0.9946, where DPM-Solver stops (2206.00927, appendix D), to t_min."""
        return self._finite(min(self.t_max, 0.9946), self.t_min)


@register
@dataclass(frozen=True)
class SubVP(Linear):
    """alpha as in `Linear`, sigma = 1 - alpha^2.

    With r = exp(-lam):  alpha^2 + r alpha = 1, so log alpha = -asinh(r / 2).
    """

    name: ClassVar[str] = "subvp"

    def _variance(self, t: Tensor) -> Tensor:
        return torch.expm1(2 * self._log_alpha(t)) ** 2

    def _t_of_lam(self, lam: Tensor) -> Tensor:
        return self._t_of_log_alpha(-torch.asinh((-lam).exp() / 2))


_SCHEDULES: dict[str, type[VP]] = {"linear": Linear, "scaled_linear": ScaledLinear, "cosine": Cosine}


def vp(schedule: str = "linear", **options: float) -> VP:
    """A variance-preserving process on t in [0, 1].

    Args:
        schedule: "linear" (beta 0.1 to 20), "scaled_linear" (Stable Diffusion's, beta 0.85 to 12) or "cosine".
        options: `beta_min`, `beta_max` (per unit time: 1000 times the discrete betas), `s` (cosine), `t_min`, `t_max`.

    Raises:
        UnknownNameError: an unknown schedule. ArgumentError: an option it does not have, or betas out of order.

    >>> p = vp("linear")
    >>> round(p.alpha(0.5) ** 2 + p.sigma(0.5) ** 2, 12)
    1.0
    """
    if schedule not in _SCHEDULES:
        raise unknown("vp schedule", schedule, _SCHEDULES)
    try:
        return _SCHEDULES[schedule](**options)
    except TypeError as error:
        raise ArgumentError(f"vp({schedule!r}): {error}") from None


def subvp(beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3) -> SubVP:
    """The sub-VP process of Song et al. 2021 (2011.13456): alpha as vp("linear"), sigma = 1 - alpha^2.

    >>> round(subvp().sigma(1.0), 4)
    1.0
    """
    return SubVP(t_min=t_min, beta_min=beta_min, beta_max=beta_max)
