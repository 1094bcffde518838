"""Single-step DPM-Solver in noise prediction (dpm-1, dpm-2s, dpm-3s, dpm-fast), data prediction (dpmpp-2s) and as an SDE (dpmpp-2s-sde).

Each step asks at s and at inner nodes lam_s + r h, and keeps nothing between steps. With w_k from `exponential.Step`:

    1   x_t = first(s -> t; P0)                                                                                     (DDIM)
    2   u = first(s -> s1; P0),   x_t = first(s -> t; (1 - 1/(2 r1)) P0 + 1/(2 r1) P(u, s1))                        r1 = 1/2
    3   u1 = first(s -> s1; P0),  u2 = first(s -> s2; P0) + w_1(s -> s2) (P(u1, s1) - P0) / (r1 h),
        x_t = first(s -> t; P0) + w_1(s -> t) (P(u2, s2) - P0) / (r2 h)                                             r1, r2 = 1/3, 2/3

The step to sigma = 0 is of first order. With inner="grid" the inner nodes are the grid's own: two intervals make one second-order step.

The SDE form has the weights of eta > 0 and noise in both rows, of one Brownian path: with h_1 = lam_s1 - lam_s, h_2 = lam_t - lam_s1

    u: std(s -> s1) z_1,        x_t: sigma_t (exp(-eta h_2) sqrt(1 - exp(-2 eta h_1)) z_1 + sqrt(1 - exp(-2 eta h_2)) z_2)

Sources: Lu et al. 2022 (2206.00927, algorithms 1, 2 and appendix D.1 for the budget of dpm-fast; 2211.01095, algorithm 1),
k-diffusion (dpmpp_sde, whose two noises are increments of a path in sigma).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from reverie.base import ArgumentError, implements, unknown
from reverie.process import Process
from reverie.solve.exponential import Step, between
from reverie.solve.grids import Node
from reverie.solve.line import Line, noise, prediction
from reverie.solve.solver import Table, solver

__all__ = ["dpm_1", "dpm_2s", "dpm_3s", "dpm_fast", "dpmpp_2s", "dpmpp_2s_sde", "fast_orders"]


def _single(
    process: Process, at: Sequence[Node], kind: str, orders: Sequence[int], r1: float | None = None, r2: float = 2 / 3
) -> Table:
    table = Table(kinds=(kind,))
    for i, (s, t) in enumerate(pairwise(at)):
        order = orders[i] if Step(s, t, kind).finite else 1
        x, k, whole = table.x, table.k, Step(s, t, kind)
        now = prediction(k)
        if order == 1:
            table.ask(s, whole.first(x, now), t, i)
        elif order == 2:
            a = r1 or 1 / 2
            s1 = between(process, s, t, a)
            table.ask(s, Step(s, s1, kind).first(x, now), s1, i, inner=True)
            table.ask(s1, _second(whole, x, now, prediction(k + 1), a), t, i)
        else:
            a = r1 or 1 / 3
            s1, s2 = between(process, s, t, a), between(process, s, t, r2)
            part = Step(s, s2, kind)
            table.ask(s, Step(s, s1, kind).first(x, now), s1, i, inner=True)
            row = part.first(x, now) + part.weight(1) / (a * whole.h) * (prediction(k + 1) - now)
            table.ask(s1, row, s2, i, inner=True)
            table.ask(s2, whole.first(x, now) + whole.weight(1) / (r2 * whole.h) * (prediction(k + 2) - now), t, i)
    return table


def _second(step: Step, x: Line, now: Line, inside: Line, a: float) -> Line:
    """The second-order row, the inner evaluation at the fraction a of the step."""
    return step.first(x, (1 - 1 / (2 * a)) * now + 1 / (2 * a) * inside)


def _on_grid(at: Sequence[Node], kind: str) -> Table:
    """Second-order steps over two intervals of the grid; first order where none is left, or into sigma = 0."""
    table, i, n = Table(kinds=(kind,)), 0, len(at) - 1
    while i < n:
        s, x, k = at[i], table.x, table.k
        two = i + 2 <= n and at[i + 2].sigma > 0 and Step(s, at[i + 2], kind).finite
        table.ask(s, Step(s, at[i + 1], kind).first(x, prediction(k)), at[i + 1], i)
        if two:
            whole = Step(s, at[i + 2], kind)
            a = (at[i + 1].lam - s.lam) / whole.h
            table.ask(at[i + 1], _second(whole, x, prediction(k), prediction(k + 1), a), at[i + 2], i + 1)
        i += 1 + two
    return table


def _second_order(process: Process, at: Sequence[Node], kind: str, r1: float, inner: str) -> Table:
    if inner not in ("lam", "grid"):
        raise unknown("inner", inner, ["lam", "grid"])
    _fraction("r1", r1)
    return _on_grid(at, kind) if inner == "grid" else _single(process, at, kind, [2] * (len(at) - 1), r1)


def _fraction(name: str, r: float) -> None:
    if not 0 < r < 1:
        raise ArgumentError(f"{name} must lie strictly between 0 and 1, got {r}")


@implements("dpm-solver")
@solver("dpm-1", order=1)
def dpm_1(process: Process, at: Sequence[Node]) -> Table:
    """DPM-Solver-1: first order in noise prediction, the same as DDIM."""
    return _single(process, at, "eps", [1] * (len(at) - 1))


@implements("dpm-solver")
@solver("dpm-2s", order=2)
def dpm_2s(process: Process, at: Sequence[Node], *, r1: float = 1 / 2, inner: str = "lam") -> Table:
    """DPM-Solver-2: single-step, noise prediction, two evaluations a step.

    Args:
        r1: where in the step the second evaluation lies, as a fraction of h in lam.
        inner: "lam", or "grid": two intervals of the grid make one step, as in diffusers (then r1 is not used).
    """
    return _second_order(process, at, "eps", r1, inner)


@implements("dpm-solver")
@solver("dpm-3s", order=3)
def dpm_3s(process: Process, at: Sequence[Node], *, r1: float = 1 / 3, r2: float = 2 / 3) -> Table:
    """DPM-Solver-3: single-step, noise prediction, three evaluations a step.

    Args:
        r1, r2: where in the step the inner evaluations lie, as fractions of h in lam; third order needs r2 = 2/3.
    """
    _fraction("r1", r1)
    _fraction("r2", r2)
    return _single(process, at, "eps", [3] * (len(at) - 1), r1, r2)


def fast_orders(nfe: int, zero: bool = True) -> list[int]:
    """Orders of the steps of DPM-Solver-fast, which add up to the budget.

    As the paper has it, [3, ..., 3, 2, 1], [3, ..., 3, 1] or [3, ..., 3, 2] by the remainder of nfe / 3; where the last step goes to sigma = 0
    (`zero`), and is therefore of first order, a final 2 becomes 1, 1.

    >>> fast_orders(9), fast_orders(10), fast_orders(11), fast_orders(11, zero=False)
    ([3, 3, 2, 1], [3, 3, 3, 1], [3, 3, 3, 1, 1], [3, 3, 3, 2])
    """
    outer, rest = nfe // 3, nfe % 3
    if rest == 0:
        return [3] * (outer - 1) + [2, 1]
    if rest == 1:
        return [3] * outer + [1]
    return [3] * outer + ([1, 1] if zero else [2])


def _fast_budget(nfe: int, zero: bool, **options: Any) -> tuple[int, dict[str, Any]]:
    if options.get("orders") is not None:
        raise ArgumentError("nfe= chooses the orders; with given orders say steps=, one order a step")
    orders = fast_orders(nfe, zero)
    return len(orders), {"orders": tuple(orders)}


@implements("dpm-solver")
@solver("dpm-fast", order=3, budget=_fast_budget)
def dpm_fast(process: Process, at: Sequence[Node], *, orders: Sequence[int] | None = None) -> Table:
    """DPM-Solver-fast: third-order steps and a lower-order tail that spend a budget exactly; use nfe=.

    Args:
        orders: of each step, 1 to 3; by default what 3 (N - 1) calls give for N steps.
    """
    n = len(at) - 1
    if orders is None:
        orders = fast_orders(3 * n - 3) if n > 1 else [1]
    chosen = list(orders) if isinstance(orders, Sequence) else [orders]
    if len(chosen) != n or any(o not in (1, 2, 3) for o in chosen):
        raise ArgumentError(f"orders must be {n} numbers from 1 to 3, one a step, got {chosen}")
    return _single(process, at, "eps", chosen)


@implements("dpm-solver-pp")
@solver("dpmpp-2s", order=2)
def dpmpp_2s(process: Process, at: Sequence[Node], *, r1: float = 1 / 2, inner: str = "lam") -> Table:
    """DPM-Solver++(2S): single-step, data prediction, two evaluations a step; robust under strong guidance.

    Args:
        r1: where in the step the second evaluation lies, as a fraction of h in lam.
        inner: "lam", or "grid": two intervals of the grid make one step, as in diffusers (then r1 is not used).
    """
    return _second_order(process, at, "x0", r1, inner)


@implements("dpm-solver-pp")
@solver("dpmpp-2s-sde", order=2, stochastic=True)
def dpmpp_2s_sde(process: Process, at: Sequence[Node], *, eta: float = 1.0, r1: float = 1 / 2) -> Table:
    """The reverse SDE by single-step DPM-Solver++(2S), two evaluations a step (k-diffusion's dpmpp_sde).

    Args:
        eta: >= 0, share of the SDE's noise: 1 is the reverse SDE, 0 is dpmpp-2s.
        r1: where in the step the second evaluation lies, as a fraction of h in lam.
    """
    _fraction("r1", r1)
    if not 0 <= eta < math.inf:
        raise ArgumentError(f"eta must be finite and at least 0, got {eta}")
    table = Table()
    for i, (s, t) in enumerate(pairwise(at)):
        x, k, whole = table.x, table.k, Step(s, t, "x0", eta)
        now = prediction(k)
        if not whole.finite:
            row = whole.first(x, now)
            table.ask(s, row + whole.std * noise(table.draw()) if whole.std else row, t, i)
            continue
        s1 = between(process, s, t, r1)
        first, second = Step(s, s1, "x0", eta), Step(s1, t, "x0", eta)
        one, two = (first.std * noise(table.draw()), noise(table.draw())) if eta else (Line(), Line())
        table.ask(s, first.first(x, now) + one, s1, i, inner=True)
        # second.carry is what the SDE's linear part makes of the noise in u
        row = _second(whole, x, now, prediction(k + 1), r1) + second.carry * one + second.std * two
        table.ask(s1, row, t, i)
    return table
