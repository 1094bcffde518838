"""Sampling a stochastic interpolant by its ODE, or by an SDE of any noise level, chosen after training.

From t to t' with h = t' - t (negative towards the data), b the drift, eta = E[eps | x], e = noise(t), sigma and sigma' those of t and t':

    x' = x + h b - w sigma' eta + sigma' sqrt(2 w) z,        w = 1 - exp(-e |h| / (sigma sigma')).

e = 0 is Euler's method. For small h, w sigma' eta is e |h| eta / sigma and the step that of Euler and Maruyama for dx = b dt -+ e score dt +
sqrt(2 e) dw, score = -eta / sigma. But w stays below 1: the step is stable for any e, divides by no sigma and adds nothing where the path ends.
Where it begins (sigma = 0, eta = 0) the latent is z itself, so that its factor is sigma'. Weak order 1; `order=2` is Heun's method for the ODE.

Source: Albergo, Boffi & Vanden-Eijnden 2023 (2303.08797, equations 2.32 to 2.34, algorithm 1 of section 6); the step is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from reverie.base import ArgumentError, implements
from reverie.process import Interpolant
from reverie.solve.line import Line, noise, prediction, state
from reverie.solve.plan import Plan, Stage

__all__ = ["interpolant_plan"]


@implements("stochastic-interpolants")
def interpolant_plan(
    process: Interpolant,
    steps: int,
    *,
    noise: float | Callable[[float], float] = 0.0,
    order: int = 1,
    head: str = "drift",
    span: tuple[float, float] = (1.0, 0.0),
) -> Plan:
    """A plan from t = 1, a sample y of the other density, to t = 0, data; or the other way.

    Args:
        process: the model's interpolant. steps: even in time, >= 1.
        noise: e >= 0 of the SDE, a number or a function of t; 0 is the ODE.
        order: 1, or 2 (Heun, two calls a step; the ODE only).
        head: what the model's first head is, "drift" or "velocity"; the second is "eps". The velocity needs sigma' finite: with latent
            "root" keep span inside (0, 1).
        span: from t to t, both in [0, 1]; (0.0, 1.0) goes from data to y.

    Raises:
        ArgumentError: another process, numbers out of range, order 2 with noise.

    >>> import reverie as rv
    >>> plan = interpolant_plan(rv.process.interpolant(), 10, noise=1.0)
    >>> plan.nfe, plan.noises
    (10, 9)
    """
    p = process
    if not isinstance(p, Interpolant):
        raise ArgumentError(
            f"interpolant_plan needs rv.process.interpolant(...), got {p!r:.100}; others have rv.solve.plan"
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ArgumentError(f"steps must be a whole number of at least 1, got {steps!r}")
    if order not in (1, 2):
        raise ArgumentError(f"order must be 1 or 2, got {order!r}")
    if head not in ("drift", "velocity"):
        raise ArgumentError(f"head must be 'drift' or 'velocity', got {head!r}")
    first, last = span
    if not (p.t_min <= first <= p.t_max and p.t_min <= last <= p.t_max and first != last):
        raise ArgumentError(f"span goes from t to another t in [{p.t_min}, {p.t_max}], got {span!r}")
    level = noise if callable(noise) else lambda t: noise
    times = [first + i / steps * (last - first) for i in range(steps)] + [last]
    levels = [float(level(t)) for t in times]
    if bad := [e for e in levels if not 0 <= e < math.inf]:
        raise ArgumentError(f"noise must be finite and at least 0, got {bad[0]}")
    if order == 2 and any(levels):
        raise ArgumentError("order=2 is Heun's method for the ODE; with noise take order=1")
    stages: list[Stage] = []
    draws = 0
    for i, (t, u) in enumerate(pairwise(times)):
        k, h = len(stages), u - t
        b = _drift(p, t, k, head)
        row = state(k) + h * b
        if order == 2:
            stages.append(Stage(row, t, u, i, inner=True))
            stages.append(Stage(state(k) + 0.5 * h * (b + _drift(p, u, k + 1, head)), u, u, i))
            continue
        kept = _kept(p.sigma(t), p.sigma(u), levels[i] * abs(h))
        if kept < 1 and p.sigma(u) > 0:
            fresh = math.sqrt(2 * (1 - kept)) if p.sigma(t) > 0 else 1.0
            row = row + p.sigma(u) * ((kept - 1) * prediction(k, 1) + fresh * _fresh(draws))
            draws += 1
        stages.append(Stage(row, t, u, i))
    papers = ("stochastic-interpolants",)
    name = "interpolant-sde" if any(levels) else "interpolant-ode"
    return Plan(name, p, tuple(stages), times[0], (head, "eps"), order, "time", "denoise", {}, papers=papers)


_fresh = noise


def _kept(sigma: float, then: float, amount: float) -> float:
    """1 - w, the share of the latent that stays."""
    if amount == 0:
        return 1.0
    return math.exp(-amount / (sigma * then)) if sigma * then > 0 else 0.0


def _drift(p: Interpolant, t: float, k: int, head: str) -> Line:
    if head == "drift" or p.latent == "none":
        return prediction(k)
    slope = p.slope(t)
    if not math.isfinite(slope):
        raise ArgumentError(f"sigma' is infinite at t = {t} of {p}; keep span inside (0, 1), or learn the drift")
    return prediction(k) + slope * prediction(k, 1)
