"""The settings of the solvers' claims: exact where they say so, the same for all arms, another one every seed."""

from __future__ import annotations

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError
from reverie.papers.problems import Problem, mixture, overlapping


@pytest.fixture(scope="module")
def problem() -> Problem:
    return mixture(0, 16)


def test_errors_fall_with_the_budget_at_the_solvers_order(problem):
    errors = [problem.error("ddim@logsnr", nfe) for nfe in (20, 40, 80)]
    assert errors[0] > errors[1] > errors[2] > 0
    assert errors[1] / errors[2] == pytest.approx(2.0, rel=0.2), "DDIM is of order 1"
    assert problem.error("dpmpp-2m@logsnr", 80) < errors[2] / 5


def test_an_error_is_the_median_distance_to_the_exact_solution(problem):
    """By hand: the solution of the model's own ODE from the same noises, by many steps of a solver of order 3."""
    plan, x = problem.samples("ddim@logsnr", 10)
    fine = rv.sample(problem.m, 16, plan=rv.solve.plan("dpmpp-3m", problem.m.process, nfe=2000), seed=0, decode=False)
    off = (x - fine.double()).norm(dim=1).median() / fine.double().square().sum(1).mean().sqrt()
    assert problem.error("ddim@logsnr", 10) == pytest.approx(float(off), rel=1e-2)
    assert plan.nfe == 10


def test_a_list_counts_by_its_best(problem):
    grids = ["ddim@logsnr", "ddim@time"]
    assert problem.error(grids, 10) == min(problem.error(s, 10) for s in grids)


def test_samples_are_made_once_and_from_the_same_noises(problem):
    assert problem.samples("ddim@logsnr", 10) is problem.samples("ddim@logsnr", 10)
    other = mixture(0, 16).samples("ddim@logsnr", 10)[1]
    assert torch.equal(problem.samples("ddim@logsnr", 10)[1], other)


def test_no_arm_gets_more_than_its_budget(problem):
    for spec in ("dpm-fast@logsnr", "heun@time", "pndm@time"):
        plan = problem.samples(spec, 15)[0]
        assert plan.nfe is not None
        assert plan.nfe <= 15


def test_figures_are_of_every_arm_and_budget(problem):
    arms = {"method": "ddim@logsnr", "baseline": ("ddim@logsnr", 2), "best": ["ddim@logsnr", "ddim@time"]}
    found = problem.figures("error", arms, [5, 10])
    assert list(found) == ["mixture/5", "mixture/10"]
    assert list(found["mixture/5"]) == list(arms)
    assert found["mixture/5"]["baseline"] == found["mixture/10"]["method"], "twice the budget"


def test_every_seed_has_its_own_mixture_and_overlapping_components():
    one, other = overlapping(0), overlapping(1)
    assert not torch.equal(one.components.means, other.components.means)
    assert torch.equal(one.components.means, overlapping(0).components.means)
    assert one.components.means.norm(dim=1).tolist() == pytest.approx([2.0] * 10)


def test_guidance_moves_the_exact_solution():
    assert mixture(0, 4, 7.5).error("ddim@logsnr", 10) != mixture(0, 4).error("ddim@logsnr", 10)


def test_a_model_without_a_shape_is_refused():
    class Shapeless:
        shape = None

    with pytest.raises(ArgumentError, match="'x' must know its shape"):
        Problem("x", Shapeless(), 4, 0)  # type: ignore[arg-type]
