"""Momentum for diffusion solvers: heavy ball, Nesterov, and the generalised heavy ball, from averages of the predictions.

With y = x / alpha and rho = sigma / alpha the ODE is dy / drho = eps. A step with direction u is y_t = y_s + (rho_t - rho_s) u. Let e_i be the
prediction at node i, AB_k the Adams-Bashforth weights for even steps (k = 1 .. 5), and b the momentum number in (0, 1]:

    hb         v_i = (1 - b) v_{i-1} + b AB_k(e),     u = v_i
    nesterov   v as in hb,                            u = (1 - b) v_i + b AB_k(e)
    ghvb       v_i = (1 - b) v_{i-1} + b e_i,         u = M_k(v) / b

v starts at the first prediction. b = 1 has no memory: all three are then Adams-Bashforth (`ipndm`). A smaller b damps the jumps of large steps
under strong guidance. hb averages what was extrapolated and is of first order for b < 1. ghvb averages first; M_k makes up for the delay of the
average on polynomials of degree k - 1, so that it keeps an order, and it lies between AB_{k-1} (b to 0) and AB_k (b = 1). In e alone, with B the
shift to the prediction before and m_j the weights of M_k,

    (1 - (1 - b) B) u_i =  sum_j m_j e_{i-j}  (ghvb),    b AB_k(e)  (hb),    b AB_k((2 - b - (1 - b) B) e)  (nesterov).

`dpmpp-2m-hb` puts the heavy ball on DPM-Solver++(2M): v averages the data prediction at the middle, from the first step of second order on.

Source: Wizadwongsa et al. 2023 (2307.11118) and its released schedulers. The released UniPC with momentum throws its predictor's average away; it
is not here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from reverie.base import ArgumentError, implements, unknown
from reverie.process import Process
from reverie.solve.exponential import Step
from reverie.solve.grids import Node
from reverie.solve.line import Line, prediction
from reverie.solve.solver import Table, solver

__all__ = ["dpmpp_2m_hb", "ghvb"]

METHODS = ("ghvb", "hb", "nesterov")
HIGHEST = 5
_TINY = 1e-20
"""Weights of old predictions below this are left out: they cannot change a float64 sum."""


def weights(k: int, b: float) -> tuple[float, ...]:
    """The weights of M_k, the latest first; those of Adams-Bashforth for b = 1.

    >>> weights(2, 1.0), weights(1, 0.5)
    ((1.5, -0.5), (0.5,))
    """
    match k:
        case 1:
            return (b,)
        case 2:
            return (2 + b) / 2, -(2 - b) / 2
        case 3:
            return (18 + 5 * b) / 12, -(24 - 8 * b) / 12, (6 - b) / 12
        case 4:
            return (46 + 9 * b) / 24, -(78 - 19 * b) / 24, (42 - 5 * b) / 24, -(10 - b) / 24
    top = (1650 + 251 * b, -(3420 - 646 * b), 2880 - 264 * b, -(1380 - 106 * b), 270 - 19 * b)
    return tuple(c / 720 for c in top)


def _numbers(order: float, beta: float | None) -> tuple[int, float]:
    """k and b of the paper's notation: 1.8 is k = 2 with b = 0.8; a whole number has b = 1 unless beta says otherwise."""
    if not 0 < order <= HIGHEST:
        raise ArgumentError(f"order must be above 0 and at most {HIGHEST}, got {order!r}")
    k = math.ceil(order)
    if beta is None:
        return k, (1.0 if k == order else order - k + 1)
    if k != order:
        raise ArgumentError(
            f"order {order!r} already says beta = {order - k + 1:.3g}; with beta= give a whole order, here {k}"
        )
    if not 0 < beta <= 1:
        raise ArgumentError(f"beta must be above 0 (infinite memory) and at most 1 (none), got {beta!r}")
    return k, float(beta)


def _order_2m(beta: float = 0.8, **_: object) -> int:
    return 2 if beta == 1 else 1


def _order(order: float = 1.8, beta: float | None = None, method: str = "ghvb", **_: object) -> int:
    k, b = _numbers(order, beta)
    return min(k, 2) if b == 1 or method == "ghvb" else 1


def _sum(weights: Sequence[float], values: Sequence[Line]) -> Line:
    """The weighted sum; `values` with the latest last, of which the last ones are taken."""
    out = Line()
    for c, value in zip(weights, reversed(values), strict=False):
        out = out + c * value
    return out


def _average(before: Line | None, now: Line, b: float) -> Line:
    """(1 - b) before + b now, without what has faded."""
    if before is None or b == 1:
        return now
    mixed = (1 - b) * before + b * now
    return Line({key: c for key, c in mixed.terms.items() if abs(float(c)) > _TINY})


@implements("ghvb")
@solver("ghvb", order=_order, grid="time", even=True, elsewhere="logsnr")
def ghvb(
    process: Process, at: Sequence[Node], *, order: float = 1.8, beta: float | None = None, method: str = "ghvb"
) -> Table:
    """Generalised heavy ball: Adams-Bashforth on averaged predictions, one evaluation a step; steadier under strong guidance.

    Args:
        order: above 0, at most 5; k is it rounded up and beta its fraction, 1.8 (mild) to 3.8 in the paper; a smaller one is steadier.
        beta: instead of the fraction, in (0, 1], with a whole order: 1 is without momentum (ipndm), near 0 it amplifies rounding by 1 / beta.
        method: "ghvb" (default), "hb" (heavy ball, first order) or "nesterov" (first order).
    """
    k, b = _numbers(order, beta)
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    table = Table(kinds=("eps",))
    said: list[Line] = []
    averages: list[Line] = []
    for i, (s, t) in enumerate(pairwise(at)):
        said = [*said, prediction(i)][-k:]
        last = averages[-1] if averages else prediction(0)
        top = min(k, len(said))
        if method == "ghvb":
            averages = [*averages, _average(last, prediction(i), b)][-k:]
            u = _sum(weights(top, b), averages) / b
        else:
            bashforth = _sum(weights(top, 1.0), said)
            averages = [_average(last, bashforth, b)]
            u = averages[0] if method == "hb" else (1 - b) * averages[0] + b * bashforth
        table.ask(s, Step(s, t, "eps").first(table.x, u), t, i)
    return table


@implements("ghvb")
@solver("dpmpp-2m-hb", order=_order_2m)
def dpmpp_2m_hb(process: Process, at: Sequence[Node], *, beta: float = 0.8, lower_final: bool | None = None) -> Table:
    """DPM-Solver++(2M) with heavy-ball momentum, one evaluation a step; first order for beta < 1.

    Args:
        beta: in (0, 1]; 1 is dpmpp-2m, a smaller one is steadier. lower_final: let the order fall towards the end (default: when N < 10).
    """
    if not 0 < beta <= 1:
        raise ArgumentError(f"beta must be above 0 (infinite memory) and at most 1 (none), got {beta!r}")
    n = len(at) - 1
    lower = n < 10 if lower_final is None else lower_final
    table, v = Table(kinds=("x0",)), None
    for i, (s, t) in enumerate(pairwise(at)):
        step, u = Step(s, t, "x0"), prediction(i)
        if i and step.finite and math.isfinite(at[i - 1].lam) and not (lower and i == n - 1):
            r = (s.lam - at[i - 1].lam) / step.h
            v = u = _average(v, u + (u - prediction(i - 1)) / (2 * r), beta)
        table.ask(s, step.first(table.x, u), t, i)
    return table
