"""Guides by branches: shared evaluations, chained combinations, conditions of every form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError, ShapeError
from reverie.guide import CFG, Guided
from reverie.model import Shared

torch.set_num_threads(1)
P = rv.process.vp("linear")
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Push:
    """A toy guide: adds s null to whatever the guides before it made; keeps a count in the run's memory."""

    all_branches = ("null",)

    def __init__(self, s: float, above: float = 0.0) -> None:
        self.s, self.above = s, above

    def needs(self, t: Any) -> tuple[str, ...]:
        return ("null",) if t > self.above else ()

    def combine(self, current: Tensor, branches: Any, x: Tensor, t: Any, model: Any, run: Any) -> Tensor:
        if run is not None:
            run.memory.setdefault(self, []).append(len(x))
        return current + self.s * branches["null"][0]

    def __call__(self, model: rv.Model) -> rv.Model:
        return Guided(model.base, (*model.guides, self)) if isinstance(model, Guided) else Guided(model, (self,))


def net(x: Tensor, t: Tensor, c: Tensor, **more: Any) -> Tensor:
    return x.sin() + c.reshape(len(x), -1).sum(1, keepdim=True) * x.cos()


def model(null: Any = 2.0, f: Any = net) -> rv.Model:
    return rv.Model(f, P, null={"c": null})


C = torch.tensor([0.0, 1.0, -1.0, 0.5], dtype=torch.float64)
BASE, NULL = net(X, X, C), net(X, X, torch.full((4,), 2.0, dtype=torch.float64))


def test_guides_share_branches_and_chain() -> None:
    m = model()
    g = m | CFG(3.0) | Push(0.5)
    assert isinstance(g, Guided)
    assert g.base is m
    assert torch.allclose(g(X, 0.5, c=C).raw, NULL + 3 * (BASE - NULL) + 0.5 * NULL, atol=1e-12)
    assert (g.cost(0.5), g.calls, g.forwards, m.calls, m.forwards) == (2, 1, 2, 1, 2)
    late = m | CFG(3.0, interval=(0.0, 0.3)) | Push(0.5, above=0.6)
    assert [late.cost(t) for t in (0.2, 0.5, 0.9)] == [2, 1, 2]
    assert late.cost() == 2
    assert torch.allclose(late(X, 0.9, c=C).raw, BASE + 0.5 * NULL, atol=1e-12)
    assert torch.equal(late(X, 0.5, c=C).raw, m(X, 0.5, c=C).raw)


def test_a_second_cfg_adds_its_own_correction() -> None:
    g = model() | CFG(3.0) | CFG(2.0)
    assert torch.allclose(g(X, 0.5, c=C).raw, NULL + 4 * (BASE - NULL), atol=1e-12)
    assert g.cost(0.5) == 2


def test_state_lives_in_the_run() -> None:
    push = Push(0.1)
    held: list[Any] = []

    class Look:
        def after(self, r: Any) -> None:
            if r.k == 1:
                r.select(torch.tensor([0, 3]))

        def end(self, r: Any) -> None:
            held.append(r.memory[push])
            assert r.spent == {"calls": 4, "forwards": 8}

    plan = rv.solve.plan("dpmpp-2m", P, steps=4)
    for _ in range(2):
        rv.run(plan, model() | push, X, cond={"c": C}, hooks=Look())
    assert held == [[4, 4, 2, 2]] * 2
    (model() | push)(X, 0.5, c=C)  # outside a run there is none


@pytest.mark.parametrize(
    ("given", "null"),
    [
        (C, 2.0),
        (C, torch.tensor([2.0])),
        (C[:, None].expand(4, 5), torch.full((5,), 2.0)),
        (C[:, None].expand(4, 5), torch.full((1, 5), 2.0)),
        (C[:, None].expand(4, 5), 2.0),
        (C[:, None, None].expand(4, 5, 2), torch.full((2,), 2.0)),
    ],
)
def test_forms_of_the_null_condition(given: Tensor, null: Any) -> None:
    seen: list[torch.Size] = []

    def f(x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        seen.append(c.shape)
        return net(x, t, c)

    made = (model(null, f) | CFG(3.0))(X, 0.5, c=given).raw
    n = given[0].numel()
    base, other = net(X, X, C * n), net(X, X, torch.full((4,), 2.0 * n, dtype=torch.float64))
    assert torch.allclose(made, other + 3 * (base - other), atol=1e-12)
    assert seen == [(8, *given.shape[1:])]


def test_conditions_that_cannot_be_merged_take_two_calls() -> None:
    """A null text of another length, say."""
    calls: list[torch.Size] = []

    def f(x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        calls.append(c.shape)
        return net(x, t, c)

    m = model(torch.ones(1, 2), f)
    g = m | CFG(3.0)
    made = g(X, 0.5, c=C[:, None].expand(4, 5)).raw
    base = net(X, X, 5 * C)
    assert torch.allclose(made, NULL + 3 * (base - NULL), atol=1e-12)
    assert calls == [(4, 5), (4, 2)]
    assert (g.calls, g.forwards, m.forwards) == (1, 2, 2)


def test_what_the_null_condition_does_not_name_stays() -> None:
    def f(x: Tensor, t: Tensor, c: Tensor, size: Tensor, table: Tensor, flag: bool) -> Tensor:
        assert table.shape == (7,)
        assert flag
        return net(x, t, c) * size[:, None]

    size = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    cond = {"c": C, "size": size, "table": Shared(torch.ones(7)), "flag": True}
    made = (model(2.0, f) | CFG(3.0))(X, 0.5, **cond).raw
    assert torch.allclose(made, (NULL + 3 * (BASE - NULL)) * size[:, None], atol=1e-12)


def test_learned_variance_and_preconditioning_pass_through() -> None:
    """The variance head is that of the condition; EDM's input scale reaches every branch."""

    def f(x: Tensor, t: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return net(x, t, c), c[:, None] * torch.ones_like(x)

    two = rv.Model(f, P, predicts=("eps", "variance"), null={"c": 2.0}) | CFG(3.0)
    pred = two(X, 0.5, c=C)
    assert torch.equal(pred.variance, C[:, None] * torch.ones_like(X))  # type: ignore[arg-type]
    assert torch.allclose(pred.eps, NULL + 3 * (BASE - NULL), atol=1e-12)
    e = rv.process.edm()
    m = rv.Model(net, e, predicts="edm", null={"c": 2.0})
    for t in (3.0, torch.tensor([0.1, 1.0, 5.0, 20.0], dtype=torch.float64)):
        base, null = m(X, t, c=C), m(X, t, c=torch.full((4,), 2.0, dtype=torch.float64))
        want = null.x0 + 3 * (base.x0 - null.x0)
        assert torch.allclose((m | CFG(3.0))(X, t, c=C).x0, want, atol=1e-11)


def test_errors() -> None:
    with pytest.raises(ShapeError, match="3 rows"):
        (model(torch.ones(3, 2)) | CFG(3.0))(X, 0.5, c=C[:, None].expand(4, 2))
    with pytest.raises(ArgumentError, match="lacks"):
        (model() | CFG(3.0))(X, 0.5)
    with pytest.raises(ShapeError, match="batch of 4"):
        (model() | CFG(3.0))(X, 0.5, c=C[:3])
