"""The Fréchet distance against closed forms and scipy's matrix square root."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.base import ArgumentError, NonFiniteError, ShapeError
from reverie.measure import frechet_distance


def _features(seed: int, n: int, d: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64)
    return torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + torch.randn(d, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("d", [1, 3, 17])
def test_oracle_scipys_square_root(d: int) -> None:
    a, b = _features(0, 200, d), _features(1, 150, d)
    ca, cb = (np.atleast_2d(np.cov(f.numpy(), rowvar=False)) for f in (a, b))
    root = scipy.linalg.sqrtm(ca @ cb).real
    want = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(ca + cb - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-9)


def test_oracle_diagonal_gaussians() -> None:
    """Samples with exactly diagonal covariance: d^2 = |m_a - m_b|^2 + sum (s_a - s_b)^2."""
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3).double()
    unit = corners * (7 / 8) ** 0.5  # unbiased variance 1
    sa, sb, shift = (torch.tensor(v).double() for v in ([1.0, 2.0, 0.5], [3.0, 0.1, 0.5], [0.3, -1.0, 2.0]))
    want = shift.square().sum() + (sa - sb).square().sum()
    assert frechet_distance(unit * sa, unit * sb + shift) == pytest.approx(want.item(), rel=1e-12)


def test_identity_and_symmetry() -> None:
    a, b = _features(2, 60, 5), _features(3, 80, 5)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)


def test_limit_fewer_samples_than_features() -> None:
    """Covariances without full rank: b = c a has cross term c C_a, so d^2 = (1 - c)^2 (|m|^2 + tr C_a)."""
    a = _features(4, 6, 20)
    want = 0.25 * (a.mean(0).square().sum() + a.var(0).sum()).item()
    assert frechet_distance(a, 0.5 * a) == pytest.approx(want, rel=1e-7)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10))
def test_property_rotations_change_nothing_and_scale_is_squared(seed: int, scale: float) -> None:
    a, b = _features(seed, 30, 4), _features(seed + 1, 40, 4)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q
    d = frechet_distance(a, b)
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(d, rel=1e-7)
    assert frechet_distance(a * scale, b * scale) == pytest.approx(d * scale**2, rel=1e-7)


def test_single_precision_is_computed_in_double() -> None:
    a, b = (_features(5, 50, 3) + 1000).float(), (_features(6, 50, 3) + 1000).float()
    assert frechet_distance(a, b) == frechet_distance(a.double(), b.double())


def test_errors_name_what_is_wrong() -> None:
    a = torch.zeros(5, 3)
    with pytest.raises(ShapeError, match=r"features_b must be \(samples, 3\), got \(5, 4\)"):
        frechet_distance(a, torch.zeros(5, 4))
    with pytest.raises(ShapeError, match="features_a"):
        frechet_distance(torch.zeros(5), torch.zeros(5))
    with pytest.raises(ArgumentError, match="features_b holds 1 sample"):
        frechet_distance(a, a[:1])
    with pytest.raises(NonFiniteError, match="features_b"):
        frechet_distance(a, a + float("nan"))
