"""Evolution: a search over anything that compiles to a plan, by a score of plans.

The first generation holds the space's first candidates, random ones, and gentle mutations of the first. Every later one has mutations of the best of
ALL candidates ever scored, crossovers of two of them, and is filled up with random ones. No candidate is scored twice, and an operator that finds
nothing new gives up after ten times its quota of attempts. With a predictor, a generation is the best, by prediction, of several times as many
candidates, the predictor having learnt from all scores so far.

All draws come from the seed and the scores alone. So whoever gives the scores known from a search that was cut short resumes it exactly.

Sources: Li et al. 2023 (2309.10438, algorithm 1 and released code: archive, quotas), Liu et al. 2023 (2312.07243, section 4.2: predictor and stages).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Generic, Protocol, TypeVar

from reverie.base import ArgumentError, NonFiniteError
from reverie.solve.plan import Plan

__all__ = ["Found", "Predictor", "Space", "evolve"]

G = TypeVar("G")
Predictor = Callable[[Sequence[Plan], Sequence[float], Sequence[Plan]], Sequence[float]]
"""`(plans, their scores, other plans)` -> predicted scores of the others, of which only the order matters."""


class Space(Protocol[G]):
    """What is searched. A draw that comes to nothing may be None."""

    def first(self) -> Sequence[G]:
        """Candidates that every search scores first."""

    def random(self, rng: Random) -> G | None:
        """A candidate out of the blue."""

    def mutate(self, g: G, rng: Random, gentle: bool = False) -> G | None:
        """A candidate like g; `gentle` in the first generation."""

    def cross(self, a: G, b: G, rng: Random) -> G | None:
        """A candidate of two."""

    def plan(self, g: G) -> Plan:
        """The plan of a candidate."""

    def key(self, g: G) -> str:
        """The same text for candidates that are the same plan."""


@dataclass(frozen=True, eq=False)
class Found(Generic[G]):
    """What a search found.

    Attributes:
        plan: the best, with `provenance` of the search. genome: as the space has it. score: its score, on the sample of the search.
        archive: all (genome, score), in the order in which they were scored. scores: by key; plain data, which resumes the search as `known=`.
        finished: whether it ran to its end rather than being interrupted.
    """

    plan: Plan
    genome: G
    score: float
    archive: tuple[tuple[G, float], ...]
    scores: Mapping[str, float]
    finished: bool

    def cited(self, slug: str) -> Found[G]:
        """The same, its plan citing a paper."""
        papers = tuple(dict.fromkeys((*self.plan.papers, slug)))
        return dataclasses.replace(self, plan=self.plan.replace(papers=papers))

    @property
    def curve(self) -> list[float]:
        """The best score after each evaluation."""
        out: list[float] = []
        for _, s in self.archive:
            out.append(min(s, out[-1]) if out else s)
        return out


def evolve(
    space: Space[G],
    score: Callable[[Plan], float],
    *,
    evaluations: int,
    population: int = 50,
    parents: int = 10,
    mutations: int = 25,
    crossovers: int = 10,
    attempts: int = 10,
    predictor: Predictor | None = None,
    breadth: int = 4,
    seed: int = 0,
    known: Mapping[str, float] | None = None,
    progress: Callable[[str, float], None] | None = None,
    name: str = "evolve",
) -> Found[G]:
    """The candidate of the lowest score.

    Args:
        space: what is searched. score: of a plan, lower is better; always of the same samples. NaN, infinity and `NonFiniteError` count as lost.
        evaluations: candidates that are scored, the known ones included; fewer if the space holds no more.
        population: candidates a generation, of which `mutations` and `crossovers` have parents among the best `parents` ever; the rest is random.
            mutations=0 and crossovers=0 is random search.
        attempts: times its quota after which an operator gives up.
        predictor: ranks candidates before they are scored, of `breadth` times as many.
        seed: of all draws. known: scores by key, of an earlier search: they are not computed again.
        progress: called with what is done and the share of the whole. name: for the plan's provenance.

    Ctrl-C ends the search with the best so far, `finished=False`; with `known=found.scores` the same call goes on where it stopped.

    Raises: `ArgumentError` for numbers that cannot be, or if every candidate is lost; whatever the score raises.
    """
    for what, number, least in (
        ("evaluations", evaluations, 1), ("population", population, 1), ("parents", parents, 1), ("mutations", mutations, 0),
        ("crossovers", crossovers, 0), ("attempts", attempts, 1), ("breadth", breadth, 1), ("seed", seed, 0),
    ):  # fmt: skip
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ArgumentError(f"{what} must be a whole number of at least {least}, got {number!r}")
    if mutations + crossovers > population:
        raise ArgumentError(
            f"{mutations} mutations and {crossovers} crossovers do not fit into a population of {population}"
        )
    if not callable(score):
        raise ArgumentError(f"score must be a function of a plan, got {score!r:.80}")
    rng, archive = Random(seed), _Archive(space, score, dict(known or {}))
    wave = _Wave(space, archive, attempts)
    times = 1 if predictor is None else breadth
    finished = True
    try:
        firsts = list(space.first())
        for g in firsts:
            wave.take(g)
        wave.draw(population // 2 + 1, lambda: space.random(rng))
        wave.draw(
            population - len(wave), lambda: space.mutate(rng.choice(firsts), rng, gentle=True) if firsts else None
        )
        while wave.new and len(archive) < evaluations:
            for key, g in list(wave.new.items())[: evaluations - len(archive)]:
                best = archive.add(key, g)
                if progress is not None:
                    progress(f"{len(archive)} of {evaluations} scored, best {best:.4g}", len(archive) / evaluations)
            fit = archive.best(parents)
            wave = _Wave(space, archive, attempts)
            if fit and len(archive) < evaluations:
                _breed(wave, fit, rng, times * mutations, times * crossovers)
            wave.draw(times * population - len(wave), lambda: space.random(rng))
            if predictor is not None and len(wave) > population:
                wave.keep(population, predictor)
    except KeyboardInterrupt:
        finished = False
        if not archive.best(1):
            raise
    return archive.found(finished, {"search": name, "seed": seed, "evaluations": len(archive)})


def _breed(wave: _Wave[G], parents: Sequence[G], rng: Random, mutations: int, crossovers: int) -> None:
    """Candidates that have parents."""
    space = wave.space
    wave.draw(mutations, lambda: space.mutate(rng.choice(parents), rng))
    wave.draw(crossovers, lambda: space.cross(rng.choice(parents), rng.choice(parents), rng))


class _Archive(Generic[G]):
    """All that was scored, by key, in order."""

    def __init__(self, space: Space[G], score: Callable[[Plan], float], known: dict[str, float]) -> None:
        self.space, self.score, self.known = space, score, known
        self.genomes: dict[str, G] = {}
        self.plans: dict[str, Plan] = {}
        self.scores: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self.scores)

    def add(self, key: str, g: G) -> float:
        """Score a candidate; returns the best score so far."""
        plan, value = self.space.plan(g), self.known.get(key)
        if value is None:
            try:
                value = float(self.score(plan))
            except NonFiniteError:
                value = math.inf
        self.genomes[key], self.plans[key] = g, plan
        self.scores[key] = value if math.isfinite(value) else math.inf
        return min(self.scores.values())

    def best(self, n: int) -> list[G]:
        ranked = sorted((s, i, k) for i, (k, s) in enumerate(self.scores.items()) if s < math.inf)
        return [self.genomes[key] for _, _, key in ranked[:n]]

    def found(self, finished: bool, provenance: dict[str, Any]) -> Found[G]:
        if not (best := self.best(1)):
            raise ArgumentError(
                f"none of {len(self)} candidates has a finite score; look at what the score makes of one plan"
            )
        value = min(self.scores.values())
        plan = self.space.plan(best[0])
        plan = plan.replace(provenance={**plan.provenance, **provenance, "score": value})
        pairs = tuple((g, self.scores[k]) for k, g in self.genomes.items())
        return Found(plan, best[0], value, pairs, self.scores, finished)


class _Wave(Generic[G]):
    """Candidates of one generation, all new."""

    def __init__(self, space: Space[G], archive: _Archive[G], attempts: int) -> None:
        self.space, self.archive, self.attempts = space, archive, attempts
        self.new: dict[str, G] = {}

    def __len__(self) -> int:
        return len(self.new)

    def take(self, g: G | None) -> bool:
        """Whether it is new."""
        key = "" if g is None else self.space.key(g)
        if g is None or key in self.new or key in self.archive.scores:
            return False
        self.new[key] = g
        return True

    def draw(self, quota: int, operator: Callable[[], G | None]) -> None:
        """As many new candidates as the quota, by an operator that gets so many attempts."""
        for _ in range(self.attempts * quota):
            quota -= self.take(operator())
            if not quota:
                return

    def keep(self, n: int, predictor: Predictor) -> None:
        """The n that are predicted to be best, in that order."""
        known = {key: s for key, s in self.archive.scores.items() if s < math.inf}
        if not known:
            return
        plans = [self.archive.plans[key] for key in known]
        said = predictor(plans, list(known.values()), [self.space.plan(g) for g in self.new.values()])
        ranked = sorted(zip(said, range(len(self)), self.new.items(), strict=True))
        self.new = dict(item for _, _, item in ranked[:n])
