"""The loop: records, networks, noise, gradients, failures, memory."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reverie as rv
from reverie.base import ArgumentError, Noise, NonFiniteError, ShapeError
from reverie.solve import Stage, given, state

from . import reference as ref
from .problem import DATA, P, oracle, table, x_of


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


def test_nan_that_no_later_state_shows_is_found_all_the_same() -> None:
    """The last row of a data prediction to sigma = 0 does not read its state, and this network turns NaN into a number."""

    def net(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(t[:, None] < 0.2, torch.nan_to_num(x), x) * (
            float("nan") if 0.2 < float(t[0]) < 0.4 else 1.0
        )

    plan = rv.solve.plan("dpmpp-2m", P, grid=[1.0, 0.6, 0.3, 0.1, 0.0])
    with pytest.raises(NonFiniteError) as caught:
        rv.run(plan, rv.Model(net, P, predicts="x0"), x_of())
    assert caught.value.stage == 2
