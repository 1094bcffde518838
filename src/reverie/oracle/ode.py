"""The probability-flow ODE, solved to a wanted error in float64.

A state is written as a direction: x_t = rho y, rho = sqrt(alpha^2 + sigma^2), theta = atan2(sigma, alpha), so that

    y = cos(theta) x0 + sin(theta) eps,        dy / dtheta = E[cos(theta) eps - sin(theta) x0 | x_t].

theta runs from 0 (clean) to at most pi / 2 (alpha = 0), and neither the equation nor its solution is singular at either
end: one routine serves every process, its ends included. The right-hand side is the model's velocity along the circle
("v" for vp), read from the raw output without cancellation. Every sample has its own step size, so no sample waits for
another, and none changes another's answer.

Sources: Song et al. 2021 (2011.13456, eq. 13), Salimans & Ho 2022 (2202.00512, appendix D: DDIM in theta).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, NonFiniteError, ShapeError, TimeError
from reverie.model import Cond, Model, Prediction, Target, conditions, select
from reverie.oracle.dop853 import E3, E5, A, B, C
from reverie.process import Process

__all__ = [
    "ANGULAR", "EDGE", "angle", "check_time", "integrate", "predictor", "silent_at_clean", "solve_ode", "tolerance", "transport",
]  # fmt: skip

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(y (B, *shape), theta (B,), rows (B,)) -> dy / dtheta; `rows` says which samples of the job these are."""

EDGE = 1e-6
"""Below this angle a model that cannot give eps at sigma = 0 is not asked; what this leaves out is of order EDGE^2."""

FIRST = 1 / 64
"""The first step tried, as a part of the whole way."""

STEPS = 10_000
"""Steps after which a job is given up."""


def _rho(p: Process, t: Tensor) -> Tensor:
    a, s = p.alpha(t), p.sigma(t)
    return (a * a + s * s).sqrt()


ANGULAR = Target(
    lambda p, t: -p.sigma(t) / _rho(p, t),
    lambda p, t: p.alpha(t) / _rho(p, t),
    name="the velocity of the probability flow",
)
"""cos(theta) eps - sin(theta) x0."""


def check_time(p: Process, t: float) -> float:
    """t as a float, or `TimeError` when the process does not reach it."""
    lo, hi = min(p.t_clean, p.t_min), p.t_max
    if not lo <= float(t) <= hi:
        raise TimeError(f"t = {float(t):g} is outside {p}, whose times are {lo:g} (clean) to {hi:g}")
    return float(t)


def angle(p: Process, t: float) -> tuple[float, float]:
    """(theta, rho) of a time."""
    a, s = p.alpha(t), p.sigma(t)
    return math.atan2(s, a), math.hypot(a, s)


def _combine(row: Mapping[int, float], k: list[Tensor]) -> Tensor:
    out: Tensor | None = None
    for j, c in row.items():
        out = c * k[j] if out is None else out + c * k[j]
    assert out is not None
    return out


def tolerance(rtol: float) -> float:
    """The error a step may make for a wanted total error: a thousandth of it, not below float64's own rounding."""
    if not isinstance(rtol, int | float) or not 1e-13 <= rtol < 1:
        raise ArgumentError(f"rtol must lie in [1e-13, 1), got {rtol!r}")
    return max(rtol * 1e-3, 1e-14)


def integrate(f: Velocity, y: Tensor, start: float, stop: float, tol: float) -> Tensor:
    """Carry every row of y from `start` to `stop` along dy/dtheta = f, local error at most tol (1 + max |y|) a step.

    Args:
        y: (B, *shape), float64. start, stop: the same for all rows, in either order. tol: > 0.

    Raises:
        NonFiniteError: f gave NaN or infinity (samples named). ArgumentError: `tol` is out of reach of f's own
            precision.
    """
    y = y.clone()
    col = (-1, *[1] * (y.ndim - 1))
    at = torch.full((len(y),), start, dtype=torch.float64, device=y.device)
    step = torch.full_like(at, (stop - start) * FIRST)
    slope = f(y, at, torch.arange(len(y), device=y.device)) if len(y) else y
    for _ in range(STEPS):
        rows = (at != stop).nonzero().squeeze(1)
        if not len(rows):
            return y
        u, s, h = y[rows], at[rows], step[rows]
        last = h.abs() >= (stop - s).abs()
        h = torch.where(last, stop - s, h)
        hc, k = h.reshape(col), [slope[rows]]
        for c, a in zip(C, A, strict=True):
            k.append(f(u + hc * _combine(a, k), s + c * h, rows))
        new = u + hc * _combine(B, k)
        scale = tol * (1 + new.flatten(1).abs().amax(1))
        e5, e3 = ((hc * _combine(e, k)).flatten(1).abs().amax(1) / scale for e in (E5, E3))
        error = e5 * e5 / (e5 * e5 + e3 * e3 / 100).sqrt().clamp_min(1e-300)
        if not bool(error.isfinite().all()):
            bad = tuple(rows[~error.isfinite()].tolist())
            raise NonFiniteError(f"the model's answer is not finite for samples {list(bad[:8])}", samples=bad)
        ok = error <= 1
        factor = (0.9 * error.clamp_min(1e-12) ** -0.125).clamp(0.2, 6.0)
        step[rows] = h * torch.where(ok, factor, factor.clamp_max(0.9))
        done = rows[ok]
        y[done], at[done] = new[ok], torch.where(last, stop, s + h)[ok]
        if len(done):
            slope[done] = f(y[done], at[done], done)
        if bool((step[rows[~ok]].abs() < 1e-13 * abs(stop - start)).any()):
            break
    raise ArgumentError(
        f"the ODE could not be solved to {tol:g} a step: the model's answers are not smooth at that level; "
        f"ask for a larger rtol (a float32 network supports about 1e-5)"
    )


def transport(
    p: Process,
    f: Velocity,
    x: Tensor,
    t: float,
    t_end: float,
    tol: float,
    clean: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """States x (B, *shape) of time t at time t_end, float64.

    Args:
        f: dy/dtheta. clean: None when f may be asked at sigma = 0; otherwise y at the angle `EDGE` -> x0, used for the
            last stretch.
    """
    (start, rho), (stop, rho_end) = angle(p, check_time(p, t)), angle(p, check_time(p, t_end))
    y = x.double() / rho
    if clean is not None and start == 0:
        start = EDGE if stop > EDGE else stop
    finish = clean is not None and stop == 0 and start > EDGE
    y = integrate(f, y, start, EDGE if finish else stop, tol)
    if finish and clean is not None:
        y = clean(y)
    return y * rho_end


def predictor(model: Model, t: float, t_end: float, cond: Cond, batch: int) -> Callable[..., Prediction]:
    """(y (B, *shape), theta (B,), rows (B,)) -> what the model says of the states rho y, for angles between those of two times.

    Args:
        cond: as `conditions` prepared it, for `batch` rows.
    """
    p = model.process
    lo, hi = sorted((t, t_end))
    first, final = angle(p, lo)[0], angle(p, hi)[0]

    def times(theta: Tensor) -> Tensor:
        lam = (theta.cos() / theta.sin()).log()
        inside = p.t_of_lam(lam).clamp(lo, hi)
        return torch.where(theta <= first, lo, torch.where(theta >= final, hi, inside))

    def ask(y: Tensor, theta: Tensor, rows: Tensor) -> Prediction:
        time = times(theta)
        state = y * _rho(p, time).reshape(-1, *[1] * (y.ndim - 1))
        return model(state, time, **select(cond, rows, batch))

    return ask


def silent_at_clean(model: Model) -> bool:
    """Whether the model's raw output at sigma = 0 leaves eps unknown (networks of x0)."""
    try:
        model.target.to(ANGULAR, model.process, model.process.t_clean)
    except ArgumentError:
        return True
    return False


@torch.no_grad()
def solve_ode(
    model: Model,
    x: Tensor,
    t: float | None = None,
    t_end: float | None = None,
    cond: Mapping[str, Any] | None = None,
    rtol: float = 1e-8,
) -> Tensor:
    """The model's own solution of its probability-flow ODE, to which the error of any sampler can be measured.

    dx/dt = f(t) x + g(t)^2 eps / (2 sigma), integrated in theta = atan2(sigma, alpha) (see the module) by DOP853 with a
    step size a sample.

    Args:
        model: any Model, guided or not. A float32 network supports an rtol of 1e-5; 1e-4 is cheaper by far.
        x: states (B, *shape) at time t.
        t, t_end: from `t_max` to `t_min` by default; either direction; `t_clean` is allowed.
        cond: the condition; per-sample tensors have B rows.
        rtol: wanted error relative to 1 + max |x|, in [1e-13, 1).

    Returns:
        (B, *shape), float64.

    Raises:
        TimeError: a time outside the process. NonFiniteError: the model's answer is not finite. ArgumentError: rtol out
            of reach, or a model of eps asked at alpha = 0, where its answer says nothing of the data.

    Source: Song et al. 2021 (2011.13456, eq. 13).

    >>> import reverie as rv
    >>> o = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=rv.process.flow())
    >>> solve_ode(o, torch.ones(1, 2, dtype=torch.float64))
    tensor([[1.0000, 1.0000]], dtype=torch.float64)
    """
    if not isinstance(x, Tensor) or x.ndim == 0:
        raise ShapeError("a state is a tensor (B, *shape)")
    p = model.process
    t, t_end = p.t_max if t is None else check_time(p, t), p.t_min if t_end is None else check_time(p, t_end)
    if p.gamma(t) != 0 or p.gamma(t_end) != 0:
        raise ArgumentError(f"{p} has a degraded input y; its probability flow is not covered by solve_ode")
    prepared = conditions(cond, len(x), model.null, x.device)
    ask = predictor(model, t, t_end, prepared, len(x))

    def velocity(y: Tensor, theta: Tensor, rows: Tensor) -> Tensor:
        return ask(y, theta, rows).as_(ANGULAR)

    def clean(y: Tensor) -> Tensor:
        time = p.t_of_lam(-math.log(math.tan(EDGE)))
        return model(y * angle(p, time)[1], time, **prepared).x0

    return transport(p, velocity, x, t, t_end, tolerance(rtol), clean if silent_at_clean(model) else None)
