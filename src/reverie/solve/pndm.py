"""PNDM: classical multistep and Runge-Kutta weights, carried by the transfer map.

    phi(x, s, t, e) = (alpha_t / alpha_s) x + (sigma_t - (alpha_t / alpha_s) sigma_s) e          (DDIM with any e in place of eps)

A step is x_t = phi(x_s, s, t, e'), e' a combination of the last predictions with Adams-Bashforth weights

    [1]    [3, -1] / 2    [23, -16, 5] / 12    [55, -59, 37, -9] / 24,

which assume nodes even in time, or of evaluations inside the step:

    pseudo Runge-Kutta     e1 at (x, s), e2 at (phi(x, s, m, e1), m), e3 at (phi(x, s, m, e2), m), e4 at (phi(x, s, t, e3), t),
                           e' = (e1 + 2 e2 + 2 e3 + e4) / 6,  m = (s + t) / 2
    pseudo improved Euler  e1 at (x, s), e2 at (phi(x, s, t, e1), t), e' = (e1 + e2) / 2

of which only e1 enters the history. The transfer map is not the exact flow of a polynomial in time, so the method is of second order whatever
the weights (deis-4 is the fourth-order method of the same cost).

Source: Liu et al. 2022 (2202.09778, algorithm 2 and equations 11 to 13); the warm-up by "heun" is diffusers' PLMS, "multistep" is iPNDM (Zhang & Chen
2023, 2204.13902, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from reverie.base import ArgumentError, implements, unknown
from reverie.process import Process
from reverie.solve.exponential import Step
from reverie.solve.grids import Node
from reverie.solve.line import Line, prediction
from reverie.solve.solver import Table, solver

__all__ = ["ipndm", "pndm"]

_WEIGHTS: tuple[tuple[float, ...], ...] = (
    (1,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
WARMUPS = ("runge-kutta", "heun", "multistep")


def _transfer(s: Node, t: Node, x: Line, e: Line) -> Line:
    return Step(s, t, "eps").first(x, e)


def _improved_euler(table: Table, s: Node, t: Node, i: int) -> None:
    x, k = table.x, table.k
    table.ask(s, _transfer(s, t, x, prediction(k)), t, i, inner=True)
    table.ask(t, _transfer(s, t, x, 0.5 * (prediction(k) + prediction(k + 1))), t, i)


def _runge_kutta(process: Process, table: Table, s: Node, t: Node, i: int) -> None:
    x, k = table.x, table.k
    m = Node.at(process, (s.t + t.t) / 2)
    table.ask(s, _transfer(s, m, x, prediction(k)), m, i, inner=True)
    table.ask(m, _transfer(s, m, x, prediction(k + 1)), m, i, inner=True)
    table.ask(m, _transfer(s, t, x, prediction(k + 2)), t, i, inner=True)
    e = (prediction(k) + 2 * prediction(k + 1) + 2 * prediction(k + 2) + prediction(k + 3)) / 6
    table.ask(t, _transfer(s, t, x, e), t, i)


def _pndm(process: Process, at: Sequence[Node], order: int, warmup: str) -> Table:
    table, history = Table(kinds=("eps",)), list[int]()
    for i, (s, t) in enumerate(pairwise(at)):
        history = [table.k, *history][:order]
        if warmup == "runge-kutta" and i < order - 1 and t.sigma > 0:
            if order == 4:
                _runge_kutta(process, table, s, t, i)
            else:
                _improved_euler(table, s, t, i)
        elif warmup == "heun" and i == 0 and order > 1 and t.sigma > 0:
            _improved_euler(table, s, t, i)
        else:
            e = Line()
            for c, j in zip(_WEIGHTS[len(history) - 1], history, strict=True):
                e = e + c * prediction(j)
            table.ask(s, _transfer(s, t, table.x, e), t, i)
    return table


@implements("pndm")
@solver("pndm", order=2, grid="time", even=True, elsewhere="logsnr")
def pndm(process: Process, at: Sequence[Node], *, order: int = 4, warmup: str = "runge-kutta") -> Table:
    """PNDM: Adams-Bashforth weights through DDIM's transfer map, after a Runge-Kutta warm-up; for nodes even in time, and 15 calls or more.

    Args:
        order: of the weights: 4 (F-PNDM) or 2 (S-PNDM). warmup: "runge-kutta" (the paper's: N + 9 calls for 4, N + 1 for 2), "heun" (N + 1
            calls, diffusers' PLMS) or "multistep" (N calls, iPNDM).
    """
    if isinstance(order, float) or order not in (2, 4):
        raise ArgumentError(f"order must be 2 (S-PNDM) or 4 (F-PNDM), got {order!r}; ipndm takes 1 to 4")
    if warmup not in WARMUPS:
        raise unknown("warmup", warmup, WARMUPS)
    return _pndm(process, at, order, warmup)


@implements("deis")
@solver("ipndm", order=lambda order=4, **_: min(order, 2), grid="time", even=True, elsewhere="logsnr")
def ipndm(process: Process, at: Sequence[Node], *, order: int = 4) -> Table:
    """iPNDM: PNDM without its Runge-Kutta warm-up, one evaluation a step; for nodes even in time.

    Args:
        order: number of predictions, 1 to 4.
    """
    if isinstance(order, float) or order not in (1, 2, 3, 4):
        raise ArgumentError(f"order must be 1, 2, 3 or 4, got {order!r}")
    return _pndm(process, at, order, "multistep")
