"""A Model: what the network is given, what its output must look like, counting, labels, codec, guides."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reverie as rv
from reverie.base import ArgumentError, ShapeError, UnknownNameError
from reverie.model import Codec, Shared, Target

P = rv.process.vp("linear")


class Spy:
    """Remembers what it was told; answers `out(x)`."""

    def __init__(self, out: Any = lambda x: x) -> None:
        self.out = out

    def __call__(self, x: Tensor, label: Tensor, **cond: Any) -> Any:
        self.x, self.label, self.cond = x, label, cond
        return self.out(x)


class Net(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4).to(dtype)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        self.seen = x.dtype, label.dtype, label.clone()
        return self.layer(x)


# -- time


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (None, lambda t: t),
        ("t", lambda t: t),
        ("lam", P.lam),
        ("sigma", P.sigma),
        ("c_noise", lambda t: math.log(P.sigma(t) / P.alpha(t)) / 4),
        (lambda t: 1000 * t, lambda t: 1000 * t),
    ],
)
def test_labels(label: Any, expected: Any) -> None:
    spy = Spy()
    m, x = rv.Model(spy, P, label=label), torch.zeros(3, 4)
    for t in (0.5, torch.tensor(0.5), torch.tensor([0.5]), torch.full((3, 1), 0.5)):
        m(x, t)
        assert spy.label.shape == (3,)
        assert spy.label.dtype == torch.float32
        assert spy.label.tolist() == pytest.approx([expected(0.5)] * 3, rel=1e-6)
    times = torch.tensor([0.1, 0.2, 0.3])
    m(x, times)
    assert spy.label.tolist() == pytest.approx([expected(float(u)) for u in times], rel=1e-5)


def test_times_inside_a_sample_keep_their_shape() -> None:
    spy = Spy()
    t = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).expand(3, 4)
    pred = rv.Model(spy, P)(torch.ones(3, 4), t)
    assert spy.label.shape == (3, 4)
    expected = [(1 - P.sigma(float(u))) / P.alpha(float(u)) for u in t[0]]
    assert pred.x0[1].tolist() == pytest.approx(expected, rel=1e-5)


def test_integer_labels_of_a_discrete_process() -> None:
    spy = Spy()
    p = rv.process.ddpm((1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0))
    m = rv.Model(spy, p)
    a, b = m(torch.ones(2, 4), torch.tensor([999, 10])), m(torch.ones(2, 4), torch.tensor([999.0, 10.0]))
    assert spy.label.tolist() == [999.0, 10.0]
    assert torch.equal(a.x0, b.x0)
    assert rv.Model(spy, p, label=lambda t: 7)(torch.ones(2, 4), 3.0).eps.shape == (2, 4)
    assert spy.label.tolist() == [7.0, 7.0]


def test_times_and_labels_that_do_not_fit() -> None:
    m, x = rv.Model(Spy(), P), torch.zeros(3, 4)
    with pytest.raises(ShapeError, match="2 times for a batch of 3"):
        m(x, torch.tensor([0.1, 0.2]))
    with pytest.raises(ShapeError, match="do not broadcast"):
        m(x, torch.full((3, 5), 0.5))
    with pytest.raises(ShapeError, match="2 labels for a batch of 3"):
        rv.Model(Spy(), P, label=lambda t: torch.zeros(2))(x, 0.5)
    assert m.calls == 0
    with pytest.raises(UnknownNameError, match=r"unknown label 'sigmas'; did you mean 'sigma'"):
        rv.Model(Spy(), P, label="sigmas")
    with pytest.raises(ShapeError, match="a state is a tensor"):
        m(torch.tensor(1.0), 0.5)


# -- precision


def test_the_network_s_dtype_is_kept_at_its_door() -> None:
    x = torch.randn(3, 4)
    half = rv.Model(net := Net(torch.bfloat16), rv.process.ddpm([0.9 - 0.0009 * i for i in range(1000)]))
    pred = half(x, 998.7)
    assert net.seen[:2] == (torch.bfloat16, torch.float32)
    assert net.seen[2].tolist() == pytest.approx([998.7] * 3)  # bfloat16 would say 1000
    assert pred.eps.dtype == pred.x0.dtype == torch.float32
    assert torch.equal(pred.eps, net.layer(x.bfloat16()).float())
    double = rv.Model(net := Net(torch.float64), P)
    assert double(x, 0.5).x0.dtype == torch.float32
    assert net.seen[:2] == (torch.float64, torch.float64)
    single = rv.Model(net := Net(torch.float32), P)
    assert single(x.double(), 0.5).x0.dtype == torch.float64
    assert net.seen[:2] == (torch.float32, torch.float32)


def test_a_function_is_given_the_state_as_it_is_unless_told() -> None:
    spy = Spy()
    for dtype, label in (
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.float32),
    ):
        rv.Model(spy, P)(torch.zeros(2, 4, dtype=dtype), 0.5)
        assert (spy.x.dtype, spy.label.dtype) == (dtype, label)
    assert rv.Model(spy, P, dtype=torch.float16)(torch.zeros(2, 4), 0.5).eps.dtype == torch.float32
    assert spy.x.dtype == torch.float16


def test_the_input_is_preconditioned() -> None:
    spy, p = Spy(), rv.process.edm()
    x, t = torch.ones(3, 4), torch.tensor([0.1, 1.0, 10.0])
    pred = rv.Model(spy, p, predicts="edm")(x, t)
    c_in = 1 / (t**2 + 0.25).sqrt()
    torch.testing.assert_close(spy.x, c_in[:, None] * x)
    torch.testing.assert_close(spy.label, t.log() / 4)
    expected = 0.25 * c_in**2 + t * 0.5 * c_in * c_in  # c_skip x + c_out F(c_in x), F the identity
    torch.testing.assert_close(pred.x0, expected[:, None] * x)


# -- heads


def test_learned_variance_as_chunks_or_tuple() -> None:
    x = torch.randn(2, 3, 4, 4)
    for out in (lambda x: torch.cat([x, 7 + 0 * x], 1), lambda x: (x, 7 + 0 * x), lambda x: [x, 7 + 0 * x]):
        pred = rv.Model(Spy(out), P, predicts=("eps", "variance"))(x, 0.5)
        assert torch.equal(pred.eps, x)
        assert pred.variance is not None
        assert torch.equal(pred.variance, torch.full_like(x, 7))
        assert pred.heads == (pred,)
    assert rv.Model(Spy(), P)(x, 0.5).variance is None


def test_several_heads_are_predictions_of_the_same_state() -> None:
    x = torch.randn(2, 3)
    m = rv.Model(Spy(lambda x: torch.cat([x, 2 * x, 3 * x], 1)), P, predicts=("eps", "x0", "variance"))
    pred = m(x, torch.tensor([0.3, 0.6]))
    assert len(pred.heads) == 2
    assert torch.equal(pred.heads[1].x0, 2 * x)
    torch.testing.assert_close(
        P.sigma(0.3) * pred.heads[1].eps[0], x[0] - P.alpha(0.3) * 2 * x[0], rtol=1e-5, atol=1e-6
    )
    assert torch.equal(pred.variance, 3 * x)  # type: ignore[arg-type]
    assert repr(m) == f"Model(Spy, {P}, predicts eps, x0, variance)"


def test_a_single_output_may_come_in_a_tuple() -> None:
    x = torch.randn(2, 3)
    assert torch.equal(rv.Model(Spy(lambda x: (x,)), P)(x, 0.5).eps, x)


@pytest.mark.parametrize(
    ("out", "predicts", "message"),
    [
        (
            lambda x: torch.cat([x, x], 1),
            "eps",
            r"\(2, 6, 4, 4\) for a state of shape \(2, 3, 4, 4\) and 1 head; .*'variance'",
        ),
        (lambda x: x[:, :2], "eps", r"returned \(2, 2, 4, 4\) for a state of shape \(2, 3, 4, 4\) and 1 head$"),
        (lambda x: x[:1], "v", r"\(1, 3, 4, 4\)"),
        (lambda x: x, ("eps", "variance"), r"returned \(2, 3, 4, 4\) for .* and 2 heads"),
        (lambda x: (x, x, x), ("eps", "variance"), r"and 2 heads"),
        (lambda x: (x, x), "eps", r"\(2, 3, 4, 4\) and \(2, 3, 4, 4\)"),
        (lambda x: {"sample": x}, "eps", "returned dict; a tensor"),
        (lambda x: None, "eps", "returned NoneType"),
    ],
)
def test_wrong_outputs(out: Any, predicts: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        rv.Model(Spy(out), P, predicts=predicts, name="net")(torch.zeros(2, 3, 4, 4), 0.5)


def test_impossible_predictions_and_arguments() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown prediction type 'epsilon'; did you mean 'eps'"):
        rv.Model(Spy(), P, predicts="epsilon")
    for predicts in ((), ("variance",), ("variance", "eps")):
        with pytest.raises(ArgumentError, match="affine target first"):
            rv.Model(Spy(), P, predicts=predicts)
    with pytest.raises(ArgumentError, match="net must be callable"):
        rv.Model(3, P)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="process must be a reverie Process"):
        rv.Model(Spy(), "vp")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="a guide maps a model"):
        rv.Model(Spy(), P) | 3  # type: ignore[operator]


# -- conditions, counting, codec, guides


def test_conditions_reach_the_network() -> None:
    spy = Spy()
    m = rv.Model(spy, P, null={"class_labels": torch.tensor([10])})
    table = torch.zeros(5, 2)
    m(torch.zeros(3, 4), 0.5, class_labels=4, text="a cat", table=Shared(table), mask=torch.ones(1, 4))
    assert spy.cond["class_labels"].tolist() == [4, 4, 4]
    assert spy.cond["text"] == "a cat"
    assert spy.cond["table"] is table
    assert spy.cond["mask"].shape == (3, 4)
    with pytest.raises(ShapeError, match="batch of 3"):
        m(torch.zeros(3, 4), 0.5, class_labels=torch.tensor([1, 2]))
    assert m.calls == 1


def test_calls_and_forwards_are_counted() -> None:
    m = rv.Model(Spy(), P)
    assert (m.calls, m.forwards, m.cost()) == (0, 0, 1)
    m(torch.zeros(3, 4), 0.5)
    m.raw(torch.zeros(6, 4), 0.5, torch.zeros(6), {}, copies=2)
    assert (m.calls, m.forwards) == (2, 3)


def test_raw_passes_arguments_and_scale() -> None:
    spy = Spy()
    m, x = rv.Model(spy, P), torch.ones(2, 4)
    (out,) = m.raw(x, 0.5, torch.zeros(2), {"a": 1}, args={"b": 2}, c_in=torch.tensor([1.0, 3.0], dtype=torch.float64))
    assert spy.cond == {"a": 1, "b": 2}
    assert out[:, 0].tolist() == [1.0, 3.0]
    assert m.raw(x, 0.5, torch.zeros(2), {}, c_in=2.0)[0][0, 0] == 2.0
    assert spy.cond == {}


def test_y_reaches_the_prediction() -> None:
    target = Target(lambda p, t: 0 * t, lambda p, t: 1 + 0 * t, y=lambda p, t: -1 + 0 * t, name="residual")
    m, x, y = rv.Model(Spy(), P, predicts=target), torch.randn(2, 4), torch.randn(2, 4)
    torch.testing.assert_close(m(x, 0.5, y=y).eps, x + y)
    with pytest.raises(ArgumentError, match="call the model with y="):
        _ = m(x, 0.5).eps


def test_codec_and_shape() -> None:
    class Scale:
        def encode(self, data: Tensor) -> Tensor:
            return data * 2 - 1

        def decode(self, state: Tensor) -> Tensor:
            return (state + 1) / 2

    m, data = rv.Model(Spy(), P, codec=Scale(), shape=[3, 4]), torch.rand(2, 3, 4)
    assert isinstance(m.codec, Codec)
    assert m.shape == (3, 4)
    torch.testing.assert_close(m.decode(m.encode(data)), data)
    assert not torch.equal(m.encode(data), data)
    plain = rv.Model(Spy(), P)
    assert plain.encode(data) is data
    assert plain.decode(data) is data
    assert plain.shape is None


def test_a_guide_is_a_function_of_models() -> None:
    def double(m: rv.Model) -> rv.Model:
        return rv.Model(lambda x, t: 2 * m(x, t).eps, m.process, "eps")

    m, x = rv.Model(Spy(), P), torch.randn(2, 4)
    assert torch.equal((m | double)(x, 0.5).eps, 2 * x)
    assert torch.equal((m | double | double)(x, 0.5).eps, 4 * x)


def test_a_condition_that_was_not_given_is_named() -> None:
    def net(x: Tensor, label: Tensor, text: Tensor) -> Tensor:
        return x

    def broken(x: Tensor, label: Tensor, text: Tensor | None = None) -> Tensor:
        return x + len(3)  # type: ignore[arg-type]

    null, p = {"text": torch.zeros(1, 2)}, rv.process.vp()
    with pytest.raises(
        ArgumentError, match=r"net cannot be asked without the condition text; give cond= \(m.null holds"
    ):
        rv.sample(rv.Model(net, p, null=null, shape=(2,), name="net"), 2, nfe=2)
    with pytest.raises(ArgumentError, match=r"m\.embed\(\[prompt, \.\.\.\]\) makes it"):
        rv.Model(net, p, null=null, embed=lambda prompts: null)(torch.zeros(1, 2), 0.5)
    with pytest.raises(TypeError, match="has no len"):
        rv.Model(broken, p, null=null)(torch.zeros(1, 2), 0.5)
