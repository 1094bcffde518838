"""The run context: hooks, predictions set by them, selection of samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError, Noise, ShapeError
from reverie.solve import Stage, given, state

from . import reference as ref
from .problem import DATA, P, oracle, table, x_of

# -- hooks and the context


class Tell:
    def __init__(self) -> None:
        self.said: list[tuple[str, int]] = []

    def start(self, r: Any) -> None:
        self.said.append(("start", len(r.states)))

    def before(self, r: Any) -> None:
        assert r.stage is r.plan.table[r.k]
        assert r.t == r.stage.t
        with pytest.raises(ArgumentError, match="not yet"):
            _ = r.pred
        self.said.append(("before", r.k))

    def predicted(self, r: Any) -> None:
        assert torch.equal(r.pred.x, r.x)
        assert r.spent == {"calls": r.k + 1, "forwards": r.k + 1}
        self.said.append(("predicted", r.k))

    def after(self, r: Any) -> None:
        assert r.pred.t == r.t  # what the model said is still there
        assert r.x is r.states[r.k + 1]
        self.said.append(("after", r.k))

    def end(self, r: Any) -> None:
        self.said.append(("end", r.k))


def test_hooks_are_called_in_order() -> None:
    tell = Tell()
    rv.run(rv.solve.plan("dpmpp-2m", P, steps=3), oracle(), x_of(), hooks=[tell])
    stages = [(name, k) for k in range(3) for name in ("before", "predicted", "after")]
    assert tell.said == [("start", 1), *stages, ("end", 2)]
    with pytest.raises(ArgumentError, match="predicted"):
        rv.run(rv.solve.plan("ddim", P, steps=2), oracle(), x_of(), hooks=[object()])


def test_a_hook_changes_state_and_prediction() -> None:
    plan, m, x = rv.solve.plan("ddim", P, steps=3), oracle(), x_of()

    class Clip:
        def predicted(self, r: Any) -> None:
            r.pred = r.pred.replace(x0=r.pred.x0.clamp(-0.1, 0.1))

    class Zero:
        def after(self, r: Any) -> None:
            r.x = torch.zeros_like(r.x) if r.k < 2 else r.x

    assert rv.run(plan, m, x, hooks=Clip()).abs().max() <= 0.1 + 1e-12
    assert torch.equal(rv.run(plan, m, x, hooks=[Zero()]), rv.run(plan, m, 2 * x, hooks=[Zero()]))

    class Wrong:
        def before(self, r: Any) -> None:
            r.x = r.x[:2]

    with pytest.raises(ShapeError, match="hook"):
        rv.run(plan, m, x, hooks=Wrong())


def test_a_prediction_of_another_type_is_converted() -> None:
    """A hook may answer with another model's prediction, whatever its type."""
    plan, x = rv.solve.plan("dpmpp-2m", P, steps=4), x_of()
    other = oracle("v")

    class Replace:
        def predicted(self, r: Any) -> None:
            assert torch.allclose(r.step(other(r.x, r.t)), r.step(oracle()(r.x, r.t)), atol=1e-12)
            r.pred = other(r.x, r.t)

    zero = rv.Model(lambda x, t: 0 * x, P, predicts="eps")
    assert torch.allclose(rv.run(plan, zero, x, hooks=Replace()), rv.run(plan, other, x), atol=1e-12)


def test_step_says_what_a_row_would_make_and_changes_nothing() -> None:
    plan, m, x = rv.solve.plan("dpmpp-3m", P, steps=6), oracle(), x_of()

    class Ask:
        made: Tensor

        def predicted(self, r: Any) -> None:
            before = r.pred.x0.clone()
            self.other = r.step(r.pred.replace(x0=r.pred.x0 + 1))
            self.made = r.step(r.pred)
            assert torch.equal(r.pred.x0, before)

        def after(self, r: Any) -> None:
            assert torch.equal(self.made, r.x)
            assert not torch.equal(self.other, r.x)

    assert torch.equal(rv.run(plan, m, x, hooks=Ask()), rv.run(plan, m, x))


@pytest.mark.parametrize("name", ["dpmpp-3m", "dpm-2m", "heun"])
def test_select_is_running_the_selected_alone(name: str) -> None:
    """States, history, conditions, inputs, per-sample coefficients and memory follow; noise stays with the slot."""
    x, rows = x_of(), torch.tensor([4, 0, 0])
    shift = torch.arange(5.0, dtype=torch.float64)[:, None]

    def net(x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
        assert len(t) == len(x)
        return ref.raw_of(P, "eps", x, DATA(x - shift, float(t[0])), float(t[0]))

    class Pick:
        def after(self, r: Any) -> None:
            if r.k == 3:
                r.memory["mine"] = {"ids": torch.arange(5), "list": [torch.arange(5), 1]}
                r.select(rows)
                assert r.memory["mine"]["ids"].tolist() == r.memory["mine"]["list"][0].tolist() == [4, 0, 0]
                assert r.rows.tolist() == [4, 0, 0]
                assert r.index.tolist() == [0, 1, 2]

    m, plan = rv.Model(net, P), rv.solve.plan(name, P, steps=8)
    want = rv.run(plan, m, x[rows], cond={"shift": shift[rows]})
    assert torch.allclose(rv.run(plan, m, x, cond={"shift": shift}, hooks=Pick()), want, atol=1e-12)

    wide = torch.arange(1.0, 6.0, dtype=torch.float64)[:, None]
    ends = [Stage(wide * state(0), None, 0.5), Stage(1.0 * state(1) + wide * given("y"), None, 0.1)]
    hand = table(*ends)

    class First:
        def after(self, r: Any) -> None:
            if r.k == 0:
                r.select(rows)

    made = rv.run(hand, oracle(), x, inputs={"y": shift.expand(5, 4)}, hooks=First())
    assert torch.equal(made, (wide * x + wide * shift)[rows])

    class Twice:
        def before(self, r: Any) -> None:
            r.select([torch.tensor([3, 4, 1]), torch.tensor([2, 0])][r.k])

    made = rv.run(hand, oracle(), x, inputs={"y": shift.expand(5, 4)}, hooks=Twice())
    assert torch.equal(made, (wide * x + wide * shift)[[1, 3]])


def test_select_keeps_noise_with_the_slot() -> None:
    plan = rv.solve.plan("ddim", P, steps=6, eta=1.0)
    for source in (0, Noise(0), torch.randn(5, 4, 4, dtype=torch.float64), lambda j: torch.full((4, 4), j + 0.5)):
        seen: list[Tensor] = []

        class Copy:
            def before(self, r: Any, seen: list[Tensor] = seen) -> None:
                if r.k == 2:
                    seen.append(r.draw(2).clone())
                    r.select(torch.tensor([1, 1]))
                    seen.append(r.draw(2))

        x = rv.run(plan, oracle(), x_of(4), noise=source, hooks=Copy())
        assert torch.equal(seen[0][:2], seen[1])
        assert x.shape == (2, 4)
        assert callable(source) or not torch.equal(x[0], x[1])  # copies diverge


@pytest.mark.parametrize("rows", [[5], [-1], [], [0] * 6, [True, False, True, True, True], [0.5], [[0]]])
def test_rows_that_cannot_be_selected(rows: list[Any]) -> None:
    class Pick:
        def after(self, r: Any) -> None:
            r.select(torch.tensor(rows))

    with pytest.raises(ArgumentError, match="rows"):
        rv.run(rv.solve.plan("ddim", P, steps=2), oracle(), x_of(), hooks=Pick())
