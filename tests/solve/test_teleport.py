"""Teleport: the closed form against the exact flow of a Gaussian, its error on a mixture, components that do not vary, fits, and runs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import PRIOR, ArgumentError, Noise, ShapeError, TimeError
from reverie.solve.teleport import Law, Teleport

from . import reference as ref

D = 5
G = torch.Generator().manual_seed(0)
BASIS = torch.linalg.qr(torch.randn(D, D, generator=G, dtype=torch.float64)).Q.mT.contiguous()
V = torch.tensor([4.0, 1.5, 0.3, 0.0, 0.0], dtype=torch.float64)
MEAN = 3 * torch.randn(D, generator=G, dtype=torch.float64)
COV = BASIS.mT @ torch.diag(V) @ BASIS
NAMES = ["vp", "cosine", "edm", "flow", "flow3", "ddpm"]
LAWS = {
    "whole": Law(MEAN, BASIS, V),  # with components that do not vary
    "three": Law(MEAN, BASIS[:3], V[:3]),  # the same law: nothing varies outside of the basis
}


class Look:
    """Keeps the state with which a run begins; put after the start."""

    def start(self, ctx: rv.solve.Run) -> None:
        self.x = ctx.x.clone()


def states(p: rv.process.Process, t: float, n: int = 6) -> Tensor:
    z = torch.randn(n, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return p.alpha(t) * MEAN + 1.5 * max(1.0, p.sigma(t)) * z


@pytest.mark.parametrize("which", list(LAWS))
@pytest.mark.parametrize("name", NAMES)
def test_the_flow_and_the_denoiser_are_the_oracles(name: str, which: str) -> None:
    p, law = ref.PROCESSES[name], LAWS[which]
    o = rv.oracle.Gaussian(MEAN, COV, process=p)
    for t, to in ((1.0, 0.6), (0.6, 0.02), (0.3, 0.7), (0.8, 0.0)):
        t, to = t * p.t_max, max(to * p.t_max, p.t_clean)
        x = states(p, t)
        assert (law.flow(p, x, t, to) - o.solve(x, t, to)).abs().max() < 1e-10
        assert (law.x0(p, x, t) - o(x, t).x0).abs().max() < 1e-10
        assert law.flow(p, x.float(), t, to).dtype == torch.float32
    assert torch.equal(law.flow(p, x, t, t), x)


def test_what_does_not_vary_shrinks_as_the_noise() -> None:
    p, law = rv.process.edm(), LAWS["three"]
    x = MEAN + 7 * BASIS[3:4] - 2 * BASIS[1:2]
    moved = law.flow(p, x, 80.0, 8.0) - MEAN
    assert float(moved @ BASIS[3]) == pytest.approx(0.7, abs=1e-12)
    assert float(moved @ BASIS[1]) == pytest.approx(-2 * math.sqrt((64 + 1.5) / (6400 + 1.5)), abs=1e-12)
    assert Law(MEAN, BASIS[:0], V[:0]).flow(p, x, 80.0, 8.0)[0].tolist() == pytest.approx(
        (MEAN + (x[0] - MEAN) / 10).tolist(), abs=1e-12
    )


@pytest.mark.parametrize("name", ["vp", "edm", "flow"])
def test_a_run_begins_where_its_noise_would_have_gone(name: str) -> None:
    p = ref.PROCESSES[name]
    o = rv.oracle.Gaussian(MEAN, COV, process=p)
    jump, look = Teleport(MEAN, BASIS, V), Look()
    t = jump.time(p, 3.0)
    assert p.sigma(t) / p.alpha(t) == pytest.approx(6.0)
    plan = rv.solve.plan("ddim", p, grid=[t, 0.3 * t, p.t_clean])
    made = rv.sample(o, 4, plan=plan, hooks=[jump, look], seed=2, batch=4, dtype=torch.float64)
    z = Noise(2).normal((D,), index=range(4), stream=PRIOR, dtype=torch.float64)
    assert (look.x - o.solve(p.prior(z), p.t_max, t)).abs().max() < 1e-10
    assert made.shape == (4, D)
    assert plan.nfe == 2


def test_half_the_calls_for_the_same_picture() -> None:
    """The calls that a run would spend above t* are spared, or spent below."""
    p = rv.process.edm()
    o = rv.oracle.Gaussian(MEAN, COV, process=p)
    jump = Teleport(MEAN, BASIS[:3], V[:3])
    full = rv.solve.plan("dpmpp-2m", p, steps=24, end="sigma_min")
    short = rv.solve.plan("dpmpp-2m", p, grid=full.times[10:])
    z = Noise(0).normal((D,), index=range(16), stream=PRIOR, dtype=torch.float64)
    exact = o.solve(p.prior(z), p.t_max, p.t_min)
    errors = [
        (rv.sample(o, 16, plan=plan, hooks=hooks, dtype=torch.float64) - exact).abs().max().item()
        for plan, hooks in ((full, ()), (short, jump))
    ]
    assert (full.nfe, short.nfe) == (24, 14)
    assert errors[1] < errors[0]


@pytest.mark.parametrize("name", ["vp", "edm"])
def test_the_error_on_a_mixture_grows_as_the_noise_falls(name: str) -> None:
    p = ref.PROCESSES[name]
    g = torch.Generator().manual_seed(0)
    means = torch.randn(4, 6, generator=g, dtype=torch.float64) * torch.linspace(1.5, 0.5, 6)
    o = rv.oracle.Mixture(means, 0.3, process=p)
    away = means - means.mean(0)
    v, u = torch.linalg.eigh(away.mT @ away / 4 + 0.09 * torch.eye(6))
    law = Law(means.mean(0), u.mT.contiguous(), v)
    x = p.prior_std() * torch.randn(100, 6, generator=g, dtype=torch.float64)
    errors = []
    for factor in (11.8, 3.4, 2.0, 1.2):
        t = law.time(p, factor)
        there = o.solve(x, p.t_max, t)
        errors.append(((law.flow(p, x, p.t_max, t) - there).norm(dim=1) / there.norm(dim=1)).mean().item())
    assert errors[1] < 0.01
    assert errors == sorted(errors)
    assert errors[0] < errors[3] / 50


def test_the_fit_is_the_covariances_spectrum() -> None:
    x = rv.oracle.Gaussian(MEAN, COV, process=rv.process.vp()).sample(3000, dtype=torch.float64)
    law = Law.fit(x)
    assert len(law.variances) == 3
    assert law.variances.tolist() == pytest.approx(sorted(torch.linalg.eigvalsh(x.mT.cov()).tolist())[:1:-1], rel=1e-9)
    assert law.variances.tolist() == pytest.approx(V[:3].tolist(), rel=0.15)
    torch.testing.assert_close((law.basis.mT * law.variances) @ law.basis, x.mT.cov(), atol=1e-9, rtol=0)
    assert Law.fit(x, rank=2).variances.tolist() == pytest.approx(law.variances[:2].tolist())
    few = Law.fit(torch.randn(4, 2, 3, 3))
    assert few.basis.shape == (3, 2, 3, 3)
    assert len(Law.fit(torch.ones(5, 2)).variances) == 0


def test_pictures_guided_in_half_precision_and_the_same_in_any_job() -> None:
    m, look = rv.load("digits"), Look()
    x, _ = rv.data.digits("train")
    jump = Teleport.fit(x, rank=40)
    p = m.process
    plan = rv.solve.plan("dpmpp-2m", p, grid=[jump.time(p, 2.5), 0.3, 0.1, 0.0])
    cond = {"class_labels": torch.tensor([7, 1, 7, 3, 0, 2])}
    whole = rv.sample(m, 6, plan=plan, hooks=[jump, look], cond=cond, batch=6)
    plain = look.x
    whole = rv.sample(m, 6, plan=plan, hooks=jump, cond=cond, batch=4)
    assert torch.equal(rv.sample(m, 1, start=5, plan=plan, hooks=jump, cond={"class_labels": 2}, batch=4)[0], whole[5])
    half = m.with_net(rv.load("digits").net.bfloat16())
    for other in (half, m | rv.guide.CFG(3.0), half | rv.guide.CFG(2.0)):
        made = rv.sample(other, 6, plan=plan, hooks=[jump, look], cond=cond, batch=6)
        assert torch.equal(look.x, plain)
        assert made.dtype == torch.float32


def test_every_class_by_its_own_law_in_any_company() -> None:
    p = rv.process.vp()
    means = torch.stack([MEAN, -MEAN, 0 * MEAN])
    v = [V[:3], 4 * V[:3], V[:3].flip(0)]
    oracles = [
        rv.oracle.Gaussian(m, BASIS[:3].mT @ torch.diag(w) @ BASIS[:3], process=p)
        for m, w in zip(means, v, strict=True)
    ]
    o = rv.oracle.Mixture(means, covs=torch.stack([q.cov for q in oracles]), labels=[0, 1, 2], process=p)
    jump, look = Teleport(means, [BASIS[:3]] * 3, v, key="class_labels"), Look()
    t = jump.time(p, 3.0)
    assert p.sigma(t) / p.alpha(t) == pytest.approx(12.0)
    plan, labels = rv.solve.plan("ddim", p, grid=[t, 0.3, 0.0]), torch.tensor([2, 0, 0, 1])
    cond = {"class_labels": labels}
    made = rv.sample(o, 4, plan=plan, hooks=[jump, look], cond=cond, batch=4, dtype=torch.float64)
    z = Noise(0).normal((D,), index=range(4), stream=PRIOR, dtype=torch.float64)
    for i, k in enumerate(labels.tolist()):
        assert (look.x[i] - oracles[k].solve(z[i : i + 1], p.t_max, t)[0]).abs().max() < 1e-10
    rv.sample(o | rv.guide.CFG(2.0), 4, plan=plan, hooks=[jump, look], cond=cond, batch=4, dtype=torch.float64)
    guided = look.x
    alone = rv.sample(
        o, 1, plan=plan, hooks=[jump, look], cond={"class_labels": 1}, start=3, batch=4, dtype=torch.float64
    )
    assert torch.equal(alone[0], made[3])
    assert torch.equal(look.x[3], guided[3])
    with pytest.raises(
        ArgumentError, match=r"Teleport has 3 classes: the run needs cond=\{'class_labels': one of 0 .. 2"
    ):
        rv.sample(o, 4, plan=plan, hooks=jump)
    x, of = torch.randn(30, 4, generator=torch.Generator().manual_seed(1)), torch.arange(30) % 3
    fitted = Teleport.fit(x, rank=2, labels=of, key="kind")
    assert (fitted.key, len(fitted.laws)) == ("kind", 3)
    torch.testing.assert_close(fitted.laws[1].mean, x[of == 1].double().mean(0))
    with pytest.raises(ShapeError, match="for 30 samples"):
        Teleport.fit(x, labels=of[:4])


def test_what_it_refuses() -> None:
    p, law = rv.process.vp(), LAWS["three"]
    with pytest.raises(ShapeError, match=r"basis \(3, 5\) and variances \(2,\) do not fit"):
        Law(MEAN, BASIS[:3], V[:2])
    with pytest.raises(ShapeError, match="r at most the entries"):
        Law([0.0], [[1.0], [0.0]], [1.0, 1.0])
    with pytest.raises(ArgumentError, match="not orthonormal"):
        Teleport(MEAN, 2 * BASIS, V)
    with pytest.raises(ArgumentError, match="at least 0, got -1"):
        Law(MEAN, BASIS[:1], [-1.0])
    with pytest.raises(ArgumentError, match="the variances of a law must be finite"):
        Law(MEAN, BASIS[:1], [math.nan])
    with pytest.raises(ShapeError, match=r"states \(2, 3\) for a law of samples \(5,\)"):
        law.x0(p, torch.zeros(2, 3), 0.5)
    with pytest.raises(TimeError, match="sigma = 0"):
        law.flow(p, torch.zeros(2, 5), 0.0, 0.5)
    with pytest.raises(ArgumentError, match="not inside"):
        law.time(rv.process.ve(0.01, 5.0), 3.0)
    with pytest.raises(ArgumentError, match="positive factor"):
        law.time(p, 0.0)
    with pytest.raises(ArgumentError, match=r"from 1 to 3 .* got 4"):
        Law.fit(torch.randn(4, 5), rank=4)
    with pytest.raises(ShapeError, match="N >= 2"):
        Law.fit(torch.randn(1, 5))
    heavy = rv.process.pfgmpp(128)
    m = rv.Model(lambda x, t: x, heavy, predicts="x0", shape=(5,))
    with pytest.raises(ArgumentError, match="Teleport is for Gaussian noise"):
        rv.sample(m, 2, nfe=2, hooks=Teleport(MEAN, BASIS, V))
