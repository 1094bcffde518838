"""The digits: their range, their split, and what a missing package says."""

from __future__ import annotations

import sys

import pytest
import torch

from reverie.base import ArgumentError, UnknownNameError
from reverie.data import digits
from reverie.data.digits import _all


def test_they_are_scikit_learns_rescaled() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x, y = digits("all")
    assert x.shape == (1797, 1, 8, 8)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert torch.equal((x.flatten(1) + 1) * 8, torch.tensor(pixels, dtype=torch.float32))
    assert torch.equal(y, torch.tensor(labels))
    assert (x.min().item(), x.max().item()) == (-1.0, 1.0)


def test_the_split_is_a_partition_in_equal_proportion() -> None:
    (x, y), (a, ya), (b, yb) = digits("all"), digits("train"), digits("heldout")
    assert len(a) + len(b) == len(x)
    rows = {tuple(r) for r in a.flatten(1).tolist()} & {tuple(r) for r in b.flatten(1).tolist()}
    assert not rows, "a held-out digit is also trained on"
    assert torch.equal(torch.cat([ya, yb]).bincount(), y.bincount())
    assert torch.equal(yb.bincount(), y.bincount() // 5)


def test_the_split_follows_the_sets_own_order() -> None:
    x, y = digits("all")
    threes = x[y == 3]
    held, labels = digits("heldout")
    assert torch.equal(held[labels == 3], threes[4::5])


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(UnknownNameError, match="heldout"):
        digits("held")


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _all.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ArgumentError, match=r"reverie\[data\]"):
        digits()
    _all.cache_clear()
