"""Euler and Heun in the coordinates where the probability-flow ODE has no linear part, with EDM's churn.

Write x = scale(t) y and choose tau(t) such that dy / dtau is what a network predicts:

    "ratio"     scale = alpha            tau = sigma / alpha              dy/dtau = eps          (EDM, k-diffusion)
    "straight"  scale = alpha + sigma    tau = sigma / (alpha + sigma)    dy/dtau = eps - x0     (flow matching)

Euler is y + (tau_t - tau_s) d_s, which is DDIM in both; Heun averages d_s and d_t, and takes Euler's step to sigma = 0. Churn raises the
noise before a step from ratio r to (1 + gamma) r, gamma = min(churn / N, sqrt(2) - 1), by fresh noise, never beyond the first node.

Source: Karras et al. 2022 (2206.00364, algorithms 1 and 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from reverie.base import ArgumentError, cites, unknown
from reverie.process import Flow, Process
from reverie.solve.grids import Node
from reverie.solve.line import Line, noise, prediction
from reverie.solve.solver import Table, solver

__all__ = ["coordinates_of", "euler", "heun", "step"]

_COORDINATES = {
    "ratio": ("eps", lambda n: n.alpha, lambda n: n.ratio),
    "straight": ("flow", lambda n: n.alpha + n.sigma, lambda n: n.sigma / (n.alpha + n.sigma)),
}


def coordinates_of(process: Process, name: str | None) -> str:
    name = name or ("straight" if isinstance(process, Flow) else "ratio")
    if name not in _COORDINATES:
        raise unknown("coordinates", name, _COORDINATES)
    return name


def _euler(s: Node, t: Node, x: Line, slope: Line, coordinates: str) -> Line:
    _, scale, tau = _COORDINATES[coordinates]
    if s.alpha == 0 and coordinates == "ratio":
        raise ArgumentError(
            f"sigma / alpha is infinite at t = {s.t}; use coordinates='straight', or start the grid later (grid='logsnr' does)"
        )
    return (scale(t) / scale(s)) * x + scale(t) * (tau(t) - tau(s)) * slope


def _churn(
    process: Process, table: Table, s: Node, top: Node, amount: float, low: float, high: float, extra: float, i: int
) -> Node:
    """Add a stage that raises the noise; returns the node reached."""
    raised = min(s.ratio * (1 + amount), top.ratio)
    if amount == 0 or not low <= s.ratio <= high or raised <= s.ratio:
        return s
    up = Node.at(process, min(process.t_of_ratio(raised), top.t))
    std = up.alpha * math.sqrt(max(0.0, up.ratio**2 - s.ratio**2)) * extra
    table.move((up.alpha / s.alpha) * table.x + std * noise(table.draw()), up, i, inner=True)
    return up


def _second_order_or_less(
    process: Process,
    at: Sequence[Node],
    heun: bool,
    coordinates: str | None,
    churn: float,
    churn_min: float,
    churn_max: float,
    churn_noise: float,
) -> Table:
    if not (churn >= 0 and 0 <= churn_noise < math.inf):
        raise ArgumentError(
            f"churn must be at least 0, churn_noise also finite, got churn={churn} and churn_noise={churn_noise}"
        )
    if not 0 <= churn_min <= churn_max:
        raise ArgumentError(f"0 <= churn_min <= churn_max is needed, got {churn_min} and {churn_max}")
    where = coordinates_of(process, coordinates)
    table = Table(kinds=(_COORDINATES[where][0],))
    amount = min(churn / (len(at) - 1), math.sqrt(2) - 1)
    for i, (s, t) in enumerate(pairwise(at)):
        s = _churn(process, table, s, at[0], amount, churn_min, churn_max, churn_noise, i)
        step(table, s, t, where, i, heun)
    return table


def step(table: Table, s: Node, t: Node, where: str, i: int, heun: bool = True, inner: bool = False) -> None:
    """Add one step of Heun's method, or of Euler's where t is clean; `inner`: its end is not yet that of step i."""
    k, x = table.k, table.x
    if not heun or t.sigma == 0:
        table.ask(s, _euler(s, t, x, prediction(k), where), t, i, inner=inner)
        return
    table.ask(s, _euler(s, t, x, prediction(k), where), t, i, inner=True)
    table.ask(t, _euler(s, t, x, 0.5 * (prediction(k) + prediction(k + 1)), where), t, i, inner=inner)


@cites("edm")
@solver("euler", order=1, grid="karras", stochastic=True)
def euler(
    process: Process,
    at: Sequence[Node],
    *,
    coordinates: str | None = None,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
) -> Table:
    """Euler, with EDM's churn; without churn it is DDIM.

    Args:
        coordinates: "ratio" (EDM) or "straight" (the default for flow processes).
        churn: S_churn >= 0, of all steps together; churn_min, churn_max: S_tmin, S_tmax, the sigma / alpha between which it acts;
            churn_noise: S_noise, factor of the noise's standard deviation.
    """
    return _second_order_or_less(process, at, False, coordinates, churn, churn_min, churn_max, churn_noise)


@cites("edm")
@solver("heun", order=2, grid="karras", stochastic=True)
def heun(
    process: Process,
    at: Sequence[Node],
    *,
    coordinates: str | None = None,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
) -> Table:
    """Heun's second order (EDM), two evaluations a step, with churn.

    Args:
        coordinates: "ratio" (EDM) or "straight" (the default for flow processes).
        churn: S_churn >= 0, of all steps together; churn_min, churn_max: S_tmin, S_tmax, the sigma / alpha between which it acts;
            churn_noise: S_noise, factor of the noise's standard deviation.
    """
    return _second_order_or_less(process, at, True, coordinates, churn, churn_min, churn_max, churn_noise)
