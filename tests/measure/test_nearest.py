"""Nearest distances against a loop over all pairs."""

from __future__ import annotations

import pytest
import torch

from reverie.base import ArgumentError, ShapeError
from reverie.measure import nearest_distance


def test_oracle_all_pairs() -> None:
    g = torch.Generator().manual_seed(0)
    x, r = torch.randn(7, 2, 3, generator=g), torch.randn(5, 2, 3, generator=g)
    want = [min((a - b).double().square().sum().sqrt().item() for b in r) for a in x]
    assert nearest_distance(x, r, batch=3).tolist() == pytest.approx(want, rel=1e-6)


def test_identity_a_member_is_at_zero() -> None:
    r = torch.randn(9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 1000
    assert nearest_distance(r, r).tolist() == [0.0] * 9


def test_limits_and_errors() -> None:
    assert nearest_distance(torch.zeros(0, 2), torch.zeros(3, 2)).shape == (0,)
    with pytest.raises(ArgumentError, match="empty"):
        nearest_distance(torch.zeros(3, 2), torch.zeros(0, 2))
    with pytest.raises(ShapeError, match=r"\(2,\) and references of shape \(3,\)"):
        nearest_distance(torch.zeros(3, 2), torch.zeros(3, 3))
