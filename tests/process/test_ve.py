"""Variance-exploding processes: time is sigma."""

from __future__ import annotations

import math

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError

SIGMAS = torch.tensor([0.002, 0.1, 1.0, 7.0, 80.0], dtype=torch.float64)


def test_time_is_sigma() -> None:
    p = rv.process.edm()
    assert torch.equal(p.sigma(SIGMAS), SIGMAS)
    assert torch.equal(p.alpha(SIGMAS), torch.ones_like(SIGMAS))
    torch.testing.assert_close(p.lam(SIGMAS), -SIGMAS.log())
    assert torch.equal(p.drift(SIGMAS), torch.zeros_like(SIGMAS))
    torch.testing.assert_close(p.diffusion(SIGMAS) ** 2, 2 * SIGMAS)
    assert p.t_of_sigma(3.0) == pytest.approx(3.0, rel=1e-14)
    assert (p.sigma(0.0), p.alpha(0.0), p.diffusion(0.0)) == (0.0, 1.0, 0.0)


def test_song_s_geometric_sde_is_the_same_process_in_another_clock() -> None:
    """sigma(s) = lo (hi / lo)^s has g(s) = sigma sqrt(2 log(hi / lo)), and g(s)^2 = g(sigma)^2 dsigma / ds."""
    lo, hi, s = 0.01, 50.0, 0.37
    p, sigma = rv.process.ve(lo, hi), lo * (hi / lo) ** s
    assert p.diffusion(sigma) ** 2 * sigma * math.log(hi / lo) == pytest.approx(sigma**2 * 2 * math.log(hi / lo))


def test_ranges() -> None:
    assert (rv.process.edm().t_min, rv.process.edm().t_max) == (0.002, 80.0)
    assert (rv.process.ve().t_min, rv.process.ve().t_max) == (0.01, 50.0)
    for lo, hi in ((0.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (0.1, math.inf), (math.nan, 1.0)):
        with pytest.raises(ArgumentError, match="sigma_min < sigma_max"):
            rv.process.ve(lo, hi)
