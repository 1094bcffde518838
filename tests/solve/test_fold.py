"""Folding: prediction types, cache, tensor coefficients, heads, labels, nets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError, ShapeError, UnknownNameError
from reverie.solve import Plan, Stage, given, noise, prediction, state
from reverie.solve.fold import fold

from . import reference as ref

P = ref.PROCESSES["vp"]
X = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def hand(*stages: Stage, **more: Any) -> Plan:
    return Plan("hand", P, stages, 0.9, **more)


def eps_model(f: Any = torch.sin, **more: Any) -> rv.Model:
    return rv.Model(lambda x, t, **cond: f(x), P, **more)


def data(x: Tensor, eps: Tensor, t: float) -> Tensor:
    return (x - P.sigma(t) * eps) / P.alpha(t)


def test_a_general_row() -> None:
    """Old states and predictions, noise and inputs in one row, against the sum written out."""
    row = (
        0.5 * state(0) - 2.0 * state(1) + 3.0 * prediction(0) + 0.25 * prediction(1) + 0.1 * noise(2) - 1.5 * given("y")
    )
    plan = hand(Stage(0.7 * state(0) + 0.2 * prediction(0), 0.9, 0.5), Stage(row, 0.5, 0.2))
    z, y = torch.randn(3, 3, 2, 4, dtype=torch.float64), torch.randn(3, 2, 4, dtype=torch.float64)
    d0 = data(X, X.sin(), 0.9)
    x1 = 0.7 * X + 0.2 * d0
    d1 = data(x1, x1.sin(), 0.5)
    want = 0.5 * X - 2 * x1 + 3 * d0 + 0.25 * d1 + 0.1 * z[2] - 1.5 * y
    assert plan.noises == 3
    assert torch.allclose(rv.run(plan, eps_model(), X, noise=z, inputs={"y": y}), want, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (4,), (2, 1), (1, 2, 4), (3, 1, 1), (3, 2, 4)])
def test_tensor_coefficients(shape: tuple[int, ...]) -> None:
    """With and without a batch axis, on every kind of symbol; the run in float32 casts them."""
    a, b, c, d = torch.randn(4, *shape, dtype=torch.float64).unbind()
    row = a * state(0) + b * prediction(0) + c * noise(0) + d * given("y")
    plan = hand(Stage(row, 0.9, 0.5))
    z, y = torch.randn(1, 3, 2, 4, dtype=torch.float64), torch.randn(3, 2, 4, dtype=torch.float64)
    want = a * X + b * data(X, X.sin(), 0.9) + c * z[0] + d * y
    assert torch.allclose(rv.run(plan, eps_model(), X, noise=z, inputs={"y": y}), want, atol=1e-12)
    narrow = rv.run(plan, eps_model(), X.float(), noise=z, inputs={"y": y})
    assert narrow.dtype == torch.float32
    assert torch.allclose(narrow.double(), want, atol=1e-5)


def test_tensor_coefficients_on_history() -> None:
    """What only a tensor coefficient still needs is kept until then, and its inputs are asked for."""
    c = torch.randn(4, dtype=torch.float64)
    move = Stage(0.5 * state(1), None, 0.4), Stage(0.5 * state(2), None, 0.3)
    last = c * state(0) + c * prediction(0) + c * given("y")
    plan = hand(Stage(0.5 * state(0), 0.9, 0.5), *move, Stage(last, None, 0.2))
    want = c * X + c * data(X, X.sin(), 0.9) + c * X
    assert torch.allclose(rv.run(plan, eps_model(), X, inputs={"y": X}), want, atol=1e-12)
    with pytest.raises(ArgumentError, match="inputs"):
        rv.run(plan, eps_model(), X)


@pytest.mark.parametrize("shape", [(5,), (2, 1, 1), (4, 3, 2, 4)])
def test_tensor_coefficients_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="coefficients"):
        rv.run(hand(Stage(torch.ones(shape) * state(0), None, 0.5)), eps_model(), X)
    with pytest.raises(ShapeError, match="coefficients"):  # one sample must not grow into several
        rv.run(hand(Stage(torch.ones(3, 1, 1) * state(0), None, 0.5)), eps_model(), X[:1])


def test_two_heads() -> None:
    def net(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x.sin(), x.cos()

    row = 1.0 * prediction(0, 0) + 2.0 * prediction(0, 1)
    plan = hand(Stage(row, 0.9, 0.5), kinds=("x0", "eps"))
    both = rv.Model(net, P, predicts=("eps", "x0"))
    a, s = P.alpha(0.9), P.sigma(0.9)
    want = data(X, X.sin(), 0.9) + 2 * (X - a * X.cos()) / s
    assert torch.allclose(rv.run(plan, both, X), want, atol=1e-12)
    with pytest.raises(ArgumentError, match="needs 2 heads"):
        rv.run(plan, eps_model(), X)
    with pytest.raises(ArgumentError, match="predictions"):
        hand(Stage(row, 0.9, 0.5))


def test_what_the_network_is_told() -> None:
    told: list[tuple[float, Any]] = []

    def net(x: Tensor, t: Tensor, w: Any = None) -> Tensor:
        assert t.shape == (3,)
        told.append((float(t[1]), w))
        return x

    row = 0.5 * state(0) + 0.5 * prediction(0)
    plan = hand(
        Stage(row, 0.9, 0.5),
        Stage(row, 0.5, 0.4, label=77.0),
        Stage(row, 0.4, 0.3, label=0.0, args={"w": 2}),
    )
    for label, first in ((None, 0.9), ("lam", P.lam(0.9)), (lambda t: 1000 * t, 900.0)):
        told.clear()
        rv.run(plan, rv.Model(net, P, label=label), X)
        assert told == [(pytest.approx(first), None), (77.0, None), (0.0, 2)]


def test_stages_served_by_several_nets() -> None:
    row = 0.5 * state(0) + 0.5 * prediction(0)
    last = 1.0 * state(1) + 1.0 * prediction(1) + 1.0 * prediction(0)
    plan = hand(Stage(row, 0.9, 0.5), Stage(last, 0.5, 0.3, net="small"))
    models = {"large": eps_model(), "small": rv.Model(lambda x, t: x.cos(), P, predicts="x0")}
    d0 = data(X, X.sin(), 0.9)
    x1 = 0.5 * X + 0.5 * d0
    assert torch.allclose(rv.run(plan, models, X), x1 + x1.cos() + d0, atol=1e-12)
    assert [m.calls for m in models.values()] == [1, 1]
    assert plan.cost(models) == 2
    with pytest.raises(ArgumentError, match="dict of models"):
        rv.run(plan, eps_model(), X)
    with pytest.raises(UnknownNameError, match="small"):
        rv.run(plan, {"large": eps_model(), "smal": eps_model()}, X)


def test_models_of_equal_type_share_a_fold_and_answer_for_themselves() -> None:
    plan = rv.solve.plan("dpmpp-2m", P, steps=4)
    a, b = eps_model(), eps_model(torch.cos)
    assert fold(plan, a) is fold(plan, b)
    assert not torch.equal(rv.run(plan, a, X), rv.run(plan, b, X))
    assert [m.calls for m in (a, b)] == [4, 4]
    assert torch.equal(rv.run(plan, a, X), rv.run(rv.solve.plan("dpmpp-2m", P, steps=4), eps_model(), X))


def test_folds_are_not_shared_between_types_and_labels() -> None:
    plan = rv.solve.plan("dpmpp-2m", P, steps=4)
    folds = [fold(plan, eps_model(predicts=kind)) for kind in ref.KINDS]
    assert len(set(map(id, folds))) == len(ref.KINDS)
    seen: list[float] = []

    def net(x: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t[0]))
        return x

    for label, want in (
        ("t", 1.0),
        ("lam", P.lam(1.0)),
        ("sigma", P.sigma(1.0)),
        (lambda t: 2 * t, 2.0),
        (lambda t: 3 * t, 3.0),
    ):
        seen.clear()
        rv.run(plan, rv.Model(net, P, label=label), X)
        assert seen[0] == pytest.approx(want, rel=1e-6)


def test_a_row_that_keeps_a_state() -> None:
    plan = hand(Stage(0.5 * state(0), None, 0.5), Stage(1.0 * state(0), None, 0.4), Stage(1.0 * state(1), None, 0.3))
    assert torch.equal(rv.run(plan, eps_model(), X), 0.5 * X)
    scaled = hand(Stage(2.0 * state(0), None, 0.5))
    assert torch.equal(rv.run(scaled, eps_model(), X), 2 * X)


def test_a_row_may_vanish() -> None:
    """alpha x0 - (x - sigma eps) is nothing: the state becomes zero, not an error."""
    t = 0.5
    plan = hand(Stage(0.0 * state(0) + 1.0 * noise(0) - 1.0 * noise(0) + 1e-300 * given("y"), t, 0.4))
    assert torch.equal(rv.run(plan, eps_model(), X, inputs={"y": 0 * X}), 0 * X)


def test_what_cannot_be_derived_names_the_stage() -> None:
    flow = ref.PROCESSES["flow"]
    plan = rv.solve.plan("ddim", flow, steps=3, grid="time")
    with pytest.raises(ArgumentError, match=r"'ddim', stage 0: x0 cannot be derived from a prediction of eps at t = 1"):
        rv.run(plan, rv.Model(lambda x, t: x, flow, predicts="eps"), X)
