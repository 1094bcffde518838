"""Variance-preserving processes against the published formulas."""

from __future__ import annotations

import math

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError, UnknownNameError

T = torch.linspace(0.0, 1.0, 41, dtype=torch.float64)


def close(a: torch.Tensor, b: torch.Tensor, rtol: float = 1e-11) -> None:
    torch.testing.assert_close(a, b.double(), rtol=rtol, atol=1e-14)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
def test_variance_is_preserved(schedule: str) -> None:
    p = rv.process.vp(schedule)
    close(p.alpha(T) ** 2 + p.sigma(T) ** 2, torch.ones_like(T), rtol=1e-14)


@pytest.mark.parametrize(("b0", "b1"), [(0.1, 20.0), (0.5, 3.0)])
def test_linear_is_that_of_score_sde(b0: float, b1: float) -> None:
    """Song et al. 2021, eq. 32 and 33: beta(t) = b0 + t (b1 - b0), f = -beta / 2, g = sqrt(beta), at t = 0 too."""
    p, beta = rv.process.vp("linear", beta_min=b0, beta_max=b1), b0 + T * (b1 - b0)
    close(p.log_alpha(T), -(T**2) * (b1 - b0) / 4 - T * b0 / 2)
    close(p.drift(T), -beta / 2)
    close(p.diffusion(T) ** 2, beta)


def test_scaled_linear_has_a_linear_root_of_beta() -> None:
    p = rv.process.vp("scaled_linear")
    root = math.sqrt(0.85) + T * (math.sqrt(12.0) - math.sqrt(0.85))
    close(p.drift(T), -(root**2) / 2)
    close(p.diffusion(T), root)


@pytest.mark.parametrize(
    ("schedule", "betas"),
    [
        ("scaled_linear", torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2),
        ("linear", torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)),
    ],
)
def test_continuous_time_is_the_limit_of_the_discrete_one(schedule: str, betas: torch.Tensor) -> None:
    discrete, p = rv.process.ddpm((1 - betas).cumprod(0)), rv.process.vp(schedule)
    n = torch.arange(100, 1000, 100, dtype=torch.float64)
    torch.testing.assert_close(discrete.log_alpha(n - 1), p.log_alpha(n / 1000), rtol=0.02, atol=0)


def test_cosine_is_that_of_nichol_and_dhariwal() -> None:
    """Equation 17: abar = f(t) / f(0), f = cos((t + s) / (1 + s) pi / 2)^2, s = 0.008."""
    p = rv.process.vp("cosine")
    close(p.alpha(T) ** 2, (torch.cos((T + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2)
    assert p.alpha(1.0) == 0
    assert p.sigma(1.0) == pytest.approx(1.0, abs=1e-15)
    assert p.lam_range[0] == p.lam(0.9946)
    t = T[:-1]
    beta = math.pi / 1.008 * torch.tan((t + 0.008) / 1.008 * math.pi / 2)  # -d log abar / dt
    close(p.drift(t), -beta / 2)
    close(p.diffusion(t) ** 2, beta)
    assert (p.drift(1.0), p.diffusion(1.0)) == (-math.inf, math.inf)


def test_cosine_keeps_its_digits_near_both_ends() -> None:
    p, h = rv.process.vp("cosine"), 1e-9
    assert p.alpha(1 - h) == pytest.approx(h * math.pi / 2 / 1.008 / math.cos(0.008 / 1.008 * math.pi / 2), rel=1e-6)
    assert p.sigma(h) ** 2 == pytest.approx(h * math.pi / 1.008 * math.tan(0.008 / 1.008 * math.pi / 2), rel=1e-6)


def test_subvp_is_that_of_score_sde() -> None:
    """Song et al. 2021, section 3.4: sigma = 1 - alpha^2, f as VP, g^2 = beta (1 - alpha^4)."""
    p, vp = rv.process.subvp(), rv.process.vp("linear")
    beta = 0.1 + T * 19.9
    close(p.alpha(T), vp.alpha(T))
    close(p.sigma(T), 1 - vp.alpha(T) ** 2, rtol=1e-10)
    close(p.drift(T), -beta / 2)
    close(p.diffusion(T) ** 2, beta * -torch.expm1(4 * p.log_alpha(T)))


def test_bad_schedules_and_options() -> None:
    with pytest.raises(UnknownNameError, match=r"'linera'; did you mean 'linear'"):
        rv.process.vp("linera")
    with pytest.raises(ArgumentError, match="unexpected keyword argument 's'"):
        rv.process.vp("linear", s=0.1)
    for options in (
        {"beta_min": 0.0},
        {"beta_min": 5.0, "beta_max": 5.0},
        {"beta_max": math.nan},
        {"beta_max": math.inf},
    ):
        with pytest.raises(ArgumentError, match="beta_min < beta_max"):
            rv.process.vp("linear", **options)
    for schedule in ("linear", "scaled_linear", "cosine"):
        for options in ({"t_min": -0.1}, {"t_max": 1.1}, {"t_min": 0.5, "t_max": 0.5}):
            with pytest.raises(ArgumentError, match="t_min < t_max <= 1"):
                rv.process.vp(schedule, **options)
    with pytest.raises(ArgumentError, match="s must be positive"):
        rv.process.vp("cosine", s=-1.0)
