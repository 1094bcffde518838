"""Searches: no candidate twice, the archive only improves, the seed decides all, what is cut short goes on; over sets of times."""

from __future__ import annotations

import itertools
import json
import math
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reverie as rv
from reverie.base import ArgumentError, NonFiniteError, TimeError, UnknownNameError
from reverie.solve import Plan, evolve, search_times
from reverie.solve.tuning.timesets import TimeSets

P = rv.process.vp()
O = rv.oracle.Mixture([[-1.0, 0.5], [1.0, 0.2], [0.1, -1.0]], 0.4, process=P)
Z = P.prior(torch.linspace(-1.5, 1.5, 16, dtype=torch.float64).reshape(8, 2))


class Counted:
    """A cheap score of plans, far from where the uniform set is best; counts and remembers."""

    def __init__(self, stop: int | None = None) -> None:
        self.seen: list[tuple[float, ...]] = []
        self.stop = stop

    def __call__(self, plan: Plan) -> float:
        if self.stop is not None and len(self.seen) == self.stop:
            raise KeyboardInterrupt
        self.seen.append(plan.times)
        wanted = [0.95 - 0.22 * i**1.2 for i in range(len(plan.times) - 1)]
        return sum(abs(t - w) for t, w in zip(plan.times, wanted, strict=False))


def test_exhaustive_search_finds_the_same_optimum() -> None:
    space = TimeSets(P, 3, labels=12)
    score = Counted()
    every = {g: score(space.plan(g)) for g in itertools.combinations(range(12), 3)}
    found = search_times(P, score, 3, labels=12, evaluations=1000)
    assert found.score == min(every.values())
    assert every[found.genome] == found.score
    assert len(found.archive) <= len(every) == 220


def test_nothing_is_scored_twice_and_a_small_space_ends_the_search() -> None:
    score = Counted()
    found = search_times(P, score, 2, labels=6, evaluations=10_000)
    assert len(score.seen) == len(set(score.seen)) == len(found.archive) == math.comb(6, 2)
    assert found.finished


def test_exactly_so_many_are_scored() -> None:
    for evaluations in (1, 7, 50, 51, 130):
        score = Counted()
        found = search_times(P, score, 4, labels=40, evaluations=evaluations)
        assert len(score.seen) == len(found.archive) == evaluations


def test_the_best_so_far_only_improves_and_is_never_worse_than_uniform() -> None:
    found = search_times(P, Counted(), 4, labels=40, evaluations=200)
    assert found.curve == sorted(found.curve, reverse=True)
    assert found.curve[-1] == found.score == min(s for _, s in found.archive)
    assert found.archive[0][0] == TimeSets(P, 4, labels=40).first()[0], "the uniform set is scored first"
    assert found.score < found.archive[0][1]


def test_the_seed_decides_all() -> None:
    one, same, two = (search_times(P, Counted(), 4, labels=60, evaluations=120, seed=s) for s in (3, 3, 4))
    assert one.archive == same.archive
    assert one.archive != two.archive
    assert one.archive[0] == two.archive[0]


def test_evolution_does_better_than_chance_where_good_sets_are_near_each_other() -> None:
    space, won = TimeSets(P, 5, labels=200), 0
    for seed in range(5):
        bred = evolve(space, Counted(), evaluations=250, seed=seed)
        drawn = evolve(space, Counted(), evaluations=250, seed=seed, mutations=0, crossovers=0)
        won += bred.score < drawn.score
    assert won >= 4


def test_parents_come_from_the_whole_archive() -> None:
    """With one parent and mutations alone, every child of a generation is a mutation of the best ever."""
    seen: list[Any] = []

    class Watched(TimeSets):
        def mutate(self, g: Any, rng: Random, gentle: bool = False) -> Any:
            seen.append((g, gentle))
            return super().mutate(g, rng, gentle)

    found = evolve(
        Watched(P, 3, labels=50), Counted(), evaluations=80, population=10, parents=1, mutations=10, crossovers=0
    )
    first = found.archive[0][0]
    assert all(g == first for g, gentle in seen if gentle)
    best, parents = [], {g for g, gentle in seen if not gentle}
    for k in range(10, 80, 10):
        best.append(min(found.archive[:k], key=lambda pair: pair[1])[0])
    assert parents <= set(best)


def test_what_is_cut_short_returns_the_best_and_goes_on_exactly() -> None:
    whole = search_times(P, Counted(), 4, labels=60, evaluations=150)
    half = search_times(P, Counted(stop=83), 4, labels=60, evaluations=150)
    assert (half.finished, len(half.archive)) == (False, 83)
    assert half.archive == whole.archive[:83]
    rest = Counted()
    known = json.loads(json.dumps(half.scores))
    again = search_times(P, rest, 4, labels=60, evaluations=150, known=known)
    assert len(rest.seen) == 150 - 83
    assert again.archive == whole.archive
    assert again.finished


def test_an_interruption_before_any_score_is_an_interruption() -> None:
    with pytest.raises(KeyboardInterrupt):
        search_times(P, Counted(stop=0), 4, labels=60, evaluations=10)


def test_a_lost_candidate_is_the_worst() -> None:
    def score(plan: Plan) -> float:
        if plan.times[0] > 0.9:
            raise NonFiniteError("lost")
        return math.nan if plan.times[0] > 0.8 else plan.times[0]

    found = search_times(P, score, 3, labels=30, evaluations=60)
    assert found.score <= 0.8
    assert {s for g, s in found.archive if TimeSets(P, 3, labels=30).times[g[0]] > 0.8} == {math.inf}
    with pytest.raises(ArgumentError, match="none of 20 candidates"):
        search_times(P, lambda plan: math.inf, 3, labels=30, evaluations=20)


def test_progress_is_told() -> None:
    told: list[tuple[str, float]] = []
    search_times(P, Counted(), 3, labels=30, evaluations=20, progress=lambda what, share: told.append((what, share)))
    assert len(told) == 20
    assert told[-1][1] == 1.0
    assert "20 of 20 scored, best" in told[-1][0]


def test_a_predictor_decides_what_is_scored() -> None:
    """One that knows the score leaves the search only good candidates; one that knows its opposite only bad ones."""
    space, truth = TimeSets(P, 4, labels=60), Counted()

    def oracle(sign: float) -> Any:
        return lambda plans, scores, others: [sign * truth(p) for p in others]

    right, wrong = (evolve(space, Counted(), evaluations=150, predictor=oracle(s), seed=1) for s in (1.0, -1.0))
    after = [sum(s for _, s in f.archive[50:]) / 100 for f in (right, wrong)]
    assert after[0] < after[1] / 2
    assert right.score < evolve(space, Counted(), evaluations=150, seed=1).score + 1e-12


def test_what_was_found_says_where_it_comes_from(tmp_path: Any) -> None:
    score = rv.solve.endpoint_error(O, 8, reference=1e-3)
    found = search_times(P, score, 4, labels=50, evaluations=30, seed=2)
    assert found.plan.provenance == {"search": "autodiffusion", "seed": 2, "evaluations": 30, "score": found.score}
    assert "autodiffusion" in found.plan.papers
    assert score(found.plan) == found.score
    found.plan.save(tmp_path / "p.json")
    again = rv.Plan.load(tmp_path / "p.json")
    assert torch.equal(rv.run(again, O, Z), rv.run(found.plan, O, Z))


def test_any_solver_and_end() -> None:
    found = search_times(
        P, Counted(), 3, labels=30, evaluations=10, solver="heun", end="sigma_min", grids=("time", "logsnr")
    )
    assert found.plan.solver == "heun"
    assert found.plan.times[-1] == P.t_min
    held = search_times(P, Counted(), 3, labels=30, evaluations=10, solver="dpmpp-2m", variant="taylor")
    assert held.plan.options == {"variant": "taylor"}


def test_labels_of_a_discrete_process_are_whole() -> None:
    p = rv.process.ddpm(torch.linspace(0.999, 0.01, 100, dtype=torch.float64))
    space = TimeSets(p, 4)
    assert space.times == tuple(float(t) for t in range(99, -1, -1))
    assert [space.times[i] for i in space.first()[0]] == [99.0, 74.0, 50.0, 25.0]
    assert space.plan((3, 10, 50, 99)).times == (96.0, 89.0, 49.0, 0.0, -1.0)


def test_the_first_sets_are_the_nearest_to_their_grids() -> None:
    for grids in (("time",), ("time", "quadratic", "logsnr")):
        space = TimeSets(P, 5, labels=1000, grids=grids)
        for grid, g in zip(grids, space.first(), strict=True):
            wanted = rv.solve.plan("ddim", P, steps=5, grid=grid).times[:5]
            assert max(abs(space.times[i] - t) for i, t in zip(g, wanted, strict=True)) <= 0.0006
    crowded = TimeSets(P, 5, labels=5)
    assert crowded.first() == [(0, 1, 2, 3, 4)]
    assert crowded.mutate((0, 1, 2, 3, 4), Random(0)) is None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.booleans())
def test_candidates_are_sets_in_order(seed: int, steps: int, gentle: bool) -> None:
    space, rng = TimeSets(P, steps, labels=12), Random(seed)
    a, b = space.random(rng), space.random(rng)
    made = [a, b, space.mutate(a, rng, gentle), space.cross(a, b, rng)]
    for g in made[: 3 if made[3] is None else 4]:
        assert g is not None
        assert list(g) == sorted(set(g))
        assert len(g) == steps
        assert g[0] >= 0
        assert g[-1] < 12
    if made[3] is not None:
        assert set(made[3]) <= {*a, *b}


def test_mutation_rates_are_the_papers() -> None:
    space, rng, g = TimeSets(P, 10, labels=1000), Random(0), tuple(range(0, 1000, 100))
    for gentle, rate in ((False, 0.25), (True, 0.1)):
        kept = sum(len(set(space.mutate(g, rng, gentle) or ()) & set(g)) for _ in range(400))
        assert 1 - kept / 4000 == pytest.approx(rate, abs=0.025)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"evaluations": 0}, "got 0"),
        ({"evaluations": 2.5}, "2.5"),
        ({"population": 20}, "do not fit into a population of 20"),
        ({"parents": 0}, "parents"),
        ({"mutations": -1}, "-1"),
        ({"seed": -1}, "seed"),
        ({"attempts": 0}, "attempts"),
        ({"breadth": 0}, "breadth"),
    ],
)
def test_numbers_that_cannot_be(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        evolve(TimeSets(P, 3, labels=10), Counted(), **{"evaluations": 5, **options})


def test_spaces_that_cannot_be() -> None:
    for options, named in (
        ({"steps": 0}, "got 0"),
        ({"steps": 5, "labels": 4}, "5 steps need as many times; there are 4"),
        ({"steps": 2, "labels": 0}, "got 0"),
        ({"steps": 2, "labels": "time"}, "'time'"),
        ({"steps": 2, "end": "zero"}, "'zero'"),
        ({"steps": 2, "grids": ()}, "at least one grid"),
    ):
        with pytest.raises(ArgumentError, match=named):
            TimeSets(P, **options)  # type: ignore[arg-type]
    with pytest.raises(TimeError, match=r"2\.0"):
        TimeSets(P, 1, labels=[0.5, 2.0])
    with pytest.raises(UnknownNameError, match="ddimm"):
        TimeSets(P, 2, solver="ddimm")
    with pytest.raises(ArgumentError, match="score must be"):
        evolve(TimeSets(P, 2, labels=9), 3.0, evaluations=2)  # type: ignore[arg-type]
