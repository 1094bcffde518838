"""Gradients through a run: all modes against full backpropagation, the adjoint against its limit, memory, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reverie as rv
from reverie.base import ArgumentError, UnknownNameError
from reverie.solve import Adjoint

from . import reference as ref

D = 5
VP = ref.PROCESSES["vp"]


class Net(nn.Module):
    """A smooth network with weights, a condition and a time."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.a = nn.Parameter(0.5 * torch.randn(D, width, generator=g, dtype=torch.float64))
        self.b = nn.Parameter(0.5 * torch.randn(width, D, generator=g, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        return torch.tanh(x @ self.a + c + t[:, None]) @ self.b


def asked(mode: Any, solver: str = "bdia", steps: int = 12, p: Any = VP, predicts: str = "x0") -> list[Tensor]:
    """Gradients by noise, condition, weights and guidance scale."""
    net = Net()
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    null = {"c": torch.zeros(1, 16, dtype=torch.float64)}
    m = rv.Model(net, p, predicts, label=lambda t: t / p.t_max, null=null) | rv.guide.CFG(scale)
    g = torch.Generator().manual_seed(1)
    z = p.prior(torch.randn(3, D, generator=g, dtype=torch.float64)).requires_grad_()
    c = torch.randn(3, 16, generator=g, dtype=torch.float64).requires_grad_()
    plan = rv.solve.plan(solver, p, steps=steps)
    x = rv.run(plan, m, z, cond={"c": c}, grad=mode)
    loss = (x * torch.linspace(-1, 1, D, dtype=torch.float64)).sum() + x.square().sum()
    return list(torch.autograd.grad(loss, [z, c, *net.parameters(), scale]))


def furthest(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((u - v).norm() / v.norm()) for u, v in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ref.PROCESSES)
def test_checkpoint_and_reversible_are_full_backpropagation(name: str) -> None:
    p = ref.PROCESSES[name]
    full = asked("full", p=p)
    assert furthest(asked("checkpoint", p=p), full) < 1e-12
    assert furthest(asked("reversible", p=p), full) < 1e-8


@pytest.mark.parametrize("solver", ["dpmpp-3m", "heun", "unipc-3", "pndm"])
def test_checkpoint_takes_any_plan(solver: str) -> None:
    assert furthest(asked("checkpoint", solver), asked("full", solver)) < 1e-11


@pytest.mark.parametrize(("form", "bound"), [("time", 1e-4), ("eps", 2e-3), ("x0", 5e-3)])
def test_limit_with_many_steps_the_adjoint_is_the_gradient(form: str, bound: float) -> None:
    exact = asked("full", "dpmpp-3m", 500, predicts="v")
    rough, plain, fine = (
        furthest(asked(Adjoint(form, order), "dpmpp-3m", n, predicts="v"), exact)
        for order, n in ((1, 240), (4, 60), (4, 240))
    )
    assert fine < bound
    assert fine < min(rough, plain) / 10


def test_oracle_the_adjoint_of_a_gaussian() -> None:
    """The flow of a Gaussian is linear, and so is its gradient: d x_0 / d x_T is a matrix that is known."""
    cov = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
    o = rv.oracle.Gaussian(torch.tensor([0.5, -1.0]), cov, process=VP)
    z = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    moves = (torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    still, one, two = (o.solve(z.detach() + d, VP.t_max, VP.t_min) for d in moves)
    a = torch.tensor([0.3, -0.7], dtype=torch.float64)
    want = torch.stack([(one - still) @ a, (two - still) @ a], -1)
    for form, order, bound in (("time", 2, 1e-3), ("time", 4, 5e-4), ("x0", 4, 0.05), ("eps", 4, 0.1)):
        plan = rv.solve.plan("dpmpp-3m", VP, steps=80, end="sigma_min")
        got = torch.autograd.grad((rv.run(plan, o, z, grad=Adjoint(form, order)) * a).sum(), z)[0]
        assert float((got - want).norm() / want.norm()) < bound


def test_reversible_memory_is_flat_and_full_grows() -> None:
    """Bytes that autograd keeps between the passes."""
    net, x = Net(64), torch.randn(4, D, dtype=torch.float64).requires_grad_()
    m = rv.Model(net, VP, "x0", label=lambda t: t)
    cond = {"c": torch.zeros(4, 64, dtype=torch.float64)}

    def kept(mode: str, steps: int) -> int:
        total = 0

        def pack(t: Tensor) -> Tensor:
            nonlocal total
            total += t.numel() * t.element_size()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            rv.run(rv.solve.plan("bdia", VP, steps=steps), m, x, cond=cond, grad=mode)
        return total

    assert kept("reversible", 80) == kept("reversible", 10)
    assert kept("adjoint", 80) == kept("adjoint", 10)
    assert kept("full", 80) > 6 * kept("full", 10)
    assert kept("checkpoint", 80) < kept("full", 80) / 4


def test_gradients_of_digits_agree() -> None:
    m = rv.load("digits")
    plan = rv.solve.plan("bdia", m.process, steps=8)
    z = m.process.prior(rv.Noise(0).normal((1, 8, 8), range(2)))
    cond, got = {"class_labels": torch.tensor([3, 5])}, {}
    for mode in ("full", "checkpoint", "reversible"):
        leaf = z.clone().requires_grad_()
        x = rv.run(plan, m | rv.guide.CFG(1.5), leaf, cond=cond, grad=mode)
        got[mode] = torch.autograd.grad(x[:, :, :4].sum(), leaf)[0]
    for mode in ("checkpoint", "reversible"):
        assert float((got[mode] - got["full"]).norm() / got["full"].norm()) < 1e-4


def test_a_degraded_input_and_a_condition_that_was_computed_get_their_gradients() -> None:
    p = rv.process.mean_reverting()
    m = rv.Model(Net(), p, "x0", label=lambda t: t / p.t_max)
    g = torch.Generator().manual_seed(1)
    z, w, v = (torch.randn(n, dtype=torch.float64, generator=g) for n in ((3, D), (3, 16), (3, D)))
    plan, got = rv.solve.plan("bdia", p, steps=6), {}
    for mode in ("full", "checkpoint", "reversible"):
        a, b = w.clone().requires_grad_(), v.clone().requires_grad_()
        x = rv.run(plan, m, z, cond={"c": 2 * a}, inputs={"y": b.tanh()}, grad=mode)
        got[mode] = list(torch.autograd.grad(x.square().sum(), [a, b]))
    assert furthest(got["checkpoint"], got["full"]) < 1e-11
    assert furthest(got["reversible"], got["full"]) < 1e-8


def test_no_gradient_is_made_where_none_is_asked_for() -> None:
    m = rv.Model(Net(), VP, "x0", label=lambda t: t)
    z, cond = torch.randn(2, D, dtype=torch.float64), {"c": torch.zeros(2, 16, dtype=torch.float64)}
    plan = rv.solve.plan("bdia", VP, steps=4)
    for p in m.net.parameters():
        p.requires_grad_(False)
    for mode in ("reversible", "adjoint", "checkpoint"):
        x = rv.run(plan, m, z, cond=cond, grad=mode)
        assert not x.requires_grad
        torch.testing.assert_close(x, rv.run(plan, m, z, cond=cond))


def test_what_cannot_be_is_refused() -> None:
    o = rv.oracle.Gaussian(torch.zeros(D), torch.eye(D), process=VP)
    z = torch.randn(2, D).requires_grad_()
    plan = rv.solve.plan("bdia", VP, steps=4)
    with pytest.raises(UnknownNameError, match="unknown grad 'reversed'; did you mean 'reversible'"):
        rv.run(plan, o, z, grad="reversed")
    with pytest.raises(ArgumentError, match="grad is one of full, checkpoint"):
        rv.run(plan, o, z, grad=3)
    with pytest.raises(ArgumentError, match="goes without hooks and record"):
        rv.run(plan, o, z, grad="adjoint", record="x")
    with pytest.raises(ArgumentError, match="reads the prediction at the oldest state"):
        rv.run(rv.solve.plan("ddim", VP, steps=4), o, z, grad="reversible")
    with pytest.raises(ArgumentError, match="the adjoint is of a deterministic plan"):
        rv.run(rv.solve.plan("ddpm", VP, steps=4), o, z, grad="adjoint")
    with pytest.raises(UnknownNameError, match="form of the adjoint"):
        Adjoint("rho")
    with pytest.raises(ArgumentError, match="from 1 to 5, got 0"):
        Adjoint(order=0)
    flow = rv.process.flow()
    f = rv.oracle.Gaussian(torch.zeros(D), torch.eye(D), process=flow)
    ends = rv.solve.plan("ddim", flow, grid=[1.0, 0.6, 0.2])
    with pytest.raises(ArgumentError, match=r"infinite at t = 1.*take form='x0' or 'time'"):
        rv.run(ends, f, z, grad=Adjoint("eps"))
