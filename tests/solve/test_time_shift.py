"""Time shift: window 0 is the plan itself, the paper's step as a plain loop, the estimate with its spread and bias, and samples by themselves."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError, ShapeError, UnknownNameError
from reverie.solve.time_shift import fitted_time, state_variance, time_shift

from . import reference as ref

DDPM, VP = ref.PROCESSES["ddpm"], ref.PROCESSES["vp"]
D = 12
MEANS = 0.3 * torch.randn(3, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def answer(p: Any, kind: str, x: Tensor, t: Tensor) -> Tensor:
    """A network `(B, D)` of smooth answers, row by row, that knows the time of each row."""
    a, s = (f(t.double()).to(x)[:, None] for f in (p.alpha, p.sigma))
    x0 = torch.tanh(x / (a * a + s * s).sqrt()) * a + 0.1 * MEANS[0].to(x)
    eps = (x - a * x0) / s
    return {"x0": x0, "eps": eps, "v": a * eps - s * x0}[kind]


def model(p: Any, kind: str = "eps") -> rv.Model:
    return rv.Model(lambda x, t: answer(p, kind, x, t), p, predicts=kind, label="t", shape=(D,))


def start(b: int = 6) -> Tensor:
    return torch.randn(b, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


# -- limits


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "unipc-3", "heun", "pndm", "deis-3", "ddpm"])
@pytest.mark.parametrize("process", ["vp", "ddpm"])
def test_without_a_window_it_is_the_plan_to_the_bit(name: str, process: str) -> None:
    p = ref.PROCESSES[process]
    plan = rv.solve.plan(name, p, steps=8)
    narrow = 1.9 if process == "ddpm" else 0.0  # less than a label to either side
    for options in ({"window": 0}, {"window": narrow}, {"window": p.t_max / 5, "cutoff": p.t_max}):
        for mode in ("both", "label"):
            shifted = time_shift(plan, **{"cutoff": 0.0, **options}, mode=mode)
            assert torch.equal(rv.run(shifted, model(p), start()), rv.run(plan, model(p), start()))
            assert (shifted.nfe, shifted.steps) == (plan.nfe, plan.steps)
    if p is VP:  # a window of nothing, searched all the same: to rounding
        other = rv.run(time_shift(plan, 1e-12, 0.0), model(p), start())
        torch.testing.assert_close(other, rv.run(plan, model(p), start()), rtol=1e-9, atol=1e-9)


def test_a_state_at_its_scheduled_level_is_not_moved() -> None:
    """A sample whose time fits is carried by exactly 1 and 0, beside others that are shifted."""
    from reverie.solve.time_shift import _carried

    for kind in ("x0", "eps"):
        plan = rv.solve.plan("dpmpp-2m" if kind == "x0" else "dpm-2m", DDPM, grid=[999.0, 500.0, 100.0])
        line = _carried(plan, 1, torch.tensor([[500.0], [480.0]], dtype=torch.float64))
        assert line.terms["x", 1][0] == 1
        assert line.terms["p", 1, 0][0] == 0
        assert line.terms["p", 1, 0][1] != 0


# -- the paper's algorithm


def told(p: Any, x: Tensor, t: float, window: float) -> Tensor:
    """Its line 3 with whole labels."""
    half = math.floor(window / 2)
    labels = [min(max(t + i, 0), 999) for i in range(-half, half + 1)]
    v = x.var(1)
    return torch.tensor([min(labels, key=lambda k: (float(value) - p.sigma(float(k)) ** 2) ** 2) for value in v])


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
@pytest.mark.parametrize("mode", ["both", "label"])
def test_ddim_is_the_papers_loop(mode: str, kind: str) -> None:
    plan = rv.solve.plan("ddim", DDPM, steps=10, grid="trailing")
    at, x, k = plan.times, start(), None
    shifts = []
    for i, (t, to) in enumerate(itertools.pairwise(at)):
        k = torch.full((len(x),), t) if k is None else k
        alpha, sigma = (
            f(k if mode == "both" else torch.full_like(k, t)).double()[:, None] for f in (DDPM.alpha, DDPM.sigma)
        )
        raw = answer(DDPM, kind, x, k)
        x0 = {"eps": (x - sigma * raw) / alpha, "x0": raw, "v": alpha * x - sigma * raw}[kind]
        e = {"eps": raw, "x0": (x - alpha * raw) / sigma, "v": sigma * x + alpha * raw}[kind]
        x = DDPM.alpha(to) * x0 + DDPM.sigma(to) * e
        k = told(DDPM, x, to, 30) if to > 300 and i < 9 else None
        shifts.append(0 if k is None else (k - to).abs().max())
    assert sum(shifts) > 20
    made = rv.run(time_shift(plan, window=30, cutoff=300, mode=mode), model(DDPM, kind), start())
    torch.testing.assert_close(made, x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("mode", ["both", "label"])
@pytest.mark.parametrize("name", ["dpmpp-2m", "dpm-2m", "ipndm", "unipc-2", "dpmpp-3m", "heun"])
def test_any_prediction_type_and_guided_models(name: str, mode: str) -> None:
    """Mode "both" is one trajectory whatever the network says; a guided run is that of the guided network."""
    plan = time_shift(rv.solve.plan(name, VP, steps=7), window=0.1, cutoff=0.2, mode=mode)
    made = [rv.run(plan, model(VP, kind), start()) for kind in ("eps", "x0", "v")]
    if mode == "both":
        for other in made[1:]:
            torch.testing.assert_close(other, made[0], rtol=1e-7, atol=1e-7)
    null = {"y": torch.zeros(())}
    shape = (-1, 1)
    m = rv.Model(lambda x, t, y: answer(VP, "eps", x, t) + 0.1 * y.reshape(shape), VP, label="t", null=null)
    whole = rv.Model(lambda x, t, y: answer(VP, "eps", x, t) + 0.2 * y.reshape(shape), VP, label="t", null=null)
    y = torch.linspace(0, 1, 6, dtype=torch.float64)
    guided = rv.run(plan, m | rv.guide.CFG(2.0), start(), cond={"y": y})
    torch.testing.assert_close(guided, rv.run(plan, whole, start(), cond={"y": y}), rtol=1e-7, atol=1e-7)


def test_the_history_of_a_multistep_solver_holds_predictions_at_shifted_labels() -> None:
    """Mode "label" on dpm-2m: the row by hand, with the network told other labels."""
    plan, x = (
        rv.solve.plan("dpm-2m", DDPM, grid=[999.0, 800.0, 600.0, 450.0], variant="midpoint", lower_final=False),
        start(),
    )
    first = answer(DDPM, "eps", x, torch.full((6,), 999.0))
    said, states = [first], [x]
    for k, t in enumerate(plan.times[:-1]):
        if k:
            said.append(answer(DDPM, "eps", states[-1], told(DDPM, states[-1], t, 40)))
        row = plan.table[k].row
        states.append(
            sum(float(c) * (states[key[1]] if key[0] == "x" else said[key[1]]) for key, c in row.terms.items())
        )
    made = rv.run(time_shift(plan, window=40, cutoff=0, mode="label"), model(DDPM), x)
    torch.testing.assert_close(made, states[-1], rtol=1e-9, atol=1e-9)


def test_a_sample_is_shifted_by_itself() -> None:
    plan = time_shift(rv.solve.plan("dpmpp-2m", DDPM, steps=8), window=60, cutoff=200)
    m, x = model(DDPM), start().float()
    whole, kept = rv.run(plan, m, x, record=("t",))
    times = [t for t in kept["t"] if isinstance(t, Tensor)]
    assert times
    assert any(t.std() > 1 for t in times)
    for rows in ([3], [5, 0], [1, 1, 4]):
        assert torch.equal(rv.run(plan, m, x[rows]), whole[rows])
    many = rv.sample(m, 9, plan=plan, batch=4)
    assert torch.equal(rv.sample(m, 1, start=6, plan=plan, batch=4)[0], many[6])


def test_the_schedule_does_not_move() -> None:
    plan = rv.solve.plan("ddim", DDPM, steps=10)
    _, kept = rv.run(time_shift(plan, window=20, cutoff=300), model(DDPM), start(), record=("t",))
    for asked, t in zip(kept["t"], plan.times, strict=False):
        if isinstance(asked, Tensor):
            assert (asked - t).abs().max() <= 10
            assert t > 300
            assert ((asked - t) % 1 == 0).all()
        else:
            assert asked == t
    assert not isinstance(kept["t"][0], Tensor)


# -- the estimate


@pytest.mark.parametrize(("k", "d"), [(300, 3072), (450, 3072), (450, 12288)])
def test_the_spread_of_the_estimate(k: int, d: int) -> None:
    """sd(k) = sigma^2 sqrt(2 / (d - 1)) / (alpha^2 beta), the noise alone, with no window in the way."""
    g = torch.Generator().manual_seed(0)
    x = DDPM.sigma(float(k)) * torch.randn(1500, d, generator=g)
    found = fitted_time(DDPM, state_variance(x), float(k), 600)
    abar = float(ref.ABAR[k])
    sd = (1 - abar) * math.sqrt(2 / (d - 1)) / (abar * (1 - abar / float(ref.ABAR[k - 1])) * 1)
    assert float(found.std()) == pytest.approx(sd, rel=0.12)
    assert float(found.mean()) == pytest.approx(k, abs=5 * sd / math.sqrt(1500) + 0.05 * sd)


def test_the_bias_by_the_data_and_how_it_is_taken_out() -> None:
    """Data of variance s^2 within a sample move the estimate by s^2 / beta labels, towards noise."""
    g = torch.Generator().manual_seed(1)
    k, d, std = 300, 3072, 0.2
    alpha, sigma = DDPM.alpha(float(k)), DDPM.sigma(float(k))
    x = alpha * (0.5 + std * torch.randn(1500, d, generator=g)) + sigma * torch.randn(1500, d, generator=g)
    v = state_variance(x)
    assert float(v.mean()) == pytest.approx(sigma**2 + alpha**2 * std**2, rel=2e-3)
    beta = 1 - float(ref.ABAR[k] / ref.ABAR[k - 1])
    moved = fitted_time(DDPM, v, float(k), 300).mean() - k
    assert float(moved) == pytest.approx(std**2 / beta, rel=0.12)
    assert abs(float(fitted_time(DDPM, v, float(k), 300, data=std**2).mean()) - k) < 0.8


@pytest.mark.parametrize("process", ["vp", "edm", "flow3", "ddpm"])
def test_a_state_at_another_level_is_recognised(process: str) -> None:
    p = ref.PROCESSES[process]
    t = 0.5 * p.t_max
    for share in (0.47, 0.5, 0.52):
        k = share * p.t_max if process != "ddpm" else float(round(share * p.t_max - 0.5) + 0.5)
        found = fitted_time(p, torch.tensor([p.sigma(k) ** 2]), t, 0.1 * p.t_max)
        assert float(found) == pytest.approx(k, abs=0.1 * p.t_max / 128)
    wide = fitted_time(p, torch.tensor([0.0, 1e9]), t, 4 * p.t_max)
    assert p.t_min <= float(wide[0]) < t < float(wide[1]) <= p.t_max


def test_a_state_that_was_pushed_off_its_level_is_asked_where_it_is() -> None:
    """A hook noises the state to label 540 where the schedule says 500: the answer there is the exact one, and the row goes on from 500."""
    d, std = 3072, 0.05
    o = rv.oracle.Mixture(torch.zeros(1, d), std, process=DDPM)
    plan = rv.solve.plan("ddim", DDPM, grid=[999.0, 500.0, 400.0])
    z = torch.randn(4, d, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x0 = std * torch.randn(4, d, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    class Push:
        def after(self, run: Any) -> None:
            if run.k == 0:
                run.x = DDPM.alpha(540.0) * x0 + DDPM.sigma(540.0) * z

    made, kept = rv.run(time_shift(plan, window=160, cutoff=100, data=std**2), o, z, hooks=Push(), record=("t",))
    plain = rv.run(plan, o, z, hooks=Push())
    assert float((kept["t"][1] - 540).abs().max()) < 5 * 30
    assert float(kept["t"][1].mean()) == pytest.approx(540, abs=35)
    right = math.sqrt(DDPM.sigma(400.0) ** 2 + DDPM.alpha(400.0) ** 2 * std**2)
    assert abs(float(made.std()) - right) < abs(float(plain.std()) - right) / 3


# -- plans and input


def test_a_saved_plan_is_the_same(tmp_path: Any) -> None:
    plan = time_shift(rv.solve.plan("dpmpp-2m", DDPM, steps=6), window=30, cutoff=200, mode="label", data=0.1)
    plan.save(tmp_path / "plan.json")
    back = rv.Plan.load(tmp_path / "plan.json")
    assert torch.equal(rv.run(back, model(DDPM), start()), rv.run(plan, model(DDPM), start()))
    assert "time-shift(window=30.0, cutoff=200.0, mode=label, data=0.1)" in str(back)
    assert back.papers == ("dpm-solver-pp", "time-shift-sampler")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"window": -1.0}, "window must be finite and at least 0, got -1"),
        ({"data": math.nan}, "data must be finite"),
        ({"cutoff": math.inf}, "cutoff must be a time"),
        ({"mode": "target"}, "both"),
    ],
)
def test_bad_numbers(options: dict[str, Any], match: str) -> None:
    plan = rv.solve.plan("ddim", DDPM, steps=5)
    with pytest.raises((ArgumentError, UnknownNameError), match=match):
        time_shift(plan, **{"window": 20.0, "cutoff": 300.0, **options})


def test_plans_and_states_that_cannot_be_shifted() -> None:
    plan = rv.solve.plan("ddim", DDPM, steps=5)
    shifted = time_shift(plan, 20.0, 300.0)
    for other, match in (
        (shifted, "decides its steps"),
        (rv.solve.plan("ode-adaptive", DDPM), "decides its steps"),
        (rv.solve.plan("ddim", DDPM, grid=[(10.0, 900.0), (1.0, 300.0), (0.0, None)]), "labels of its own"),
    ):
        with pytest.raises(ArgumentError, match=match):
            time_shift(other, 20.0, 300.0)
    with pytest.raises(ShapeError, match="at least 2 entries"):
        rv.run(shifted, rv.Model(lambda x, t: x, DDPM), torch.ones(3, 1))

    class Drop:
        def after(self, run: Any) -> None:
            run.select(torch.tensor([0, 0]))

    with pytest.raises(ArgumentError, match="selects samples"):
        rv.run(shifted, model(DDPM), start(2), hooks=Drop())
