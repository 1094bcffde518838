"""Variance-exploding processes: alpha = 1 and time *is* sigma.

    x_t = x0 + t eps,        lam = -log t,        f = 0,        g = sqrt(2 t).

Sources: Song et al. 2021 (2011.13456), Karras et al. 2022 (2206.00364).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from reverie.base import ArgumentError
from reverie.process.process import Process, register

__all__ = ["VE", "edm", "ve"]


@register
@dataclass(frozen=True)
class VE(Process):
    """x_t = x0 + t eps for t in [t_min, t_max]."""

    name: ClassVar[str] = "ve"

    def __post_init__(self) -> None:
        if not 0 < self.t_min < self.t_max < math.inf:
            raise ArgumentError(f"0 < sigma_min < sigma_max is needed, got {self.t_min} and {self.t_max}")

    def _log_alpha(self, t: Tensor) -> Tensor:
        return 0 * t

    def _log_sigma(self, t: Tensor) -> Tensor:
        return t.log()

    def _sigma(self, t: Tensor) -> Tensor:
        return 1 * t

    def _t_of_lam(self, lam: Tensor) -> Tensor:
        return torch.exp(-lam)


def ve(sigma_min: float = 0.01, sigma_max: float = 50.0) -> VE:
    """The variance-exploding process of Song et al. 2021, t = sigma in [sigma_min, sigma_max].

    >>> ve().lam(1.0)
    0.0
    """
    return VE(t_min=sigma_min, t_max=sigma_max)


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> VE:
    """The same process with the range of Karras et al. 2022; pair it with `predicts="edm"` for their preconditioning.

    >>> edm().sigma(3.0)
    3.0
    """
    return VE(t_min=sigma_min, t_max=sigma_max)
