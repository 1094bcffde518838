"""The velocity that networks of mean-reverting diffusion predict.

With s = sigma / sigma_inf, so that alpha^2 + s^2 = 1,

    raw = alpha sigma_inf eps - s (x0 - y),        x0 = alpha x + (1 - alpha) y - s raw,        eps = (alpha raw + s (x - y)) / sigma_inf.

Source: Li et al. 2025 (2502.07856, its velocity prediction).
"""

from __future__ import annotations

from torch import Tensor

from reverie.base import ArgumentError
from reverie.model.target import Target
from reverie.process import MeanReverting, Process

__all__ = ["MR_VELOCITY"]


def _share(p: Process, t: Tensor) -> Tensor:
    return p.sigma(t) / _end(p)


def _end(p: Process) -> float:
    if not isinstance(p, MeanReverting):
        raise ArgumentError(f"the mean-reverting velocity belongs to rv.process.mean_reverting(), not to {p}")
    return p.sigma_inf


MR_VELOCITY = Target(x0=lambda p, t: -_share(p, t), eps=lambda p, t: p.alpha(t) * _end(p), y=_share, name="mr-velocity")
"""`Model(net, rv.process.mean_reverting(), predicts=MR_VELOCITY)`."""
