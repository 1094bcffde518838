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

from reverie.base import ArgumentError, Noise, ReverieError, UnknownNameError
from reverie.base.checks import at_least
from reverie.model import Model, in_turn, select
from reverie.solve.fine import Fine
from reverie.solve.origin import origin
from reverie.solve.plan import Plan
from reverie.solve.solver import plan as compile_plan
from reverie.solve.tuning.common import state_shape
from reverie.solve.tuning.fitting import Bounds, Cases, Enough, Method, fit, middle_of
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
        cond: the conditions that samples take in turn: of a tensor with K rows sample i gets row i mod K; where K is more than `calibration`, the
            rows are shuffled first, so the fit meets as many of them as it can. The rest is shared.
        calibration: trajectories that are fitted. heldout: others by which fits are chosen and stopped, and as many more for the figures. seed: of
            their noises, which no sample of any seed begins with. batch: rows of a network call at most.
        reference: of the exact solutions, see `Fine`: a tolerance, a number of calls (at least 20, and 4 a step), or a plan.
        iterations: of the last fits at most. starts: "solver@grid". tell: called with what is done and the share, in [0, 1], that is finished;
            when it raises `Enough`, after the exact solutions, the plan is the best so far.

    Returns:
        A plan named "tuned", whose provenance holds the model's name and fingerprint, the errors of the best classical plan ("before") and its own
        ("after") on noises that neither the fit nor the choice has seen, medians and 95th percentiles of |x - x*| / |x*|, and what the fit cost.

    Raises:
        ArgumentError: numbers out of range, starts of which none works, a model that needs conditions. ShapeError: no shape, or conditions that do
            not fit. UnknownNameError: a start of an unknown solver or grid.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Mixture(torch.tensor([[-1.0, 0.5], [1.0, 0.0]]), 0.5, process=rv.process.vp())
    >>> plan = tune(o, steps=3, calibration=8, heldout=8, iterations=5, starts=["ddim@logsnr"])
    >>> plan.nfe, plan.provenance["after"]["median"] < plan.provenance["before"]["median"]
    (3, True)
    """
    at_least(
        steps=(steps, 1),
        calibration=(calibration, 2),
        heldout=(heldout, 2),
        iterations=(iterations, 1),
        batch=(batch, 1),
    )
    state = state_shape(m, shape)
    if isinstance(reference, int) and not isinstance(reference, bool) and reference < max(20, 4 * steps):
        raise ArgumentError(
            f"a reference of {reference} calls is not exact beside {steps} steps; give {max(20, 4 * steps)} or more, or 1e-4"
        )
    found = _classical(m, steps, starts)
    if not found:
        raise ArgumentError(f"none of the starts {', '.join(starts)} has a plan of {steps} evaluations for {m.process}")
    tell("exact solutions", 0.0)
    told, law = _in_turn(cond, calibration, calibration + 2 * heldout, seed)
    cases = _cases(
        m,
        state,
        told,
        calibration + 2 * heldout,
        seed,
        batch,
        reference,
        lambda share: tell("exact solutions", 0.1 * share),
    )
    some, held, last = _parts(cases, [calibration, heldout, heldout])
    old = min(found, key=lambda name: _median(some, found[name]))
    ends = _fits(some, held, found, old, iterations, tell)
    error, begun, method = min(ends, key=lambda e: e[0])
    if not error < _median(held, found[old]):
        method, begun = found[old], "itself: no fit was better"
    provenance = {
        **origin(m), "begun": old, "from": begun, "calibration": calibration, "heldout": heldout, "seed": seed,
        "reference": reference if isinstance(reference, int | float) else reference.solver, "conditions": law,
        "before": _figures(last, found[old]), "after": _figures(last, method),
        "evaluations": sum(c.spent for c in (cases, some, held, last)),
    }  # fmt: skip
    tell("done", 1.0)
    like = unroll(compile_plan("ddim", m.process, steps))
    made = reroll(method.unrolled(like), "tuned")
    return made.replace(start=float(m.process.t_max), order=0, grid="tuned", end="denoise", provenance=provenance)


def _fits(
    some: Cases, held: Cases, found: dict[str, Method], old: str, iterations: int, tell: Callable[[str, float], None]
) -> list[tuple[float, str, Method]]:
    """What the fits from several starts end at, with their medians on held-out cases; the best so far where `tell` has had enough."""
    p = some.m.process
    low, high = (float(p.lam(t)) for t in (p.t_max, p.t_min))
    bounds = Bounds(max(low, -8.0), min(high, 8.0))
    rough: list[tuple[float, str, Method]] = []
    ends: list[tuple[float, str, Method]] = []
    stopped = [False]

    def say(what: str, share: float) -> None:
        try:
            tell(what, share)
        except Enough:
            stopped[0] = True
            raise

    try:
        say("classical plans", 0.1)
        ranked = sorted(((_median(some, method), name, method) for name, method in found.items()), key=lambda r: r[0])
        begin = list(ranked)
        for _, name, method in ranked[: 2 * _TRIED]:
            for lam in _LATER:
                other = _asked_later(method, lam, bounds)
                if other is not None:
                    begin.append((_median(some, other), f"{name}, asked first at lam {lam:g}", other))
        few, chosen = some.first(_FEW), _various(sorted(begin, key=lambda r: r[0]), bounds)
        for i, (_, name, method) in enumerate(chosen):
            say(f"from {name}", 0.15 + 0.25 * i / len(chosen))
            better, _ = fit(few, method, bounds, _ROUGH)
            rough.append((_median(some, better), name, better))
        some.spent += few.spent
        for j, (_, name, method) in enumerate(sorted(rough, key=lambda r: r[0])[:2]):

            def step(iteration: int, error: float, j: int = j, name: str = name) -> None:
                say(f"error {error:.3g}, from {name}", 0.4 + 0.3 * (j + iteration / iterations))

            better, error = fit(some, method, bounds, iterations, held, tell=step)
            ends.append((error, name, better))
            if stopped[0]:
                break
    except Enough:
        pass
    return (
        ends
        or [(_median(held, method), name, method) for _, name, method in rough]
        or [(_median(held, found[old]), old, found[old])]
    )


def _in_turn(cond: Mapping[str, Any] | None, fitted: int, n: int, seed: int) -> tuple[dict[str, Any], str]:
    """Conditions of n samples, of which the first are fitted, and in words; shuffled where there are more than are fitted."""
    said, rows = [], dict[str, Tensor]()
    for key, value in (cond or {}).items():
        k = len(value) if isinstance(value, Tensor) and value.ndim else 0
        if k > fitted:
            rows[key] = Noise(seed).uniform((k,), [0], stream=_STREAM)[0].argsort(stable=True)
        said.append(f"{key}: {fitted} of {k}" if k > fitted else f"{key}: {k} in turn" if k else f"{key}: shared")
    return in_turn(cond, range(n), rows), ", ".join(said) or "none"


def _cases(
    m: Model, shape: tuple[int, ...], cond: dict[str, Any], n: int, seed: int, batch: int, reference: float | int | Plan,
    tell: Callable[[float], None],
) -> Cases:  # fmt: skip
    done = [0, 0]

    def told(rows: int, calls: int) -> None:
        done[0], done[1] = done[0] + rows, done[1] + rows * calls
        tell(min(1.0, done[0] / (2 * n)))

    fine = Fine(m, n, shape, cond=cond, seed=seed, batch=min(n, batch), reference=reference, stream=_STREAM, tell=told)
    start = float(m.process.t_max)
    try:
        made = Cases(m, fine.begin(start), fine(start, float(m.process.t_clean)), cond, batch)
    except RuntimeError as error:
        if m.dtype is not None or "dtype" not in str(error):
            raise
        raise ArgumentError(
            f"{m.name} cannot be asked in float64 ({error}); say what it computes in: Model(..., dtype=torch.float32)"
        ) from error
    made.spent = done[1]
    return made


def _parts(cases: Cases, sizes: Sequence[int]) -> list[Cases]:
    """Cases that follow each other."""
    out, at = [], 0
    for size in sizes:
        rows = torch.arange(at, at + size, device=cases.x.device)
        out.append(Cases(cases.m, cases.x[rows], cases.star[rows], select(cases.cond, rows, len(cases)), cases.batch))
        at += size
    return out


def _classical(m: Model, n: int, starts: Sequence[str]) -> dict[str, Method]:
    """The starts that have a plan of n evaluations on this process, by name."""
    found = {}
    for name in starts:
        solver, _, grid = name.partition("@")
        try:
            method = Method.of(unroll(compile_plan(solver, m.process, nfe=n, grid=grid or None)))
        except UnknownNameError:
            raise
        except ReverieError:  # it has no plan of so few steps, or none on this process
            continue
        if method.n == n:
            found[name] = method
    return found


def _asked_later(method: Method, lam: float, bounds: Bounds) -> Method | None:
    """The same method whose first evaluation the model is told to be at a later time, where that comes before the second."""
    lams = method.lams.clone()
    latest = float(lams[1]) - bounds.gap if method.n > 1 else bounds.high
    lams[0] = min(lam, latest)
    return None if float(lams[0]) < float(method.lams[0]) + 0.25 else Method(lams, method.rows)


def _various(begin: list[tuple[float, str, Method]], bounds: Bounds) -> list[tuple[float, str, Method]]:
    """The best, no two alike within the bounds, and no more than two of a solver."""
    out: list[tuple[float, str, Method]] = []
    for entry in begin:
        solver, theta = entry[1].split("@")[0], bounds.keep(entry[2].pack(), entry[2].n)
        known = any(float((theta - bounds.keep(other[2].pack(), other[2].n)).abs().max()) < 1e-6 for other in out)
        if not known and sum(solver == other[1].split("@")[0] for other in out) < 2 and math.isfinite(entry[0]):
            out.append(entry)
        if len(out) == _TRIED:
            break
    return out


def _median(cases: Cases, method: Method) -> float:
    return middle_of(cases.errors(method))


def _figures(cases: Cases, method: Method) -> dict[str, float]:
    errors = cases.errors(method)
    return {"median": middle_of(errors), "p95": float(errors.quantile(0.95))}
