"""`plan`: names, options, budgets."""

from __future__ import annotations

import time
from typing import Any

import pytest

import reverie as rv
from reverie.base import ArgumentError, UnknownNameError
from reverie.solve.singlestep import fast_orders

from . import reference as ref

P = ref.PROCESSES["vp"]


STATIC = [name for name, s in rv.solve.SOLVERS.items() if not s.dynamic]
LEAST = {"restart": 20, "pndm": 5, "rk-deis": 4}
"""Smaller budgets buy no step of these, or no interval."""


@pytest.mark.parametrize("end", rv.solve.ENDS)
@pytest.mark.parametrize("name", STATIC)
def test_a_budget_is_spent_and_never_exceeded(name: str, end: str) -> None:
    for process in ("vp", "flow"):
        p = ref.PROCESSES[process]
        for nfe in (4, 5, 6, 9, 10, 11, 16, 20):
            if nfe < LEAST.get(name, 0):
                continue
            plan = rv.solve.plan(name, p, nfe=nfe, end=end)
            more = rv.solve.plan(name, p, steps=plan.steps + 1, end=end, **plan.options if name != "dpm-fast" else {})
            assert plan.nfe is not None
            assert more.nfe is not None
            if name == "dpm-fast":
                assert plan.nfe == nfe
            else:
                assert plan.nfe <= nfe < more.nfe


def test_calls_of_a_step() -> None:
    two = dict.fromkeys(("heun", "dpm-2s", "dpmpp-2s", "dpmpp-2s-sde", "kdpm-2", "kdpm-2-a"), (13, 14))
    three = dict.fromkeys(("dpm-3s", "rk-deis"), (19, 21))
    calls = {**two, **three, "dpm-fast": (18, 18), "pndm": (16, 16), "pc": (14, 14), "restart": (13 + 8, 14 + 8)}
    for name in STATIC:
        ends = [rv.solve.plan(name, P, steps=7, end=end) for end in ("denoise", "sigma_min")]
        assert tuple(plan.nfe for plan in ends) == calls.get(name, (7, 7)), name
        assert {plan.steps for plan in ends} == {7}


def test_a_budget_too_small_says_what_is_needed() -> None:
    with pytest.raises(ArgumentError, match=r"at least 3 calls \(1 steps\), got nfe=2"):
        rv.solve.plan("rk-deis", P, nfe=2, end="sigma_min")
    with pytest.raises(ArgumentError, match="nearest to low"):
        rv.solve.plan("restart", P, nfe=4)


def test_a_large_budget_is_found_quickly() -> None:
    begin = time.perf_counter()
    assert rv.solve.plan("ddpm", ref.PROCESSES["ddpm"], nfe=5000).nfe == 1000  # all that the labels hold
    assert rv.solve.plan("heun", P, nfe=201).nfe == 201
    assert time.perf_counter() - begin < 5


def test_dpm_fast_orders_are_the_papers() -> None:
    for n in range(1, 40):
        k = n // 3 + 1
        want = {0: [3] * (k - 2) + [2, 1], 1: [3] * (k - 1) + [1], 2: [3] * (k - 1) + [2]}[n % 3]
        assert fast_orders(n, zero=False) == want
        assert sum(fast_orders(n)) == n
        assert fast_orders(n)[-1] == 1
    with pytest.raises(ArgumentError, match="orders"):
        rv.solve.plan("dpm-fast", P, nfe=9, orders=(3, 3, 3))


def test_names_and_options_suggest_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'dpmpp-2m'"):
        rv.solve.plan("dpmpp2m", P, steps=3)
    with pytest.raises(ArgumentError, match="did you mean 'churn_noise'"):
        rv.solve.plan("heun", P, steps=3, churn_nois=1.0)
    with pytest.raises(ArgumentError, match="It takes: none"):
        rv.solve.plan("dpm-1", P, steps=3, foo=1)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({}, "either"),
        ({"steps": 3, "nfe": 3}, "either"),
        ({"nfe": 0}, "nfe"),
        ({"nfe": 2.5}, "nfe"),
        ({"nfe": 3, "grid": [1.0, 0.1]}, "given grid"),
        ({"steps": 0}, "steps"),
        ({"nfe": 1, "end": "zero"}, "at least 2"),
    ],
)
def test_steps_and_budget(given: dict[str, Any], match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        rv.solve.plan("heun", P, **given)


def test_one_step_may_exceed_the_budget() -> None:
    with pytest.raises(ArgumentError, match="at least 2 calls"):
        rv.solve.plan("heun", P, nfe=1, end="sigma_min")


def test_a_process_is_needed() -> None:
    with pytest.raises(ArgumentError, match="process"):
        rv.solve.plan("ddim", "vp", steps=3)  # type: ignore[arg-type]


def test_a_plan_says_how_it_was_made() -> None:
    plan = rv.solve.plan("dpmpp-3m", P, steps=5, released=True, end="sigma_min")
    assert (plan.solver, plan.order, plan.grid, plan.end, plan.options) == (
        "dpmpp-3m",
        2,
        "logsnr",
        "sigma_min",
        {"released": True},
    )
    assert plan.start == P.t_max
    assert rv.solve.plan("ddim", P, grid=[0.9, 0.1]).grid == "given"
    assert {s.order_of(s.options) for s in rv.solve.SOLVERS.values()} == {0, 1, 2, 3, 4, 5}
