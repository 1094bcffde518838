"""Captured runs, compiled networks, and networks of half precision around float32 states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reverie as rv
from reverie.base import ArgumentError, NonFiniteError, ShapeError
from reverie.solve.capture import Captured, _cuda_graph

P = rv.process.vp()
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Net(nn.Module):
    """A small network of state, time and class."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, 32), nn.Linear(32, 4), nn.Embedding(3, 32)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        h = self.a(x) + self.c(class_labels) + t[:, None].to(x.dtype)
        return self.b(torch.tanh(h))


def model(device: str = "cpu", net: nn.Module | None = None, **more: Any) -> rv.Model:
    net = (Net() if net is None else net).to(device)
    return rv.Model(net, P, predicts="eps", null={"class_labels": torch.tensor(2, device=device)}, shape=(4,), **more)


def x0(device: str = "cpu", b: int = 6) -> Tensor:
    return torch.randn(b, 4, generator=torch.Generator().manual_seed(1)).to(device)


def labels(device: str = "cpu") -> dict[str, Tensor]:
    return {"class_labels": torch.tensor([0, 1, 0, 1, 0, 1], device=device)}


def replayed(work: Callable[[], None]) -> Callable[[], None]:
    """In place of a CUDA graph: what it would do, done again."""
    work()
    return work


PLANS = [("dpmpp-3m", {}), ("unipc-3", {}), ("ddim", {"eta": 1.0}), ("sa-solver", {}), ("pc", {})]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=cuda)])
@pytest.mark.parametrize(("name", "options"), PLANS)
def test_a_captured_run_is_the_run(name: str, options: dict[str, Any], device: str) -> None:
    """Again and again, with other states, noises, ids and conditions, guided; counters go on as if it were run."""
    plan = rv.solve.plan(name, P, steps=6, **options)
    m = model(device) | rv.guide.CFG(2.0)
    graph = _cuda_graph if device == "cuda" else replayed
    captured = Captured(plan, m, x0(device), labels(device), None, graph)
    for turn, cond in ((0, labels(device)), (1, {"class_labels": torch.tensor([1] * 6, device=device)})):
        x, ids = x0(device) * (1 + turn), torch.arange(6) + 10 * turn
        want = rv.run(plan, m, x, cond=cond, noise=turn, index=ids)
        before = (m.calls, m.forwards)
        made = captured(x, cond=cond, noise=turn, index=ids)
        assert torch.equal(made, want)
        if device == "cuda":
            assert (m.calls - before[0], m.forwards - before[1]) == (plan.nfe, plan.cost(m))
    assert not torch.equal(captured(x0(device), cond=labels(device)), made)


def test_what_is_captured_is_checked() -> None:
    plan, m = rv.solve.plan("ddim", P, steps=4), model()
    captured = Captured(plan, m, x0(), labels(), None, replayed)
    with pytest.raises(ShapeError, match=r"\(3, 4\)"):
        captured(x0(b=3))
    with pytest.raises(ArgumentError, match="prompt"):
        captured(x0(), cond={"prompt": torch.zeros(6)})
    with pytest.raises(NonFiniteError, match="initial state"):
        captured(x0() * torch.nan, cond=labels())
    with pytest.raises(ArgumentError, match="CUDA device"):
        rv.solve.capture(plan, m, x0(), cond=labels())
    with pytest.raises(ArgumentError, match="static plan"):
        rv.solve.capture(rv.solve.plan("ode-adaptive", P), m, x0())


def test_tensor_coefficients_and_inputs_are_captured() -> None:
    from reverie.solve import Plan, Stage, given, prediction, state

    c = torch.linspace(0.5, 1.0, 4, dtype=torch.float64)
    plan = Plan("hand", P, (Stage(c * state(0) + 0.1 * prediction(0) + 0.2 * given("y"), 0.9, 0.5),), 0.9)
    m, y = model(), x0() * 2
    captured = Captured(plan, m, x0(), labels(), {"y": y}, replayed)
    assert torch.equal(
        captured(x0(), cond=labels(), inputs={"y": -y}), rv.run(plan, m, x0(), cond=labels(), inputs={"y": -y})
    )


def test_a_compiled_network_is_compiled_once() -> None:
    """Labels are tensors, so torch.compile sees one graph for all times of a run, guided too."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter, net = CompileCounter(), Net()
    compiled = model(net=torch.compile(net, backend=counter, dynamic=False)) | rv.guide.CFG(2.0)
    for name, options in PLANS:
        plan = rv.solve.plan(name, P, steps=7, **options)
        want = rv.run(plan, model(net=net) | rv.guide.CFG(2.0), x0(), cond=labels())
        assert torch.allclose(rv.run(plan, compiled, x0(), cond=labels()), want, atol=1e-5)
    assert counter.frame_count == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_networks_keep_float32_states(dtype: torch.dtype) -> None:
    """The network computes in its own type, told float32 times; states stay float32, so that a plan's own error is not rounded away."""
    seen: set[tuple[torch.dtype, torch.dtype]] = set()

    class Half(Net):
        def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
            seen.add((x.dtype, t.dtype))
            return super().forward(x, t, class_labels)

    half, full = model(net=Half().to(dtype)), model()
    assert half.dtype == dtype
    for name, options in PLANS:
        plan = rv.solve.plan(name, P, steps=20, **options)
        made, kept = rv.run(plan, half, x0(), cond=labels(), record=("x", "x0"))
        assert made.dtype == torch.float32
        assert {v.dtype for name in kept for v in kept[name] if v is not None} == {torch.float32}
        want = rv.run(plan, full, x0(), cond=labels())
        assert torch.allclose(made, want, atol=0.3, rtol=0.1)
    assert seen == {(dtype, torch.float32)}


def test_half_states_would_cost_more_than_the_solver() -> None:
    """Why: with an exact float32 network, states rounded to bfloat16 at every step are far worse than 50 steps themselves."""
    o = rv.oracle.Mixture([[-1.0, 0.5, 0.2], [1.0, -0.3, 0.7]], 0.6, process=P)
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    plan = rv.solve.plan("dpmpp-3m", P, steps=50, end="sigma_min")
    exact = o.solve(x)

    class Round:
        def after(self, run: Any) -> None:
            run.x = run.x.bfloat16().float()

    plain, rounded = (rv.run(plan, o, x, hooks=h).double() for h in ((), Round()))
    errors = [float((made - exact).norm(dim=1).median()) for made in (plain, rounded)]
    assert errors[1] > 10 * errors[0]
