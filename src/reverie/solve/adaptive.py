"""The probability-flow ODE with steps that each sample chooses for itself.

A state is written as a direction, x_t = rho y with rho = sqrt(alpha^2 + sigma^2) and theta = atan2(sigma, alpha), so that

    dy / dtheta = k = cos(theta) eps - sin(theta) x0

is singular at neither end. An embedded pair of Runge-Kutta formulas makes every step twice; where the difference, over atol + rtol |y|, has a
root mean square above 1 the sample's step is rejected and tried smaller. The last slope of a step is the first of the next. Every sample has its own
time and step, so its bits do not depend on the others; the run takes as many calls as the sample with the most steps.

At the end x0 = cos(theta) y - sin(theta) k takes the state to sigma = 0, at no further call.

Source: Song et al. 2021 (2011.13456, appendix D.4: RK45); Dormand & Prince 1980 and Bogacki & Shampine 1989 for the pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, NonFiniteError, implements, unknown
from reverie.process import Process
from reverie.solve.grids import Node
from reverie.solve.line import Line, prediction, state
from reverie.solve.plan import Plan, Stage, dynamic
from reverie.solve.solver import Table, solver

if TYPE_CHECKING:
    from reverie.solve.context import Run

__all__ = ["PAIRS", "ode_adaptive"]

_Pair = tuple[int, tuple[float, ...], tuple[tuple[float, ...], ...], tuple[float, ...]]
PAIRS: dict[str, _Pair] = {
    "bosh3": (3, (1 / 2, 3 / 4, 1), ((1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)), (-5 / 72, 1 / 12, 1 / 9, -1 / 8)),
    "dopri5": (
        5,
        (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
        (
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    ),
}
"""Embedded pairs: order, places, rows (the last one makes the step), and the weights of the error."""


@implements("score-sde")
@solver("ode-adaptive", order=lambda pair="dopri5", **_: PAIRS[pair][0], grid="logsnr", dynamic=True)
def ode_adaptive(
    process: Process,
    at: Sequence[Node],
    *,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    pair: str = "dopri5",
    max_calls: int = 1000,
) -> Table:
    """Embedded Runge-Kutta with an error estimate a sample; takes tolerances instead of steps.

    Args:
        rtol, atol: > 0, error allowed a step, relative and absolute, on the scale of x / sqrt(alpha^2 + sigma^2).
        pair: "dopri5" (order 5, six calls a step) or "bosh3" (order 3, three calls; better for loose tolerances).
        max_calls: after which the run is given up with an error.
    """
    if pair not in PAIRS:
        raise unknown("pair", pair, PAIRS)
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not 0 < value < math.inf:
            raise ArgumentError(f"{name} must be positive and finite, got {value!r}")
    if isinstance(max_calls, bool) or not isinstance(max_calls, int) or max_calls < 1:
        raise ArgumentError(f"max_calls must be a whole number of at least 1, got {max_calls!r}")
    end = {"until": at[1].t, "clean": at[-1].sigma == 0}
    given = {"rtol": rtol, "atol": atol, "pair": pair, "max_calls": max_calls}
    return Table(kinds=("v",), rule=("ode-adaptive", {**end, **given}), bound=max_calls)


@dynamic("ode-adaptive")
def stages(run: Run, plan: Plan, **given: Any) -> Iterator[Stage]:
    """The stages of a run; see the module."""
    for stage in _stages(run, plan, **given):
        yield stage
        if run.rows is not None:
            raise ArgumentError(
                "ode-adaptive cannot follow a hook that selects samples; take a solver with a fixed grid"
            )


def _stages(
    run: Run, plan: Plan, *, until: float, clean: bool, rtol: float, atol: float, pair: str, max_calls: int
) -> Iterator[Stage]:
    order, places, rows, weights = PAIRS[pair]
    p, x = plan.process, run.x
    shape = (len(x), *[1] * (x.ndim - 1))
    theta = torch.full(shape, math.atan2(p.sigma(plan.start), p.alpha(plan.start)), dtype=torch.float64)
    goal = math.atan2(p.sigma(until), p.alpha(until))
    first = theta.clone()

    def time(angle: Tensor) -> Tensor:
        inside = p.t_of_lam((angle.cos() / angle.sin()).log()).clamp(min(until, plan.start), max(until, plan.start))
        return torch.where(angle == goal, until, torch.where(angle == first, plan.start, inside))

    def rho(t: Tensor) -> Tensor:
        return (p.alpha(t) ** 2 + p.sigma(t) ** 2).sqrt()

    h = (goal - theta) / 16
    t = time(theta)
    slope: Line | None = None
    n = calls = step = 0
    while bool((theta != goal).any()):
        last = h.abs() >= (goal - theta).abs()
        h = torch.where(last, goal - theta, h)
        begin, here, k = n, t, [] if slope is None else [slope]
        for j, (place, row) in enumerate(zip(places, rows, strict=True)):
            angle = torch.where(last, goal, theta + h) if place == 1 else theta + place * h
            there = time(angle)
            asked = None if j == 0 and slope is not None else here
            if asked is not None:
                k.append(prediction(n) / rho(asked))
                calls += 1
            move = rho(there) * (state(begin) / rho(t) + h * _sum(row, k))
            yield Stage(move, asked, until, step, inner=True)
            here, n = there, n + 1
        made = n
        k.append(prediction(n) / rho(here))
        calls += 1
        yield Stage(h * _sum(weights, k), here, until, step, inner=True)
        n += 1
        old, new = run.states[begin], run.states[made]
        assert old is not None
        assert new is not None
        with torch.no_grad():  # gradients go through the states; the choice of steps is no part of the solution
            error = _norm(run.x.double(), old / rho(t).to(x), new / rho(here).to(x), rtol, atol)
        if not bool(error.isfinite().all()):
            bad = run.index[~error.isfinite().flatten().cpu()].tolist()
            raise NonFiniteError(
                f"the model's answer is not finite for samples {bad[:8]}, near t = {float(here.min()):.4g}"
            )
        ok = (error <= 1).double()
        yield Stage(ok * k[-1] + (1 - ok) * k[0], None, until, step, inner=True)
        slope, n = state(n + 1), n + 1
        yield Stage(ok * state(made) + (1 - ok) * state(begin), None, until, step)
        n, step = n + 1, step + 1
        done = ok > 0
        if not torch.equal(run.x, torch.where(done.to(x.device), new, old)):
            slope = None  # a hook moved the state: ask there
        factor = (0.9 * error.clamp(min=1e-12) ** (-1 / order)).clamp(0.2, 5.0)
        moved = torch.where(last, goal, theta + h)
        h = h * torch.where(done, factor, factor.clamp(max=0.9))
        theta, t = torch.where(done, moved, theta), torch.where(done, here, t)
        if calls + len(rows) > max_calls and bool((theta != goal).any()):
            left = int((theta != goal).sum())
            raise ArgumentError(
                f"ode-adaptive needs more than max_calls = {max_calls} calls: {left} of {len(x)} samples are not at their end; "
                f"raise rtol = {rtol:g} (a float32 network supports about 1e-5) or max_calls"
            )
    if clean and goal > 0:
        if slope is None:
            slope = prediction(n) / rho(t)
            yield Stage(p.alpha(t) / rho(t) ** 2 * state(n) - p.sigma(t) / rho(t) * slope, t, p.t_clean, step)
            return
        yield Stage(p.alpha(t) / rho(t) ** 2 * state(n) - p.sigma(t) / rho(t) * slope, None, p.t_clean, step)


def _sum(weights: Sequence[float], k: Sequence[Line]) -> Line:
    out = Line()
    for w, slope in zip(weights, k, strict=True):
        if w:
            out = out + w * slope
    return out


def _norm(error: Tensor, y0: Tensor, y1: Tensor, rtol: float, atol: float) -> Tensor:
    """Root mean square of error / (atol + rtol max(|y0|, |y1|)) of each sample, with the state's number of dimensions."""
    scaled = error / (atol + rtol * torch.maximum(y0.abs(), y1.abs()))
    return (scaled**2).flatten(1).mean(1).sqrt().reshape(-1, *[1] * (error.ndim - 1)).cpu()
