"""ode-adaptive: the error follows the tolerance, every sample has its own steps, and a hook is noticed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError, NonFiniteError
from reverie.solve.adaptive import PAIRS

from . import reference as ref

MEANS, STD = ref.mixture(4, 3)


def oracle(process: str) -> rv.Model:
    return rv.oracle.Mixture(MEANS, STD, process=ref.PROCESSES[process])


def start(plan: Any, b: int = 6) -> torch.Tensor:
    p = plan.process
    z = torch.randn(b, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (p.alpha(plan.start) ** 2 + p.sigma(plan.start) ** 2) ** 0.5 * z


@pytest.mark.parametrize("pair", PAIRS)
def test_the_pairs_are_of_their_order(pair: str) -> None:
    """Order conditions up to 3 for rows and weights; the error weights sum to zero; the last row is at 1."""
    order, places, rows, error = PAIRS[pair]
    a = torch.zeros(len(rows) + 1, len(rows) + 1, dtype=torch.float64)
    for i, row in enumerate(rows):
        a[i + 1, : len(row)] = torch.tensor(row, dtype=torch.float64)
    c, e = torch.tensor((0.0, *places), dtype=torch.float64), torch.tensor(error, dtype=torch.float64)
    assert torch.allclose(a.sum(1), c, atol=1e-14)
    b = a[-1]
    for weights, highest in ((b, order), (b - e, order - 1)):
        for k in range(highest):  # int_0^1 s^k
            assert float(weights @ c**k) == pytest.approx(1 / (k + 1), abs=1e-14)
        if highest >= 3:
            assert float(weights @ (a @ c)) == pytest.approx(1 / 6, abs=1e-14)
    assert float(e.sum()) == pytest.approx(0, abs=1e-15)
    assert float((b - e) @ c ** (order - 1)) != pytest.approx(1 / order, abs=1e-6)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("process", ["vp", "cosine", "edm", "flow3", "ddpm"])
def test_the_error_follows_the_tolerance(process: str, pair: str) -> None:
    o, errors, calls = oracle(process), [], []
    for tol in (1e-3, 1e-5, 1e-7):
        plan = rv.solve.plan("ode-adaptive", o.process, rtol=tol, atol=tol, pair=pair, end="sigma_min")
        x, before = start(plan), o.calls
        made = rv.run(plan, o, x)
        calls.append(o.calls - before)
        exact = rv.oracle.solve_ode(o, x, plan.start, plan.rule[1]["until"], rtol=1e-10)
        errors.append(float((made - exact).abs().max()))
    assert errors[1] < 30 * 1e-5
    assert errors[2] < 30 * 1e-7
    assert calls[0] < calls[1] < calls[2] < 1000
    stages = len(PAIRS[pair][2])
    assert all(n % stages == 1 for n in calls)  # the last slope of a step is the first of the next


def test_the_end_is_the_exact_x0_of_the_last_state() -> None:
    """To sigma = 0 the state goes by the last slope: exactly the model's x0 at t_min, up to the slope's own error."""
    o = oracle("vp")
    tight: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-8}
    clean, noisy = (rv.solve.plan("ode-adaptive", o.process, end=end, **tight) for end in ("denoise", "sigma_min"))
    x = start(clean)
    last = rv.run(noisy, o, x)
    assert torch.allclose(rv.run(clean, o, x), o(last, o.process.t_min).x0, atol=1e-6)


def test_a_sample_does_not_depend_on_the_others() -> None:
    """Alone or beside samples that need more steps, to the last bit; also in `sample`, in other job sizes."""
    o = oracle("vp")
    plan = rv.solve.plan("ode-adaptive", o.process)
    x = start(plan)
    whole = rv.run(plan, o, x)
    assert torch.equal(rv.run(plan, o, x[[4, 2, 2, 2, 2, 2]])[0], whole[4])
    many = rv.sample(o, 9, solver="ode-adaptive", rtol=1e-4, batch=4)
    assert torch.equal(rv.sample(o, 1, start=6, solver="ode-adaptive", rtol=1e-4, batch=4)[0], many[6])


def test_guidance_and_prediction_types() -> None:
    """A guided model, and one told its label by a function, run at times of their own."""
    p = ref.PROCESSES["vp"]
    o = rv.oracle.Mixture(MEANS, STD, labels=range(len(MEANS)), process=p)
    labels = {"class_labels": torch.tensor([0, 1, 0, 1, 0, 1]), "null": {"class_labels": torch.tensor(-1)}}
    plan = rv.solve.plan("ode-adaptive", p, rtol=1e-7, atol=1e-7, end="sigma_min")
    x = start(plan)
    for guide in (rv.guide.CFG(2.0), rv.guide.CFG(2.0, interval=(0.2, 0.6))):
        wide = rv.Model(o.net, p, predicts="x0", null={"class_labels": torch.tensor(-1)}, shape=(4,)) | guide
        cond = {"class_labels": labels["class_labels"]}
        made = rv.run(plan, wide, x, cond=cond)
        exact = rv.oracle.solve_ode(
            wide, x, plan.start, p.t_min, cond=cond, rtol=1e-7 if guide.interval is None else 1e-5
        )
        assert torch.allclose(made, exact, atol=1e-4)


def test_a_hook_that_moves_the_state_is_noticed() -> None:
    """The slope kept from the last step belongs to the old state: it is asked anew, and the run ends where it would have from there."""
    o = oracle("vp")
    plan = rv.solve.plan("ode-adaptive", o.process, rtol=1e-8, atol=1e-8, end="sigma_min")
    x, moved = start(plan), []

    class Push:
        def after(self, run: Any) -> None:
            if not run.stage.inner and not moved:
                angle = float(run.t if isinstance(run.t, float) else run.t.max())
                assert angle == plan.rule[1]["until"]
                run.x = run.x + 0.1
                moved.append((run.k, run.x.clone()))

    times: list[float] = []

    class Watch:
        def before(self, run: Any) -> None:
            if run.stage.t is not None and moved and not times:
                times.append(float(run.stage.t.max()))
                assert torch.equal(run.x, moved[0][1])

    made = rv.run(plan, o, x, hooks=[Push(), Watch()])
    exact = rv.oracle.solve_ode(o, moved[0][1], times[0], plan.rule[1]["until"], rtol=1e-9)
    assert torch.allclose(made, exact, atol=1e-5)


def test_bad_input_is_named() -> None:
    p = ref.PROCESSES["vp"]
    for options, match in (
        ({"rtol": 0.0}, "rtol"),
        ({"atol": float("inf")}, "atol"),
        ({"pair": "rk45"}, "rk45"),
        ({"max_calls": 0}, "max_calls"),
        ({"steps": 8}, "chooses its own steps"),
        ({"nfe": 8}, "chooses its own steps"),
        ({"grid": "karras"}, "chooses its own steps"),
    ):
        with pytest.raises(ArgumentError, match=match):
            rv.solve.plan("ode-adaptive", p, **options)
    o = oracle("vp")
    with pytest.raises(ArgumentError, match="max_calls = 8"):
        rv.sample(o, 2, solver="ode-adaptive", max_calls=8)
    with pytest.raises(NonFiniteError, match="samples"):
        rv.sample(rv.Model(lambda x, t: x / 0, p, predicts="eps", shape=(3,)), 2, solver="ode-adaptive")

    class Drop:
        def after(self, run: Any) -> None:
            if run.k == 9:
                run.select(torch.tensor([0, 1]))

    plan = rv.solve.plan("ode-adaptive", p)
    with pytest.raises(ArgumentError, match="selects samples"):
        rv.run(plan, o, start(plan), hooks=Drop())


def test_a_saved_plan_is_the_same(tmp_path: Any) -> None:
    o = oracle("vp")
    plan = rv.solve.plan("ode-adaptive", o.process, rtol=1e-4)
    plan.save(tmp_path / "plan.json")
    again = rv.Plan.load(tmp_path / "plan.json")
    assert torch.equal(rv.run(again, o, start(plan)), rv.run(plan, o, start(plan)))
    assert again.nfe == plan.nfe == 1000
    assert "ode-adaptive" in str(again)
