"""A Prediction reads as any quantity, keeps what it was given, and refuses what cannot be derived."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError, ShapeError, UnknownNameError
from reverie.model import KINDS, Prediction, Target, as_target

KIND_NAMES = ("x0", "eps", "v", "flow", "score")


def sample(p: rv.process.Process, t: float | Tensor, kind: str, dtype: torch.dtype = torch.float64):  # type: ignore[no-untyped-def]
    x0, eps = torch.randn(2, 3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = p.perturb(x0, t, eps)
    raw = as_target(kind).of(p, t, x0, eps)
    return x0, eps, Prediction(x.to(dtype), t, raw.to(dtype), as_target(kind), p)


@pytest.mark.parametrize("kind", [*KINDS, "edm:2.0"])
@pytest.mark.parametrize("t", [0.4, torch.tensor([0.2, 0.5, 0.8]), torch.tensor([0.2, 0.5, 0.8]).reshape(3, 1, 1)])
def test_quantities_of_a_perfect_network(kind: str, t: float | Tensor) -> None:
    p = rv.process.vp("linear")
    x0, eps, pred = sample(p, t, kind)
    column = torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1, 1)
    a, s = p.alpha(column), p.sigma(column)
    for value, expected in (
        (pred.x0, x0),
        (pred.eps, eps),
        (pred.v, a * eps - s * x0),
        (pred.flow, eps - x0),
        (pred.score, -eps / s),
        (pred.as_("edm"), as_target("edm").of(p, t, x0, eps)),
    ):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(a * pred.x0 + s * pred.eps, pred.x, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_its_own_type_is_the_raw_output_itself(kind: str) -> None:
    _, _, pred = sample(rv.process.flow(), 0.3, kind, torch.float32)
    assert getattr(pred, kind) is pred.raw
    other = next(k for k in KIND_NAMES if k != kind)
    assert getattr(pred, other) is getattr(pred, other)  # derived once
    assert getattr(pred, other).dtype == torch.float32


def test_a_custom_target_does_not_displace_a_named_one() -> None:
    _, eps, pred = sample(rv.process.flow(), 0.3, "flow")
    impostor = Target(lambda p, t: 1 + 0 * t, lambda p, t: 0 * t, name="eps")
    torch.testing.assert_close(pred.as_(impostor), pred.x0)
    torch.testing.assert_close(pred.eps, eps)


@pytest.mark.parametrize("have", KIND_NAMES)
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_replace_says_what_it_is_told(have: str, kind: str) -> None:
    _, _, pred = sample(rv.process.vp("cosine"), torch.tensor([0.2, 0.5, 0.8]), have)
    value = getattr(pred, kind).clamp(-0.5, 0.5)
    new = pred.replace(**{kind: value})
    assert torch.equal(getattr(new, kind), value)
    fresh = Prediction(new.x, new.t, new.raw, new.target, new.process)  # from the raw output alone
    torch.testing.assert_close(getattr(fresh, kind), value, rtol=1e-10, atol=1e-10)
    a, s = (f(pred.t.reshape(3, 1, 1)) for f in (pred.process.alpha, pred.process.sigma))
    torch.testing.assert_close(a * new.x0 + s * new.eps, pred.x, rtol=1e-10, atol=1e-10)


def test_replace_keeps_the_other_heads_and_refuses_nonsense() -> None:
    p, z = rv.process.flow(), torch.zeros(2, 3)
    second = Prediction(z, 0.5, z + 1, as_target("x0"), p)
    pred = Prediction(z, 0.5, z, as_target("eps"), p, heads=(second,), variance=z + 2)
    new = pred.replace(x0=z + 3)
    assert new.heads[0] is new
    assert new.heads[1] is second
    assert new.variance is pred.variance
    with pytest.raises(ArgumentError, match="one quantity"):
        pred.replace()
    with pytest.raises(ArgumentError, match=r"one quantity, got \['eps', 'x0'\]"):
        pred.replace(x0=z, eps=z)
    with pytest.raises(UnknownNameError, match="prediction type"):
        pred.replace(noise=z)
    with pytest.raises(ShapeError, match=r"x0 of shape \(3,\) for a state of shape \(2, 3\)"):
        pred.replace(x0=z[0])
    at_end = Prediction(z, 0.0, z, as_target("eps"), p)
    with pytest.raises(ArgumentError, match=r"at t = 0\.0 the state alone determines x0"):
        at_end.replace(x0=z)


def test_the_ends_of_time() -> None:
    p, x = rv.process.flow(), torch.randn(2, 3)
    clean = Prediction(x, 0.0, torch.randn(2, 3), as_target("eps"), p)
    assert torch.equal(clean.x0, x)
    noise = Prediction(x, 1.0, torch.randn(2, 3), as_target("x0"), p)
    assert torch.equal(noise.eps, x)
    with pytest.raises(ArgumentError, match="eps cannot be derived from a prediction of x0"):
        _ = Prediction(x, 0.0, x, as_target("x0"), p).eps
    with pytest.raises(ArgumentError, match="x0 cannot be derived from a prediction of eps"):
        _ = Prediction(x, torch.tensor([0.5, 1.0]), x, as_target("eps"), p).x0


def test_y_is_used_and_asked_for() -> None:
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    target = Target(lambda p, t: 0 * t, lambda p, t: 1 + 0 * t, y=lambda p, t: -1 + 0 * t, name="residual")
    p = rv.process.flow()
    raw = torch.randn(2, 3)
    torch.testing.assert_close(Prediction(x, 0.5, raw, target, p, y).eps, raw + y)
    again = Prediction(x, 0.5, raw, target, p, y).replace(eps=x)
    torch.testing.assert_close(again.raw, x - y)
    with pytest.raises(ArgumentError, match=r"eps needs the degraded input: call the model with y="):
        _ = Prediction(x, 0.5, raw, target, p).eps


def test_coefficients_are_the_maps_behind_the_quantities() -> None:
    _, _, pred = sample(rv.process.flow(), 0.3, "v")
    for kind, a in pred.coefficients(("x0", "score")).items():
        torch.testing.assert_close(a.x * pred.x + a.raw * pred.raw, pred.as_(kind))


def test_it_can_be_differentiated() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    m = rv.Model(lambda x, t: 3 * x, rv.process.flow(), predicts="flow")
    m(x, 0.5).x0.sum().backward()
    torch.testing.assert_close(x.grad, torch.full((2, 3), 1 - 0.5 * 3))


def test_a_prediction_keeps_nothing_once_it_is_gone() -> None:
    """No cycle: a graph of gradients is freed with the last name for it, not when the collector comes."""
    m = rv.Model(lambda x, t: (torch.tanh(x), torch.sin(x)), rv.process.vp(), predicts=("x0", "eps"))
    said = m(torch.ones(2, 3, requires_grad=True), 0.5)
    assert said.heads[0] is said
    assert said.heads[1].raw is not said.raw
    watched = [weakref.ref(said.raw), weakref.ref(said.heads[1].raw), weakref.ref(said.x0)]
    gc.disable()
    try:
        del said
        assert [w() for w in watched] == [None] * 3
    finally:
        gc.enable()
