"""Genomes: tables of USF's choices, as a search bears, changes and mixes them.

A genome holds the nodes and each step's choices (`solve.usf`). What is drawn, after the paper's released code, a step and a field at a time:

    time        lam += N(0, 0.03 of the process's range of lam), then sorted, with gaps of a thousandth of that range
    order       1, 2, 3, 4 with probabilities 0.2, 0.4, 0.3, 0.1, as far as nodes are there; start 0, seldom 1
    nodes       1 or 2 for the first derivative, order - 1 for the others
    kind        x0 or eps
    scale       by name, or c += N(0, 0.03)
    corrector   none or pseudo

The ends of the grid stay. A genome that asks the model too often loses steps at random places, one that asks too seldom gains some.

Source: Liu et al. 2023 (2312.07243, appendix; its times move by N(0, 0.03) in t on VP, by a factor 1 + N(0, 0.08) in sigma on EDM).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from reverie.base import ArgumentError, unknown
from reverie.process import Process
from reverie.solve.grids import nodes as grid_nodes
from reverie.solve.plan import Plan
from reverie.solve.solver import plan
from reverie.solve.unroll import unroll
from reverie.solve.usf import CORRECTORS, SCALES, Nodes, Scale

__all__ = ["KNOWN", "Genome", "Tables", "known"]

KNOWN = ("ddim", "dpm-2m", "dpmpp-2m", "dpmpp-3m", "dpmpp-2s", "unipc-2", "unipc-3")
"""Solvers that begin a search; `known` writes them as choices, and some others."""
_FIELDS = ("kind", "order", "start", "nodes", "scale", "corrector", "corrector_scale")


@dataclass(frozen=True)
class Genome:
    """N steps as choices; plain data, the options of `usf` with their nodes.

    Attributes:
        times: N + 1 falling times of the process. The others: see `solve.usf`; tuples of N.

    >>> import reverie as rv
    >>> p = rv.process.vp()
    >>> g = Genome((1.0, 0.6, 0.3, 0.0), **known("dpmpp-2m", 3))
    >>> g.plan(p).nfe, Genome.of(g.data()) == g
    (3, True)
    """

    times: tuple[float, ...]
    kind: tuple[str, ...]
    order: tuple[int, ...]
    start: tuple[int, ...]
    nodes: tuple[Nodes | None, ...]
    scale: tuple[Scale, ...]
    corrector: tuple[str, ...]
    corrector_scale: tuple[Scale, ...]
    afs: bool = False

    @property
    def steps(self) -> int:
        """N."""
        return len(self.times) - 1

    def plan(self, process: Process) -> Plan:
        """The compiled table. Raises as `solve.plan`."""
        return _compiled(self, process)

    def data(self) -> dict[str, Any]:
        """Plain data, as JSON takes it."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, data: dict[str, Any]) -> Genome:
        """The genome of its plain data, also where JSON made lists of its tuples. Raises `ArgumentError` for other fields."""
        if not isinstance(data, dict) or set(data) != {f.name for f in dataclasses.fields(cls)}:
            raise ArgumentError(
                f"a genome has the fields {', '.join(f.name for f in dataclasses.fields(cls))}; got {data!r:.120}"
            )
        return cls(**{name: _tuples(value) for name, value in data.items()})

    def without(self, i: int) -> Genome:
        """The genome without inner node i, 0 < i < N, and the choices of the step from it."""
        return self._each(lambda row: row[:i] + row[i + 1 :], self.times[:i] + self.times[i + 1 :])

    def with_node(self, i: int, t: float) -> Genome:
        """The genome with a node at t in its step i; the step to it has the choices of the whole, without corrector."""
        new = self._each(lambda row: row[: i + 1] + row[i:], (*self.times[: i + 1], t, *self.times[i + 1 :]))
        return dataclasses.replace(new, corrector=_put(new.corrector, i, "none"))

    def _each(self, f: Any, times: tuple[float, ...]) -> Genome:
        return dataclasses.replace(self, times=times, **{name: f(getattr(self, name)) for name in _FIELDS})


@functools.lru_cache(maxsize=1024)
def _compiled(g: Genome, process: Process) -> Plan:
    return plan("usf", process, grid=g.times, **{f: getattr(g, f) for f in (*_FIELDS, "afs")})


def known(name: str, steps: int, zero: bool = True) -> dict[str, Any]:
    """The choices with which `usf` is a known solver of N steps on a grid that begins where alpha > 0; its order falls towards the end where N < 10.

    Args:
        name: "ddim", "dpm-2m", "dpmpp-2m", "dpmpp-3m", "dpm-2s", "dpmpp-2s" (both on the grid's own nodes), "unipc-1", "unipc-2", "unipc-3", or
            "deis-2", "deis-3", "deis-4" in the variable log-rho. steps: N. zero: whether the last node has sigma = 0.

    >>> known("dpmpp-2m", 3)["order"]
    (1, 2, 1)
    """
    tops = {"ddim": 1, "dpm-2m": 2, "dpmpp-2m": 2, "dpmpp-3m": 3, "dpm-2s": 2, "dpmpp-2s": 2}
    family, _, top = name.partition("-")
    if family in ("unipc", "deis") and top in ("1", "2", "3", "4")[: 3 if family == "unipc" else 4]:
        tops[name] = int(top)
    if name not in tops:
        raise unknown(
            "solver that is a table of choices",
            name,
            [*tops, "unipc-1", "unipc-2", "unipc-3", "deis-2", "deis-3", "deis-4"],
        )
    single = name.endswith("2s")
    order = [min(tops[name], i + 1, steps - i if steps < 10 else steps) for i in range(steps)]
    if zero:
        order[-1] = 1
    if single:  # pairs of intervals, the second from the start of the first
        pairs = [i % 2 == 1 and (i < steps - 1 or not zero) for i in range(steps)]
        order = [1 + pair for pair in pairs]
    scaled = family not in ("ddim", "deis")
    corrected = "pseudo" if family == "unipc" else "none"
    return {
        "kind": ("eps" if name.startswith(("dpm-", "deis")) else "x0",) * steps,
        "order": tuple(order),
        "start": tuple(int(single and n == 2) for n in order),
        "nodes": (None,) * steps,
        "scale": tuple("bh2" if scaled and n == 2 else "none" for n in order),
        "corrector": (corrected,) * (steps - 1) + ("none",),
        "corrector_scale": tuple("bh2" if corrected == "pseudo" and n == 1 else "none" for n in order),
    }


@dataclass(frozen=True)
class Tables:
    """The space of genomes with a number of evaluations, for `evolve`.

    Args:
        process: the model's. nfe: evaluations of every genome, at least 2. end: as for `solve.plan`.
        seeds, grids: the first genomes: each of these solvers (`known`) on each of these grids. kinds, correctors: what may be drawn.
        afs: whether the analytical first step may be drawn.

    Raises: as `solve.plan`.

    >>> import reverie as rv
    >>> space = Tables(rv.process.vp(), 5)
    >>> len(space.first()), space.plan(space.random(Random(0))).nfe
    (21, 5)
    """

    process: Process
    nfe: int
    end: str = "denoise"
    seeds: tuple[str, ...] = KNOWN
    grids: tuple[str, ...] = ("logsnr", "time", "quadratic")
    kinds: tuple[str, ...] = ("x0", "eps")
    correctors: tuple[str, ...] = ("none", "pseudo")
    afs: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.nfe, bool) or not isinstance(self.nfe, int) or self.nfe < 2:
            raise ArgumentError(f"a search of tables takes at least 2 evaluations, got nfe={self.nfe!r}")
        for name, given, allowed in (("kind", self.kinds, ("x0", "eps")), ("corrector", self.correctors, CORRECTORS)):
            for value in given:
                if value not in allowed:
                    raise unknown(name, value, allowed)
            if not given:
                raise ArgumentError(f"the search needs at least one {name} of {', '.join(allowed)}")
        if not self.seeds or not self.grids:
            raise ArgumentError("the search begins from at least one solver on at least one grid; give seeds and grids")
        self.first()

    def first(self) -> list[Genome]:
        """The seeds, each once."""
        out = dict[str, Genome]()
        for grid in self.grids:
            at = grid_nodes(self.process, grid, self.nfe, self.end)
            for name in self.seeds:
                g = Genome(tuple(n.t for n in at), **known(name, len(at) - 1, at[-1].sigma == 0))
                g = self._fitting(g, Random(0))
                out.setdefault(self.key(g), g)
        return list(out.values())

    def plan(self, g: Genome) -> Plan:
        """The plan of a genome."""
        return g.plan(self.process)

    def key(self, g: Genome) -> str:
        """A name of its unrolled table: two genomes that compute the same have one key."""
        u = unroll(self.plan(g))
        rows = [round(v, 9) + 0.0 for v in (*u.rows.flatten().tolist(), *u.times, u.to)]
        return hashlib.sha256(repr(rows).encode()).hexdigest()[:24]

    def random(self, rng: Random) -> Genome:
        """A genome of random nodes, even in lam or in time on average, and random choices."""
        low, high = self.process.lam_range
        at = grid_nodes(self.process, rng.choice(self.grids), self.nfe, self.end)
        g = Genome(tuple(n.t for n in at), **known("ddim", len(at) - 1))
        inner = [rng.uniform(low, high) for _ in at[1:-1]]
        if rng.random() < 0.5:
            inner = [self.process.lam(rng.uniform(self.process.t_min, self.process.t_max)) for _ in inner]
        return self._fitting(self._drawn(self._spaced(g, inner), rng, 1.0, times=False), rng)

    def mutate(self, g: Genome, rng: Random, gentle: bool = False) -> Genome:
        """A step more or less, with probability 0.2 each, and every field of every step drawn anew with probability 0.3 (gentle: 0.1)."""
        if rng.random() < 0.2:
            g = self._longer(g, rng)
        if rng.random() < 0.2 and g.steps > 2:
            g = g.without(rng.randrange(1, g.steps))
        return self._fitting(self._drawn(g, rng, 0.1 if gentle else 0.3), rng)

    def cross(self, a: Genome, b: Genome, rng: Random) -> Genome | None:
        """Every field from one of two parents of equal length, then with probability 0.5 the rows' choices step by step, then mutated; what a
        row is made of (order, start, nodes) goes together."""
        if a.steps != b.steps:
            return None
        tied = (("times",), ("kind",), ("order", "start", "nodes", "scale"), ("corrector", "corrector_scale"), ("afs",))
        whole = [rng.random() < 0.5 for _ in tied]
        if len(set(whole)) == 1:  # at least one field from each
            i = rng.randrange(len(tied) - 1)
            whole[i] = not whole[i]
        taken = {f: getattr(b if side else a, f) for side, fields in zip(whole, tied, strict=True) for f in fields}
        if rng.random() < 0.5:
            sides = [rng.random() < 0.5 for _ in range(a.steps)]
            for f in _FIELDS[:5]:
                taken[f] = tuple(y if s else x for x, y, s in zip(getattr(a, f), getattr(b, f), sides, strict=True))
        return self.mutate(Genome(**taken), rng, gentle=True)

    def _drawn(self, g: Genome, rng: Random, rate: float, times: bool = True) -> Genome:
        rows = {f: list(getattr(g, f)) for f in _FIELDS}
        low, high = self.process.lam_range
        lams = [self.process.lam(t) for t in g.times[1:-1]]
        for i in range(g.steps):
            if times and i > 0 and rng.random() < rate:
                lams[i - 1] += rng.gauss(0, 0.03 * (high - low))
            if rng.random() < rate:
                rows["kind"][i] = rng.choice(self.kinds)
            if rng.random() < rate:
                rows["order"][i] = min(rng.choices((1, 2, 3, 4), (0.2, 0.4, 0.3, 0.1))[0], i + 1)
                rows["start"][i] = int(i > 0 and rng.random() < 0.1)
                rows["nodes"][i] = self._active(i, rows["order"][i], rows["start"][i], rng)
            if rng.random() < rate:
                c = rows["scale"][i]
                drawn = rng.gauss(0, 0.03) + (c if isinstance(c, float) else 0.0)
                rows["scale"][i] = rng.choice(SCALES) if rng.random() < 0.5 else drawn
            if rng.random() < rate:
                rows["corrector"][i] = rng.choice(self.correctors)
                rows["corrector_scale"][i] = rng.choice(SCALES)
        afs = rng.random() < 0.5 if self.afs and rng.random() < rate else g.afs
        made = dataclasses.replace(g, afs=afs, **{f: tuple(row) for f, row in rows.items()})
        return self._spaced(made, lams)

    @staticmethod
    def _active(i: int, order: int, start: int, rng: Random) -> Nodes | None:
        """The nearest nodes, for the first derivative 1 or 2 of them; None where the row has no derivative."""
        near = tuple(b for b in range(i + 1) if b != start)[: order - 1 if order > 2 else 2]
        if order == 1:
            return None
        return (near[: rng.choice((1, 2))], *(near for _ in range(2, order)))

    def _spaced(self, g: Genome, lams: Sequence[float]) -> Genome:
        """The genome with its inner nodes at these lam: sorted, and a thousandth of the range apart."""
        low, high = self.process.lam_range
        gap, n = 1e-3 * (high - low), len(lams)
        lams = sorted(min(max(v, low), high) for v in lams)
        last = self.process.lam(g.times[-1])
        for j in range(n):
            lams[j] = max(lams[j], lams[j - 1] + gap if j else low + gap)
        for j in range(n - 1, -1, -1):
            lams[j] = min(lams[j], lams[j + 1] - gap if j < n - 1 else min(high, last) - gap)
        times = (g.times[0], *(self.process.t_of_lam(v) for v in lams), g.times[-1])
        return dataclasses.replace(g, times=times)

    def _longer(self, g: Genome, rng: Random) -> Genome:
        """A node more, in the middle of a step in time."""
        i = rng.randrange(g.steps)
        return g.with_node(i, (g.times[i] + g.times[i + 1]) / 2)

    def _fitting(self, g: Genome, rng: Random) -> Genome:
        """The genome with steps taken away or added until it asks the model nfe times."""
        for attempt in range(20):
            asked = self.plan(g).nfe or 0
            if asked == self.nfe:
                return g
            if attempt > 10:
                g = dataclasses.replace(g, corrector=tuple("pseudo" if c == "implicit" else c for c in g.corrector))
            g = self._longer(g, rng) if asked < self.nfe else g.without(rng.randrange(1, g.steps))
            g = self._spaced(g, [self.process.lam(t) for t in g.times[1:-1]])
        raise ArgumentError(f"no genome of {self.nfe} evaluations was found near {g!r:.200}")


def _put(row: tuple[Any, ...], i: int, value: Any) -> tuple[Any, ...]:
    return (*row[:i], value, *row[i + 1 :])


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
