"""Plans and lines as values: checks, counts, printing."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given as example
from hypothesis import settings
from hypothesis import strategies as st

import reverie as rv
from reverie.base import ArgumentError, TimeError, UnknownNameError
from reverie.solve import Line, Plan, Stage, given, noise, prediction, state

from . import reference as ref

P = ref.PROCESSES["vp"]


@settings(max_examples=50, deadline=None)
@example(*[st.floats(-3, 3, allow_subnormal=False)] * 3)
def test_lines_are_linear(a: float, b: float, c: float) -> None:
    symbols = [state(0), prediction(1, 2), noise(3), given("y")]
    x, y = symbols[0] + symbols[1] * a, symbols[1] - b * symbols[2] + symbols[3]
    left, right = c * (x + y), x * c + y * c
    assert left.terms == pytest.approx(right.terms)
    assert (x - y + y).terms == pytest.approx({**x.terms, ("n", 3): 0.0, ("i", "y"): 0.0})
    assert (-x).terms == pytest.approx((x * -1.0).terms)
    assert (x / 2).terms == pytest.approx((x * 0.5).terms)


def test_tensors_multiply_lines_from_both_sides() -> None:
    c = torch.tensor([1.0, 2.0], dtype=torch.float64)
    for line in (c * state(0), state(0) * c):
        assert isinstance(line, Line)
        assert torch.equal(line.terms["x", 0], c)  # type: ignore[arg-type]


def test_parts_leave_out_exact_zeros() -> None:
    line = 0.0 * state(0) + 2.0 * state(1) + torch.zeros(1) * noise(0)
    assert [key for key, _ in line.part("x")] == [(1,)]
    assert [key for key, _ in line.part("n")] == [(0,)]


def test_counts() -> None:
    plan = rv.solve.plan("heun", P, steps=4, churn=1.0)
    assert plan.nfe == 7
    assert plan.steps == 4
    assert plan.noises == sum(s.t is None for s in plan.table)
    assert len(plan.times) == len(plan.table) + 1
    assert plan.times[0] == plan.start == P.t_max
    assert plan.times[-1] == P.t_clean
    m = rv.Model(lambda x, t: x, P)
    assert plan.cost(m) == 7


def test_replace_checks_anew_and_folds_anew() -> None:
    plan = rv.solve.plan("ddim", P, steps=3)
    m, x = rv.Model(lambda x, t: x.sin(), P), torch.ones(1, 2)
    rv.run(plan, m, x)
    half = plan.replace(table=plan.table[:2])
    assert not torch.equal(rv.run(half, m, x), rv.run(plan, m, x))
    with pytest.raises(ArgumentError, match="at least one stage"):
        plan.replace(table=())
    with pytest.raises(ArgumentError, match="stage 0"):
        plan.replace(table=plan.table[1:])
    with pytest.raises(UnknownNameError, match="prediction type"):
        plan.replace(kinds=("x1",))
    with pytest.raises(TimeError, match="start"):
        plan.replace(start=3.0)


def test_coefficients_must_be_finite() -> None:
    for c in (float("nan"), float("inf"), torch.tensor([1.0, float("nan")])):
        with pytest.raises(ArgumentError, match="not finite"):
            Plan("hand", P, (Stage(c * state(0), None, 0.5),), 0.9)


def test_long_plans_are_checked_in_linear_time() -> None:
    stages = tuple(Stage(1.0 * state(k) + 0.5 * prediction(k), 0.5, 0.5, k) for k in range(4000))
    begin = time.process_time()
    Plan("long", P, stages, 0.5)
    assert time.process_time() - begin < 1.0


def test_printing_is_for_people() -> None:
    text = str(rv.solve.plan("dpmpp-2m", P, steps=3))
    lines = text.splitlines()
    assert lines[0] == "dpmpp-2m: vp-linear (t from 1), order 2, 3 steps, 3 calls"
    assert len(lines) == 4 + 3 + 1
    assert lines[-2].endswith("x3 = 1 D2")
    assert lines[-1].split() == ["end", "0", "inf"]
    churned = str(rv.solve.plan("euler", P, steps=3, churn=1.0))
    assert "3 calls, 2 noises" in churned
    assert "churn=1.0" in churned
    assert " z0" in churned
    assert "(inner)" in churned
    stage = Stage(
        torch.ones(2, 1) * state(0) - 2.0 * prediction(0, 1) + 1.0 * given("y"),
        0.9,
        0.5,
        label=3.0,
        args={"w": 1},
        net="small",
    )
    text = str(Plan("hand", P, (stage,), 0.9, kinds=("x0", "eps")))
    assert "[2x1] x0 - 2 e0.1 + 1 y" in text
    assert "net small; args {'w': 1}" in text
    assert str(rv.solve.plan("ddim", ref.PROCESSES["flow"], steps=2, grid="time")).count("-inf") == 1
