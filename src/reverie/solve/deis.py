"""DEIS and its relatives: Adams-Bashforth and Runge-Kutta where the ODE has no linear part.

With y = x / alpha and rho = sigma / alpha the probability-flow ODE is dy / drho = eps, on any process. From s to t,

    x_t = (alpha_t / alpha_s) x_s + alpha_t int_{rho_s}^{rho_t} P(v(rho)) drho,

P the polynomial through the last k predictions of eps, in a variable v:

    "t"        the process's time (tAB-DEIS), by Gauss-Legendre quadrature in lam, drho = -exp(-lam) dlam
    "rho"      a polynomial, integrated exactly (rhoAB-DEIS; `lms` is the same)
    "log-rho"  that is -lam: the weights of `exponential.Step`, diffusers' form

The first steps use 1, 2, ... predictions; the step to sigma = 0 one (lms: all), and `lower_final` lets their number fall towards the end as
for the multistep DPM-Solver. rk-deis puts any explicit Runge-Kutta method on dy / drho = eps.

Source: Zhang & Chen 2023 (2204.13902, section 3 and appendix B; its tABr has r + 1 predictions), k-diffusion (lms).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch

from reverie.base import ArgumentError, implements, unknown
from reverie.process import DDPM, Process
from reverie.solve.exponential import Step, derivatives
from reverie.solve.grids import Node
from reverie.solve.line import Line, prediction
from reverie.solve.quadrature import legendre
from reverie.solve.solver import Table, solver

__all__ = ["RUNGE_KUTTA", "deis_1", "deis_2", "deis_3", "deis_4", "lms", "rk_deis"]

VARIABLES = ("t", "rho", "log-rho")


def _moments(process: Process, s: Node, t: Node, n: int) -> list[float]:
    """int_{rho_s}^{rho_t} (time(rho) - t_s)^k drho for k < n."""
    edges = torch.tensor([s.lam, *_kinks(process, s, t), t.lam], dtype=torch.float64)[:, None]
    places, weights = legendre(64 if len(edges) == 2 else 12)
    half = (edges[1:] - edges[:-1]) / 2
    lam = edges[:-1] + half * (1 + places)
    drho = -half * weights * (-lam).exp()
    away = process.t_of_lam(lam) - s.t
    return [t.ratio - s.ratio, *(float((away**k * drho).sum()) for k in range(1, n))]


def _kinks(process: Process, s: Node, t: Node) -> list[float]:
    """lam at the labels between s and t: between labels a discrete process is interpolated, at labels lam(t) has kinks."""
    if not isinstance(process, DDPM):
        return []
    labels = torch.arange(math.ceil(s.t) - 1, math.floor(t.t), -1, dtype=torch.float64)
    return [lam for lam in process.lam(labels).tolist() if s.lam < lam < t.lam]


def _bashforth(process: Process, at: Sequence[Node], values: Sequence[Line], t: Node, x: Line, variable: str) -> Line:
    """The step to t through the predictions at the nodes `at`, the latest first."""
    s = at[0]
    step = Step(s, t, "eps")
    if variable == "log-rho" or len(at) == 1:
        return step.through(x, at, values)
    row = step.carry * x
    if variable == "rho":
        width = t.ratio - s.ratio
        moments = [width ** (k + 1) / (k + 1) for k in range(len(at))]
        places = [n.ratio - s.ratio for n in at]
    else:
        moments = _moments(process, s, t, len(at))
        places = [n.t - s.t for n in at]
    for k, (m, d) in enumerate(zip(moments, derivatives(places, values), strict=True)):
        row = row + t.alpha * m / math.factorial(k) * d
    return row


def _adams(process: Process, at: Sequence[Node], orders: Sequence[int], variable: str) -> Table:
    if variable not in VARIABLES:
        raise unknown("variable", variable, VARIABLES)
    table = Table(kinds=("eps",))
    for i, (s, t) in enumerate(pairwise(at)):
        back = range(i, i - orders[i], -1)
        row = _bashforth(process, [at[j] for j in back], [prediction(j) for j in back], t, table.x, variable)
        table.ask(s, row, t, i)
    return table


def _deis(process: Process, at: Sequence[Node], top: int, variable: str, lower_final: bool | None) -> Table:
    n = len(at) - 1
    lower = n < 10 if lower_final is None else lower_final
    orders = [min(top, i + 1, n - i if lower else top) if at[i + 1].sigma > 0 else 1 for i in range(n)]
    return _adams(process, at, orders, variable)


@implements("deis")
@solver("deis-1", order=1, grid="quadratic", elsewhere="logsnr")
def deis_1(process: Process, at: Sequence[Node], *, variable: str = "t", lower_final: bool | None = None) -> Table:
    """DEIS with one prediction (tAB0): the same as DDIM.

    Args:
        variable: of the polynomial, "t" (default), "rho" or "log-rho": all the same here. lower_final: without effect here.
    """
    return _deis(process, at, 1, variable, lower_final)


@implements("deis")
@solver("deis-2", order=2, grid="quadratic", elsewhere="logsnr")
def deis_2(process: Process, at: Sequence[Node], *, variable: str = "t", lower_final: bool | None = None) -> Table:
    """DEIS with two predictions (tAB1): second order, one evaluation a step.

    Args:
        variable: of the polynomial, "t" (default), "rho" or "log-rho" (diffusers').
        lower_final: let the number of predictions fall towards the end (default: when N < 10).
    """
    return _deis(process, at, 2, variable, lower_final)


@implements("deis")
@solver("deis-3", order=3, grid="quadratic", elsewhere="logsnr")
def deis_3(process: Process, at: Sequence[Node], *, variable: str = "t", lower_final: bool | None = None) -> Table:
    """DEIS with three predictions (tAB2): third order, one evaluation a step.

    Args:
        variable: of the polynomial, "t" (default), "rho" or "log-rho" (diffusers').
        lower_final: let the number of predictions fall towards the end (default: when N < 10).
    """
    return _deis(process, at, 3, variable, lower_final)


@implements("deis")
@solver("deis-4", order=4, grid="quadratic", elsewhere="logsnr")
def deis_4(process: Process, at: Sequence[Node], *, variable: str = "t", lower_final: bool | None = None) -> Table:
    """DEIS with four predictions (the paper's tAB3): fourth order, one evaluation a step.

    Args:
        variable: of the polynomial, "t" (default), "rho" or "log-rho".
        lower_final: let the number of predictions fall towards the end (default: when N < 10).
    """
    return _deis(process, at, 4, variable, lower_final)


@implements("deis")
@solver("lms", order=lambda order=4, **_: order, grid="karras")
def lms(process: Process, at: Sequence[Node], *, order: int = 4) -> Table:
    """Linear multistep in sigma / alpha (k-diffusion), with exact coefficients; to sigma = 0 too.

    Args:
        order: number of predictions, 1 to 4.
    """
    if order not in (1, 2, 3, 4):
        raise ArgumentError(f"order must be 1, 2, 3 or 4, got {order!r}")
    return _adams(process, at, [min(order, i + 1) for i in range(len(at) - 1)], "rho")


# rows of the tableau: where in the step, and the weights of the earlier slopes; the last row makes the step
_Row = tuple[float, tuple[float, ...]]
RUNGE_KUTTA: dict[str, tuple[int, tuple[_Row, ...]]] = {
    "midpoint": (2, ((1 / 2, (1 / 2,)), (1, (0, 1)))),
    "heun": (2, ((1, (1,)), (1, (1 / 2, 1 / 2)))),
    "kutta": (3, ((1 / 2, (1 / 2,)), (1, (-1, 2)), (1, (1 / 6, 2 / 3, 1 / 6)))),
    "rk4": (4, ((1 / 2, (1 / 2,)), (1 / 2, (0, 1 / 2)), (1, (0, 0, 1)), (1, (1 / 6, 1 / 3, 1 / 3, 1 / 6)))),
}
"""Explicit Runge-Kutta methods: (order, rows)."""


def _rk_order(method: str = "kutta", **_: object) -> int:
    return RUNGE_KUTTA[method][0] if method in RUNGE_KUTTA else 0


@implements("deis")
@solver("rk-deis", order=_rk_order, grid="karras")
def rk_deis(process: Process, at: Sequence[Node], *, method: str = "kutta") -> Table:
    """rhoRK-DEIS: an explicit Runge-Kutta method on d(x / alpha) / d(sigma / alpha) = eps; first order into sigma = 0.

    Args:
        method: "midpoint" and "heun" (order 2, two evaluations a step), "kutta" (order 3, three), "rk4" (order 4, four).
    """
    if method not in RUNGE_KUTTA:
        raise unknown("method", method, RUNGE_KUTTA)
    table = Table(kinds=("eps",))
    _, rows = RUNGE_KUTTA[method]
    for i, (s, t) in enumerate(pairwise(at)):
        if t.sigma == 0:
            table.ask(s, Step(s, t, "eps").first(table.x, prediction(table.k)), t, i)
            continue
        x, k, here = table.x, table.k, s
        width = t.ratio - s.ratio
        for m, (c, weights) in enumerate(rows):
            last = m == len(rows) - 1
            there = t if c == 1 else _inside(process, s, t, c)
            row = Step(s, there, "eps").carry * x
            for j, a in enumerate(weights):
                row = row + there.alpha * width * a * prediction(k + j)
            table.ask(here, row, there, i, inner=not last)
            here = there
    return table


def _inside(process: Process, s: Node, t: Node, c: float) -> Node:
    """The node at rho_s + c (rho_t - rho_s)."""
    return Node.at(process, process.t_of_ratio(s.ratio + c * (t.ratio - s.ratio)))
