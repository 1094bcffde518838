"""The sliced Wasserstein distance against scipy's one-dimensional one and closed forms."""

from __future__ import annotations

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.base import ArgumentError, NonFiniteError, ShapeError
from reverie.measure import Sliced, sliced_wasserstein


def _draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "m"), [(50, 50), (50, 80), (7, 101), (1, 9), (64, 32)])
def test_oracle_scipy_in_each_direction(n: int, m: int) -> None:
    x, y = _draw(0, n, 3), 1.5 * _draw(1, m, 3) + 0.3
    u = Sliced(y, 16).directions(0, 16)
    want = [scipy.stats.wasserstein_distance((x @ u)[:, k].numpy(), (y @ u)[:, k].numpy()) for k in range(16)]
    assert sliced_wasserstein(x, y, 16) == pytest.approx(sum(want) / 16, rel=1e-10)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(("n", "m"), [(6, 4), (5, 3), (8, 8)])
def test_identity_unequal_counts_are_equal_counts_of_copies(p: int, n: int, m: int) -> None:
    x, y = _draw(2, n, 2), _draw(3, m, 2)
    same = sliced_wasserstein(x.repeat(m, 1), y.repeat(n, 1), 8, p)
    assert sliced_wasserstein(x, y, 8, p) == pytest.approx(same, rel=1e-12)


@pytest.mark.parametrize("p", [1, 2])
def test_closed_form_of_a_shift(p: int) -> None:
    """Every projection moves by u . c, so W_p is |u . c| in each direction."""
    x, c = _draw(4, 40, 5), torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    u = Sliced(x, 32).directions(0, 32)
    want = (c @ u).abs().pow(p).mean() ** (1 / p)
    assert sliced_wasserstein(x, x + c, 32, p) == pytest.approx(want.item(), rel=1e-10)


def test_closed_form_of_a_scale() -> None:
    """x against a x: W_2^2 = (1 - a)^2 E (u . x)^2 in each direction."""
    x = _draw(5, 30, 4)
    u = Sliced(x, 32).directions(0, 32)
    want = 0.5 * (x @ u).square().mean().sqrt()
    assert sliced_wasserstein(x, 1.5 * x, 32, 2) == pytest.approx(want.item(), rel=1e-10)


def test_closed_form_of_gaussians() -> None:
    """N(m, s^2 I) against N(0, I): W_2^2 = (u . m)^2 + (s - 1)^2; the mean of (u . m)^2 over all directions is |m|^2 / D."""
    d, s, m = 3, 2.0, torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    x, y = s * _draw(6, 20_000, d) + m, _draw(7, 15_000, d)
    want = (m.square().sum() / d + (s - 1) ** 2) ** 0.5
    assert sliced_wasserstein(x, y, 200, 2) == pytest.approx(want.item(), rel=0.03)


def test_directions_are_unit_vectors_that_the_seed_alone_determines() -> None:
    a, b = Sliced(torch.zeros(2, 3, 4), 10), Sliced(torch.ones(5, 3, 4), 30)
    assert torch.equal(a.directions(0, 10), b.directions(0, 30)[:, :10])
    assert torch.allclose(a.directions(0, 10).norm(dim=0), torch.ones(10, dtype=torch.float64))
    assert not torch.equal(Sliced(torch.zeros(2, 12), 10, seed=1).directions(0, 10), a.directions(0, 10))


def test_limit_one_dimension_is_the_wasserstein_distance() -> None:
    x, y = _draw(8, 31, 1), _draw(9, 17, 1) + 2
    want = scipy.stats.wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy())
    assert sliced_wasserstein(x, y) == pytest.approx(want, rel=1e-10)
    assert sliced_wasserstein(x[:, 0], y[:, 0]) == pytest.approx(want, rel=1e-10)


def test_parts_do_not_change_the_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = _draw(10, 40, 6), _draw(11, 30, 6)
    whole = sliced_wasserstein(x, y, 16)
    monkeypatch.setattr("reverie.measure.sliced._CHUNK", 30)
    assert sliced_wasserstein(x, y, 16) == pytest.approx(whole, rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 500), scale=st.floats(0.1, 10), n=st.integers(1, 30), p=st.sampled_from([1, 2]))
def test_property_symmetric_homogeneous_blind_to_order(seed: int, scale: float, n: int, p: int) -> None:
    x, y = _draw(seed, n, 3), _draw(seed + 1, 12, 3)
    d = sliced_wasserstein(x, y, 8, p)
    assert sliced_wasserstein(y, x, 8, p) == pytest.approx(d, rel=1e-9)
    assert sliced_wasserstein(x * scale, y * scale, 8, p) == pytest.approx(d * scale, rel=1e-9)
    assert sliced_wasserstein(x.flip(0), y, 8, p) == pytest.approx(d, rel=1e-12)
    assert sliced_wasserstein(x, x, 8, p) == 0


def test_errors_name_what_is_wrong() -> None:
    x = torch.zeros(4, 3)
    with pytest.raises(ArgumentError, match="p must be 1 or 2, got 3"):
        sliced_wasserstein(x, x, p=3)
    with pytest.raises(ArgumentError, match="projections"):
        sliced_wasserstein(x, x, 0)
    with pytest.raises(ShapeError, match=r"samples of shape \(N, 3\) are needed, got \(4, 2\)"):
        sliced_wasserstein(x[:, :2], x)
    with pytest.raises(ArgumentError, match="at least one sample"):
        sliced_wasserstein(x[:0], x)
    with pytest.raises(NonFiniteError):
        sliced_wasserstein(x + float("nan"), x)
