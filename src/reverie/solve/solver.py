"""The register of solvers, and `plan`, which compiles one.

A solver is a function `(process, nodes, **options) -> Table`: it computes coefficients and never touches data. `@solver(...)` gives it a name,
an order of accuracy and a default grid; `plan` makes the nodes, turns a budget of model calls into steps, and wraps the table.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from torch import Tensor

from reverie.base import ArgumentError, TimeError, unknown
from reverie.process import VP, Process
from reverie.solve.degraded import with_input
from reverie.solve.grids import Node, nodes, papers_of
from reverie.solve.line import Line, state
from reverie.solve.plan import Plan, Stage

__all__ = ["SOLVERS", "Solver", "Table", "plan", "solver", "takes_steps"]


@dataclass
class Table:
    """Stages under construction. `kinds`: what its predictions are, one name a head."""

    kinds: tuple[str, ...] = ("x0",)
    stages: list[Stage] = field(default_factory=list)
    draws: int = 0
    rule: tuple[str, dict[str, Any]] | None = None
    """Of a dynamic plan, which has no stages before its run."""
    bound: int | None = None

    @property
    def k(self) -> int:
        """Number of the stage to be added next, which is also the number of the current state."""
        return len(self.stages)

    @property
    def x(self) -> Line:
        """The current state."""
        return state(self.k)

    def draw(self) -> int:
        """Number of a fresh noise."""
        self.draws += 1
        return self.draws - 1

    def ask(self, s: Node, row: Line, to: Node, step: int, **more: Any) -> int:
        """Ask the model about the current state at node s; the row makes the state at `to`. Returns the stage's number."""
        self.stages.append(Stage(row, s.t, to.t, step, label=s.label, **more))
        return self.k - 1

    def move(self, row: Line, to: Node, step: int, **more: Any) -> None:
        """A row without an evaluation."""
        self.stages.append(Stage(row, None, to.t, step, **more))


@dataclass(frozen=True)
class Solver:
    """A registered solver: how to compile it, its order, its default grid, and how many steps a budget buys."""

    name: str
    build: Callable[..., Table]
    order: int | Callable[..., int]
    grid: str
    summary: str
    stochastic: bool = False
    budget: Callable[..., tuple[int, dict[str, Any]]] | None = None
    even: bool = False
    """Its weights assume nodes even in the process's time."""
    dynamic: bool = False
    """It decides its steps during the run."""
    elsewhere: str | None = None
    """The default grid on processes other than VP, where that differs."""

    def grid_for(self, process: Process) -> str:
        """The default grid on this process."""
        return self.grid if self.elsewhere is None or isinstance(process, VP) else self.elsewhere

    def order_of(self, options: Mapping[str, Any]) -> int:
        """Declared order of a full step under these options."""
        return self.order if isinstance(self.order, int) else self.order(**options)

    @property
    def options(self) -> dict[str, Any]:
        """Option names with their defaults."""
        return {
            n: q.default
            for n, q in inspect.signature(self.build).parameters.items()
            if q.kind is inspect.Parameter.KEYWORD_ONLY
        }

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `ArgumentError` for options that it does not have, or that are of another type than it declares."""
        declared = inspect.signature(self.build).parameters
        for name, value in options.items():
            if name not in self.options:
                near = difflib.get_close_matches(name, self.options, 1)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                known = ", ".join(self.options) or "none"
                raise ArgumentError(f"{self.name!r} has no option {name!r}{hint} It takes: {known}")
            kind, _, none = str(declared[name].annotation).partition(" | ")
            if kind not in _TYPES or (none and value is None):
                continue
            type_, words = _TYPES[kind]
            if not isinstance(value, type_) or (kind != "bool" and isinstance(value, bool)):
                raise ArgumentError(f"{name} of {self.name!r} must be {words}, got {value!r:.80}")


SOLVERS: dict[str, Solver] = {}
_TYPES = {
    "float": (Real, "a number"),
    "int": (int, "a whole number"),
    "bool": (bool, "True or False"),
    "str": (str, "a name"),
}
"""What an option may be, by its annotation."""


def solver(
    name: str,
    order: int | Callable[..., int],
    grid: str = "logsnr",
    stochastic: bool = False,
    budget: Callable[..., tuple[int, dict[str, Any]]] | None = None,
    even: bool = False,
    dynamic: bool = False,
    elsewhere: str | None = None,
) -> Callable[[Callable[..., Table]], Callable[..., Table]]:
    """Register a function `(process, nodes, *, options) -> Table` as a solver.

    Args:
        order: of accuracy, an int or a function of the options. grid: the default. stochastic: whether it draws noise.
        budget: `(nfe, zero, **options) -> (steps, options)` where a budget of calls is not found by counting the calls of a compiled
            plan; `zero`: whether the last step goes to sigma = 0. even: its weights assume nodes even in time.
        elsewhere: the default grid on processes
            other than VP, whose time is another.
    """

    def add(build: Callable[..., Table]) -> Callable[..., Table]:
        summary = (inspect.getdoc(build) or name).split("\n")[0]
        SOLVERS[name] = Solver(name, build, order, grid, summary, stochastic, budget, even, dynamic, elsewhere)
        return build

    return add


def takes_steps(name: str | None) -> bool:
    """Whether a solver of that name is told its number of steps, as all are that do not choose them during the run."""
    return name not in SOLVERS or not SOLVERS[name].dynamic


def plan(
    name: str,
    process: Process,
    steps: int | None = None,
    *,
    nfe: int | None = None,
    grid: str | Sequence[Any] | Tensor | None = None,
    end: str = "denoise",
    span: tuple[float, float] = (1.0, 0.0),
    **options: Any,
) -> Plan:
    """Compile a solver.

    Args:
        name: see `reverie solvers`. process: the model's.
        steps: N steps, N + 1 nodes. nfe: instead, the most steps that N calls of the model allow.
        grid: a name, N + 1 times, or N + 1 (sigma, label) pairs; each solver has a default.
        end: "denoise" (default: the last row goes to sigma = 0), "sigma_min", or "zero" (sigma = 0 as a node of its own after t_min).
        span: the part of the grid's curve, 1 = noise, 0 = data.
        options: the solver's own, e.g. `eta=` for ddim; `reverie solvers` lists them.

    Raises:
        UnknownNameError: solver, grid, end or option (with the nearest names). ArgumentError: steps and budget. TimeError: see `grids`.

    >>> import reverie as rv
    >>> plan("dpmpp-2m", rv.process.vp(), steps=8).nfe
    8
    """
    if name not in SOLVERS:
        raise unknown("solver", name, SOLVERS)
    if not isinstance(process, Process):
        raise ArgumentError(
            f"process must be a reverie Process (rv.process.vp(), a model's .process), got {process!r:.100}"
        )
    entry = SOLVERS[name]
    entry.check(options)
    if entry.dynamic:
        if (steps, nfe, grid) != (None, None, None):
            raise ArgumentError(
                f"{name!r} chooses its own steps: leave out steps, nfe and grid; it takes {', '.join(entry.options)}"
            )
        at = (*nodes(process, entry.grid, 1, "sigma_min", span), nodes(process, entry.grid, 2, end, span)[-1])
        return _wrap(entry, process, at, entry.grid, end, options)
    grid = entry.grid_for(process) if grid is None else grid
    if (steps is None) == (nfe is None) and isinstance(grid, str):
        raise ArgumentError(f"give either steps=N or nfe=N, got steps={steps!r} and nfe={nfe!r}")
    if nfe is None:
        return _compile(entry, process, steps, grid, end, span, options)
    if isinstance(nfe, bool) or not isinstance(nfe, int) or nfe < 1:
        raise ArgumentError(f"nfe must be a whole number of at least 1, got {nfe!r}")
    if not isinstance(grid, str):
        raise ArgumentError("nfe= chooses the number of nodes; with a given grid leave it out")
    if entry.budget is not None:
        zero = nodes(process, grid, 2, end, span)[-1].sigma == 0
        steps, options = entry.budget(nfe, zero, **options)
        return _compile(entry, process, steps, grid, end, span, options)
    return _within(nfe, lambda n: _compile(entry, process, n, grid, end, span, options))


def _within(nfe: int, compiled: Callable[[int], Plan]) -> Plan:
    """The plan of the most steps that takes at most nfe calls, by bisection: calls grow with steps."""
    best, least, low, high, n = None, None, 1, nfe, nfe
    error: Exception | None = None
    while low <= high:
        found = None
        try:
            found = compiled(n)
        except TimeError as full:  # more steps than the grid holds
            error = full
        except ArgumentError as few:  # fewer steps than the solver takes, or an option at fault
            error, low, n = few, n + 1, (n + 2 + high) // 2
            continue
        if found is not None and found.nfe is not None and found.nfe <= nfe:
            best, low = found, n + 1
        else:
            least = least if found is None else found
            high = n - 1
        n = (low + high + 1) // 2
    if best is None and least is not None:
        raise ArgumentError(f"{least.solver!r} takes at least {least.nfe} calls ({least.steps} steps), got nfe={nfe}")
    if best is None:
        raise error or ArgumentError(f"no plan takes at most nfe={nfe} calls")
    return best


def _compile(
    entry: Solver,
    process: Process,
    steps: int | None,
    grid: str | Sequence[Any] | Tensor,
    end: str,
    span: tuple[float, float],
    options: Mapping[str, Any],
) -> Plan:
    at = nodes(process, grid, steps, end, span)
    if not isinstance(grid, str):
        grid, end = "given", "denoise" if at[-1].sigma == 0 else "given"
    return _wrap(entry, process, at, grid, end, options)


def _wrap(entry: Solver, process: Process, at: Sequence[Node], grid: str, end: str, options: Mapping[str, Any]) -> Plan:
    table = entry.build(process, at, **options)
    made = Plan(
        entry.name,
        process,
        tuple(table.stages),
        at[0].t,
        table.kinds,
        entry.order_of({**entry.options, **options}),
        grid,
        end,
        dict(options),
        table.rule,
        table.bound,
        papers=tuple(getattr(entry.build, "__papers__", ()))
        + tuple(getattr(type(process), "__papers__", ()))
        + papers_of(grid)
        + tuple(getattr(entry.build, "__cites__", ())),
    )
    return with_input(made)
