"""A plan for a batch of which each sample begins at its own time: the samples' own tables, side by side.

    x <- sum over terms of c[sample] * term,      at times t[sample]

Each sample's plan is compiled as ever, from its start down the named grid. As tables of one solver with one number of steps they differ in numbers
alone, so that together they are one table with a coefficient and a time a sample, run in one batch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from reverie.base import ArgumentError, unknown
from reverie.process import Process
from reverie.solve.context import Run
from reverie.solve.grids import named
from reverie.solve.line import Coef, Key, Line
from reverie.solve.plan import Plan, Stage, dynamic
from reverie.solve.solver import SOLVERS
from reverie.solve.solver import plan as compile_plan

__all__ = ["own_starts"]


def own_starts(
    solver: str,
    p: Process,
    starts: Sequence[float] | Tensor,
    steps: int,
    *,
    grid: str | None = None,
    end: str = "denoise",
    **options: Any,
) -> Plan:
    """A solver's plan for a batch of which each sample begins at its own time and has its own grid, the named one from there on.

    The table of each sample is compiled as ever; side by side they are one table with a coefficient and a time a sample.

    Args:
        solver, steps, end, options: as for `plan`; any solver that does not choose its steps itself. grid: a name; the solver's own by default, but
            no spacing that places its own nodes (leading, linspace, two-level).
        starts: `(B,)` times, above the grid's last.

    Raises:
        ArgumentError: a start out of the grid's range, a grid without a curve, a dynamic solver, tables of different structure (churn on an interval
        that begins for some samples only).

    >>> import reverie as rv
    >>> o = rv.oracle.Gaussian([0.0], [[1.0]], process=rv.process.edm())
    >>> plan = own_starts("heun", o.process, [0.5, 2.0], 3)
    >>> x = torch.tensor([[0.3], [-2.0]])
    >>> plan.nfe, bool(torch.equal(rv.run(plan, o, x)[1:], rv.run(own_starts("heun", o.process, [2.0], 3), o, x[1:])))
    (5, True)
    """
    if solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    if SOLVERS[solver].dynamic:
        raise ArgumentError(f"{solver!r} chooses its steps during the run; take a solver with a number of steps")
    grid = SOLVERS[solver].grid_for(p) if grid is None else grid
    times = torch.as_tensor(starts, dtype=torch.float64).reshape(-1).tolist()
    if not times:
        raise ArgumentError("starts must hold a time for every sample, got none")
    spans = _spans(p, grid, times)
    how = {"solver": solver, "steps": steps, "grid": grid, "end": end, "options": dict(options), "spans": spans}
    first = _compiled(p, solver, steps, grid, end, max(spans), _frozen(options))
    return first.replace(
        table=(),
        start=max(times),
        rule=("own-starts", how),
        bound=first.nfe,
    )


@dynamic("own-starts")
def own_start_stages(
    run: Run,
    plan: Plan,
    *,
    solver: str,
    steps: int,
    grid: str,
    end: str,
    options: Mapping[str, Any],
    spans: Sequence[float],
) -> Iterator[Stage]:
    """The stages of the samples' plans, side by side."""
    if len(spans) != len(run.x):
        raise ArgumentError(f"the plan has {len(spans)} starts; the batch has {len(run.x)} samples")
    given = _frozen(options)
    each = [_compiled(plan.process, solver, steps, grid, end, u, given).table for u in spans]
    for k in range(len(each[0])):
        yield _beside([table[k] for table in each], run.x.ndim)
        if run.rows is not None:
            raise ArgumentError(
                "a plan with a start a sample cannot follow a hook that selects samples; leave the hook out"
            )


@functools.lru_cache(maxsize=4096)
def _compiled(p: Process, solver: str, steps: int, grid: str, end: str, u: float, options: tuple[Any, ...]) -> Plan:
    """The plan of one start, u on the grid's curve."""
    return compile_plan(solver, p, steps, grid=grid, end=end, span=(u, 0.0), **dict(options))


def _frozen(options: Mapping[str, Any]) -> tuple[Any, ...]:
    """Options as a key; lists, which a saved plan has in place of tuples, become tuples."""

    def freeze(value: Any) -> Any:
        return tuple(map(freeze, value)) if isinstance(value, list | tuple) else value

    return tuple((name, freeze(value)) for name, value in options.items())


def _spans(p: Process, grid: str, times: Sequence[float]) -> list[float]:
    """Where on the curve u -> t of a grid the times lie, by bisection."""
    name, curve, placed = named(grid)
    if placed:
        raise ArgumentError(f"grid {name!r} places its own nodes; take a curve: karras, logsnr, time, quadratic, beta")
    t = torch.tensor(times, dtype=torch.float64)
    ends = curve(p, torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    if bad := [s for s in times if not ends[0] < s <= ends[1] * (1 + 1e-9)]:
        raise ArgumentError(
            f"a sample's start must lie above {ends[0]:.6g}, where the grid {grid!r} ends, up to {ends[1]:.6g}, got {bad[0]!r}"
        )
    low, high = torch.zeros_like(t), torch.ones_like(t)
    for _ in range(60):
        middle = (low + high) / 2
        above = curve(p, middle) >= t
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return high.tolist()


def _beside(stages: Sequence[Stage], dims: int) -> Stage:
    """One stage for a batch, of the samples' own; tensors even where all agree, so that a sample's bits do not depend on the others'."""
    one = stages[0]
    same = (one.step, one.inner, one.net, one.rule, dict(one.args), one.row.terms.keys(), one.t is None)
    if any(same != (s.step, s.inner, s.net, s.rule, dict(s.args), s.row.terms.keys(), s.t is None) for s in stages):
        raise ArgumentError(
            "the samples' plans differ in more than numbers, as with churn on an interval (churn_min, churn_max) or restart; leave that out"
        )

    def beside(values: Sequence[Any]) -> Tensor:
        return torch.tensor([float(v) for v in values], dtype=torch.float64).reshape(-1, *[1] * (dims - 1))

    terms: dict[Key, Coef] = {key: beside([s.row.terms[key] for s in stages]) for key in one.row.terms}
    t = None if one.t is None else beside([s.t for s in stages])
    to = cast(float, beside([s.to for s in stages]))  # a time a sample, which only hooks read
    return Stage(Line(terms), t, to, one.step, one.inner, None, one.args, one.net, one.rule)
