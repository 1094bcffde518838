"""The straight path and its time shift."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reverie as rv
from reverie.base import ArgumentError

T = torch.linspace(0.0, 1.0, 41, dtype=torch.float64)


def test_the_path_is_straight() -> None:
    p = rv.process.flow()
    torch.testing.assert_close(p.sigma(T), T)
    torch.testing.assert_close(p.alpha(T), 1 - T)
    torch.testing.assert_close(p.drift(T), -1 / (1 - T))
    torch.testing.assert_close(p.diffusion(T[:-1]) ** 2, 2 * T[:-1] / (1 - T[:-1]))
    assert p.diffusion(0.0) == 0.0
    assert (p.drift(1.0), p.diffusion(1.0)) == (-math.inf, math.inf)


@given(shift=st.floats(0.05, 20.0), t=st.floats(0.0, 1.0))
@settings(max_examples=60, deadline=None)
def test_the_shift_of_esser_et_al(shift: float, t: float) -> None:
    """Equation 23: the ratio sigma / alpha is multiplied by the shift; alpha + sigma = 1 stays."""
    p = rv.process.flow(shift)
    assert p.alpha(t) + p.sigma(t) == pytest.approx(1.0, abs=1e-14)
    assert p.sigma(t) * (1 - t) == pytest.approx(shift * t * p.alpha(t), abs=1e-13)
    assert p.t_of_sigma(p.sigma(t)) == pytest.approx(t, abs=1e-12)


def test_shifts_compose() -> None:
    a, b, both = rv.process.flow(2.0), rv.process.flow(1.5), rv.process.flow(3.0)
    torch.testing.assert_close(a.sigma(b.sigma(T)), both.sigma(T))


def test_lam_range_stops_at_a_thousandth_of_sigma_and_inside_the_interval() -> None:
    for shift in (1.0, 3.0):
        p = rv.process.flow(shift)
        assert [p.sigma(p.t_of_lam(lam)) for lam in p.lam_range] == pytest.approx([0.999, 0.001])
    inner = rv.process.Flow(t_min=0.1, t_max=0.9)
    assert inner.lam_range == (inner.lam(0.9), inner.lam(0.1))


def test_bad_options() -> None:
    for shift in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ArgumentError, match="shift must be positive"):
            rv.process.flow(shift)
    with pytest.raises(ArgumentError, match="t_min < t_max <= 1"):
        rv.process.Flow(t_min=0.5, t_max=1.5)
