"""Plans behind k-diffusion's signature: the same runs in its states, its callback, its errors."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError, ShapeError, UnknownNameError
from reverie.hub import kdiffusion

SIGMAS = torch.cat([torch.logspace(1, -1.5, 9), torch.zeros(1)])
X = 10 * torch.randn(3, 2, generator=torch.Generator().manual_seed(0))


def denoise(x: Tensor, sigma: Tensor, mean: float = 0.5) -> Tensor:
    """Of data N(mean, 1), in k-diffusion's states."""
    s = sigma.reshape(-1, *[1] * (x.ndim - 1)).square()
    return (x + s * mean) / (1 + s)


def oracle(p: rv.process.Process) -> rv.oracle.Gaussian:
    return rv.oracle.Gaussian(torch.full((2,), 0.5), torch.eye(2), process=p)


def test_euler_is_the_loop_that_everybody_knows() -> None:
    x = X.clone()
    for now, then in itertools.pairwise(SIGMAS):
        x = x + (x - denoise(x, now.expand(3))) / now * (then - now)
    assert torch.allclose(kdiffusion("euler")(denoise, X, SIGMAS), x, atol=1e-5)


def test_a_plan_of_another_process_runs_in_its_states() -> None:
    p = rv.process.vp()
    plan, o = rv.solve.plan("dpmpp-2m", p, 6), oracle(p)
    start = float(p.alpha(plan.start))
    sigmas = torch.linspace(float(p.sigma(plan.start)) / start, 0.0, 7)
    made = kdiffusion(plan)(denoise, X / start, sigmas)
    assert torch.allclose(made, rv.run(plan, o, X), atol=1e-4)
    half = plan.replace(table=plan.table[:3])
    end = half.times[-1]
    sigmas = torch.linspace(float(sigmas[0]), float(p.sigma(end) / p.alpha(end)), 4)
    assert torch.allclose(kdiffusion(half)(denoise, X / start, sigmas) * p.alpha(end), rv.run(half, o, X), atol=1e-4)


def test_flows_keep_their_own_states() -> None:
    p = rv.process.flow(3.0)
    plan, o = rv.solve.plan("dpmpp-2m", p, 6, grid="time"), oracle(p)

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        return o(x.double(), p.t_of_sigma(sigma[0].double())).x0.to(x)

    x = X / 10
    made = kdiffusion(plan)(model, x, torch.linspace(1, 0, 7))
    assert torch.allclose(made, rv.run(plan, o, x), atol=1e-5)


def test_the_callback_sees_each_evaluation() -> None:
    seen: list[dict[str, Any]] = []
    extra = {"mean": 0.2}
    kdiffusion("dpmpp-2m")(denoise, X, SIGMAS, extra_args=extra, callback=seen.append, disable=True)
    assert [int(s["i"]) for s in seen] == list(range(9))
    assert torch.allclose(torch.stack([s["sigma"] for s in seen]), SIGMAS[:-1])
    assert torch.equal(seen[0]["x"], X)
    for s in seen:
        assert torch.allclose(s["denoised"], denoise(s["x"], s["sigma"].expand(3), mean=0.2), atol=1e-5)


def test_noise_is_that_of_torch() -> None:
    def once(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return kdiffusion("euler-a")(denoise, X, SIGMAS)

    assert torch.equal(once(0), once(0))
    assert not torch.equal(once(0), once(1))


def test_precision_stays() -> None:
    assert kdiffusion("dpmpp-2m")(denoise, X.double(), SIGMAS).dtype == torch.float64
    seen = []

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append((x.dtype, sigma.dtype))
        return denoise(x, sigma)

    assert kdiffusion("dpmpp-2m")(model, X.bfloat16(), SIGMAS).dtype == torch.bfloat16
    assert set(seen) == {(torch.bfloat16, torch.bfloat16)}


def test_what_does_not_fit() -> None:
    plan = rv.solve.plan("dpmpp-2m", rv.process.vp(), 4)
    with pytest.raises(UnknownNameError, match="dpmpp-9m"):
        kdiffusion("dpmpp-9m")
    with pytest.raises(ArgumentError, match="has no option 'eta'"):
        kdiffusion("dpmpp-2m", eta=1.0)
    with pytest.raises(ArgumentError, match="leave out eta"):
        kdiffusion(plan, eta=1.0)
    with pytest.raises(ArgumentError, match="is of 4 evaluations, the sigmas are 9 steps"):
        kdiffusion(plan)(denoise, X, SIGMAS)
    with pytest.raises(ArgumentError, match=r"begins at sigma 152\.2, the sigmas at 10"):
        kdiffusion(plan)(denoise, X, torch.linspace(10, 0, 5))
    with pytest.raises(ArgumentError, match="ends at sigma 0, the sigmas at 1"):
        kdiffusion(plan)(denoise, X, torch.linspace(152.17, 1, 5))
    with pytest.raises(ArgumentError, match="sigmas must fall"):
        kdiffusion("ddim")(denoise, X, SIGMAS.flip(0))
    with pytest.raises(ShapeError, match=r"\(B, \*shape\)"):
        kdiffusion("ddim")(denoise, X[0], SIGMAS)
    terminal = rv.process.ddpm([0.9, 0.5, 0.0])
    with pytest.raises(ArgumentError, match="has no signal at t = 2"):
        kdiffusion(rv.solve.plan("ddim", terminal, grid=[2.0, 1.0, -1.0]))(denoise, X, [5.0, 1.0, 0.0])
