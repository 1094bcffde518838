"""Classifier-free guidance: against the closed form, its limits, its cost, its errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError, ShapeError
from reverie.guide import CFG

torch.set_num_threads(1)
P = rv.process.vp("linear")
MEANS = torch.tensor([[-1.5, 0.0, 0.3], [1.5, 0.5, 0.0], [0.0, 1.5, -1.0]], dtype=torch.float64)
WEIGHTS, STD, CLASSES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 0.7, [0, 1, 1]
X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([0, 1, 1, 0, 1, 0])


def score(x: Tensor, t: float, labels: Tensor | None = None) -> Tensor:
    """Gradient of log p(x_t | class) by automatic differentiation of the density itself."""
    a, s = P.alpha(t), P.sigma(t)
    x = x.detach().requires_grad_()
    v = a**2 * STD**2 + s**2
    log_p = WEIGHTS.log() - ((x[:, None] - a * MEANS) ** 2).sum(-1) / (2 * v)
    if labels is not None:
        log_p = log_p.masked_fill(labels[:, None] != torch.tensor(CLASSES), -math.inf)
    return torch.autograd.grad(log_p.logsumexp(1).sum(), x)[0]


def oracle() -> Any:
    return rv.oracle.Mixture(MEANS, STD, WEIGHTS, CLASSES, process=P)


@pytest.mark.parametrize("w", [0.0, 0.5, 1.0, 3.0, 7.5, -1.0])
@pytest.mark.parametrize("kind", ["score", "eps", "x0", "v", "flow"])
def test_guided_score_is_the_closed_form(w: float, kind: str) -> None:
    """grad log p(x) + w grad log (p(x | c) / p(x)), whatever the network predicts."""
    o, t = oracle(), 0.4

    def net(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        return o(x, t, class_labels=class_labels).as_(kind)

    m = rv.Model(net, P, predicts=kind, null={"class_labels": -1})
    want = (1 - w) * score(X, t) + w * score(X, t, Y)
    assert torch.allclose((m | CFG(w))(X, t, class_labels=Y).score, want, atol=1e-10)
    assert torch.allclose((o | CFG(w))(X, t, class_labels=Y).score, want, atol=1e-10)


class Spy:
    """A network that counts calls and rows, over a class embedding."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, class_labels: Tensor, **more: Any) -> Tensor:
        self.rows.append(len(x))
        assert len(t) == len(class_labels) == len(x)
        return x.sin() + class_labels[:, None].to(x) * x.cos() + t[:, None].to(x)


def spied(**more: Any) -> tuple[Spy, rv.Model]:
    spy = Spy()
    return spy, rv.Model(spy, P, null={"class_labels": 3}, **more)


def raw(label: Tensor | float, t: Any = 0.5) -> Tensor:
    c = label[:, None] if isinstance(label, Tensor) else label
    told = torch.as_tensor(t, dtype=torch.float32).double()
    return X.sin() + c * X.cos() + (told[:, None] if told.ndim else told)


def test_scale_one_is_no_guidance() -> None:
    spy, m = spied()
    for w in (1, 1.0, torch.ones(6), lambda t: 1.0):
        g = m | CFG(w)
        assert torch.equal(g(X, 0.5, class_labels=Y).raw, m(X, 0.5, class_labels=Y).raw)
        assert g.cost(0.5) == 1
        assert (g.calls, g.forwards) == (1, 1)
    assert set(spy.rows) == {6}
    assert torch.equal((m | CFG(1.0))(X, 0.5, class_labels=Y).raw, m(X, 0.5, class_labels=Y).raw)


def test_scale_zero_is_the_null_model() -> None:
    _, m = spied()
    assert torch.allclose((m | CFG(0.0))(X, 0.5, class_labels=Y).raw, raw(3.0), atol=1e-12)


def test_branches_cost_one_call_of_twice_the_rows() -> None:
    spy, m = spied()
    g = m | CFG(4.0)
    made = g(X, 0.5, class_labels=Y)
    assert spy.rows == [12]
    assert (g.calls, g.forwards, m.calls, m.forwards) == (1, 2, 1, 2)
    assert (g.cost(0.5), g.cost(), m.cost()) == (2, 2, 1)
    assert torch.allclose(made.raw, raw(3.0) + 4 * (raw(Y.double()) - raw(3.0)), atol=1e-12)
    plan = rv.solve.plan("dpmpp-2m", P, steps=5)
    assert (plan.nfe, plan.cost(g), plan.cost(m)) == (5, 10, 5)


def test_interval() -> None:
    spy, m = spied()
    g = m | CFG(4.0, interval=(0.2, 0.6))
    for t, inside in ((0.7, False), (0.6, True), (0.3, True), (0.2, True), (0.1, False)):
        want = raw(3.0, t) + 4 * (raw(Y.double(), t) - raw(3.0, t)) if inside else raw(Y.double(), t)
        assert torch.allclose(g(X, t, class_labels=Y).raw, want, atol=1e-12)
        assert g.cost(t) == 1 + inside
        assert spy.rows[-1] == 6 * (1 + inside)
    plan = rv.solve.plan("ddim", P, steps=9, grid="time")
    spent = sum(g.cost(s.t) for s in plan.table)
    assert plan.cost(g) == spent

    class End:
        def end(self, r: Any) -> None:
            assert r.spent == {"calls": 9, "forwards": spent}

    assert 9 < spent < 18
    rv.run(plan, g, X, cond={"class_labels": Y}, hooks=End())


def test_one_time_a_sample() -> None:
    _, m = spied()
    t = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9, 0.2], dtype=torch.float64)
    w = torch.tensor([4.0 if 0.25 <= u <= 0.6 else 1.0 for u in t.tolist()], dtype=torch.float64)[:, None]
    want = raw(3.0, t) + w * (raw(Y.double(), t) - raw(3.0, t))
    assert torch.allclose((m | CFG(4.0, interval=(0.25, 0.6)))(X, t, class_labels=Y).raw, want, atol=1e-7)
    each = torch.arange(6.0, dtype=torch.float64)
    want = raw(3.0, t) + each[:, None] * (raw(Y.double(), t) - raw(3.0, t))
    assert torch.allclose((m | CFG(each))(X, t, class_labels=Y).raw, want, atol=1e-7)
    with pytest.raises(ArgumentError, match="one time"):
        (m | CFG(lambda u: 2.0))(X, t, class_labels=Y)


def test_times_inside_a_sample() -> None:
    """A time for every position: both branches are told it."""
    told: list[Tensor] = []

    def net(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        told.append(t)
        return x * t + class_labels[:, None]

    m = rv.Model(net, P, null={"class_labels": 3})
    t = torch.rand(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.8 + 0.1
    made = (m | CFG(2.0))(X, t, class_labels=Y).raw
    assert torch.allclose(made, X * t + 3 + 2 * (Y[:, None] - 3), atol=1e-6)
    assert told[0].shape == (12, 3)
    assert torch.equal(told[0][:6], told[0][6:])


def test_scale_as_a_tensor_and_a_function() -> None:
    _, m = spied()
    w = torch.linspace(-1, 5, 6)
    want = raw(3.0) + w[:, None] * (raw(Y.double()) - raw(3.0))
    assert torch.allclose((m | CFG(w))(X, 0.5, class_labels=Y).raw, want, atol=1e-6)
    assert torch.allclose(
        (m | CFG(torch.tensor(2.5)))(X, 0.5, class_labels=Y).raw, (m | CFG(2.5))(X, 0.5, class_labels=Y).raw
    )
    g = m | CFG(lambda t: 1 + 4 * t)
    assert torch.allclose(g(X, 0.5, class_labels=Y).raw, (m | CFG(3.0))(X, 0.5, class_labels=Y).raw)
    assert g.cost(0.0) == 1
    with pytest.raises(ShapeError, match="guidance scale"):
        (m | CFG(torch.ones(4) * 2))(X, 0.5, class_labels=Y)


def test_a_scale_a_sample_follows_selection() -> None:
    _, m = spied()
    w, rows = torch.linspace(0, 5, 6), torch.tensor([5, 2, 2])
    plan = rv.solve.plan("dpmpp-2m", P, steps=6)

    class Pick:
        def after(self, r: Any) -> None:
            if r.k == 2:
                r.select(rows)

    made = rv.run(plan, m | CFG(w), X, cond={"class_labels": Y}, hooks=Pick())
    want = rv.run(plan, m | CFG(w[rows]), X[rows], cond={"class_labels": Y[rows]})
    assert torch.allclose(made, want, atol=1e-12)


def test_rescale_is_lins_formula() -> None:
    """phi x_cfg std(cond) / std(x_cfg) + (1 - phi) x_cfg, standard deviations a sample over everything else."""
    x = torch.randn(4, 2, 5, dtype=torch.float64)

    def net(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        return torch.sin(x * (1 + class_labels[:, None, None]))

    m, labels = rv.Model(net, P, null={"class_labels": 3}), torch.tensor([0, 1, 2, 0])
    cond, null = net(x, x, labels), net(x, x, torch.tensor([3] * 4))
    cfg = null + 5 * (cond - null)
    std = torch.stack([c.std() / g.std() for c, g in zip(cond, cfg, strict=True)])[:, None, None]
    for phi in (0.0, 0.7, 1.0):
        want = phi * cfg * std + (1 - phi) * cfg
        assert torch.allclose((m | CFG(5.0, rescale=phi))(x, 0.5, class_labels=labels).raw, want, atol=1e-12)


@pytest.mark.parametrize("name", rv.solve.SOLVERS)
def test_works_with_every_solver(name: str) -> None:
    """A guided run is the run of the guided network."""
    o = oracle()

    def net(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        null = o(x, t, class_labels=-1).eps
        return null + 3 * (o(x, t, class_labels=class_labels).eps - null)

    plan = rv.solve.plan(name, P, steps=None if rv.solve.SOLVERS[name].dynamic else 5)
    told = {"class_labels": Y}
    want = rv.run(plan, rv.Model(net, P), X, cond=told)
    assert torch.allclose(rv.run(plan, o | CFG(3.0), X, cond=told), want, atol=1e-8)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"scale": math.nan}, "finite"),
        ({"scale": math.inf}, "finite"),
        ({"interval": (0.6, 0.2)}, "interval"),
        ({"interval": (0.6,)}, "interval"),
        ({"rescale": 1.5}, "rescale"),
        ({"rescale": -0.1}, "rescale"),
    ],
)
def test_bad_options(bad: dict[str, Any], match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        CFG(**bad)


def test_a_null_condition_is_needed() -> None:
    _, m = spied()
    bare = rv.Model(m.net, P)
    with pytest.raises(ArgumentError, match="null"):
        (bare | CFG(2.0))(X, 0.5, class_labels=Y)
    with pytest.raises(ArgumentError, match=r"cond lacks \['class_labels'\]"):
        (m | CFG(2.0))(X, 0.5)
    with pytest.raises(ShapeError, match="2 rows for a batch of 6"):
        (rv.Model(m.net, P, null={"class_labels": torch.tensor([1, 2])}) | CFG(2.0))(X, 0.5, class_labels=Y)
    with pytest.raises(ArgumentError, match="guide"):
        _ = m | 3.0  # type: ignore[operator]
    assert repr(CFG(2.5)) == "CFG(2.5)"
    assert "CFG(2)" in (m | CFG(2.0)).name
