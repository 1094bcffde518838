"""Momentum, rules, starts and other processes with everything else: guidance, another model, another batch size, a network in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reverie as rv

D, N = 12, 5
VP, MR, PATH = rv.process.vp(), rv.process.mean_reverting(), rv.process.interpolant("linear", "parabola")
DATA = 0.5 * torch.randn(64, D, generator=torch.Generator().manual_seed(1)) + 1.0
KINDS = {"kind": torch.tensor([0, 1, 0, 1, 1])}


class Net(nn.Module):
    """Smooth answers that know the state, the time and a kind."""

    def __init__(self, heads: int = 1, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.kinds = nn.Parameter(torch.randn(3, D, generator=g))
        self.inner = nn.Parameter(torch.randn(D, D, generator=g) / D**0.5)
        self.outer = nn.Parameter(torch.randn(D, heads * D, generator=g) / D**0.5)

    def forward(self, x: Tensor, label: Tensor, kind: Tensor) -> Tensor:
        inner = torch.tanh(x @ self.inner + self.kinds[kind] + label.to(x)[:, None])
        return inner @ self.outer


@dataclass
class Case:
    """What is run: on which process, by which plan, and what goes with it."""

    plan: Callable[[], rv.Plan]
    predicts: Any = "x0"
    heads: int = 1
    hooks: Callable[[], Any] = lambda: ()
    inputs: bool = False

    def model(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> rv.Model:
        net, p = Net(self.heads, seed).to(dtype), self.plan().process
        return rv.Model(net, p, self.predicts, label=lambda t: t / p.t_max, null={"kind": 2}, shape=(D,))

    def sample(self, m: rv.Model, batch: int = N) -> Tensor:
        given = {"y": 0.3 + 0.1 * torch.arange(N * D).reshape(N, D).sin()} if self.inputs else None
        return rv.sample(m, N, plan=self.plan(), cond=KINDS, hooks=self.hooks(), inputs=given, batch=batch)


def plan(name: str, p: rv.process.Process = VP, **options: Any) -> Callable[[], rv.Plan]:
    return lambda: rv.solve.plan(name, p, steps=5, **options)


LOW = plan("dpmpp-2m", span=(0.6, 0.0))
CASES = {
    "ghvb": Case(plan("ghvb", order=2.5)),
    "dpmpp-2m-hb": Case(plan("dpmpp-2m-hb", beta=0.8)),
    "evodiff": Case(plan("evodiff")),
    "time shift": Case(lambda: rv.solve.time_shift(plan("ddim")(), 0.1, 0.2), "eps"),
    "pfgm++": Case(plan("heun", rv.process.pfgmpp(64)), "edm:0.5"),
    "mean reverting": Case(plan("dpmpp-2m", MR), rv.model.MR_VELOCITY, inputs=True),
    "mean reverting, sde": Case(plan("dpmpp-2m-sde", MR), "x0", inputs=True),
    "interpolant, ode": Case(lambda: rv.solve.interpolant_plan(PATH, 6, order=2), rv.model.DRIFT, inputs=True),
    "interpolant, sde": Case(
        lambda: rv.solve.interpolant_plan(PATH, 6, noise=0.5), (rv.model.DRIFT, "eps"), 2, inputs=True
    ),
    "analytic init": Case(LOW, hooks=lambda: rv.solve.AnalyticInit.fit(DATA)),
    "teleport": Case(LOW, hooks=lambda: rv.solve.Teleport.fit(DATA, rank=4)),
    "one more step": Case(LOW, hooks=lambda: rv.solve.OneMoreStep(lambda x, kind: -DATA[:1] - 0.1 * kind[:, None])),
    "transport": Case(
        plan("dpmpp-2m-sde", span=(0.6, 0.0)), hooks=lambda: rv.solve.TransportStart.fit(DATA, LOW(), rounds=0)
    ),
    "fixed start": Case(plan("unipc-2"), hooks=lambda: rv.restore.FixedStart(torch.linspace(-1, 1, D))),
    "own starts": Case(lambda: rv.solve.own_starts("dpmpp-2m", VP, [0.5, 0.6, 0.7, 0.8, 0.9], 4)),
}


@pytest.mark.parametrize("name", CASES)
def test_guidance_moves_it_and_scale_one_does_not(name: str) -> None:
    case, m = CASES[name], CASES[name].model()
    plain, same, more = case.sample(m), case.sample(m | rv.guide.CFG(1.0)), case.sample(m | rv.guide.CFG(2.0))
    assert bool(plain.isfinite().all())
    torch.testing.assert_close(same, plain, rtol=1e-5, atol=1e-5)
    assert float((more - plain).abs().max()) > 1e-2
    first = case.sample(m.with_null({"kind": 0}) | rv.guide.CFG(2.0))
    moved = (first - plain).flatten(1).abs().amax(1) > 1e-3
    assert moved.tolist() == [False, True, False, True, True], "guidance away from its own kind is none"


@pytest.mark.parametrize("name", CASES)
def test_another_model_gives_other_samples_and_a_half_one_about_the_same(name: str) -> None:
    case = CASES[name]
    plain, other, half = (
        case.sample(case.model()),
        case.sample(case.model(3)),
        case.sample(case.model(0, torch.bfloat16)),
    )
    assert float((other - plain).abs().max()) > 0.05
    assert half.dtype == torch.float32, "states stay single"
    gap = float((half - plain).norm() / plain.norm())
    assert 0 < gap < 0.05


@pytest.mark.parametrize("name", [name for name in CASES if name != "own starts"])
def test_another_batch_size_is_the_same_sample(name: str) -> None:
    case, m = CASES[name], CASES[name].model() | rv.guide.CFG(2.0)
    whole, two = case.sample(m), case.sample(m, batch=2)
    torch.testing.assert_close(two, whole, rtol=1e-4, atol=1e-4)
    assert float((whole[0] - whole[1]).abs().max()) > 1e-3
