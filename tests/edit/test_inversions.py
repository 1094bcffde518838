"""A picture's way to its noise: DDIM's and fixed points, DCI, replayed noises, null conditions; each against its limit, and what cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError, TimeError
from reverie.edit import ascent, dci, edit_friendly, null_text

P = rv.process.vp()
D = 12
MEANS = torch.randn(4, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ORACLE = rv.oracle.Mixture(MEANS, 0.5, process=P)
X = ORACLE.sample(24, seed=3).double()
DOWN = rv.solve.plan("ddim", P, steps=20)


def net(x: Tensor, t: Tensor, c: Tensor) -> Tensor:
    return 0.6 * torch.tanh(x + c + t[:, None])


def told(value: float, n: int = 3) -> dict[str, Tensor]:
    return {"c": torch.full((n, D), value, dtype=torch.float64)}


TEXT = rv.Model(net, P, "v", label="t", null={"c": torch.zeros(1, D, dtype=torch.float64)})


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm(dim=1).median())


# -- up by DDIM


def test_ddim_inversion_is_its_formula_by_hand() -> None:
    times = (0.1, 0.4, 0.9)
    x = X
    for low, high in ((0.1, 0.4), (0.4, 0.9)):
        e = ORACLE(x, high).eps
        a = float(P.alpha(high) / P.alpha(low))
        x = a * x + (float(P.sigma(high)) - a * float(P.sigma(low))) * e
    torch.testing.assert_close(rv.run(ascent(P, times), ORACLE, X), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("process", [P, rv.process.flow(), rv.process.edm()])
def test_limit_fixed_points_are_the_exact_inverse(process: Any) -> None:
    o = rv.oracle.Mixture(MEANS, 0.5, process=process)
    down = rv.solve.plan("ddim", process, steps=30, grid="time" if process == P else "karras", end="sigma_min")
    gaps = []
    for rounds in (0, 2, 40):
        up = ascent(process, down.times[::-1], rounds)
        assert up.nfe == 30 * (rounds + 1)
        gaps.append(gap(rv.run(down, o, rv.run(up, o, X)), X))
    assert gaps[2] < 1e-6 < gaps[1] < gaps[0]


def test_guides_and_conditions_go_up_too() -> None:
    m, x = TEXT | rv.guide.CFG(2.0), torch.randn(3, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = rv.run(ascent(P, DOWN.times[::-1], 60), m, x, cond=told(1.0))
    assert gap(rv.run(DOWN, m, z, cond=told(1.0)), x) < 1e-4
    assert gap(rv.run(DOWN, TEXT, z, cond=told(1.0)), x) > 0.05


def test_ascents_that_cannot_be() -> None:
    with pytest.raises(ArgumentError, match="rounds is a whole number of at least 0, got -1"):
        ascent(P, [0.1, 0.2], -1)
    with pytest.raises(ArgumentError, match="two times or more"):
        ascent(P, [0.1])
    with pytest.raises(TimeError, match=r"rise, got 0.5 before 0.2; plan.times\[::-1\]"):
        ascent(P, [0.5, 0.2])


# -- DCI


def test_without_reach_it_descends_to_the_fixed_point() -> None:
    exact = rv.run(ascent(P, DOWN.times[::-1], 40), ORACLE, X)
    start, near = (dci(ORACLE, X, None, times=DOWN, reach=0.0, rounds=n, rate=5e-3, enough=0.0) for n in (0, 60))
    assert torch.equal(start[0], rv.run(ascent(P, DOWN.times[::-1]), ORACLE, X))
    assert gap(near[0], exact) < 0.1 * gap(start[0], exact)
    assert len(near[1]) == DOWN.steps
    assert torch.equal(near[1][-1], near[0])


def test_reach_costs_reconstruction_and_means_the_same_in_every_size() -> None:
    errors = [
        gap(rv.run(DOWN, ORACLE, dci(ORACLE, X, None, times=DOWN, reach=r, rounds=30, rate=5e-3)[0]), X)
        for r in (0, 1, 8)
    ]
    assert errors[0] < errors[1] < errors[2]

    def moved(d: int) -> float:
        """How far, a coordinate, one level's fixed point lies from DDIM's where the answer is 0 and the picture 1."""
        still = rv.Model(lambda x, t: 0 * x, P, "eps")
        x = torch.ones(1, d, dtype=torch.float64)
        ends = [
            dci(still, x, None, times=(0.5, 0.3), reach=r, rounds=400, rate=2e-3, enough=0.0)[0] for r in (0.0, 4.0)
        ]
        return float((ends[1] - ends[0]).mean())

    assert moved(4) == pytest.approx(moved(64), rel=0.05)
    a = float(P.alpha(0.5) / P.alpha(0.3))
    assert moved(16) == pytest.approx((float(P.sigma(0.5)) - a * float(P.sigma(0.3))) * 4 / 128, rel=0.05)
    with pytest.raises(ArgumentError, match="reach >= 0"):
        dci(ORACLE, X, None, times=DOWN, reach=-1.0)


# -- replayed noises


@pytest.mark.parametrize(
    ("solver", "options"), [("ddim", {"eta": 1.0}), ("ddim", {"eta": 0.4}), ("dpmpp-2m-sde", {}), ("euler-a", {})]
)
@pytest.mark.parametrize("end", ["denoise", "sigma_min"])
def test_the_noises_make_the_picture(solver: str, options: dict[str, Any], end: str) -> None:
    plan = rv.solve.plan(solver, P, steps=30, end=end, **options)
    found = edit_friendly(ORACLE, X, plan, seed=5)
    if end == "denoise":
        assert float((found.replay(ORACLE, rest=True) - X).abs().max()) < 1e-9
        assert 0 < float(found.rest.abs().max()) < 1.0
    else:
        level = float(P.sigma(plan.times[-1]))
        assert gap(found.replay(ORACLE), X) < 3 * level * D**0.5
    assert found.noises.shape == (plan.noises, *X.shape)
    assert torch.equal(rv.run(plan, ORACLE, found.start, noise=found.noises), found.replay(ORACLE))


def test_states_are_drawn_independently_so_that_the_noises_are_large_and_anticorrelated() -> None:
    plan = rv.solve.plan("ddpm", P, steps=100, grid="time")
    z = edit_friendly(ORACLE, X, plan).noises[10:80].flatten(1)
    assert float(z.std()) > 2.5
    a, b = z[:-1] - z[:-1].mean(1, keepdim=True), z[1:] - z[1:].mean(1, keepdim=True)
    assert float(((a * b).mean(1) / (a.std(1) * b.std(1))).mean()) == pytest.approx(-0.5, abs=0.06)


def test_an_edit_keeps_its_noises_and_another_seed_is_another_edit() -> None:
    m, x = TEXT | rv.guide.CFG(3.0), torch.randn(3, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plan = rv.solve.plan("ddim", P, steps=20, eta=1.0)
    one, two = (edit_friendly(TEXT, x, plan, cond=told(0.5), guide=rv.guide.CFG(3.0), seed=s) for s in (0, 1))
    assert float((one.replay(m, cond=told(0.5), rest=True) - x).abs().max()) < 1e-9
    other = one.replay(m, cond=told(-0.5), rest=True)
    assert gap(other, x) > 0.05
    assert gap(two.replay(m, cond=told(-0.5), rest=True), other) > 0.01
    near = rv.solve.plan("ddim", P, steps=20, eta=1.0, span=(0.4, 0.0))
    close = edit_friendly(TEXT, x, near, cond=told(0.5), guide=rv.guide.CFG(3.0))
    assert gap(close.replay(m, cond=told(-0.5), rest=True), x) < gap(other, x)


def test_rolled_noises_roll_the_picture() -> None:
    """A network that treats all places alike moves what is shown with the noises that carry it."""
    m = rv.Model(lambda x, t: 0.6 * torch.tanh(x.roll(1, 1) - x), P, "v")
    plan, x = rv.solve.plan("ddim", P, steps=20, eta=1.0), X[:3]
    found = edit_friendly(m, x, plan)
    rolled = rv.run(plan, m, found.start.roll(4, 1), noise=found.noises.roll(4, 2)) + found.rest.roll(4, 1)
    torch.testing.assert_close(rolled, x.roll(4, 1), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("solver", "options", "match"),
    [
        ("ddim", {}, "draws no noise under these options"),
        ("heun", {}, "draws no noise"),
        ("ode-adaptive", {}, "decides what it does during the run"),
        ("pc", {}, "take a static plan|more than one noise"),
    ],
)
def test_plans_without_one_noise_a_step_are_refused(solver: str, options: dict[str, Any], match: str) -> None:
    steps = {} if solver == "ode-adaptive" else {"steps": 4}
    with pytest.raises(ArgumentError, match=match):
        edit_friendly(ORACLE, X, rv.solve.plan(solver, P, **steps, **options))


# -- null conditions


def test_bent_nulls_make_a_guided_run_go_through_the_picture() -> None:
    x = torch.randn(3, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    free = rv.run(
        DOWN, TEXT | rv.guide.CFG(6.0), rv.run(ascent(P, DOWN.times[::-1], 3), TEXT, x, cond=told(1.0)), cond=told(1.0)
    )
    said: list[str] = []
    found = null_text(TEXT, x, told(1.0), times=DOWN, scale=6.0, rounds=60, fixed=3, tell=said.append)
    again = found.replay(TEXT, told(1.0))
    assert gap(again, x) < 0.1 * gap(free, x)
    assert len(found.nulls) == len(found.errors) == len(said) == DOWN.steps
    assert found.nulls[3]["c"].shape == (3, D), "a null of each picture's own"
    assert gap(found.replay(TEXT, told(-1.0)), again) > 0.1
    assert all(e < 1e-3 for e in found.errors)


def test_no_rounds_and_the_prompt_as_null_is_negative_prompt_inversion() -> None:
    x = torch.randn(3, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = null_text(TEXT, x, told(1.0), times=DOWN, scale=6.0, rounds=0, negative=True, fixed=40)
    assert gap(found.replay(TEXT, told(1.0)), x) < 1e-3
    assert found.rounds == (0,) * DOWN.steps
    plain = null_text(TEXT, x, told(1.0), times=DOWN, scale=6.0, rounds=0, fixed=40)
    assert gap(plain.replay(TEXT, told(1.0)), x) > 0.1


def test_models_whose_null_cannot_be_bent() -> None:
    digits = rv.load("digits")
    x, cond = torch.zeros(1, 1, 8, 8), digits.embed("3")
    plan = rv.solve.plan("ddim", digits.process, steps=3)
    with pytest.raises(ArgumentError, match="has no floating tensor to optimise"):
        null_text(digits, x, cond, times=plan)
    assert null_text(digits, x, cond, times=plan, rounds=0, negative=True).start.shape == x.shape
    with pytest.raises(ArgumentError, match="has no null condition"):
        null_text(rv.Model(net, P, "v"), X[:3], told(1.0), times=DOWN)
    with pytest.raises(ArgumentError, match="rounds is a whole number"):
        null_text(TEXT, X[:3], told(1.0), times=DOWN, rounds=-2)
