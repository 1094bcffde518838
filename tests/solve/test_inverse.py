"""BDIA and inverses by algebra: its rows by hand, exact round trips, how errors grow, and plans that have no inverse."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError
from reverie.solve.inverse import amplification, inverse, window
from reverie.solve.line import one, prediction, state
from reverie.solve.plan import Plan, Stage

from . import reference as ref

MEANS = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def oracle(p: Any) -> rv.oracle.Mixture:
    return rv.oracle.Mixture(MEANS, 0.7, process=p)


def start(p: Any, n: int = 8) -> Tensor:
    z = torch.randn(n, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return p.prior(z)


@pytest.mark.parametrize("gamma", [1.0, 0.5])
@pytest.mark.parametrize("name", ref.PROCESSES)
def test_its_rows_are_the_papers(name: str, gamma: float) -> None:
    p, o = ref.PROCESSES[name], oracle(ref.PROCESSES[name])
    plan = rv.solve.plan("bdia", p, steps=6, gamma=gamma)
    t, x = plan.times, [start(p)]

    def step(i: int, j: int) -> Tensor:
        said = o(x[i], t[i])
        return float(p.alpha(t[j])) * said.x0 + float(p.sigma(t[j])) * said.eps

    x.append(step(0, 1))
    for k in range(1, 6):
        x.append(gamma * x[k - 1] - gamma * step(k, k - 1) + step(k, k + 1))
    torch.testing.assert_close(rv.run(plan, o, x[0]), x[-1], rtol=1e-10, atol=1e-10)


def test_it_is_of_second_order_on_even_nodes_and_of_first_with_less_correction() -> None:
    p, o = ref.PROCESSES["vp"], oracle(ref.PROCESSES["vp"])
    z, fine = start(p, 30), rv.solve.plan("dpmpp-3m", p, steps=1500, end="sigma_min")
    star = rv.run(fine, o, start(p, 30))
    for gamma, order in ((1.0, 2.0), (0.5, 1.0)):
        errors = [
            rv.run(rv.solve.plan("bdia", p, steps=n, gamma=gamma, end="sigma_min"), o, z).sub(star).norm(dim=1).median()
            for n in (40, 80, 160)
        ]
        for a, b in pairwise(errors):
            assert float((a / b).log2()) == pytest.approx(order, abs=0.15)
    assert float(errors[0]) > 0


@pytest.mark.parametrize("name", ref.PROCESSES)
@pytest.mark.parametrize("steps", [10, 40, 100])
def test_the_noise_comes_back(name: str, steps: int) -> None:
    p, o = ref.PROCESSES[name], oracle(ref.PROCESSES[name])
    plan, z = rv.solve.plan("bdia", p, steps=steps), start(p)
    back = plan.inverse()
    assert back.nfe == plan.nfe - 1
    for dtype, bound in ((torch.float64, 1e-11), (torch.float32, 1e-5)):
        x, kept = rv.run(plan, o, z.to(dtype), record="x")
        again, earlier = rv.run(back, o, x, inputs={"before": kept["x"][-1]}, record="x")
        scale = float(z.abs().max())
        assert float((again - z).abs().max()) < bound * scale
        assert float((earlier["x"][-1] - kept["x"][1]).abs().max()) < bound * scale


def test_a_guided_run_on_digits_comes_back(tmp_path: Any) -> None:
    m = rv.load("digits")
    plan = rv.solve.plan("bdia", m.process, steps=20)
    z = m.process.prior(rv.Noise(0).normal((1, 8, 8), range(4)))
    cond = {"class_labels": torch.tensor([1, 2, 3, 4])}
    x, kept = rv.run(plan, m | rv.guide.CFG(2.0), z, cond=cond, record="x")
    plan.inverse().save(tmp_path / "back.json")
    back = rv.Plan.load(tmp_path / "back.json")
    again = rv.run(back, m | rv.guide.CFG(2.0), x, cond=cond, inputs={"before": kept["x"][-1]})
    assert float((again - z).abs().max()) < 1e-3
    unguided = rv.run(back, m, x, cond=cond, inputs={"before": kept["x"][-1]})
    assert float((unguided - z).abs().max()) > 0.05


@pytest.mark.parametrize("gamma", [1.0, 0.8, 0.5])
@pytest.mark.parametrize("name", ["vp", "edm", "flow"])
def test_the_amplification_is_what_errors_meet(name: str, gamma: float) -> None:
    p = ref.PROCESSES[name]
    o = rv.oracle.Mixture(0.7 * MEANS, 0.7, process=p)
    plan = rv.solve.plan("bdia", p, steps=14, gamma=gamma)
    said = amplification(plan)
    x, kept = rv.run(plan, o, start(p, 40), record="x")
    g = torch.Generator().manual_seed(3)
    d = [1e-7 * torch.randn(x.shape, generator=g, dtype=torch.float64) for _ in range(2)]
    back, pair = inverse(plan, limit=1e9), kept["x"][-1]
    moved = rv.run(back, o, x + d[0], inputs={"before": pair + d[1]}) - rv.run(back, o, x, inputs={"before": pair})
    met = float((moved.norm(dim=1) / d[0].norm(dim=1)).median()) / p.prior_std()
    assert said / 4 < met < 2 * said


def test_too_large_an_amplification_is_refused_with_the_remedy() -> None:
    plan = rv.solve.plan("bdia", ref.PROCESSES["vp"], steps=30, gamma=0.5)
    with pytest.raises(ArgumentError, match=r"multiplies errors by 5\.\de\+08, above 1000: take gamma nearer to 1"):
        plan.inverse()
    assert plan.inverse(limit=1e10).nfe == 29


def test_other_tables_that_algebra_inverts() -> None:
    """Three states at once, an input, a constant; and one state where the prediction is not read."""
    p, o = ref.PROCESSES["vp"], oracle(ref.PROCESSES["vp"])
    times = [0.9, 0.7, 0.5, 0.35, 0.2, 0.1]
    stages = []
    for k, (s, t) in enumerate(pairwise(times)):
        row = 0.2 * state(k) + 0.5 * prediction(k) + 0.1 * one()
        if k >= 2:
            row = row + 0.6 * state(k - 2) - 0.3 * prediction(k - 1)
        stages.append(Stage(row, s, t, k))
    plan = Plan("three", p, tuple(stages), times[0])
    assert window(plan) == 3
    z = start(p)
    x, kept = rv.run(plan, o, z, record="x")
    back = inverse(plan, limit=1e9)
    assert back.inputs == ("before1", "before2")
    again = rv.run(back, o, x, inputs={"before1": kept["x"][-1], "before2": kept["x"][-2]})
    torch.testing.assert_close(again, z, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("ddim", {}, "reads the prediction at the oldest state"),
        ("dpmpp-2m", {}, "reads the prediction at the oldest state"),
        ("ddim", {"eta": 1.0}, "draws noise"),
        ("evodiff", {}, "decides what it does during the run"),
    ],
)
def test_plans_without_an_inverse_say_so(name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        rv.solve.plan(name, ref.PROCESSES["vp"], steps=5, **options).inverse()


def test_gamma_out_of_range() -> None:
    for gamma in (0.0, 1.5, -1.0):
        with pytest.raises(ArgumentError, match=r"gamma lies in \(0, 1\]"):
            rv.solve.plan("bdia", ref.PROCESSES["vp"], steps=5, gamma=gamma)
