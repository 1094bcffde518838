"""Memorisation against a loop, and its limits."""

from __future__ import annotations

import pytest
import torch

from reverie.base import ArgumentError, ShapeError
from reverie.measure import memorised


@pytest.mark.parametrize("ratio", [0.25, 1 / 3, 0.9])
def test_oracle_all_pairs(ratio: float) -> None:
    g = torch.Generator().manual_seed(0)
    x, r = torch.randn(200, 2, 1, generator=g), torch.randn(7, 2, 1, generator=g)
    want = []
    for a in x:
        first, second, *_ = sorted((a - b).double().norm().item() for b in r)
        want.append(first < ratio * second)
    assert memorised(x, r, ratio, batch=3).tolist() == want
    assert 0 < sum(want) < 200


def test_copies_are_memorised_and_the_unit_does_not_matter() -> None:
    g = torch.Generator().manual_seed(1)
    r = torch.randn(9, 4, generator=g, dtype=torch.float64)
    assert memorised(r + 1e-6, r).all()
    assert not memorised((r[:1] + r[1:2]) / 2, r[:2]).any()
    assert not memorised(r[:1], r[[0, 0, 1]]).any()  # held twice: no nearest one
    x = torch.randn(50, 4, generator=g, dtype=torch.float64)
    assert torch.equal(memorised(x, r, 0.9), memorised(5 * x + 1, 5 * r + 1, 0.9))


def test_limit_empty_and_errors() -> None:
    assert memorised(torch.zeros(0, 2), torch.zeros(3, 2)).shape == (0,)
    with pytest.raises(ArgumentError, match="at least 2 samples to compare distances, got 1"):
        memorised(torch.zeros(3, 2), torch.zeros(1, 2))
    with pytest.raises(ArgumentError, match=r"ratio lies in \(0, 1\], got 0"):
        memorised(torch.zeros(3, 2), torch.zeros(2, 2), 0)
    with pytest.raises(ShapeError, match=r"\(2,\) and references of shape \(3,\)"):
        memorised(torch.zeros(3, 2), torch.zeros(3, 3))
