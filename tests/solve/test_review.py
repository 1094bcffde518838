"""Regressions found by review: each was once a Python exception, or silently wrong."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError, UnknownNameError
from reverie.solve import Plan, Stage, capture, prediction, state
from reverie.solve.capture import Captured

VP, FLOW = rv.process.vp(), rv.process.flow()


def mixture() -> rv.Model:
    return rv.oracle.Mixture([[-1.0, 0.3], [0.4, -0.8]], [0.3, 0.5], process=VP)


@pytest.mark.parametrize("pair", ["dopri5", "bosh3"])
def test_the_adaptive_solver_has_gradients(pair: str) -> None:
    """They go through the states; through the step sizes they were NaN."""
    torch.manual_seed(0)
    plan, x = rv.solve.plan("ode-adaptive", VP, rtol=1e-6, atol=1e-6, pair=pair), torch.randn(2, 2).double()
    y = x.clone().requires_grad_()
    (made,) = torch.autograd.grad(rv.run(plan, mixture(), y, grad="full").sum(), y)
    want = torch.zeros_like(x)
    for i in range(4):
        step = torch.zeros(4).double()
        step[i] = 1e-3
        step = step.reshape(2, 2)
        want.view(-1)[i] = (rv.run(plan, mixture(), x + step).sum() - rv.run(plan, mixture(), x - step).sum()) / 2e-3
    assert torch.allclose(made, want, atol=1e-3)


def test_a_plan_run_in_inference_mode_gives_gradients_later() -> None:
    """What a plan keeps is made outside inference mode, or autograd refuses it for good."""
    plan, x = rv.solve.plan("unipc-3", VP, 6), torch.ones(2, 2).double()
    with torch.inference_mode():
        rv.run(plan, mixture(), x)
    y = x.clone().requires_grad_()
    assert torch.autograd.grad(rv.run(plan, mixture(), y, grad="full").sum(), y)[0].isfinite().all()


def test_a_network_that_asks_for_the_labels_gradient_leaves_no_trace() -> None:
    plan, seen = rv.solve.plan("ddim", VP, 3), []

    def asks(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(t.requires_grad)
        t.requires_grad_()
        return x

    for _ in range(2):
        rv.run(plan, rv.Model(asks, VP, predicts="eps"), torch.ones(2, 2))
    assert seen == [False] * 6


def test_a_stage_that_keeps_its_state_still_makes_its_prediction() -> None:
    """A row that is the state unchanged took a way out before the prediction was made that three later rows read."""
    rows = [Stage(0.1 * prediction(0) + 0.1 * state(k), None, 1 - 0.1 * k) for k in (1, 2, 3, 4)]
    plan = Plan("by hand", VP, (Stage(1.0 * state(0), 1.0, 1.0), *rows), 1.0, ("eps",))
    x = torch.randn(3, 2).double()
    m = rv.Model(lambda x, t: 0.5 * x, VP, predicts="x0")
    eps, want = m(x, 1.0).eps, x
    for _ in rows:
        want = 0.1 * eps + 0.1 * want
    assert torch.allclose(rv.run(plan, m, x), want)


def test_the_adaptive_solver_takes_end_zero() -> None:
    """It has no steps, so `zero` and `denoise` are the same."""
    x = torch.ones(2, 2)
    zero, denoise = (rv.solve.plan("ode-adaptive", VP, end=end) for end in ("zero", "denoise"))
    assert torch.equal(rv.run(zero, mixture(), x), rv.run(denoise, mixture(), x))


@pytest.mark.parametrize("grid", ["leading", "linspace"])
@pytest.mark.parametrize("end", ["denoise", "zero", "sigma_min"])
def test_n_steps_are_n_steps_on_flows_too(grid: str, end: str) -> None:
    """Their t_min is clean itself: a placed node there, and none after it, left one step out."""
    for n in (1, 2, 8):
        plan = rv.solve.plan("euler", FLOW, n, grid=grid, end=end)
        assert (plan.steps, plan.nfe, plan.times[-1]) == (n, n, 0.0)


@pytest.mark.parametrize(
    ("solver", "options", "says"),
    [
        ("ddim", {"eta": "1"}, "eta of 'ddim' must be a number, got '1'"),
        ("lms", {"order": 2.0}, "order of 'lms' must be a whole number, got 2.0"),
        ("ipndm", {"order": True}, "whole number, got True"),
        ("sa-solver", {"predictor": 2.0}, "predictor of 'sa-solver' must be a whole number"),
        ("sa-solver", {"tau_min": math.nan}, "0 <= tau_min <= tau_max"),
        ("sa-solver", {"tau_min": 3, "tau_max": 1}, "got 3 and 1"),
        ("dpmpp-2m", {"lower_final": "no"}, "True or False, got 'no'"),
        ("dpm-fast", {"orders": 3}, "one a step, got \\[3\\]"),
        ("restart", {"intervals": ((0.06, 0.3, math.inf, 2),)}, "got \\(0.06, 0.3, inf, 2\\)"),
        ("heun", {"churn": math.nan}, "churn=nan"),
        ("heun", {"churn": 1.0, "churn_min": 2.0, "churn_max": 1.0}, "got 2.0 and 1.0"),
        ("ddim", {"grid": 5}, "a grid is a name"),
        ("ddim", {"grid": torch.tensor(3.0)}, "a grid is a name"),
        ("ddim", {"grid": "karras:1e-9"}, "too small a rho"),
        ("ddim", {"span": 0.5}, "span goes from .* got 0.5"),
        ("ddim", {"span": (1, 0.5, 0)}, "span goes from"),
        ("ddim", {"nonsense": 1}, "has no option 'nonsense'. It takes: eta"),
    ],
)
def test_options_of_another_type_are_named(solver: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        rv.solve.plan(
            solver, VP, **({"steps": None if isinstance(options.get("grid"), torch.Tensor) else 18} | options)
        )


def test_an_unknown_end_is_named_beside_given_times_too() -> None:
    with pytest.raises(UnknownNameError, match="unknown end 'bogus'"):
        rv.solve.plan("ddim", VP, grid=[1.0, 0.5, 0.0], end="bogus")


@pytest.mark.parametrize("options", [{"bogus": 1}, {"h": 0}, {"h": -0.1}, {"h": math.nan}, {"lam": math.nan}])
def test_check_order_names_what_is_wrong(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(options))):
        rv.solve.check_order("ddim", VP, **options)
    with pytest.raises(ArgumentError, match="'vp'"):
        rv.solve.check_order("ddim", "vp")  # type: ignore[arg-type]


def test_whole_floats_count_restarts() -> None:
    plan = rv.solve.plan("restart", VP, 18, intervals=((0.06, 0.3, 3.0, 2.0),))
    assert plan.nfe == rv.solve.plan("restart", VP, 18).nfe


def test_options_come_back_from_a_file_as_they_were(tmp_path: Path) -> None:
    """Tuples inside tuples, infinity, and what `repeat` notes."""
    for plan in (
        rv.solve.plan("restart", VP, 18, intervals=((0.06, 0.3, 3, 2), (0.5, 1.0, 3, 1))),
        rv.solve.plan("heun", VP, 5, churn=1.0, churn_max=math.inf),
        rv.solve.plan("ddim", VP, 6).repeat(2, length=3),
        rv.solve.plan("dpm-fast", VP, 3, orders=(3, 2, 1)),
    ):
        plan.save(tmp_path / "plan.json")
        again = Plan.load(tmp_path / "plan.json")
        assert again.options == plan.options
        assert [s.row.terms for s in again.table] == [s.row.terms for s in plan.table]


def test_a_captured_run_does_not_reuse_the_last_condition() -> None:
    m = rv.Model(lambda x, t, c: x * c[:, None], VP, predicts="eps")
    x, plan = torch.ones(2, 2), rv.solve.plan("ddim", VP, 2)

    def replayed(work: Any) -> Any:
        work()
        return work

    captured = Captured(plan, m, x, {"c": torch.ones(2)}, None, replayed)
    captured(x, cond={"c": torch.zeros(2)})
    with pytest.raises(ArgumentError, match=r"cond \[\] was given, \['c'\] captured"):
        captured(x)
    with pytest.raises(ArgumentError, match="CUDA"):
        capture(plan, m, x)


@pytest.mark.parametrize(
    ("tokens", "more"), [("4096", {}), (1e9, {}), (math.inf, {}), (3, {"base_tokens": 4, "top_tokens": 4}), (3, {"base": math.nan})]
)  # fmt: skip
def test_dynamic_shift_names_what_is_wrong(tokens: Any, more: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        rv.process.dynamic_shift(tokens, **more)


def test_a_number_of_calls_is_a_reference_on_flows_too() -> None:
    """The fine plan ended short of t_min = 0, where the compared ones end."""
    o = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=FLOW)
    by = [rv.compare(o, ("ddim",), nfe=6, n=32, fine=32, reference=r).rows[0].error for r in (200, 1e-6)]
    assert by[0] is not None
    assert by[1] is not None
    assert by[0].value == pytest.approx(by[1].value, rel=1e-2)


def test_compare_names_a_budget_that_is_no_whole_number() -> None:
    with pytest.raises(ArgumentError, match=r"got 6\.0"):
        rv.compare(mixture(), ("ddim",), nfe=6.0)  # type: ignore[arg-type]


def test_given_grids_have_their_own_span() -> None:
    with pytest.raises(rv.base.ArgumentError, match=r"leave out span, got \(0.5, 0\)"):
        rv.solve.plan("ddim", rv.process.vp(), grid=[0.9, 0.5, 0.1], span=(0.5, 0))


def test_a_plan_that_has_run_can_be_copied_and_pickled() -> None:
    o = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=rv.process.vp())
    plan = rv.solve.plan("unipc-3", o.process, steps=5)
    x = rv.run(plan, o, torch.ones(2, 2))
    for again in (pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan)):
        assert torch.equal(rv.run(again, o, torch.ones(2, 2)), x)


def test_data_to_start_from_have_the_models_shape() -> None:
    o = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=rv.process.vp())
    with pytest.raises(rv.base.ShapeError, match=r"\(3,\).*\(2,\)"):
        rv.sample(o, 4, init=torch.zeros(4, 3), span=(0.5, 0), steps=3)


def test_compare_says_that_a_solver_has_no_budget() -> None:
    with pytest.raises(rv.base.ArgumentError, match="ode-adaptive"):
        rv.inspect.entry("ode-adaptive")
