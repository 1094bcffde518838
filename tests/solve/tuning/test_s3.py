"""Genomes and the search for a solver: what is drawn always compiles, round trips, and a search by seed finds what is better than its seeds."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reverie as rv
from reverie.base import ArgumentError, ShapeError, UnknownNameError
from reverie.solve import Genome, endpoint_error, search_solver
from reverie.solve.tuning.genome import KNOWN, Tables, known
from reverie.solve.tuning.s3 import features, neighbours
from reverie.solve.unroll import unroll

from .. import reference as ref

P = ref.PROCESSES["vp"]
O = rv.oracle.Mixture([[-1.0, 0.5, 0.3], [1.0, 0.2, -0.4], [0.1, -1.0, 0.0]], 0.5, process=P)
SPACES = {
    (name, end): Tables(
        ref.PROCESSES[name], 5, end, grids=("logsnr", "karras"), correctors=("none", "pseudo", "implicit"), afs=True
    )
    for name, end in (
        ("vp", "denoise"),
        ("vp", "sigma_min"),
        ("edm", "denoise"),
        ("flow", "denoise"),
        ("ddpm", "denoise"),
    )
}


def draw(space: Tables, seed: int) -> Genome:
    """After some generations of every operator."""
    rng = Random(seed)
    a, b = space.random(rng), rng.choice(space.first())
    for _ in range(3):
        a, b = space.mutate(b, rng), space.mutate(a, rng, gentle=True)
        a = space.cross(a, b, rng) or a
    return a


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(SPACES)), st.integers(0, 10**9))
def test_what_is_drawn_always_compiles_to_the_budget(where: tuple[str, str], seed: int) -> None:
    space = SPACES[where]
    g = draw(space, seed)
    plan = space.plan(g)
    assert plan.nfe == 5
    assert unroll(plan).rows.isfinite().all()
    lo, hi = space.process.lam_range
    lams = [space.process.lam(t) for t in g.times]
    inner = [b - a for a, b in pairwise(lams) if math.isfinite(b - a)]
    assert min(inner) > 0.9e-3 * (hi - lo), "gaps"
    firsts = {f.times[0] for f in space.first()}
    lasts = {f.times[-1] for f in space.first()}
    assert g.times[0] in firsts
    assert g.times[-1] in lasts


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(sorted(SPACES)), st.integers(0, 10**9))
def test_a_genome_is_plain_data(where: tuple[str, str], seed: int) -> None:
    space = SPACES[where]
    g = draw(space, seed)
    again = Genome.of(json.loads(json.dumps(g.data())))
    assert again == g
    assert hash(again) == hash(g)
    assert space.key(again) == space.key(g)
    assert unroll(again.plan(space.process)).distance(unroll(g.plan(space.process))) == 0


def test_draws_are_by_the_seed() -> None:
    space = SPACES["vp", "denoise"]
    assert draw(space, 1) == draw(space, 1)
    assert draw(space, 1) != draw(space, 2)


def test_the_first_genomes_are_the_known_solvers() -> None:
    space = Tables(P, 5)
    plans = [space.plan(g) for g in space.first()]
    inner = {"dpmpp-2s": {"inner": "grid"}}
    for grid in space.grids:
        for name in KNOWN:
            wanted = unroll(rv.solve.plan(name, P, steps=5, grid=grid, **inner.get(name, {})))
            assert min(unroll(p).distance(wanted) for p in plans) < 1e-10, (name, grid)


def test_what_computes_the_same_is_one() -> None:
    space = Tables(P, 4)
    g = Genome((1.0, 0.7, 0.4, 0.2, 0.0), **known("ddim", 4))
    same = dataclasses.replace(g, kind=("eps", "x0", "eps", "x0"), scale=("bh1", 0.2, "none", "bh2"))
    assert space.key(g) == space.key(same)
    assert space.key(g) != space.key(dataclasses.replace(g, order=(1, 2, 1, 1)))
    assert space.key(g) != space.key(dataclasses.replace(g, times=(1.0, 0.7, 0.41, 0.2, 0.0)))


def test_a_step_is_inserted_and_deleted() -> None:
    g = Genome((1.0, 0.7, 0.4, 0.2, 0.0), **known("unipc-2", 4))
    longer = g.with_node(2, 0.3)
    assert longer.times == (1.0, 0.7, 0.4, 0.3, 0.2, 0.0)
    assert longer.order == (1, 2, 2, 2, 1)
    assert longer.corrector == ("pseudo", "pseudo", "none", "pseudo", "none")
    assert dataclasses.replace(longer.without(2), corrector=g.corrector) == dataclasses.replace(
        g, times=(1.0, 0.7, 0.3, 0.2, 0.0)
    )


def test_nodes_stay_apart_and_inside_wherever_they_are_drawn() -> None:
    space, (lo, hi) = Tables(P, 5), P.lam_range
    g = Genome((1.0, 0.8, 0.6, 0.4, 0.2, 0.0), **known("ddim", 5))
    for lams in ([-99.0] * 4, [99.0] * 4, [0.0] * 4, [1.0, -1.0, 1.0, 99.0]):
        made = [P.lam(t) for t in space._spaced(g, lams).times[:-1]]
        assert min(b - a for a, b in pairwise(made)) > 0.99e-3 * (hi - lo)
        assert lo == made[0]
        assert made[-1] < hi


def test_a_child_has_something_of_both_and_nothing_else() -> None:
    """Before the mutation: every field of a row is that of a parent's row of the same step, and rows' orders and nodes stay together."""
    space = Tables(P, 5)

    class Still(Tables):
        def mutate(self, g: Genome, rng: Random, gentle: bool = False) -> Genome:
            return g

    still, rng, sides = Still(P, 5), Random(0), set()
    a = dataclasses.replace(Genome((1.0, 0.8, 0.6, 0.4, 0.2, 0.0), **known("unipc-3", 5)), kind=("eps",) * 5)
    b = Genome((1.0, 0.7, 0.5, 0.3, 0.1, 0.0), **known("dpmpp-2s", 5))
    for _ in range(30):
        child = still.cross(a, b, rng)
        assert child is not None
        for f in ("kind", "order", "start", "nodes", "scale", "corrector", "corrector_scale"):
            assert all(c in pair for c, *pair in zip(*(getattr(g, f) for g in (child, a, b)), strict=True)), f
        assert child.times in (a.times, b.times)
        together = [(g.order[i], g.start[i], g.scale[i]) for g in (a, b) for i in range(5)]
        assert all((child.order[i], child.start[i], child.scale[i]) in together for i in range(5))
        assert child not in (a, b)
        sides.add((child.times == a.times, child.corrector == a.corrector))
    assert len(sides) == 4
    assert space.cross(a, b.without(2), rng) is None


def test_the_features_are_the_unrolled_numbers() -> None:
    plan = rv.solve.plan("dpmpp-2m", P, steps=5)
    u, f = unroll(plan), features(plan)
    assert f.shape == (6 * 7 // 2 + 5,)
    assert set(u.rows.tril().flatten().tolist()) <= {*f.tolist(), 0.0}
    assert f[-5:].tolist() == [P.lam(t) for t in u.times]


def test_the_predictor_is_a_weighted_mean_of_the_nearest_logarithms() -> None:
    space = Tables(P, 4)
    rng = Random(0)
    plans = [space.plan(space.random(rng)) for _ in range(30)]
    scores = [math.exp(features(p).square().sum().item() / 1e3) for p in plans]
    assert neighbours(plans, scores, plans) == pytest.approx([math.log(s) for s in scores], abs=1e-6)
    f = torch.stack([features(p) for p in plans[:20]])
    spread = f.quantile(0.75, 0) - f.quantile(0.25, 0)
    keep = spread > 1e-9
    q = features(plans[25])
    d = ((q - f)[:, keep] / spread[keep]).square().sum(1)
    near = d.argsort()[:3]
    by_hand = sum(math.log(scores[i]) / float(d[i]) for i in near.tolist()) / float((1 / d[near]).sum())
    assert neighbours(plans[:20], scores[:20], [plans[25]], k=3)[0] == pytest.approx(by_hand, rel=1e-6)


@pytest.fixture(scope="module")
def score() -> Any:
    return endpoint_error(O, 16, reference=1e-3)


def test_the_search_beats_its_seeds_also_on_fresh_noises(score: Any) -> None:
    found = search_solver(P, score, 4, evaluations=110, grids=("logsnr", "time"), seed=1)
    space = Tables(P, 4, grids=("logsnr", "time"))
    seeds = [space.plan(g) for g in space.first()]
    assert found.score == score(found.plan) == found.curve[-1]
    assert found.score < min(map(score, seeds))
    fresh = endpoint_error(O, 64, seed=9, reference=1e-3)
    assert fresh(found.plan) < min(map(fresh, seeds))
    assert found.plan.papers == ("usf-s3",)
    assert found.plan.provenance["search"] == "usf-s3"
    assert found.plan.nfe == 4


def test_a_search_is_by_its_seed_and_resumes(score: Any) -> None:
    calls = []

    def counted(plan: rv.Plan) -> float:
        if len(calls) == 55:
            raise KeyboardInterrupt
        calls.append(plan)
        return score(plan)  # type: ignore[no-any-return]

    whole = search_solver(P, score, 3, evaluations=70, grids=("logsnr",))
    half = search_solver(P, counted, 3, evaluations=70, grids=("logsnr",))
    assert not half.finished
    assert half.archive == whole.archive[:55]
    again = search_solver(P, score, 3, evaluations=70, grids=("logsnr",), known=half.scores)
    assert again.archive == whole.archive


def test_the_score_is_the_distance_to_the_fine_solution(score: Any) -> None:
    """By hand, from the same noises; none of them begins a sample."""
    from reverie.base import PRIOR, Noise
    from reverie.solve.tuning.score import STREAM

    assert STREAM != PRIOR
    z = P.draw(Noise(0), (3,), range(16), stream=STREAM)
    plan = rv.solve.plan("dpmpp-2m", P, steps=5)
    x = rv.run(plan, O, P.prior(z, 1.0)).double()
    fine = rv.run(rv.solve.plan("dpmpp-3m", P, steps=400), O, P.prior(z, 1.0).double())
    off = (x - fine).norm(dim=1).median() / fine.square().sum(1).mean().sqrt()
    assert score(plan) == pytest.approx(float(off), rel=0.02)
    assert score(rv.solve.plan("dpmpp-3m", P, steps=60)) < 0.01
    small = endpoint_error(O, 16, batch=5, reference=1e-3)
    assert small(plan) == pytest.approx(score(plan), rel=1e-4)


def test_conditions_are_each_samples_own() -> None:
    o = rv.oracle.Mixture([[-2.0, 0.0], [2.0, 0.0]], 0.3, labels=[0, 1], process=P)
    cond = {"class_labels": torch.tensor([0, 1, 0, 1])}
    plan = rv.solve.plan("ddim", P, steps=4)
    whole, parts = (endpoint_error(o, 4, cond=cond, batch=b, reference=1e-3)(plan) for b in (4, 2))
    assert parts == pytest.approx(whole, rel=1e-4)


def test_what_cannot_be_is_named() -> None:
    for options, named in (
        ({"nfe": 1}, "at least 2 evaluations"),
        ({"nfe": 2.0}, "2.0"),
        ({"nfe": 4, "kinds": ("v",)}, "'v'"),
        ({"nfe": 4, "kinds": ()}, "at least one kind"),
        ({"nfe": 4, "correctors": ("explicit",)}, "explicit"),
        ({"nfe": 4, "seeds": ()}, "at least one solver"),
        ({"nfe": 4, "seeds": ("heun",)}, "heun"),
        ({"nfe": 4, "grids": ("cubic",)}, "cubic"),
    ):
        with pytest.raises((ArgumentError, UnknownNameError), match=named):
            Tables(P, **options)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="a genome has the fields"):
        Genome.of({"times": [1, 0]})
    with pytest.raises(ShapeError, match="give shape"):
        endpoint_error(rv.Model(lambda x, t: x, P, predicts="eps"))
