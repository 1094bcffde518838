"""Handwritten digits: scikit-learn's copy of the UCI optical recognition set, 1797 real digits of 8x8 pixels.

A pixel counts ink from 0 to 16 and is mapped to value / 8 - 1 in [-1, 1]. Within each class, in the set's own order,
every fifth digit is held out: 1442 are trained on, 355 are not, in the same proportion for every class.

Source: Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from reverie.base import ArgumentError, unknown

__all__ = ["digits"]

SPLITS = ("train", "heldout", "all")


@lru_cache(maxsize=1)
def _all() -> tuple[Tensor, Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ArgumentError(
            "the digits need scikit-learn, which is not installed: pip install 'reverie[data]'"
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    y = torch.tensor(labels, dtype=torch.long)
    rank = torch.zeros_like(y)  # a digit's position among those of its class
    for c in range(10):
        rank[y == c] = torch.arange(int((y == c).sum()))
    return x, y, rank % 5 == 4


def digits(split: str = "all") -> tuple[Tensor, Tensor]:
    """The handwritten digits and what they show.

    Args:
        split: "train" (four of five in each class), "heldout" (the fifth), or "all".

    Returns:
        Pictures `(N, 1, 8, 8)`, float32 in [-1, 1] (ink is 1), and labels `(N,)`, int64 in 0 to 9.

    Raises:
        UnknownNameError: another split. ArgumentError: scikit-learn is missing.

    >>> x, labels = digits("train")
    >>> tuple(x.shape), labels[:3].tolist()
    ((1442, 1, 8, 8), [0, 1, 2])
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    x, y, held = _all()
    keep = torch.ones_like(held) if split == "all" else held if split == "heldout" else ~held
    return x[keep], y[keep]
