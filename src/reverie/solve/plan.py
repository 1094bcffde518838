"""Plan and stages: a solver, compiled.

Stage k may ask the model about state k, which gives prediction k; its row then makes state k + 1 (`Line`). A static plan holds its stages;
a dynamic one names a registered rule, a generator that reads the run and yields stages. Plans are data: immutable, printable, saved as
JSON (with safetensors beside it for large tables), compared and transformed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from reverie.base import ArgumentError, TimeError, unknown
from reverie.model import as_target
from reverie.process import Process
from reverie.solve.line import Coef, Line

if TYPE_CHECKING:
    from reverie.model import Model
    from reverie.solve.context import Run

__all__ = ["DYNAMICS", "RULES", "Plan", "Stage", "dynamic", "rule"]

RULES: dict[str, Callable[..., Any]] = {}
"""Rules of a stage: `(run, x, **params) -> x`, applied to what the row made."""
DYNAMICS: dict[str, Callable[..., Iterator[Stage]]] = {}
"""Rules of a whole plan: `(run, plan, **params)` yields stages."""


def rule(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a stage rule under a name, so that plans that use it can be saved."""

    def add(f: Callable[..., Any]) -> Callable[..., Any]:
        RULES[name] = f
        return f

    return add


def dynamic(name: str) -> Callable[[Callable[..., Iterator[Stage]]], Callable[..., Iterator[Stage]]]:
    """Register a generator of stages under a name, so that dynamic plans can be saved."""

    def add(f: Callable[..., Iterator[Stage]]) -> Callable[..., Iterator[Stage]]:
        DYNAMICS[name] = f
        return f

    return add


@dataclass(frozen=True, eq=False)
class Stage:
    """One evaluation (or none) and the row that makes the next state.

    Attributes:
        row: the linear form of the next state.
        t: where the model is asked about the current state; None: it is not. In a dynamic plan also a tensor `(B, 1, ..., 1)`, a time a sample.
        to: time of the state that the row makes.
        step: which step of the grid this belongs to; `inner` marks states inside a step.
        label: what the network is told instead of `model.label(t)`.
        args: further arguments of the network at this call.
        net: which of several models serves it.
        rule: (registered name, parameters) applied to what the row made.
    """

    row: Line
    t: float | Tensor | None
    to: float
    step: int = 0
    inner: bool = False
    label: float | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    net: str | None = None
    rule: tuple[str, Mapping[str, Any]] | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """A compiled solver: print it, save it, run it.

    Attributes:
        solver: the name it was compiled from. process: the forward process of its coefficients.
        table: the stages; empty for a dynamic plan. kinds: what the table's predictions are, one name a head ("x0", "eps", "flow").
        order: order of accuracy of a full step (stochastic solvers: weak order).
        grid, end, options: how it was compiled. rule: (registered name, parameters) of a dynamic plan; `bound` its largest nfe, if known.
        start: time of the initial state. papers: what to cite. provenance: where fitted numbers come from.
    """

    solver: str
    process: Process
    table: tuple[Stage, ...]
    start: float
    kinds: tuple[str, ...] = ("x0",)
    order: int = 1
    grid: str = ""
    end: str = "denoise"
    options: Mapping[str, Any] = field(default_factory=dict)
    rule: tuple[str, Mapping[str, Any]] | None = None
    bound: int | None = None
    papers: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    _folds: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Without the folds, which belong to models of this process."""
        return {**self.__dict__, "_folds": {}}

    def __post_init__(self) -> None:
        if self.rule is not None:
            if self.rule[0] not in DYNAMICS:
                raise unknown("dynamic rule", self.rule[0], DYNAMICS)
            return
        if not self.table:
            raise ArgumentError("a static plan needs at least one stage")
        for kind in self.kinds:
            as_target(kind)
        check_time("the start", self.start, self.process)
        asked: set[int] = set()
        for k, stage in enumerate(self.table):
            asked |= set() if stage.t is None else {k}
            check_stage(k, stage, asked, len(self.kinds))
            if isinstance(stage.t, Tensor):
                raise ArgumentError(
                    f"stage {k}: a time a sample belongs to a dynamic plan; this table needs one number"
                )
            for t in (stage.to if stage.t is None else stage.t, stage.to):
                check_time(f"stage {k}", t, self.process)

    def stages(self, run: Run | None = None) -> Iterable[Stage]:
        """The stages: a tuple, or for a dynamic plan a generator that reads the run."""
        if self.rule is None:
            return self.table
        if run is None:
            raise ArgumentError(f"{self.solver!r} decides its stages during a run; there is no table to list")
        return DYNAMICS[self.rule[0]](run, self, **self.rule[1])

    @property
    def steps(self) -> int:
        """Number of steps of the grid (0 when dynamic)."""
        return 1 + max((s.step for s in self.table), default=-1)

    @property
    def nfe(self) -> int | None:
        """Calls of the given model; for a dynamic plan its bound, or None."""
        return self.bound if self.rule is not None else sum(s.t is not None for s in self.table)

    def cost(self, model: Model | Mapping[str, Model]) -> int | None:
        """Network forwards a sample on this model (classifier-free guidance: two a call)."""
        if self.rule is not None:
            one = model if not isinstance(model, Mapping) else next(iter(model.values()))
            return None if self.bound is None else self.bound * one.cost(None)
        return sum(serving(model, s.net).cost(s.t) for s in self.table if s.t is not None)  # type: ignore[arg-type,misc]

    @property
    def times(self) -> tuple[float, ...]:
        """Times of the states, the initial one first."""
        return (self.start, *(s.to for s in self.table))

    @property
    def noises(self) -> int:
        """How many elementary noises the table draws."""
        drawn = [k[0] for s in self.table for k, _ in s.row.part("n")]
        drawn += [int(s.rule[1]["noise"]) for s in self.table if s.rule is not None and "noise" in s.rule[1]]
        return 1 + max(drawn, default=-1)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs that `run` must be given."""
        return tuple(dict.fromkeys(k[0] for s in self.table for k, _ in s.row.part("i")))

    def replace(self, **changes: Any) -> Plan:
        """A copy with some attributes changed; checked anew."""
        return dataclasses.replace(self, **changes)

    def repeat(self, times: int, length: int | None = None, first: int = 0, last: int | None = None) -> Plan:
        """Time travel: blocks of steps are run several times, the state being noised back between the passes (RePaint).

        Args:
            times: passes of each block, >= 1. length: steps of a block (RePaint's jump length); by default all of them.
            first, last: the steps that are repeated, from `first` to before `last`; by default all.

        Raises `ArgumentError` for numbers out of range, for dynamic plans, and for multistep tables changed by hand or by tuning.

        >>> import reverie as rv
        >>> plan = rv.solve.plan("ddim", rv.process.vp(), steps=10)
        >>> plan.repeat(3, length=5).nfe, plan.repeat(2, first=4, last=8).nfe
        (30, 14)
        """
        from reverie.solve.repeat import repeat

        return repeat(self, times, length, first, last)

    def inverse(self, limit: float = 1e3) -> Plan:
        """The plan from its last states back to the first, by algebra and at the same cost, where its rows can be solved for their oldest state.

        Run it from the last state, with the one before as an input: `run(plan.inverse(), m, x[-1], inputs={"before": x[-2]}, record="x")`. The last
        state that it makes is the noise; the one before it goes with it.

        Args:
            limit: of the amplification, the factor by which an error of those states grows at most (`solve.amplification`).

        Raises `ArgumentError` for a plan that has no explicit inverse, and above the limit.

        >>> import torch, reverie as rv
        >>> o = rv.oracle.Gaussian([0.0, 1.0], torch.eye(2), process=rv.process.vp())
        >>> plan, z = rv.solve.plan("bdia", o.process, steps=10), torch.tensor([[0.3, -1.0]], dtype=torch.float64)
        >>> x, kept = rv.run(plan, o, z, record="x")
        >>> back = rv.run(plan.inverse(), o, x, inputs={"before": kept["x"][-1]})
        >>> bool((back - z).abs().max() < 1e-12)
        True
        """
        from reverie.solve.inverse import inverse

        return inverse(self, limit)

    def __str__(self) -> str:
        from reverie.solve.show import show

        return show(self)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, with large tables in a safetensors file beside it; atomically. Raises `FileError`."""
        from reverie.solve.files import save

        save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan; validated, nothing is executed or unpickled. Raises `FileError` (missing, malformed, oversized, newer version)."""
        from reverie.solve.files import load

        return load(path)


def serving(model: Model | Mapping[str, Model], net: str | None) -> Model:
    """The model that serves a stage."""
    if not isinstance(model, Mapping):
        if net is not None:
            raise ArgumentError(f"the plan has a stage for the net {net!r}; give run a dict of models with that name")
        return model
    name = net if net is not None else next(iter(model))
    if name not in model:
        raise unknown("net", name, list(model))
    return model[name]


def check_stage(k: int, stage: Stage, asked: Container[int], heads: int) -> None:
    """Raise `ArgumentError` where a stage refers to what does not exist yet, or makes nothing; `asked` holds the stages up to k
    that ask the model."""
    parts = {s: list(stage.row.part(s)) for s in "xpni1"}
    if not any(parts.values()) and stage.rule is None:
        raise ArgumentError(f"stage {k}: its row is empty")
    bad_state = [j for (j,), _ in parts["x"] if not 0 <= j <= k]
    bad_pred = [(j, h) for (j, h), _ in parts["p"] if j not in asked or not 0 <= h < heads]
    bad_noise = [j for (j,), _ in parts["n"] if j < 0]
    if bad_state or bad_pred or bad_noise:
        raise ArgumentError(
            f"stage {k}: its row refers to states {bad_state}, predictions {bad_pred}, noises {bad_noise}, which do not exist there"
        )
    if not all(map(_finite, stage.row.terms.values())):
        bad = next(key for key, c in stage.row.terms.items() if not _finite(c))
        raise ArgumentError(f"stage {k}: the coefficient of {bad} is not finite")
    if stage.rule is not None and stage.rule[0] not in RULES:
        raise unknown("stage rule", stage.rule[0], RULES)


def check_time(what: str, t: float, p: Process) -> None:
    """Raise `TimeError` where a time lies outside the process."""
    slack = 1e-9 * (p.t_max - p.t_clean)
    if not p.t_clean - slack <= t <= p.t_max + slack:
        raise TimeError(f"{what}: time {t!r} lies outside {p}, which runs from {p.t_max} to {p.t_clean}")


def _finite(c: Coef) -> bool:
    return bool(c.isfinite().all()) if isinstance(c, Tensor) else math.isfinite(c)
