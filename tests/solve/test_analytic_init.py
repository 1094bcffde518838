"""Analytic-Init: no isotropic Gaussian is closer in KL, runs begin and end where it says, classes by themselves, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import PRIOR, ArgumentError, Noise, ShapeError
from reverie.solve.analytic_init import AnalyticInit
from reverie.solve.starts import elementary

from . import reference as ref

D = 5
G = torch.Generator().manual_seed(0)
ROOT = torch.randn(D, D, generator=G, dtype=torch.float64)
MEAN, COV = torch.randn(D, generator=G, dtype=torch.float64), ROOT @ ROOT.mT / D
PROCESSES = {**ref.PROCESSES, "ve": rv.process.ve()}


class Look:
    """Keeps the state with which a run begins; put after the start."""

    def start(self, ctx: rv.solve.Run) -> None:
        self.x, self.index = ctx.x.clone(), ctx.index


def begun(m: rv.Model, n: int, plan: rv.Plan, start: Any, **settings: Any) -> Tensor:
    look = Look()
    rv.sample(m, n, plan=plan, hooks=[start, look], batch=n, **settings)
    return look.x


def kl(mean: Tensor, cov: Tensor, mu: Tensor, log_s: Tensor) -> Tensor:
    """KL(N(mean, cov) || N(mu, s^2 I))."""
    s2 = (2 * log_s).exp()
    return (cov.trace() / s2 + (mean - mu).square().sum() / s2 - D + 2 * D * log_s - torch.logdet(cov)) / 2


@pytest.mark.parametrize("share", [0.3, 0.7, 0.94])
@pytest.mark.parametrize("name", list(PROCESSES))
def test_no_isotropic_gaussian_is_closer(name: str, share: float) -> None:
    p = PROCESSES[name]
    t = share * p.t_max
    alpha, sigma = p.alpha(t), p.sigma(t)
    mean, cov = alpha * MEAN, alpha**2 * COV + sigma**2 * torch.eye(D, dtype=torch.float64)
    mu, std = AnalyticInit(MEAN, COV.trace() / D).at(p, t)
    mu, log_s = mu.clone().requires_grad_(), std.log().clone().requires_grad_()
    least = kl(mean, cov, mu, log_s)
    for grad in torch.autograd.grad(least, (mu, log_s)):
        assert grad.abs().max() < 1e-6
    best = least.item()
    with torch.no_grad():
        for k in range(D):
            for step in (-1e-2, 1e-2):
                assert kl(mean, cov, mu + step * std * torch.eye(D)[k], log_s).item() > best
        assert kl(mean, cov, mu, log_s + 1e-2).item() > best < kl(mean, cov, mu, log_s - 1e-2).item()
        prior = torch.tensor(p.prior_std(t), dtype=torch.float64).log()
        noise = torch.tensor(sigma, dtype=torch.float64).log()
        mean_only, nothing = kl(mean, cov, mu, prior).item(), kl(mean, cov, 0 * mu, prior).item()
        assert best < mean_only < nothing
        assert best < kl(mean, cov, mu, noise).item()


@pytest.mark.parametrize("name", ["vp", "edm", "flow", "ddpm"])
def test_a_run_begins_there_with_its_own_noise(name: str) -> None:
    p = PROCESSES[name]
    o = rv.oracle.Gaussian(MEAN, COV, process=p)
    plan = rv.solve.plan("ddim", p, steps=2, span=(0.8, 0.0))
    t, variance = plan.start, float(COV.trace() / D)
    z = Noise(3).normal((D,), index=range(4), stream=PRIOR, dtype=torch.float64)
    wanted = p.alpha(t) * MEAN + math.sqrt(p.sigma(t) ** 2 + p.alpha(t) ** 2 * variance) * z
    made = begun(o, 4, plan, AnalyticInit(MEAN, variance), seed=3, dtype=torch.float64)
    torch.testing.assert_close(made, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["vp", "edm", "flow"])
def test_isotropic_data_are_met_from_any_start_and_not_from_the_prior(name: str) -> None:
    """There the start is exact, and the flow carries noise z to mean + std z."""
    p, std = PROCESSES[name], 0.5
    o = rv.oracle.Gaussian(MEAN + 2, std**2 * torch.eye(D), process=p)
    plan = rv.solve.plan("dpmpp-3m", p, steps=60, span=(0.55, 0.0))
    z = Noise(0).normal((D,), index=range(8), stream=PRIOR)
    made = rv.sample(o, 8, plan=plan, hooks=AnalyticInit(MEAN + 2, std**2))
    assert (made - (MEAN + 2 + std * z)).abs().max() < 2e-2
    plain = rv.sample(o, 8, plan=plan)
    assert (plain - made).mean().abs() > 0.1


def test_classes_guided_and_alone() -> None:
    p = PROCESSES["vp"]
    means = torch.tensor([[3.0, 0.0], [-3.0, 1.0], [0.0, -2.0]])
    o = rv.oracle.Mixture(means, [0.1, 0.5, 1.0], labels=[0, 1, 2], process=p)
    start = AnalyticInit(means, [0.01, 0.25, 1.0], key="class_labels")
    plan = rv.solve.plan("ddim", p, steps=2, span=(0.6, 0.0))
    labels = torch.tensor([2, 0, 1, 0])
    z = Noise(0).normal((2,), index=range(4))
    a, s = p.alpha(plan.start), p.sigma(plan.start)
    spread = torch.tensor([1.0, 0.01, 0.25, 0.01])[:, None]
    wanted = a * means[labels] + (s * s + a * a * spread).sqrt() * z
    settings: dict[str, Any] = {"cond": {"class_labels": labels}}
    torch.testing.assert_close(begun(o, 4, plan, start, **settings), wanted)
    assert torch.equal(begun(o | rv.guide.CFG(3.0), 4, plan, start, **settings), begun(o, 4, plan, start, **settings))
    one = AnalyticInit(means, 0.25, key="class_labels")
    made = begun(o, 4, plan, one, cond={"class_labels": 1})
    torch.testing.assert_close(made, a * means[1] + math.sqrt(s * s + a * a / 4) * z)
    for bad, match in ((-1, "asks for -1 to -1"), (3, "classes 0 to 2, the run asks for 3")):
        four = rv.Model(lambda x, t, class_labels: x, p, null={"class_labels": -1}, shape=(2,))
        with pytest.raises(ArgumentError, match=match):
            rv.sample(four, 1, plan=plan, hooks=start, cond={"class_labels": bad})
    with pytest.raises(ArgumentError, match=r"cond=\{'class_labels': one of 0 .. 2"):
        rv.sample(o, 4, plan=plan, hooks=start)


def test_a_sample_is_the_same_in_any_job_and_precision_is_the_states() -> None:
    m = rv.load("digits")
    x, labels = rv.data.digits("heldout")
    start = AnalyticInit.fit(x, labels)
    plan = rv.solve.plan("dpmpp-2m", m.process, steps=3, span=(0.7, 0.0))
    cond = {"class_labels": torch.tensor([7, 1, 7, 3, 0, 2])}
    whole = rv.sample(m, 6, plan=plan, hooks=start, cond=cond, batch=4)
    assert torch.equal(rv.sample(m, 1, start=5, plan=plan, hooks=start, cond={"class_labels": 2}, batch=4)[0], whole[5])
    half = m.with_net(rv.load("digits").net.bfloat16())
    look = Look()
    rv.sample(half, 6, plan=plan, hooks=[start, look], cond=cond, batch=6)
    assert look.x.dtype == torch.float32
    torch.testing.assert_close(look.x, begun(m, 6, plan, start, cond=cond))


def test_the_fit_is_the_mean_and_the_mean_variance() -> None:
    x = torch.randn(40, 3, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 3.0]) + 4
    labels = torch.arange(40) % 2
    whole, each = AnalyticInit.fit(x), AnalyticInit.fit(x, labels, key="kind")
    flat = x.double().flatten(1)
    torch.testing.assert_close(whole.mean.flatten(), flat.mean(0))
    assert float(whole.variance) == pytest.approx(float(flat.mT.cov().trace()) / 6)
    assert (each.key, each.mean.shape, each.variance.shape) == ("kind", (2, 3, 2), (2,))
    torch.testing.assert_close(each.mean[1].flatten(), flat[labels == 1].mean(0))
    assert float(each.variance[1]) == pytest.approx(float(flat[labels == 1].mT.cov().trace()) / 6)


def test_what_it_refuses() -> None:
    p = PROCESSES["vp"]
    plan = rv.solve.plan("ddim", p, steps=2)
    with pytest.raises(ArgumentError, match="at least 0, got -1"):
        AnalyticInit(MEAN, -1.0)
    with pytest.raises(ArgumentError, match="mean of the data must be finite"):
        AnalyticInit([math.nan], 1.0)
    with pytest.raises(ShapeError, match=r"variance of shape \(2,\)"):
        AnalyticInit(MEAN, [1.0, 2.0])
    with pytest.raises(ShapeError, match=r"variance of shape \(3,\); one number is needed, or \(5,\)"):
        AnalyticInit(MEAN, [1.0, 2.0, 3.0], key="y")
    with pytest.raises(ShapeError, match=r"mean of shape \(2,\) for states \(3, 5\)"):
        rv.run(plan, rv.Model(lambda x, t: x, p), torch.zeros(3, 5), hooks=AnalyticInit([0.0, 0.0], 1.0))
    with pytest.raises(ShapeError, match="N >= 2"):
        AnalyticInit.fit(torch.zeros(1, 2))
    with pytest.raises(ShapeError, match="for 4 samples"):
        AnalyticInit.fit(torch.zeros(4, 2), torch.zeros(3))
    with pytest.raises(ArgumentError, match="class 1 has 0 samples"):
        AnalyticInit.fit(torch.zeros(4, 2), torch.tensor([0, 0, 2, 2]))
    heavy, degraded = rv.process.pfgmpp(128), rv.process.mean_reverting()
    for q, inputs in ((heavy, None), (degraded, {"y": torch.zeros(2, 2)})):
        m = rv.Model(lambda x, t: x, q, predicts="x0", shape=(2,))
        with pytest.raises(ArgumentError, match="AnalyticInit is for Gaussian noise"):
            rv.sample(m, 2, nfe=2, hooks=AnalyticInit([0.0, 0.0], 1.0), inputs=inputs)


def test_the_elementary_noise_is_the_jobs() -> None:
    for name, p in PROCESSES.items():

        class Ask:
            def start(self, ctx: rv.solve.Run) -> None:
                self.z = elementary(ctx, "a test")

        ask = Ask()
        m = rv.Model(lambda x, t: x, p, predicts="x0", shape=(3,))
        rv.sample(m, 4, plan=rv.solve.plan("ddim", p, steps=2, span=(0.7, 0.0)), hooks=ask, batch=4, seed=5)
        torch.testing.assert_close(ask.z, Noise(5).normal((3,), index=range(4)), msg=name)


def test_a_span_below_the_noise_end_needs_data_or_a_start() -> None:
    o = rv.oracle.Gaussian(MEAN, COV, process=rv.process.vp())
    start = AnalyticInit(MEAN, COV.diag().mean())
    plan = rv.solve.plan("dpmpp-2m", o.process, steps=4, span=(0.6, 0.0))
    x = rv.sample(o, 4, steps=4, solver="dpmpp-2m", span=(0.6, 0), hooks=start)
    assert torch.equal(x, rv.sample(o, 4, plan=plan, hooks=[start]))
    with pytest.raises(ArgumentError, match=r"span starts at 0\.6.*give init=.*or a hook that sets the start"):
        rv.sample(o, 4, steps=4, span=(0.6, 0))
    assert all(getattr(h, "begins", False) for h in (rv.solve.Teleport, rv.solve.OneMoreStep, rv.solve.TransportStart))
