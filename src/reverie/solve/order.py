"""The order of a solver, measured on its table.

A step of size h is of order p when, started from exact history, it misses the exact solution by O(h^{p+1}). `check_order` compiles the
solver at h, h/2, h/4 on uneven nodes (even in time where its weights assume that), puts the exact solution in place of the state after every step
but the last, and reads the rate of what remains; where a corrector revises the states, that of the revised one. The problem is scalar and
non-linear: data at -1 and +1, widened, so x0(x, t) = E[x0 | x_t] is a smooth function of both.

A stochastic solver is measured on Gaussian data, on which its rows are linear: the exact variance it makes over a whole interval is its linear
part squared times the exact variance at the start, plus the squares of what every noise becomes; the rate of its distance from the exact one is
the weak order in the second moment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, unknown
from reverie.model import Model
from reverie.process import Process
from reverie.solve.context import Run
from reverie.solve.grids import Node
from reverie.solve.plan import Plan
from reverie.solve.run import run
from reverie.solve.solver import SOLVERS, Solver

__all__ = ["OrderCheck", "check_order"]

_UNEVEN = (1.0, 0.8, 1.25, 0.9, 1.1, 1.0)


@dataclass(frozen=True)
class OrderCheck:
    """Measured and declared order of a solver; `rates` are the two successive ones, `residuals` what they were read from."""

    solver: str
    declared: int
    measured: float
    rates: tuple[float, float]
    residuals: tuple[float, float, float]

    @property
    def order(self) -> int:
        """The measured order as a whole number."""
        return round(self.measured)

    @property
    def holds(self) -> bool:
        """Whether the measured order is at least the declared one."""
        return self.order >= self.declared


def check_order(solver: str, process: Process, h: float = 0.2, lam: float | None = None, **options: Any) -> OrderCheck:
    """Measure the order of accuracy of a full step.

    Args:
        solver: a name; options: its own. process: any with room for six steps of size h in lam.
        h: the largest step, in lam. lam: where in lam the last step begins; by default 0.3 (an interesting place), kept inside the process.

    Raises `UnknownNameError`, or `ArgumentError` if the process has no room.

    >>> import reverie as rv
    >>> check_order("dpmpp-3m", rv.process.vp()).order, check_order("dpmpp-3m", rv.process.vp(), released=True).order
    (3, 2)
    """
    if solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    entry = SOLVERS[solver]
    if entry.dynamic:
        raise ArgumentError(f"{solver!r} chooses its steps by their error; there is no step size to vary")
    if not isinstance(process, Process):
        raise ArgumentError(f"process must be a reverie Process (rv.process.vp()), got {process!r:.100}")
    if not 0 < h < math.inf or not (lam is None or math.isfinite(lam)):
        raise ArgumentError(f"h must be positive and lam finite, got h={h!r} and lam={lam!r}")
    entry.check(options)
    lo, hi = process.lam_range
    room = h * sum(_UNEVEN)
    if hi - lo < room:
        raise ArgumentError(
            f"lam runs from {lo:.3g} to {hi:.3g} on {process}; six steps of h = {h} do not fit, take a smaller h"
        )
    start = min(max(0.3 if lam is None else lam, lo + room), hi - 2 * h)
    residuals = tuple(_residual(entry, process, h, j, start, options) for j in range(3))
    local = 0 if _noisy(entry, process, h, start, options) else 1
    rates = tuple(math.log2(a / b) - local for a, b in pairwise(residuals))
    return OrderCheck(solver, entry.order_of({**entry.options, **options}), rates[-1], rates, residuals)  # type: ignore[arg-type]


def _compiled(entry: Solver, p: Process, at: tuple[Node, ...], options: dict[str, Any]) -> Plan:
    extra: dict[str, Any] = {"lower_final": False} if "lower_final" in entry.options else {}
    if entry.name == "dpm-fast":
        extra["orders"] = (3,) * (len(at) - 1)
    if entry.name == "restart":
        middle = len(at) // 2
        extra["intervals"] = ((at[middle].ratio, at[middle // 2].ratio, middle, 1),)
    table = entry.build(p, at, **{**extra, **options})
    plan = Plan(entry.name, p, tuple(table.stages), at[0].t, table.kinds)
    if any(s.rule is not None for s in plan.table):
        raise ArgumentError(
            f"{entry.name!r} under these options has rows that are not linear; its order cannot be read from them"
        )
    return plan


def _noisy(entry: Solver, p: Process, h: float, start: float, options: dict[str, Any]) -> bool:
    return _compiled(entry, p, _last(entry, p, h, start, options), options).noises > 0


def _last(entry: Solver, p: Process, h: float, start: float, options: dict[str, Any]) -> tuple[Node, ...]:
    """Nodes of some history and of one step from `start`."""
    history = 5 if options.get("inner") == "grid" else 4  # an even number of intervals for pairs
    if entry.even:
        t, width = p.t_of_lam(start), p.t_of_lam(start) - p.t_of_lam(start + h)
        return tuple(Node.at(p, t + k * width) for k in range(history, -2, -1))
    lams = [start - h * sum(_UNEVEN[:history])]
    for part in _UNEVEN[: history + 1]:
        lams.append(lams[-1] + h * part)
    return tuple(Node.at(p, p.t_of_lam(value)) for value in lams)


def _whole(p: Process, h: float, halvings: int, start: float) -> tuple[Node, ...]:
    """Nodes over a whole interval of lam that ends at `start`, its steps uneven by the same pattern at every refinement."""
    lams, parts = [start - h * sum(_UNEVEN)], 2 ** (halvings + 1)
    for i in range(len(_UNEVEN) * parts):
        lams.append(lams[-1] + h * _UNEVEN[i % len(_UNEVEN)] / parts)
    return tuple(Node.at(p, p.t_of_lam(value)) for value in lams)


def _residual(entry: Solver, p: Process, h: float, halvings: int, start: float, options: dict[str, Any]) -> float:
    if _noisy(entry, p, h, start, options):
        at = _whole(p, h, halvings, start)
        return _variance_error(_compiled(entry, p, at, options), p, at)
    at = _last(entry, p, h / 2**halvings, start, options)
    return _path_residual(_compiled(entry, p, at, options), p, at)


def _data(x: Tensor, alpha: float, sigma: float, width: float = 0.6) -> Tensor:
    """E[x0 | x_t] for data at -1 and +1, each of standard deviation `width`."""
    v = alpha**2 * width**2 + sigma**2
    mean = torch.tanh(alpha * x / v)
    return mean + alpha * width**2 / v * (x - alpha * mean)


def _path_residual(plan: Plan, p: Process, at: tuple[Node, ...]) -> float:
    model = Model(lambda x, t: _data(x, p.alpha(t[0].item()), p.sigma(t[0].item())), p, predicts="x0")
    x = torch.linspace(-1.6, 1.4, 13, dtype=torch.float64)[:, None] * (at[0].alpha + at[0].sigma)
    exact = [x]
    for s, t in pairwise(at):
        exact.append(_fine(p, exact[-1], s, t))
    revised = [k for k, stage in enumerate(plan.table) if stage.inner and stage.t == stage.to == at[stage.step].t]
    last = revised[-1] if revised else len(plan.table) - 1

    class Exact:
        """Replace every state at a node but the last, and the one that is revised into it, by the exact solution."""

        def after(self, r: Run) -> None:
            assert r.stage is not None
            if r.k >= (last - 1 if revised else last):
                return
            if r.k in revised:
                r.x = exact[r.stage.step]
            elif plan.table[r.k + 1].step != r.stage.step:
                r.x = exact[r.stage.step + 1]

    _, kept = run(plan, model, x, hooks=Exact(), record=("x",))
    made = kept["x"][last + 1] if revised else run(plan, model, x, hooks=Exact())
    return float((made - exact[plan.table[last].step + (not revised)]).norm())


def _fine(p: Process, x: Tensor, s: Node, t: Node, parts: int = 12) -> Tensor:
    """The exact path s -> t: classical Runge-Kutta on d(x / alpha) / dratio = eps, in lam, in many parts."""
    h = (t.lam - s.lam) / parts
    y = x / s.alpha

    def slope(lam: float, y: Tensor) -> Tensor:  # dy/dlam = -ratio * eps
        alpha, sigma = (f(p.t_of_lam(lam)) for f in (p.alpha, p.sigma))
        return _data(alpha * y, alpha, sigma) - y

    for i in range(parts):
        lam = s.lam + i * h
        k1 = slope(lam, y)
        k2 = slope(lam + h / 2, y + h / 2 * k1)
        k3 = slope(lam + h / 2, y + h / 2 * k2)
        k4 = slope(lam + h, y + h * k3)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return y * t.alpha


def _variance_error(plan: Plan, p: Process, at: tuple[Node, ...], data: float = 0.36) -> float:
    def net(x: Tensor, t: Tensor) -> Tensor:
        a, s = p.alpha(t)[:, None], p.sigma(t)[:, None]
        return a * data / (a**2 * data + s**2) * x

    def variance(n: Node) -> float:
        return n.alpha**2 * data + n.sigma**2

    # the first row starts at 1 without noise; in each other row one noise is 1 and all else 0
    x = torch.zeros(1 + plan.noises, 1, dtype=torch.float64)
    x[0] = 1.0
    noise = torch.zeros(plan.noises, 1 + plan.noises, 1, dtype=torch.float64)
    noise[torch.arange(plan.noises), 1 + torch.arange(plan.noises)] = 1.0
    out = run(plan, Model(net, p, predicts="x0"), x, noise=noise).flatten()
    made = float(out[0]) ** 2 * variance(at[0]) + float((out[1:] ** 2).sum())
    return abs(made - variance(at[-1]))
