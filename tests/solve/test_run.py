"""The loop: hooks, context, noise, gradients, failures, dynamic plans."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reverie as rv
from reverie.base import ArgumentError, Noise, NonFiniteError, ShapeError, UnknownNameError
from reverie.solve import Line, Plan, Stage, given, noise, prediction, state
from reverie.solve.plan import DYNAMICS, RULES

from . import reference as ref

P = ref.PROCESSES["vp"]
MEANS, STD = ref.mixture(4, 3)
DATA = ref.data_of(P, MEANS, STD)


def x_of(b: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(b, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def oracle(kind: str = "eps", p: Any = P) -> rv.Model:
    return ref.model_of(p, kind, ref.data_of(p, MEANS, STD))


def table(*stages: Stage, **more: Any) -> Plan:
    return Plan("hand", P, stages, stages[0].t or 1.0, **more)


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


def test_record() -> None:
    plan = rv.solve.plan("euler", P, steps=4, churn=2.0)
    x, kept = rv.run(plan, oracle(), x_of(), record=("x", "x0", "t", "eps"))
    assert [len(v) for v in kept.values()] == [len(plan.table)] * 4
    assert torch.equal(kept["x"][0], x_of())
    asked = [s.t is not None for s in plan.table]
    assert [v is not None for v in kept["x0"]] == asked
    assert False in asked
    k = asked.index(True)
    assert torch.allclose(kept["x0"][k], DATA(kept["x"][k], kept["t"][k]), atol=1e-12)
    assert torch.allclose(kept["x0"][-1], x, atol=1e-12)
    assert list(rv.run(plan, oracle(), x_of(), record="x0")[1]) == ["x0"]
    with pytest.raises(ArgumentError, match="record"):
        rv.run(plan, oracle(), x_of(), record=("y",))


# -- networks of every habit


@pytest.mark.parametrize("name", ["dpmpp-3m", "heun", "dpm-3s"])
def test_networks_that_reuse_their_memory(name: str) -> None:
    """An output buffer written at every call, the input itself, and a view of it."""
    plan, x = rv.solve.plan(name, P, steps=8), x_of()
    buffer = torch.empty_like(x)

    def reused(x: Tensor, t: Tensor) -> Tensor:
        return buffer.copy_(0.3 * x)

    want, kept = rv.run(plan, rv.Model(lambda x, t: 0.3 * x, P), x, record=("eps",))
    assert torch.equal(rv.run(plan, rv.Model(reused, P), x), want)
    again = rv.run(plan, rv.Model(reused, P), x, record=("eps",))[1]
    assert all(torch.equal(a, b) for a, b in zip(again["eps"], kept["eps"], strict=True))
    both = {"a": rv.Model(reused, P), "b": rv.Model(lambda x, t: 0.3 * x, P)}
    mixed = plan.replace(
        table=tuple(s if k % 3 else Stage(s.row, s.t, s.to, s.step, net="b") for k, s in enumerate(plan.table))
    )
    assert torch.equal(rv.run(mixed, both, x), want)
    same, copy = (rv.run(plan, rv.Model(net, P), x) for net in (lambda x, t: x, lambda x, t: x.clone()))
    assert torch.equal(same, copy)
    assert torch.equal(rv.run(plan, rv.Model(lambda x, t: x[:], P), x), copy)
    assert torch.equal(x, x_of())  # the caller's state is untouched


def test_precision_is_kept_around_the_network() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor(0.5, dtype=torch.bfloat16))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            assert (x.dtype, t.dtype) == (torch.bfloat16, torch.float32)
            return x * self.w

    plan = rv.solve.plan("dpmpp-2m", P, steps=5)
    m = rv.Model(Net(), P)
    for given_, made in (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        assert rv.run(plan, m, x_of(dtype=given_)).dtype == made
    x32 = rv.run(rv.solve.plan("dpmpp-2m", P, steps=40), oracle(), x_of(dtype=torch.float32))
    x64 = rv.run(rv.solve.plan("dpmpp-2m", P, steps=40), oracle(), x_of())
    assert (x32 - x64).abs().max() < 1e-5


def test_gradients() -> None:
    """grad="full" against finite differences, to the state and to a parameter; by default there are none."""
    plan = rv.solve.plan("dpmpp-3m", P, steps=5, lower_final=False)
    w = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def end(x: Tensor, w: Tensor, **more: Any) -> Tensor:
        return rv.run(plan, rv.Model(lambda x, t: torch.tanh(w * x) * t[:, None], P), x, **more)

    x = x_of(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: end(x, w, grad="full"), (x, w))
    assert not end(x, w).requires_grad
    with pytest.raises(ArgumentError, match="grad"):
        end(x, w, grad="some")


# -- noise


def test_noise_from_anywhere_is_the_same() -> None:
    plan, x, m = rv.solve.plan("ddim", P, steps=6, eta=1.0), x_of(), oracle()
    one = rv.run(plan, m, x, noise=3)
    z = Noise(3).normals((4,), index=range(5), stages=range(plan.noises), stream=rv.base.PLAN, dtype=torch.float64)
    assert torch.equal(rv.run(plan, m, x, noise=Noise(3)), one)
    assert torch.equal(rv.run(plan, m, x, noise=z), one)
    assert torch.equal(rv.run(plan, m, x, noise=lambda j: z[j]), one)
    assert not torch.equal(rv.run(plan, m, x, noise=4), one)
    ids = [7, 3, 0, 2, 9]
    moved = rv.run(plan, m, x, noise=3, index=ids)
    assert torch.allclose(moved[2:3], rv.run(plan, m, x[2:3], noise=3), atol=1e-12)


@pytest.mark.parametrize(
    "bad", [torch.zeros(2, 5, 4), torch.zeros(6, 4, 4), torch.zeros(6, 5, 3), lambda j: torch.zeros(1, 4)]
)
def test_noise_of_the_wrong_shape(bad: Any) -> None:
    with pytest.raises(ShapeError, match="noise"):
        rv.run(rv.solve.plan("ddim", P, steps=6, eta=1.0), oracle(), x_of(), noise=bad)


def test_chunks_of_noise_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, m = rv.solve.plan("ddim", P, steps=6, eta=1.0), oracle()
    one = rv.run(plan, m, x_of())
    for size in (1, 40, 50):
        monkeypatch.setattr("reverie.solve.context._CHUNK", size)
        assert torch.equal(rv.run(plan, m, x_of()), one)


# -- failures


@pytest.mark.parametrize("hides", [False, True])
def test_nan_names_stage_and_samples(hides: bool) -> None:
    def net(x: Tensor, t: Tensor) -> Tensor:
        out = torch.nan_to_num(x) if hides else x.clone()
        if 0.1 < float(t[0]) < 0.5:
            out[[1, 3]] = float("nan")
        return out

    plan = rv.solve.plan("ddim", P, steps=10)
    first = next(k for k, s in enumerate(plan.table) if s.t is not None and 0.1 < s.t < 0.5)
    with pytest.raises(NonFiniteError, match=rf"stage {first} .*samples 8, 6 \(2 of 5\)") as caught:
        rv.run(plan, rv.Model(net, P, predicts="x0"), x_of(), index=[9, 8, 7, 6, 5])
    assert (caught.value.stage, caught.value.samples) == (first, (8, 6))


def test_nan_at_the_start_and_after_a_selection() -> None:
    x = x_of()
    x[2] = float("inf")
    with pytest.raises(NonFiniteError, match="initial state, samples 2"):
        rv.run(rv.solve.plan("ddim", P, steps=2), oracle(), x)

    class Drop:
        def after(self, r: Any) -> None:
            if r.k == 1:
                r.x = torch.where(torch.arange(5)[:, None] == 4, float("nan"), r.x)
                r.select(torch.tensor([0]))

        before = predicted = end = start = None

    class Only:
        def after(self, r: Any) -> None:
            Drop().after(r)

    assert rv.run(rv.solve.plan("ddim", P, steps=4), oracle(), x_of(), hooks=Only()).shape == (1, 4)

    class Late:
        def after(self, r: Any) -> None:
            if r.k == 0:
                r.select(torch.tensor([3, 4]))
            if r.k == 2:
                r.x = r.x * float("nan")

    with pytest.raises(NonFiniteError, match=r"stage 2 .*samples 0, 1 \(2 of 2\)"):
        rv.run(rv.solve.plan("ddim", P, steps=4), oracle(), x_of(), hooks=Late())


def test_states_of_one_number_and_of_many_dimensions() -> None:
    m = rv.Model(lambda x, t: 0.5 * x, P)
    plan = rv.solve.plan("dpmpp-2m", P, steps=4)
    flat = rv.run(plan, m, torch.ones(3))
    deep = rv.run(plan, m, torch.ones(3, 2, 1, 2))
    assert torch.equal(deep, flat.reshape(3, 1, 1, 1).expand(3, 2, 1, 2))
    with pytest.raises(NonFiniteError, match="samples 1"):
        rv.run(plan, m, torch.tensor([0.0, float("nan")]))


def test_bad_arguments() -> None:
    plan, m, x = rv.solve.plan("ddim", P, steps=2), oracle(), x_of()
    with pytest.raises(ArgumentError, match="compiled for"):
        rv.run(plan, oracle("eps", ref.PROCESSES["cosine"]), x)
    with pytest.raises(ArgumentError, match="Plan"):
        rv.run("ddim", m, x)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="Model"):
        rv.run(plan, lambda x, t: x, x)  # type: ignore[arg-type]
    for bad in (torch.tensor(1.0), torch.zeros(0, 4), [1.0]):
        with pytest.raises(ShapeError, match="initial state"):
            rv.run(plan, m, bad)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="batch of 5"):
        rv.run(plan, m, x, cond={"class_labels": torch.zeros(3)})
    with pytest.raises(ShapeError, match="index"):
        rv.run(plan, m, x, index=[1, 2])


def test_inputs() -> None:
    plan = table(Stage(0.5 * state(0) + 2.0 * given("y"), None, 0.1))
    x, y = x_of(), torch.randn(5, 4)
    assert plan.inputs == ("y",)
    assert torch.allclose(rv.run(plan, oracle(), x, inputs={"y": y}), 0.5 * x + 2 * y)
    alone = table(Stage(2.0 * given("y"), None, 0.1))
    assert rv.run(alone, oracle(), x, inputs={"y": y[:1]}).shape == (5, 4)
    with pytest.raises(ArgumentError, match="inputs"):
        rv.run(plan, oracle(), x)
    for bad in (torch.zeros(3, 4), torch.zeros(5, 3), torch.zeros(1, 5, 4)):
        with pytest.raises(ShapeError, match="input 'y'"):
            rv.run(plan, oracle(), x, inputs={"y": bad})


def test_a_model_may_need_an_input_that_the_plan_does_not_name() -> None:
    """A network trained on eps - y, so that eps = raw + y."""
    one, zero = (lambda p, t: torch.ones_like(t)), (lambda p, t: torch.zeros_like(t))
    residual = rv.Target(zero, one, y=lambda p, t: -torch.ones_like(t), name="residual")
    x, y = x_of(), torch.randn(5, 4, dtype=torch.float64)
    m = rv.Model(lambda x, t: ref.raw_of(P, "eps", x, DATA(x, float(t[0])), float(t[0])) - y, P, predicts=residual)
    plan = rv.solve.plan("dpmpp-2m", P, steps=5)
    assert torch.allclose(rv.run(plan, m, x, inputs={"y": y}), rv.run(plan, oracle(), x), atol=1e-11)
    with pytest.raises(ArgumentError, match="inputs"):
        rv.run(plan, m, x)


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    rv.run(rv.solve.plan("ddim", P, steps=3), oracle(), x_of(), progress=True)
    assert capsys.readouterr().err.endswith("\r3/3\n")


# -- rules


def test_a_stage_rule() -> None:
    RULES["halve"] = lambda run, x, by: x / by
    try:
        plan = table(Stage(1.0 * state(0) + 1.0 * noise(0), None, 0.1, rule=("halve", {"by": 2})))
        z = torch.randn(1, 5, 4, dtype=torch.float64)
        assert torch.equal(rv.run(plan, oracle(), x_of(), noise=z), (x_of() + z[0]) / 2)
        with pytest.raises(UnknownNameError, match="halve"):
            table(Stage(1.0 * state(0), None, 0.1, rule=("halv", {})))
    finally:
        del RULES["halve"]


# -- dynamic plans


def like(static: Plan, stages: Any, **more: Any) -> Plan:
    DYNAMICS["test"] = stages
    return Plan("dynamic", P, (), static.start, static.kinds, rule=("test", more))


@pytest.mark.parametrize(
    ("name", "options"), [("ddim", {"eta": 1.0}), ("dpmpp-3m", {}), ("dpm-3s", {}), ("euler", {"churn": 3.0})]
)
def test_a_dynamic_plan_is_the_static_one_bit_for_bit(name: str, options: dict[str, Any]) -> None:
    static = rv.solve.plan(name, P, steps=20, **options)
    plan = like(static, lambda run, plan: iter(static.table))
    for kind in ("eps", "edm"):
        assert torch.equal(rv.run(plan, oracle(kind), x_of()), rv.run(static, oracle(kind), x_of()))
    assert plan.nfe is None
    assert plan.steps == 0
    with pytest.raises(ArgumentError, match="during a run"):
        plan.stages()


def test_a_dynamic_plan_reads_the_run_and_rejects() -> None:
    """Try a step; where the prediction moved too much go back to the old state and take two halves; stop at a time."""
    log: list[str] = []

    def adaptive(run: Any, plan: Plan, tolerance: float, until: float) -> Iterator[Stage]:
        t, k, h = plan.start, 0, 0.4
        while t > until:
            to = max(t - h, until)
            keep = P.sigma(to) / P.sigma(t)
            yield Stage(keep * state(k) + (P.alpha(to) - keep * P.alpha(t)) * prediction(k), t, to)
            moved = (run.x - run.states[k]).norm() / 5
            if moved > tolerance and h > 0.05:
                yield Stage(1.0 * state(k), None, t)  # reject: state k again
                assert torch.equal(run.x, run.states[k])
                k, h = k + 2, h / 2
                log.append("reject")
            else:
                k, t = k + 1, to
                log.append("accept")

    plan = like(rv.solve.plan("ddim", P, steps=2), adaptive, tolerance=0.1, until=0.05).replace(bound=50)
    x, m = x_of(), oracle()
    made, kept = rv.run(plan, m, x, record=("t",))
    assert {"reject", "accept"} == set(log)
    assert m.calls == len(log)
    assert plan.cost(m) == 50
    back = [t for t, u in zip(kept["t"], kept["t"][1:], strict=False) if u == t]
    assert len(back) == 2 * log.count("reject")  # the move back and the second try are at the old time
    exact = rv.oracle.Mixture(MEANS, STD, process=P).solve(x, t_end=0.05)
    assert (made - exact).norm(dim=1).median() < 0.5


def test_dynamic_plans_have_a_window_and_are_checked() -> None:
    first = rv.solve.plan("ddim", P, steps=2)

    def far(run: Any, plan: Plan, back: int) -> Iterator[Stage]:
        for k in range(30):
            yield Stage(1.0 * state(max(0, k - back)) + 0.0 * prediction(k), 0.5, 0.5)

    assert torch.equal(rv.run(like(first, far, back=12), oracle(), x_of()), x_of())
    with pytest.raises(ArgumentError, match="13 stages back; at most 12"):
        rv.run(like(first, far, back=13), oracle(), x_of())
    for bad in (Line(), 1.0 * state(3), 1.0 * prediction(2), 1.0 * prediction(0, 1)):
        with pytest.raises(ArgumentError, match="stage 0"):
            rv.run(like(first, lambda run, plan, bad=bad: iter([Stage(bad, 0.5, 0.4)])), oracle(), x_of())
    assert torch.equal(rv.run(like(first, lambda run, plan: iter(())), oracle(), x_of()), x_of())
    with pytest.raises(UnknownNameError, match="dynamic rule"):
        Plan("d", P, (), 1.0, rule=("nonsense", {}))


# -- what is kept alive


def test_a_run_leaves_no_network_alive() -> None:
    plan = rv.solve.plan("dpmpp-2m", P, steps=4)

    class Net:
        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            return x

        def label(self, t: float) -> float:
            return 1000 * t

    net = Net()
    there = weakref.ref(net)
    rv.run(plan, rv.Model(net, P), x_of())
    rv.run(plan, rv.Model(net, P, label=net.label), x_of())
    del net
    gc.collect()
    assert there() is None


def test_history_is_freed_as_soon_as_no_row_needs_it() -> None:
    class Count:
        most = 0

        def after(self, r: Any) -> None:
            self.most = max(self.most, *(sum(s is not None for s in kept) for kept in (r.states, r.raws)))

    count = Count()
    rv.run(rv.solve.plan("dpmpp-3m", P, steps=40), oracle(), x_of(), hooks=count)
    assert count.most <= 4
