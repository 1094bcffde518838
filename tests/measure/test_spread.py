"""Spread: against variances computed otherwise, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.base import ArgumentError, ShapeError
from reverie.measure import class_spread, spread_ratio


def _set(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(40) % 4
    return torch.randn(40, 2, 3, generator=g) * (1 + labels[:, None, None]), labels


def test_oracle_numpys_covariance() -> None:
    x, labels = _set(0)
    want = [np.trace(np.cov(x[labels == c].flatten(1).double().numpy(), rowvar=False)) ** 0.5 for c in range(4)]
    assert class_spread(x, labels).tolist() == pytest.approx(want, rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_property_shifts_change_nothing_and_scale_is_linear(seed: int, factor: float, shift: float) -> None:
    x, labels = _set(seed)
    ratio = spread_ratio(x.double() * factor + shift, labels, x, labels)
    assert ratio.tolist() == pytest.approx([factor] * 4, rel=1e-9)


def test_limit_a_collapsed_class_has_none() -> None:
    x, labels = _set(1)
    x[labels == 2] = 7.0
    spread = class_spread(x, labels)
    assert spread[2] == 0
    assert (spread[[0, 1, 3]] > 0).all()
    with pytest.raises(ArgumentError, match="class 2 of the reference"):
        spread_ratio(x, labels, x, labels)


def test_errors_name_what_is_wrong() -> None:
    x, labels = _set(2)
    with pytest.raises(ShapeError, match=r"got \(39,\)"):
        class_spread(x, labels[1:])
    with pytest.raises(ShapeError):
        class_spread(x[:0], labels[:0])
    with pytest.raises(ArgumentError, match="got 0 to 3"):
        class_spread(x, labels, classes=3)
    with pytest.raises(ArgumentError, match="class 4 has 0"):
        class_spread(x, labels, classes=5)
