"""Stochastic solvers make the right law: in 20,000 samples, and exactly, through their linear rows on Gaussian data."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.process import Process

PROCESSES = {"vp": rv.process.vp(), "subvp": rv.process.subvp(), "ve": rv.process.ve(), "flow": rv.process.flow()}
MEAN = torch.tensor([0.5, -0.8], dtype=torch.float64)
COV = torch.tensor([[1.0, 0.4], [0.4, 0.5]], dtype=torch.float64)

NOISY: dict[str, dict[str, Any]] = {
    "ddim": {"eta": 1.0},
    "ddpm": {"variance": "large", "grid": "logsnr"},
    "euler-a": {},
    "euler-maruyama": {},
    "pc": {"norms": "expected"},
    "dpmpp-2m-sde": {},
    "dpmpp-3m-sde": {},
    "dpmpp-2s-sde": {},
    "sa-solver": {},
    "kdpm-2-a": {},
    "heun": {"churn": 80.0},
    "restart": {"intervals": ((0.1, 0.5, 40, 3), (0.5, 2.0, 40, 2))},
}
EVERYWHERE = ("euler-maruyama", "pc", "dpmpp-2m-sde")
CASES = [(n, p) for n in NOISY for p in PROCESSES if n in EVERYWHERE or p in ("vp", "ve")]


def gaussian(p: Process) -> rv.Model:
    """The exact x0 = m + a C (a^2 C + s^2)^-1 (x - a m) of Gaussian data, a matrix a time."""

    def net(x: Tensor, t: Tensor) -> Tensor:
        a, s = p.alpha(float(t[0])), p.sigma(float(t[0]))
        gain = a * COV @ torch.linalg.inv(a**2 * COV + s**2 * torch.eye(2, dtype=torch.float64))
        return (MEAN + (x.double() - a * MEAN) @ gain.T).to(x.dtype)

    return rv.Model(net, p, predicts="x0", shape=(2,))


@pytest.mark.parametrize(("name", "process"), CASES)
def test_mean_and_covariance_of_20000_samples(name: str, process: str) -> None:
    """At N = 1000 every entry lies within 3 standard errors of the exact law at t_min."""
    p, options = PROCESSES[process], NOISY[name]
    plan = rv.solve.plan(name, p, steps=1000, end="sigma_min", **{"grid": "logsnr", **options})
    assert plan.noises
    assert plan.times[-1] == pytest.approx(p.t_min if p.t_min > 0 else p.t_of_lam(p.lam_range[1]))
    g = torch.Generator().manual_seed(len(name))
    x = p.prior_std(plan.start) * torch.randn(20_000, 2, generator=g)
    x = x + (p.alpha(plan.start) * MEAN).float() if process == "flow" else x  # lam_range begins at alpha = 0.001
    made = rv.run(plan, gaussian(p), x, noise=lambda j: torch.randn(20_000, 2, generator=g)).double()
    a, s = p.alpha(plan.times[-1]), p.sigma(plan.times[-1])
    mean, cov = a * MEAN, a**2 * COV + s**2 * torch.eye(2, dtype=torch.float64)
    z = (made.mean(0) - mean) / (cov.diagonal() / len(made)).sqrt()
    v = (made.T.cov() - cov) / ((cov**2 + cov.diagonal().outer(cov.diagonal())) / len(made)).sqrt()
    assert float(z.abs().max()) < 3, z
    assert float(v.abs().max()) < 3, v


def bias(name: str, p: Process, n: int, options: dict[str, Any], data: float = 0.4) -> float:
    """The error in variance at t_min, exactly: rows are linear on Gaussian data, so each noise is carried alone."""
    plan = rv.solve.plan(name, p, steps=n, end="sigma_min", **{"grid": "logsnr", **options})

    def variance(t: float) -> float:
        return p.alpha(t) ** 2 * data + p.sigma(t) ** 2

    def net(x: Tensor, t: Tensor) -> Tensor:
        return p.alpha(float(t[0])) * data / variance(float(t[0])) * x

    noise = torch.zeros(plan.noises, 1 + plan.noises, 1, dtype=torch.float64)
    noise[torch.arange(plan.noises), 1 + torch.arange(plan.noises)] = 1.0
    x = torch.zeros(1 + plan.noises, 1, dtype=torch.float64)
    x[0] = math.sqrt(variance(plan.start))
    made = rv.run(plan, rv.Model(net, p, predicts="x0"), x, noise=noise)
    return abs(float((made**2).sum()) - variance(plan.times[-1]))


@pytest.mark.parametrize("process", ["vp", "subvp", "ve"])
@pytest.mark.parametrize("name", [n for n in NOISY if n not in ("pc", "restart", "heun")])
def test_bias_falls_with_the_step(name: str, process: str) -> None:
    """Slope of the bias over 50 to 400 steps of the whole run: at least 0.8, and 1.7 for those that declare second order."""
    errors = [bias(name, PROCESSES[process], n, NOISY[name]) for n in (50, 100, 200, 400)]
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    declared = {"ddim": 1, "ddpm": 1, "euler-a": 1, "euler-maruyama": 1}.get(name, 2)
    assert slopes[-1] >= (0.8 if declared == 1 else 1.7), (errors, slopes)


def test_the_predictor_alone_is_as_good() -> None:
    """pc without corrections is the reverse-diffusion predictor: its bias falls with slope 1 too."""
    errors = [bias("pc", PROCESSES["ve"], n, {"corrections": 0}) for n in (100, 200, 400)]
    assert all(math.log2(a / b) > 0.8 for a, b in itertools.pairwise(errors))


def test_langevin_steps_leave_the_law_alone() -> None:
    """Many corrections at one time: the law there stays the marginal, and with no noise the states climb to the mean."""
    p = PROCESSES["vp"]
    a, s = p.alpha(0.5), p.sigma(0.5)
    cov = a**2 * COV + s**2 * torch.eye(2, dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    far = 3 * torch.randn(20_000, 2, generator=g, dtype=torch.float64) + 2
    plan = rv.solve.plan("pc", p, grid=[0.5, 0.499999], corrections=200, snr=0.16, norms="expected")
    made = rv.run(plan, gaussian(p), far, noise=lambda j: torch.randn(20_000, 2, generator=g, dtype=torch.float64))
    assert torch.allclose(made.T.cov(), cov, rtol=0.06, atol=0.03)
    assert torch.allclose(made.mean(0), a * MEAN, atol=0.03)
    still = rv.run(plan, gaussian(p), far, noise=lambda j: torch.zeros(20_000, 2, dtype=torch.float64))
    assert torch.allclose(still, (a * MEAN).expand_as(still), atol=0.05)


def test_norms_of_each_sample_are_right_in_many_dimensions() -> None:
    """In 2000 dimensions the norms hardly vary: the mean over all entries is within 3 standard errors, the variance within 2 %, but for the
    factor 1 / (1 - snr^2) of the variance that Langevin steps of that size have in equilibrium."""
    p, b, d, data = PROCESSES["ve"], 16, 2000, 0.5

    def net(x: Tensor, t: Tensor) -> Tensor:
        return 0.3 + data / (data + float(t[0]) ** 2) * (x - 0.3)

    for snr in (0.05, 0.16):
        plan = rv.solve.plan("pc", p, steps=1000, end="sigma_min", snr=snr)
        g = torch.Generator().manual_seed(1)
        x = p.prior_std() * torch.randn(b, d, generator=g)
        made = rv.run(
            plan, rv.Model(net, p, predicts="x0"), x, noise=lambda j, g=g: torch.randn(b, d, generator=g)
        ).double()
        assert abs(float(made.mean()) - 0.3) < 3 * (data / (b * d)) ** 0.5
        assert abs(float(made.var()) / data * (1 - snr**2) - 1) < 0.02


def test_norms_of_each_sample_are_wrong_in_few() -> None:
    """In two dimensions some scores are next to zero, and their steps fly off: why "expected" exists."""
    p = PROCESSES["ve"]
    for norms, near in (("expected", True), ("sample", False)):
        plan = rv.solve.plan("pc", p, steps=200, end="sigma_min", norms=norms)
        g = torch.Generator().manual_seed(1)
        x = p.prior_std() * torch.randn(5000, 2, generator=g)
        made = rv.run(plan, gaussian(p), x, noise=lambda j, g=g: torch.randn(5000, 2, generator=g)).double()
        assert (float((made.T.cov() - COV).abs().max()) < 0.1) == near
