"""The order of a solver, measured on its table.

A step of size h is of order p when, started from exact history, it misses the exact solution by O(h^{p+1}). `check_order` compiles the
solver at h, h/2, h/4 on uneven nodes, puts the exact solution in place of the state after every step but the last, and reads the rate of what
remains. The problem is scalar and non-linear: data at -1 and +1, widened, so x0(x, t) = E[x0 | x_t] is a smooth function of both.

A stochastic solver is measured on Gaussian data, where one step maps the exact variance v_s to A^2 v_s + sum c^2; the rate of its distance from
v_t, less one, is the weak order in the second moment.
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
from reverie.solve.solver import SOLVERS

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
        """Whether the measured order is the declared one."""
        return self.order == self.declared


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
    lo, hi = process.lam_range
    room = h * sum(_UNEVEN)
    if hi - lo < room:
        raise ArgumentError(
            f"lam runs from {lo:.3g} to {hi:.3g} on {process}; six steps of h = {h} do not fit, take a smaller h"
        )
    start = min(max(0.3 if lam is None else lam, lo + room), hi - 2 * h)
    residuals = tuple(_residual(entry.name, process, h / 2**j, start, options) for j in range(3))
    rates = tuple(math.log2(a / b) - 1 for a, b in pairwise(residuals))
    return OrderCheck(solver, entry.order_of({**entry.options, **options}), rates[-1], rates, residuals)  # type: ignore[arg-type]


def _residual(name: str, p: Process, h: float, start: float, options: dict[str, Any]) -> float:
    entry = SOLVERS[name]
    history = 4
    lams = [start - h * sum(_UNEVEN[:history])]
    for width in _UNEVEN[: history + 1]:
        lams.append(lams[-1] + h * width)
    at = tuple(Node.at(p, p.t_of_lam(value)) for value in lams)
    extra: dict[str, Any] = {"lower_final": False} if "lower_final" in entry.options else {}
    if name == "dpm-fast":
        extra["orders"] = (3,) * (history + 1)
    table = entry.build(p, at, **{**extra, **options})
    plan = Plan(name, p, tuple(table.stages), at[0].t, table.kinds)
    return _variance_residual(plan, p, at) if plan.noises else _path_residual(plan, p, at)


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
    last = len(plan.table) - 1

    class Exact:
        """Replace every finished step but the last by the exact solution."""

        def after(self, r: Run) -> None:
            assert r.stage is not None
            done = r.k == last or plan.table[r.k + 1].step != r.stage.step
            if done and r.k != last:
                r.x = exact[r.stage.step + 1]

    return float((run(plan, model, x, hooks=Exact()) - exact[-1]).norm())


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


def _variance_residual(plan: Plan, p: Process, at: tuple[Node, ...], data: float = 0.36) -> float:
    def net(x: Tensor, t: Tensor) -> Tensor:
        a, s = p.alpha(t)[:, None], p.sigma(t)[:, None]
        return a * data / (a**2 * data + s**2) * x

    def variance(n: Node) -> float:
        return n.alpha**2 * data + n.sigma**2

    # one row of the batch starts at 1 without noise; one more row for every noise of the last step, which starts at 0
    last_step = plan.table[-1].step
    first = next(k for k, s in enumerate(plan.table) if s.step == last_step)
    draws = sorted({k[0] for s in plan.table[first:] for k, _ in s.row.part("n")})
    rows = 1 + len(draws)
    begin = torch.zeros(rows, 1, dtype=torch.float64)
    begin[0] = 1.0
    noise = torch.zeros(plan.noises, rows, 1, dtype=torch.float64)
    for r, j in enumerate(draws):
        noise[j, r + 1] = 1.0

    class Begin:
        def before(self, r: Run) -> None:
            if r.k == first:
                r.x = begin

    out = run(plan, Model(net, p, predicts="x0"), begin.clone(), hooks=Begin(), noise=noise).flatten()
    made = float(out[0]) ** 2 * variance(at[-2]) + float((out[1:] ** 2).sum())
    return abs(made - variance(at[-1]))
