"""Discretely trained processes: exact at the labels, log-linear between them."""

from __future__ import annotations

import math

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ABAR = (1 - BETAS).cumprod(0)


def zero_terminal(abar: torch.Tensor) -> torch.Tensor:
    root = abar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def test_labels_carry_abar() -> None:
    for abar in (ABAR, zero_terminal(ABAR)):
        p = rv.process.ddpm(abar)
        n = torch.arange(1000, dtype=torch.float64)
        torch.testing.assert_close(p.alpha(n) ** 2, abar, rtol=1e-12, atol=1e-18)
        torch.testing.assert_close(p.sigma(n) ** 2, 1 - abar, rtol=1e-11, atol=0)
    assert (p.alpha(999), p.sigma(999)) == (0.0, 1.0)
    assert (p.alpha(-1), p.sigma(-1)) == (1.0, 0.0)


def test_log_alpha_is_linear_between_labels() -> None:
    p = rv.process.ddpm(ABAR)
    a, b = ABAR[[10, 11]].log() / 2
    for w in (0.0, 0.25, 0.5, 0.9):
        assert p.log_alpha(10 + w) == pytest.approx(float(a + w * (b - a)), rel=1e-12)
    assert p.log_alpha(-0.5) == pytest.approx(math.log(float(ABAR[0])) / 4, rel=1e-12)
    assert p.drift(10.5) == pytest.approx(float(b - a), rel=1e-10)
    assert p.drift(10.5) == pytest.approx(math.log1p(-float(BETAS[11])) / 2, rel=1e-10)


def test_zero_terminal_signal_is_linear_in_alpha_at_the_end() -> None:
    p = rv.process.ddpm(zero_terminal(ABAR))
    last = p.alpha(998)
    assert p.alpha(998.25) == pytest.approx(0.75 * last, rel=1e-12)
    assert p.alpha(999 - 1e-6) == pytest.approx(1e-6 * last, rel=1e-9)
    assert p.lam_range[0] == pytest.approx(p.lam(999 - 1e-3))
    assert (p.drift(999), p.diffusion(999)) == (-math.inf, math.inf)
    assert math.isfinite(p.diffusion(998.5))
    assert p.t_of_lam(-math.inf) == 999


def test_forms_of_the_table_are_equal() -> None:
    assert rv.process.ddpm(ABAR) == rv.process.ddpm(ABAR.tolist()) == rv.process.ddpm(tuple(ABAR.tolist()))
    assert rv.process.ddpm(ABAR.float()).t_max == 999.0


@pytest.mark.parametrize(
    ("abar", "message"),
    [
        ([0.5], "at least 2 values"),
        ([0.9, 0.9, 0.5], r"label 1 has 0\.9"),
        ([0.9, 0.5, 0.6], r"label 2 has 0\.6"),
        ([1.0, 0.5], r"label 0 has 1\.0"),
        ([0.9, 0.0, 0.0], r"label 2 has 0\.0"),
        ([0.9, -0.1], r"label 1 has -0\.1"),
        ([0.9, math.nan], "finite"),
        (torch.tensor(0.5), "sequence"),
        (torch.full((2, 2), 0.5), "sequence"),
        (0.5, "sequence"),
        (None, "sequence"),
    ],
)
def test_bad_tables(abar: object, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        rv.process.ddpm(abar)  # type: ignore[arg-type]


def test_bad_ranges() -> None:
    for options in ({"t_min": -1.0}, {"t_max": 3.0}, {"t_min": 2.0, "t_max": 2.0}):
        with pytest.raises(ArgumentError, match="0 <= t_min < t_max <= 2"):
            rv.process.DDPM([0.9, 0.5, 0.1], **options)
    p = rv.process.DDPM([0.9, 0.5, 0.1], t_min=0.5, t_max=1.5)
    assert p.lam_range == (p.lam(1.5), p.lam(0.5))
