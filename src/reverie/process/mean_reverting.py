"""Mean reversion: the state drifts from the clean picture x0 to its degraded version y, not to zero (IR-SDE).

    dx = theta (y - x) dt + g dw,    g^2 = 2 sigma_inf^2 theta,        I(t) = int theta,

    alpha = exp(-I),    gamma = 1 - alpha,    sigma = sigma_inf sqrt(1 - alpha^2).

So x - y is an ordinary process of x0 - y, variance preserving up to the factor sigma_inf, and every solver of tables applies: plans add the
terms of y to their rows (`solve.degraded`). With y = 0 and sigma_inf = 1 this is a `VP` process.

Time is the training label 0 .. T, fractions allowed, -1 is clean. Between labels I is linear and all else follows from it; the released
sampler interpolates alpha, sigma and lam one by one, which makes them contradict each other. theta has the released schedules at labels 0 .. T,

    cosine     theta_j = 1 - c_{j+1} / c_0,    c_j = cos(pi/2 (j / (T + 2) + 0.008) / 1.008)^2
    linear     theta_j from 0.0001 to 0.02, even in j
    constant   theta_j = 1

and I(j) = dt (theta_0 + ... + theta_j) with dt such that alpha(T) = alpha_end.

Sources: Luo et al. 2023 (2301.11699, the process), Li et al. 2025 (2502.07856, appendix; the schedules are those of the released code).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from reverie.base import ArgumentError, implements, unknown
from reverie.process.process import Process, Time, _degraded, register

__all__ = ["MeanReverting", "mean_reverting"]

SCHEDULES = ("cosine", "linear", "constant")
_LOWEST = -5.0
"""Solvers that step in lam start no lower (the released sampler's threshold)."""


@implements("mr-sampler")
@register
@dataclass(frozen=True)
class MeanReverting(Process):
    """alpha = exp(-I(t)), gamma = 1 - alpha, sigma = sigma_inf sqrt(1 - alpha^2); `t` in [0, T] is a label, -1 is clean."""

    name: ClassVar[str] = "mean-reverting"
    t_clean: ClassVar[float] = -1.0
    t_min: float = 0.0
    t_max: float = 100.0
    schedule: str = "cosine"
    labels: int = 100
    alpha_end: float = 0.005
    sigma_inf: float = 50 / 255

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)
        if isinstance(self.labels, bool) or not isinstance(self.labels, int) or self.labels < 1:
            raise ArgumentError(f"labels, the last training label T, is a whole number >= 1, got {self.labels!r}")
        if not 0 < self.alpha_end < 1:
            raise ArgumentError(f"alpha_end = alpha(T) must lie in (0, 1), got {self.alpha_end!r}")
        if not 0 < self.sigma_inf < math.inf:
            raise ArgumentError(
                f"sigma_inf must be positive and finite, got {self.sigma_inf!r} (the released 50 means 50 / 255 for data in [0, 1])"
            )
        if not 0 <= self.t_min < self.t_max <= self.labels:
            raise ArgumentError(f"0 <= t_min < t_max <= {self.labels} is needed, got {self.t_min} and {self.t_max}")

    @functools.cached_property
    def _knots(self) -> Tensor:
        """I at the labels -1, 0, ..., T."""
        n = self.labels
        j = torch.arange(n + 1, dtype=torch.float64)
        if self.schedule == "cosine":
            theta = 1 - (self._wave(j + 1) / self._wave(torch.zeros(1, dtype=torch.float64))) ** 2
        elif self.schedule == "linear":
            theta = 1e-4 + j / n * (0.02 - 1e-4)
        else:
            theta = torch.ones_like(j)
        total = theta.cumsum(0)
        return torch.cat([torch.zeros(1, dtype=torch.float64), total / total[-1] * -math.log(self.alpha_end)])

    def _wave(self, j: Tensor) -> Tensor:
        return torch.cos((j / (self.labels + 2) + 0.008) / 1.008 * (math.pi / 2))

    def _log_alpha(self, t: Tensor) -> Tensor:
        knots = self._knots.to(t.device)
        i = (t.detach().floor().long() + 1).clamp(0, self.labels)
        return -(knots[i] + (t + 1 - i) * (knots[i + 1] - knots[i]))

    def _t_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        knots = self._knots.to(log_alpha.device)
        i = (torch.searchsorted(knots, -log_alpha.detach().contiguous()) - 1).clamp(0, self.labels)
        return i - 1 + (-log_alpha - knots[i]) / (knots[i + 1] - knots[i])

    def _variance(self, t: Tensor) -> Tensor:
        return self.sigma_inf**2 * -torch.expm1(2 * self._log_alpha(t))

    def _log_sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(t))).log() / 2 + math.log(self.sigma_inf)

    def _t_of_lam(self, lam: Tensor) -> Tensor:
        plain = lam + math.log(self.sigma_inf)  # log(alpha / sqrt(1 - alpha^2))
        return self._t_of_log_alpha(-torch.nn.functional.softplus(-2 * plain, threshold=700.0) / 2)

    def gamma(self, t: Time) -> Time:
        """The coefficient of the degraded picture y, 1 - alpha(t)."""
        return self._lift(lambda u: -torch.expm1(self._log_alpha(u)), t)

    def theta(self, t: Time) -> Time:
        """The rate of dx = theta (y - x) dt + g dw, a label being the unit of time; g is `diffusion`."""
        return self._lift(lambda u: -u, self.drift(t))

    @property
    def lam_range(self) -> tuple[float, float]:
        """Between t_max, or where lam = -5, and t_min."""
        lo, hi = self._finite(self.t_max, self.t_min)
        return max(lo, _LOWEST), hi

    def prior_std(self, t: float | None = None) -> float:
        """sigma_inf, whatever the time."""
        return self.sigma_inf

    def prior(self, noise: Tensor, t: float | None = None, y: Tensor | None = None) -> Tensor:
        """y + sigma_inf noise, whatever the time; a little off, as alpha(T) = 0.005 of x0 - y is missing. Without y: around zero.

        Args:
            noise, y: `(B, *shape)`; y may broadcast.
        """
        x = noise * self.sigma_inf
        return x if y is None else x + _degraded(y, x)


def mean_reverting(
    schedule: str = "cosine", labels: int = 100, alpha_end: float = 0.005, sigma_inf: float = 50 / 255
) -> MeanReverting:
    """The mean-reverting process of picture restoration; give the degraded picture as y (`inputs={"y": ...}` of `sample` and `run`).

    Args:
        schedule: "cosine", "linear" or "constant". labels: T, the last training label (time runs from T to 0; -1 is clean).
        alpha_end: alpha(T). sigma_inf: standard deviation of the noise at the end, in the data's unit (50 / 255 for data in [0, 1]).

    Raises:
        UnknownNameError: the schedule. ArgumentError: a number out of range.

    >>> p = mean_reverting()
    >>> round(p.alpha(100.0), 9), round(p.alpha(37.3) + p.gamma(37.3), 12), p.sigma(-1.0)
    (0.005, 1.0, 0.0)
    """
    return MeanReverting(
        t_max=float(labels) if isinstance(labels, int) else labels,
        schedule=schedule,
        labels=labels,
        alpha_end=alpha_end,
        sigma_inf=sigma_inf,
    )
