"""Rows with a constant term, `c * one()`: numbers and tensors, files, print, captured runs; no input that anybody must give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError, ShapeError
from reverie.solve import Plan, Stage, noise, one, prediction, state, unroll
from reverie.solve.capture import Captured
from reverie.solve.fold import fold

from . import reference as ref

P = ref.PROCESSES["vp"]
X = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
M = rv.Model(lambda x, t: x.sin(), P, predicts="x0")
WIDE = torch.linspace(-1, 1, 4, dtype=torch.float64)


def hand(*rows: Any) -> Plan:
    times = (0.9, 0.5, 0.3, 0.2)
    return Plan("hand", P, tuple(Stage(r, times[k], times[k + 1], k) for k, r in enumerate(rows)), 0.9)


@pytest.mark.parametrize("c", [0.25, -2.0, WIDE, X[:, :1]], ids=["number", "negative", "wide", "of samples"])
def test_it_is_added_to_every_coordinate(c):
    row = 0.5 * state(0) - 2.0 * prediction(0) + c * one()
    assert torch.allclose(rv.run(hand(row), M, X), 0.5 * X - 2 * X.sin() + c, atol=1e-12)
    alone = hand(c * one())
    assert torch.allclose(rv.run(alone, M, X), torch.zeros_like(X) + c)
    twice = hand(state(0) + c * one(), state(1) - prediction(1) + c * one())
    first = X + c
    assert torch.allclose(rv.run(twice, M, X.float()).double(), first - first.sin() + c, atol=1e-5)


def test_terms_add_up_and_zero_is_none():
    row = one() * 0.5 + state(0) - 0.25 * one()
    assert row.terms == {("1",): 0.25, ("x", 0): 1.0}
    assert list((state(0) + 0.0 * one()).part("1")) == []
    plain, more = (fold(hand(0.5 * state(0) + prediction(0) + c * one()), M).stages[0] for c in (0.0, 1.0))
    assert plain.simple
    assert not more.simple
    assert more.constant == 1.0
    assert fold(hand(state(0) + 0.1 * one()), M).stages[0].keep is None


def test_nobody_has_to_give_it():
    plan = hand(state(0) + 0.3 * one())
    assert plan.inputs == ()
    assert plan.noises == 0
    assert fold(plan, M).inputs == frozenset()


def test_with_noise_and_after_a_choice_of_samples():
    z = torch.randn(1, 3, 2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    each = torch.arange(3, dtype=torch.float64)[:, None, None]

    class Choose:
        def after(self, r: Any) -> None:
            if r.k == 0:
                r.select(torch.tensor([2, 0]))

    plan = hand(state(0) + 0.1 * noise(0) + 0.3 * one(), state(1) + each * one())
    made = rv.run(plan, M, X, noise=z, hooks=Choose())
    assert torch.allclose(made, (X + 0.1 * z[0] + 0.3)[[2, 0]] + each[[2, 0]])
    with pytest.raises(ShapeError, match="coefficients of shape"):
        rv.run(hand(torch.ones(5) * one()), M, X)


@pytest.mark.parametrize("c", [0.3, WIDE], ids=["number", "wide"])
def test_saved_printed_captured_differentiated(c, tmp_path: Path):
    plan = hand(state(0) + prediction(0) - c * one(), 0.5 * state(1) - c * one())
    plan.save(tmp_path / "plan.json")
    loaded = rv.Plan.load(tmp_path / "plan.json")
    want = rv.run(plan, M, X)
    assert torch.equal(rv.run(loaded, M, X), want)
    assert ("x1 = 1 x0 + 1 D0 - 0.3\n" if isinstance(c, float) else "x1 = 1 x0 + 1 D0 + [4]\n") in str(plan)

    def replayed(work: Any) -> Any:
        return work

    assert torch.equal(Captured(plan, M, 0 * X, None, None, replayed)(X), want)
    x = X.clone().requires_grad_()
    rv.run(plan, M, x, grad="full").sum().backward()
    assert torch.allclose(x.grad, 0.5 * (1 + X.cos()))
    if isinstance(c, float):
        with pytest.raises(ArgumentError, match="constant term"):
            unroll(plan)
    assert torch.equal(rv.run(plan.repeat(1), M, X), want)
