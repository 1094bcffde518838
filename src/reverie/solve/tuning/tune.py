"""Plans tuned to a model: times and coefficients fitted to the model's own exact solutions.

    plan = tune(model, steps=5)

finds N times and the N (N + 3) / 2 coefficients with which N evaluations end nearest, from the same noise, to where infinitely many would
(`solve.tuning.fitting` has the formulas). It begins with the classical tables that do best on this model, some of them asked first at a later
time, fits several a little and the best of these in full, and keeps what does best on noises that no fit has seen. Nothing but evaluations is
asked of the model: guided models, compiled ones and black boxes are tuned alike.

The answer is a plan like any other. It knows what it was fitted to (`plan.provenance`); running it on another model, or at another guidance
scale, warns.

Sources: Shaul et al. 2024 (2403.01329, the family of methods); Frankel et al. 2025 (2502.17423) and Tong et al. 2025 (2405.15506), who fit
coefficients and times likewise, by gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, ReverieError, ShapeError
from reverie.model import Model, select
from reverie.model.fingerprint import fingerprint
from reverie.solve.fine import Fine
from reverie.solve.plan import Plan
from reverie.solve.solver import plan as compile_plan
from reverie.solve.tuning.fitting import Bounds, Cases, Enough, Method, fit
from reverie.solve.unroll import reroll, unroll

__all__ = ["STARTS", "Enough", "tune"]

_STREAM = 0x70E  # of noise: no sample begins with a noise that a plan was fitted to
STARTS = tuple(
    f"{solver}@{grid}"
    for solver in ("dpmpp-2m", "dpmpp-3m", "unipc-2", "unipc-3", "ipndm", "deis-3", "ddim")
    for grid in ("logsnr", "quadratic", "time", "karras")
)
"""Solvers and grids from which a fit begins, the best of them on the model at hand."""
_LATER = (-2.0, -1.0)
"""Half the logarithm of the signal-to-noise ratio at which the model may be asked first: at the noise end it learns little from what it is shown."""
_TRIED, _ROUGH, _FEW = 6, 5, 16


def tune(
    m: Model,
    steps: int,
    *,
    shape: Sequence[int] | None = None,
    cond: Mapping[str, Any] | None = None,
    calibration: int = 64,
    heldout: int = 64,
    seed: int = 0,
    batch: int = 256,
    reference: float | int | Plan = 1e-4,
    iterations: int = 60,
    starts: Sequence[str] = STARTS,
    tell: Callable[[str, float], None] = lambda what, share: None,
) -> Plan:
    """A plan of `steps` evaluations fitted to this model.

    Args:
        m: the model, with its guide: `tune(m | rv.guide.CFG(5.0), ...)`. steps: evaluations N, from 1. shape: of one state; the model's by default.
        cond: the conditions that samples take in turn: of a tensor with K rows sample i gets row i mod K; the rest is shared.
        calibration, heldout: trajectories that are fitted, and others by which fits are chosen and stopped. seed: of their noises, which no
            sample of any seed begins with. batch: rows of a network call at most.
        reference: of the exact solutions, see `Fine`: a tolerance, a number of calls, or a plan.
        iterations: of the last fits at most. starts: "solver@grid". tell: called with what is done and the share, in [0, 1], that is finished; when
            it raises `Enough` in a fit, that fit ends and the plan is the best so far.

    Returns:
        A plan named "tuned", whose provenance holds the model's name and fingerprint, the errors on held-out noises before (the best
        classical plan) and after, medians and 95th percentiles of |x - x*| / |x*|, and what the fit cost.

    Raises:
        ArgumentError: numbers out of range, starts of which none works. ShapeError: no shape, or conditions that do not fit.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Mixture(torch.tensor([[-1.0, 0.5], [1.0, 0.0]]), 0.5, process=rv.process.vp())
    >>> plan = tune(o, steps=3, calibration=8, heldout=8, iterations=5, starts=["ddim@logsnr"])
    >>> plan.nfe, plan.provenance["after"]["median"] < plan.provenance["before"]["median"]
    (3, True)
    """
    for name, value, least in (
        ("steps", steps, 1), ("calibration", calibration, 2), ("heldout", heldout, 2), ("iterations", iterations, 1), ("batch", batch, 1),
    ):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ArgumentError(f"{name} must be a whole number of at least {least}, got {value!r}")
    state = m.shape if shape is None else tuple(shape)
    if state is None:
        raise ShapeError(
            "the model does not know its state's shape; give shape=(channels, height, width), without the batch"
        )
    tell("exact solutions", 0.0)
    told = _in_turn(cond, calibration + heldout, m)
    cases = _cases(m, state, told, calibration + heldout, seed, batch, reference)
    some, held = _split(cases, calibration)
    found = _classical(m, steps, starts)
    if not found:
        raise ArgumentError(f"none of the starts {', '.join(starts)} has a plan of {steps} evaluations for {m.process}")
    p = m.process
    low, high = (float(p.lam(t)) for t in (p.t_max, p.t_min))
    bounds = Bounds(max(low, -8.0), min(high, 8.0))
    few = some.first(_FEW)
    tell("classical plans", 0.1)
    ranked = sorted(((_median(some, method), name, method) for name, method in found.items()), key=lambda r: r[0])
    before = ranked[0][1]
    begin = [(e, name, method) for e, name, method in ranked]
    for _, name, method in ranked[: 2 * _TRIED]:
        for lam in _LATER:
            other = _asked_later(method, lam, bounds)
            if other is not None:
                begin.append((_median(some, other), f"{name}, asked first at lam {lam:g}", other))
    rough = []
    chosen = _various(sorted(begin, key=lambda r: r[0]))
    for i, (_, name, method) in enumerate(chosen):
        tell(f"from {name}", 0.15 + 0.25 * i / len(chosen))
        better, _ = fit(few, method, bounds, _ROUGH)
        rough.append((_median(some, better), name, better))
    ends: list[tuple[float, str, Method]] = []
    ended: list[str] = []
    for j, (_, name, method) in enumerate(sorted(rough, key=lambda r: r[0])[:2]):

        def step(iteration: int, error: float, j: int = j, name: str = name) -> None:
            try:
                tell(f"error {error:.3g}, from {name}", 0.4 + 0.3 * (j + iteration / iterations))
            except Enough:
                ended.append(name)
                raise

        better, error = fit(some, method, bounds, iterations, held, tell=step)
        ends.append((error, name, better))
        if ended:
            break
    after, origin, method = min(ends, key=lambda e: e[0])
    old = found[before]
    if not after < _median(held, old):
        method, origin = old, "itself: no fit was better"
    provenance = {
        "model": m.name, "fingerprint": fingerprint(m), "begun": before, "from": origin, "calibration": calibration, "heldout": heldout, "seed": seed,
        "reference": reference if isinstance(reference, int | float) else reference.solver,
        "before": _figures(held, old), "after": _figures(held, method),
        "evaluations": cases.spent + some.spent + held.spent + few.spent,
        "conditions": _law(cond),
    }  # fmt: skip
    tell("done", 1.0)
    like = unroll(compile_plan("ddim", p, steps))
    made = reroll(method.unrolled(like), "tuned")
    return made.replace(start=float(p.t_max), order=0, grid="tuned", end="denoise", provenance=provenance)


def _in_turn(cond: Mapping[str, Any] | None, n: int, m: Model) -> dict[str, Any]:
    """Conditions of n samples, taken in turn."""
    index = torch.arange(n)
    return {k: v[index % len(v)] if isinstance(v, Tensor) and v.ndim else v for k, v in (cond or {}).items()}


def _cases(
    m: Model, shape: tuple[int, ...], cond: dict[str, Any], n: int, seed: int, batch: int, reference: float | int | Plan
) -> Cases:
    fine = Fine(m, n, shape, cond=cond, seed=seed, batch=min(n, batch), reference=reference, stream=_STREAM)
    start = float(m.process.t_max)
    before = m.calls
    made = Cases(m, fine.begin(start), fine(start, float(m.process.t_clean)), cond, batch)
    made.spent = (m.calls - before) * min(n, batch)
    return made


def _split(cases: Cases, n: int) -> tuple[Cases, Cases]:
    rows = torch.arange(n, len(cases), device=cases.x.device)
    told = select(cases.cond, rows, len(cases))
    return cases.first(n), Cases(cases.m, cases.x[rows], cases.star[rows], told, cases.batch)


def _classical(m: Model, n: int, starts: Sequence[str]) -> dict[str, Method]:
    """The starts that have a plan of n evaluations, by name."""
    found = {}
    for name in starts:
        solver, _, grid = name.partition("@")
        try:
            found[name] = Method.of(unroll(compile_plan(solver, m.process, n, grid=grid or None)))
        except ReverieError:
            continue
        if found[name].n != n:
            del found[name]
    return found


def _asked_later(method: Method, lam: float, bounds: Bounds) -> Method | None:
    """The same method whose first evaluation the model is told to be at a later time, where that comes before the second."""
    lams = method.lams.clone()
    latest = float(lams[1]) - bounds.gap if method.n > 1 else bounds.high
    lams[0] = min(lam, latest)
    return None if float(lams[0]) < float(method.lams[0]) + 0.25 else Method(lams, method.rows)


def _various(begin: list[tuple[float, str, Method]]) -> list[tuple[float, str, Method]]:
    """The best, no two alike, and no more than two of a solver."""
    out: list[tuple[float, str, Method]] = []
    for entry in begin:
        solver, theta = entry[1].split("@")[0], entry[2].pack()
        known = any(float((theta - other[2].pack()).abs().max()) < 1e-6 for other in out)
        if not known and sum(solver == other[1].split("@")[0] for other in out) < 2 and math.isfinite(entry[0]):
            out.append(entry)
        if len(out) == _TRIED:
            break
    return out


def _median(cases: Cases, method: Method) -> float:
    return float(cases.errors(method).median())


def _figures(cases: Cases, method: Method) -> dict[str, float]:
    errors = cases.errors(method)
    return {"median": float(errors.median()), "p95": float(errors.quantile(0.95))}


def _law(cond: Mapping[str, Any] | None) -> str:
    """The conditions in words."""
    if not cond:
        return "none"
    said = (f"{k}: {len(v)} in turn" if isinstance(v, Tensor) and v.ndim else f"{k}: shared" for k, v in cond.items())
    return ", ".join(said)
