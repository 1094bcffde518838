"""Numbers of drawn samples, as a caller may say them: how many from 0, or which."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from reverie.base import ArgumentError

__all__ = ["listed"]


def listed(index: int | Iterable[int] | Tensor, what: str) -> list[int]:
    """The numbers that `index` stands for: 0 to index - 1, or the given ones `(N,)`; `what` is their name in the plural.

    Raises:
        ArgumentError: neither a whole number from 0 nor numbers in a row. What the numbers are is checked where they are used.

    >>> listed(3, "patches"), listed([7, 5], "patches")
    ([0, 1, 2], [7, 5])
    """
    if isinstance(index, int) and not isinstance(index, bool) and index >= 0:
        return list(range(index))
    if isinstance(index, Tensor) and index.ndim == 1:
        return index.tolist()
    if isinstance(index, Tensor) or not isinstance(index, Iterable):
        raise ArgumentError(f"index is {index!r}; give how many {what}, from 0, or the {what}' numbers (N,)")
    return list(index)
