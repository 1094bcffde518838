"""One More Step: the bias without it and what is left with it, the formulas of guidance, its own prompt, and a module trained on the spot."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reverie as rv
from reverie.base import HOOK, PRIOR, ArgumentError, Noise, ShapeError
from reverie.solve.oms import _STAGE, OneMoreStep, oms_loss

SHORT = rv.process.ddpm(
    (1 - torch.linspace(1e-3, 0.25, 30, dtype=torch.float64)).cumprod(0)
)  # alpha^2 = 0.018 at its last time
M, S = 0.8, 0.5


def gaussian(p: Any = SHORT) -> rv.oracle.Gaussian:
    return rv.oracle.Gaussian([M, M], S**2 * torch.eye(2), process=p)


def ideal(x: Tensor, **cond: Any) -> Tensor:
    return torch.full_like(x, -M)


class Look:
    """Keeps the state with which a run begins; put after the start."""

    def start(self, ctx: rv.solve.Run) -> None:
        self.x, self.forwards = ctx.x.clone(), ctx.spent["forwards"]


def begun(m: rv.Model, n: int, plan: rv.Plan, start: Any, **settings: Any) -> Tensor:
    look = Look()
    rv.sample(m, n, plan=plan, hooks=[start, look], batch=n, **settings)
    return look.x


def fresh(n: int, shape: tuple[int, ...] = (2,), seed: int = 0, **more: Any) -> Tensor:
    return Noise(seed).normal(shape, index=range(n), stage=_STAGE, stream=HOOK, **more)


@pytest.mark.parametrize("name", ["ddpm", "vp", "edm"])
def test_the_bias_from_pure_noise_and_none_with_the_ideal_module(name: str) -> None:
    """On a Gaussian the exact flow is linear, so the mean over all noises is the flow of noise 0."""
    p = {"ddpm": SHORT, "vp": rv.process.vp(), "edm": rv.process.ve(0.01, 5.0)}[name]
    o, t = gaussian(p), p.t_max
    alpha, sigma = p.alpha(t), p.sigma(t)
    v = alpha**2 * S**2 + sigma**2
    ends = []
    for mean in (torch.zeros(1, 2, dtype=torch.float64), -alpha * ideal(torch.zeros(1, 2, dtype=torch.float64))):
        ends.append(float(o.solve(mean, t, p.t_clean)[0, 0]) - M)
    assert ends[0] == pytest.approx(-alpha * M * S / math.sqrt(v), abs=1e-12)
    assert ends[1] == pytest.approx(0.0, abs=1e-12)
    plan = rv.solve.plan("ddim", p, steps=2)
    z = fresh(5, dtype=torch.float64)
    assert plan.start == t
    found = o.solve(begun(o, 5, plan, OneMoreStep(ideal), dtype=torch.float64), t, p.t_clean)
    assert (
        found - (M + S * sigma / math.sqrt(v) * z)
    ).abs().max() < 1e-12  # means right, the variance short of alpha^2 s^2


def test_samples_of_a_schedule_that_ends_early() -> None:
    o = gaussian()
    plan = rv.solve.plan("dpmpp-2m", SHORT, steps=20)
    means = [rv.sample(o, 512, plan=plan, hooks=h, batch=512).mean() for h in ((), OneMoreStep(ideal))]
    assert abs(means[0] - M) > 2 * abs(means[1] - M)
    assert abs(means[1] - M) < 3 * S / math.sqrt(1024)


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_the_first_state_is_noised_by_the_deviation_at_the_plans_own_start(share: float) -> None:
    plan = rv.solve.plan("ddim", SHORT, steps=3, grid="time", span=(share, 0.0))
    a, s = SHORT.alpha(plan.start), SHORT.sigma(plan.start)
    made = begun(gaussian(), 4, plan, OneMoreStep(ideal), dtype=torch.float64, seed=3)
    assert (made - (a * M + s * fresh(4, seed=3, dtype=torch.float64))).abs().max() < 1e-12
    assert (plan.start == SHORT.t_max) == (share == 1.0)


def test_the_module_sees_the_runs_own_noise_which_is_not_what_is_added() -> None:
    seen: list[Tensor] = []

    def module(x: Tensor) -> Tensor:
        seen.append(x)
        return 0 * x

    for p in (SHORT, rv.process.edm()):
        plan = rv.solve.plan("ddim", p, steps=2)
        made = begun(gaussian(p), 4, plan, OneMoreStep(module), seed=7)
        z = Noise(7).normal((2,), index=range(4), stream=PRIOR)
        torch.testing.assert_close(seen[-1], z)
        torch.testing.assert_close(made, p.sigma(p.t_max) * fresh(4, seed=7))
        assert (fresh(4, seed=7) - z).abs().min() > 1e-3
    flow = rv.process.flow()  # no signal at its first time: nothing is missing
    ones = begun(gaussian(flow), 4, rv.solve.plan("ddim", flow, steps=2, grid="time"), OneMoreStep(lambda x: x + 1e3))
    torch.testing.assert_close(ones, fresh(4))


def told(x: Tensor, y: Tensor, size: float = 1.0) -> Tensor:
    return -size * y.reshape(-1, 1).to(x) + 0.1 * x


@pytest.mark.parametrize(("scale", "forwards"), [(1.0, 1), (2.0, 2), (0.0, 2), (-0.5, 2)])
def test_guidance_and_a_prompt_beside_the_models(scale: float, forwards: int) -> None:
    plan = rv.solve.plan("ddim", SHORT, steps=2)
    a, s = SHORT.alpha(plan.start), SHORT.sigma(plan.start)
    x, z = Noise(0).normal((2,), index=range(4)), fresh(4)
    null = {"y": 10.0}

    def wanted(y: list[float]) -> Tensor:
        v0, v1 = (told(x, torch.tensor(v)) for v in ([10.0] * 4, y))
        return -a * (v0 + scale * (v1 - v0)) + s * z

    m = rv.Model(lambda x, t, y: x, SHORT, null={"y": -1.0}, shape=(2,))
    own = torch.tensor([1.0, 2.0, 3.0, 4.0])
    for model in (m, m | rv.guide.CFG(3.0)):
        look = Look()
        start = OneMoreStep(told, scale, null)
        rv.sample(model, 4, plan=plan, hooks=[start, look], batch=4, cond={"y": own})
        torch.testing.assert_close(look.x, wanted([1.0, 2.0, 3.0, 4.0]))
        assert look.forwards == forwards
        beside = OneMoreStep(told, scale, null, cond={"y": torch.tensor([5.0, 6.0])})
        torch.testing.assert_close(begun(model, 4, plan, beside, cond={"y": own}), wanted([5.0, 6.0, 5.0, 6.0]))
        number = OneMoreStep(told, scale, null, cond={"y": 5.0})
        torch.testing.assert_close(begun(model, 4, plan, number, cond={"y": own}), wanted([5.0] * 4))


def test_a_sample_is_the_same_in_any_job_and_a_module_has_its_precision() -> None:
    class Module(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            assert x.dtype == self.weight.dtype
            return super().forward(x)

    torch.manual_seed(0)
    o, plan, module = gaussian(), rv.solve.plan("ddim", SHORT, steps=3), Module(2, 2)
    free = OneMoreStep(module, cond={})
    whole = rv.sample(o, 7, plan=plan, hooks=free, batch=4)
    assert torch.equal(rv.sample(o, 1, start=5, plan=plan, hooks=free, batch=4)[0], whole[5])
    made = begun(o, 4, plan, OneMoreStep(Module(2, 2).bfloat16(), cond={}))
    assert made.dtype == torch.float32


class Tiny(nn.Module):
    """v = W x + a vector a class; the last one is for nothing said."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.linear, self.table = nn.Linear(2, 2, bias=False), nn.Embedding(classes + 1, 2)

    def forward(self, x: Tensor, class_labels: Tensor) -> Tensor:
        return self.linear(x) + self.table(class_labels)


def test_a_trained_module_says_the_mean_of_its_class_and_nothing_of_the_noise() -> None:
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [0.0, -2.0]])
    o = rv.oracle.Mixture(means, 0.3, labels=[0, 1, 2], process=SHORT)
    torch.manual_seed(0)
    tiny, null, g = Tiny(3), {"class_labels": 3}, torch.Generator().manual_seed(1)
    optimiser = torch.optim.Adam(tiny.parameters(), lr=0.05)
    x, labels = o.sample(4096, return_labels=True)
    for step in range(300):
        for group in optimiser.param_groups:
            group["lr"] = 0.05 * (1 - step / 300)
        pick = torch.randint(4096, (256,), generator=g)
        noise, drop = torch.randn(256, 2, generator=g), torch.rand(256, generator=g) < 0.1
        loss = oms_loss(tiny, x[pick], noise, {"class_labels": labels[pick]}, null, drop)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        answers = -tiny(torch.zeros(4, 2), torch.arange(4))
    assert (answers[:3] - means).abs().max() < 0.06
    assert (answers[3] - means.mean(0)).abs().max() < 0.25
    assert tiny.linear.weight.abs().max() < 0.05
    plan, cond = rv.solve.plan("dpmpp-2m", SHORT, steps=20), {"class_labels": torch.arange(600) % 3}
    off = []
    for hooks in ((), OneMoreStep(tiny)):
        made = rv.sample(o, 600, plan=plan, hooks=hooks, cond=cond, batch=600)
        off.append((made.reshape(200, 3, 2).mean(0) - means).abs().max())
    assert off[1] < off[0] / 1.5


def test_the_loss_drops_conditions_and_is_a_mean() -> None:
    x0, noise = torch.randn(4, 3), torch.randn(4, 3)

    def module(x: Tensor, y: Tensor, k: float = 0.0) -> Tensor:
        return x + y[:, None] + k

    y, gone = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([True, False, False, True])
    said = torch.tensor([9.0, 2.0, 3.0, 9.0])
    found = oms_loss(module, x0, noise, {"y": y}, {"y": 9.0}, gone)
    assert found.item() == pytest.approx((noise + said[:, None] + x0).square().mean().item())
    plain = oms_loss(module, x0, noise, {"y": y, "k": 2.0})
    assert plain.item() == pytest.approx((noise + y[:, None] + 2 + x0).square().mean().item())
    with pytest.raises(ShapeError, match=r"noise of shape \(3, 3\)"):
        oms_loss(module, x0, noise[:3])
    with pytest.raises(ShapeError, match="for a batch of 4"):
        oms_loss(module, x0, noise, {"y": y}, {"y": 9.0}, gone[:3])
    with pytest.raises(ArgumentError, match="give it"):
        oms_loss(module, x0, noise, {"y": y}, None, gone)
    with pytest.raises(ArgumentError, match="'k' has no rows"):
        oms_loss(module, x0, noise, {"y": y, "k": 2.0}, {"y": 9.0}, gone)


def test_what_it_refuses() -> None:
    o, plan = gaussian(), rv.solve.plan("ddim", SHORT, steps=2)
    with pytest.raises(ArgumentError, match="scale 2 compares with a null"):
        OneMoreStep(ideal, 2.0)
    with pytest.raises(ArgumentError, match="must be finite, got nan"):
        OneMoreStep(ideal, math.nan)
    with pytest.raises(ArgumentError, match=r"called as module\(x, \*\*cond\), got str"):
        OneMoreStep("v.safetensors")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"returned \(3, 1\) for noise of shape \(3, 2\)"):
        rv.run(plan, o, torch.zeros(3, 2), hooks=OneMoreStep(lambda x: x[:, :1]))
    with pytest.raises(ArgumentError, match=r"from a seed; run\(\.\.\., noise=\) is a Tensor"):
        rv.run(plan, o, torch.zeros(3, 2), hooks=OneMoreStep(ideal), noise=torch.zeros(1, 3, 2))
    heavy = rv.Model(lambda x, t: x, rv.process.pfgmpp(128), predicts="x0", shape=(2,))
    with pytest.raises(ArgumentError, match="OneMoreStep is for Gaussian noise"):
        rv.sample(heavy, 2, nfe=2, hooks=OneMoreStep(ideal))
