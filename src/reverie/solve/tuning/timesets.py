"""AutoDiffusion's search over time steps: which K times a solver should visit.

A candidate is a set of K distinct times out of T, asked in falling order; the solver recomputes its coefficients for them. From the K uniform ones,

    mutation    each time, with probability 0.25 (0.1 in the first generation), becomes one that the set does not have
    crossover   each position from either of two sets, then sorted; sets with one time twice are rejected

and `evolve` keeps the best ever. The score is a distance of samples to data, or any other of a plan. The first time is free too: the state there is
drawn as if it were noise alone, N(0, prior_std^2), for nothing before it has been run.

Source: Li et al. 2023 (2309.10438, section 3.2 and algorithm 1: the half of the search that concerns time steps).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from reverie.base import ArgumentError, TimeError, implements
from reverie.process import DDPM, Process
from reverie.solve.grids import nodes
from reverie.solve.plan import Plan
from reverie.solve.solver import plan
from reverie.solve.tuning.evolve import Found, evolve

__all__ = ["TimeSets", "search_times"]

Times = tuple[int, ...]


@dataclass(frozen=True)
class TimeSets:
    """The space of K-element sets of times, for `evolve`; a candidate is K rising positions in `times`.

    Args:
        process: the model's. steps: K >= 1. solver, options: what consumes the times, one evaluation a step or more.
        labels: T, the number of times to choose from, even from t_max to t_min; or these times themselves, in any order. On `ddpm` by default
            its whole labels.
        end: "denoise" (default: from the last time to sigma = 0) or "sigma_min" (to t_min). grids: whose nearest sets come first; "time" is uniform.

    Raises: `ArgumentError` for fewer times than steps, and as `solve.plan`.

    >>> import reverie as rv
    >>> space = TimeSets(rv.process.vp(), 4, labels=101)
    >>> [round(space.times[i], 4) for i in space.first()[0]]
    [1.0, 0.7502, 0.5005, 0.2508]
    """

    process: Process
    steps: int
    solver: str = "ddim"
    labels: int | Sequence[float] | None = None
    end: str = "denoise"
    grids: tuple[str, ...] = ("time",)
    options: Mapping[str, Any] = field(default_factory=dict)
    times: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ArgumentError(f"steps must be a whole number of at least 1, got {self.steps!r}")
        if self.end not in ("denoise", "sigma_min"):
            raise ArgumentError(f"a set of times ends by 'denoise' or 'sigma_min', got end={self.end!r}")
        if not self.grids:
            raise ArgumentError("a search begins from at least one grid; give grids=('time',)")
        object.__setattr__(self, "times", self._times())
        if len(self.times) < self.steps:
            raise ArgumentError(f"{self.steps} steps need as many times; there are {len(self.times)} labels")
        for g in self.first():
            self.plan(g)

    def _times(self) -> tuple[float, ...]:
        p, labels = self.process, self.labels
        if labels is None:
            labels = round(p.t_max - p.t_min) + 1 if isinstance(p, DDPM) else 1000
        if isinstance(labels, int) and not isinstance(labels, bool):
            if labels < 1:
                raise ArgumentError(f"labels must be a number of times or the times themselves, got {labels}")
            found = [max(p.t_max + i * (p.t_min - p.t_max) / max(labels - 1, 1), p.t_min) for i in range(labels)]
        else:
            try:
                found = [float(t) for t in labels]  # type: ignore[union-attr]
            except (TypeError, ValueError):
                raise ArgumentError(
                    f"labels must be a number of times or the times themselves, got {labels!r:.80}"
                ) from None
        last = p.t_clean if self.end == "denoise" else p.t_min
        for t in found:
            if not p.t_min <= t <= p.t_max:
                raise TimeError(f"labels: time {t!r} lies outside {p}, which runs from {p.t_max} to {p.t_min}")
        return tuple(t for t in sorted(set(found), reverse=True) if t > last)

    def first(self) -> list[Times]:
        """The sets nearest to the grids' nodes, each once."""
        out = dict[Times, None]()
        for grid in self.grids:
            wanted = [n.t for n in nodes(self.process, grid, self.steps, self.end)][: self.steps]
            taken: list[int] = []
            for t in wanted:
                free = (i for i in range(len(self.times)) if i not in taken)
                taken.append(min(free, key=lambda i: abs(self.times[i] - t)))
            out[tuple(sorted(taken))] = None
        return list(out)

    def random(self, rng: Random) -> Times:
        """K of the T."""
        return tuple(sorted(rng.sample(range(len(self.times)), self.steps)))

    def mutate(self, g: Times, rng: Random, gentle: bool = False) -> Times | None:
        """Some times replaced by unused ones; None where there are none."""
        if len(self.times) == self.steps:
            return None
        new = list(g)
        for j in range(len(new)):
            if rng.random() < (0.1 if gentle else 0.25):
                i = rng.randrange(len(self.times))
                while i in new:
                    i = rng.randrange(len(self.times))
                new[j] = i
        return tuple(sorted(new))

    def cross(self, a: Times, b: Times, rng: Random) -> Times | None:
        """Each position from either; None where a time would come twice."""
        new = {rng.choice(pair) for pair in zip(a, b, strict=True)}
        return tuple(sorted(new)) if len(new) == self.steps else None

    def plan(self, g: Times) -> Plan:
        """The solver on these times."""
        last = self.process.t_clean if self.end == "denoise" else self.process.t_min
        return plan(self.solver, self.process, grid=[*(self.times[i] for i in g), last], **self.options)

    def key(self, g: Times) -> str:
        """The positions."""
        return ",".join(map(str, g))


@implements("autodiffusion")
def search_times(
    process: Process,
    score: Callable[[Plan], float],
    steps: int,
    *,
    solver: str = "ddim",
    labels: int | Sequence[float] | None = None,
    end: str = "denoise",
    grids: Sequence[str] = ("time",),
    evaluations: int = 350,
    seed: int = 0,
    known: Mapping[str, float] | None = None,
    progress: Callable[[str, float], None] | None = None,
    crossovers: int = 15,
    mutations: int = 25,
    **options: Any,
) -> Found[Times]:
    """AutoDiffusion's time steps: the set of K times with which a solver scores best, by evolution.

    Args:
        process: the model's. score: of a plan, lower is better, always of the same noises: it decides what the times are best for. Score the
            winner again on fresh noises: the search has fitted those it saw.
        steps: K. solver, options: what consumes the times. labels, end, grids: see `TimeSets`; no first candidate scores better than what is found.
        evaluations: candidates scored. seed, known, progress, mutations, crossovers: see `evolve`.

    Returns: `Found`, whose `plan` is the best.

    Raises: as `evolve`, `TimeSets` and `solve.plan`.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Gaussian(torch.zeros(2), 0.2 * torch.eye(2), process=rv.process.vp())
    >>> x = torch.ones(1, 2)
    >>> found = search_times(o.process, lambda plan: float((rv.run(plan, o, x) - 0.45).abs().max()), 3, labels=50, evaluations=60)
    >>> found.plan.nfe, found.score <= found.archive[0][1]
    (3, True)
    """
    space = TimeSets(process, steps, solver, labels, end, tuple(grids), options)
    found = evolve(
        space, score, evaluations=evaluations, seed=seed, known=known, progress=progress, mutations=mutations,
        crossovers=crossovers, name="autodiffusion",
    )  # fmt: skip
    return found.cited("autodiffusion")
