"""What networks of stochastic interpolants predict: the mean of dx_t/dt, or of that part of it that is not noise.

    "drift"      alpha' x0 + gamma' y + sigma' eps        "velocity"   alpha' x0 + gamma' y

`Model(net, process, predicts=("drift", "eps"))` or `("velocity", "eps")`; the second head is eta = E[eps | x]. There are two unknowns besides eps, so
neither head alone gives the other quantities: reading them asks for y.

Source: Albergo, Boffi & Vanden-Eijnden 2023 (2303.08797, definitions 2.1 and 2.5).
"""

from __future__ import annotations

from torch import Tensor

from reverie.base import ArgumentError
from reverie.model.target import OWN, Target
from reverie.process import Interpolant, Process

__all__ = ["DRIFT", "VELOCITY"]


def _path(p: Process) -> Interpolant:
    if not isinstance(p, Interpolant):
        raise ArgumentError(
            f"drift and velocity belong to rv.process.interpolant(), not to {p}; there 'flow' is the like"
        )
    return p


def _alpha(p: Process, t: Tensor) -> Tensor:
    return _path(p).rates(t)[0]


def _gamma(p: Process, t: Tensor) -> Tensor:
    return _path(p).rates(t)[1]


DRIFT = Target(_alpha, lambda p, t: _path(p).slope(t), y=_gamma, name="drift")
VELOCITY = Target(_alpha, lambda p, t: 0 * t, y=_gamma, name="velocity")
OWN.update(drift=DRIFT, velocity=VELOCITY)
