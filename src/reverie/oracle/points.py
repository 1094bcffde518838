"""A finite data set as an exact model, under the noise of any process.

For points y_1 .. y_K of weight w_i and x = alpha x0 + sigma eps the posterior mean is a weighted mean of points,

    E[x0 | x] = sum_i r_i y_i,        r_i ~ w_i q((x - alpha y_i) / sigma),

with q the density of the elementary noise: the Gaussian's exp(-|eps|^2 / 2), or on PFGM++ Student's (1 + |eps|^2 / D)^(-(N + D) / 2). The
weights are formed from logarithms in float64. The first is `Mixture` with components of no width; the second goes to it as D grows.

Source: Xu et al. 2023 (2302.04265, equation 5).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from reverie.base import implements
from reverie.oracle.components import Components, total
from reverie.oracle.mixture import Mixture
from reverie.oracle.posterior import condition
from reverie.process import PFGMpp, Process

__all__ = ["Points"]


@dataclasses.dataclass(frozen=True)
class Student(Components):
    """Points (components of no width) under a noise of Student's t law with D degrees of freedom."""

    D: int = 1

    def to(self, device: torch.device) -> Student:
        """The same on another device."""
        moved = super().to(device)
        return self if moved is self else Student(**vars(moved), D=self.D)

    def _logits(self, z: Tensor, v: Tensor, log_weights: Tensor) -> Tensor:
        n = z.shape[2]
        repeats = n // v.shape[2]
        spread = total(z * z / v) / self.D
        return log_weights - ((n + self.D) * spread.log1p() + repeats * total(v.log())) / 2

    def log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor, log_weights: Tensor) -> Tensor:
        """log sum_i w_i q((x - alpha y_i) / sigma) / sigma^N in nats, (B,)."""
        half, n = self.D / 2, x.shape[1]
        peak = math.lgamma(half + n / 2) - math.lgamma(half) - n / 2 * math.log(half)
        return super().log_prob(x, alpha, sigma, log_weights) + peak


@implements("pfgmpp")
class Points(Mixture):
    """An exact model of a finite data set: `Mixture` of components without width, under Gaussian noise or that of PFGM++.

    As a Model it predicts "x0"; `sample`, `log_prob` (at sigma > 0), `solve` and `posterior` are the mixture's.

    Args:
        points: (K, *shape). weights: (K,), > 0; equal by default. labels: (K,) integers >= 0; 0 .. K-1 by default.
        process: what the data are noised by. name: how it calls itself.

    Raises:
        ShapeError, ArgumentError: as `Mixture`.

    >>> import torch, reverie as rv
    >>> o = Points([[-1.0], [1.0]], process=rv.process.pfgmpp(1))
    >>> round(o(torch.ones(1, 1, dtype=torch.float64), 1.0).x0.item(), 9)  # weights 1 and 1 / (1 + 4)
    0.666666667
    """

    _heavy: ClassVar[bool] = True

    def __init__(
        self, points: Any, weights: Any = None, labels: Any = None, *, process: Process, name: str = "points"
    ) -> None:
        super().__init__(points, 0.0, weights, labels, process=process, name=name)
        self._set(self.components)

    def _set(self, c: Components) -> None:
        self.components = Student(**vars(c), D=self.process.D) if isinstance(self.process, PFGMpp) else c

    def posterior(self, A: Any, y: Any, std: float) -> Points:
        """The exact posterior given y = A x0 + std n, n standard normal: the same points with other weights; std > 0. As `Mixture.posterior`."""
        _, _, log_weights = condition(self.components, A, y, std)
        q = Points(self.means, labels=self.labels, process=self.process, name=f"posterior of {self.name}")
        q.components = dataclasses.replace(q.components, log_weights=log_weights)
        return q
