"""Linear forms: the rows of a plan's table, written as in the papers.

A solver writes `a * X + b * P` with the symbols `state(j)`, `prediction(j, head)`, `noise(j)`, `given(name)` and `one()`; the result is one row of

    state_k = sum_j a[k,j] state_j + sum_{j,h} b[k,j,h] prediction_{j,h} + sum_j c[k,j] noise_j + sum_m d[k,m] input_m + e[k].
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

__all__ = ["Coef", "Key", "Line", "given", "noise", "one", "prediction", "state"]

Coef = float | Tensor
Key = tuple[Any, ...]


class Line:
    """A linear form: `terms` maps a symbol to its coefficient (float, or float64 tensor broadcastable to the state).

    >>> row = 2.0 * state(0) - (state(0) - prediction(0)) * 0.5
    >>> row.terms
    {('x', 0): 1.5, ('p', 0, 0): 0.5}
    """

    __slots__ = ("terms",)
    __array_priority__ = 1000  # so that numpy and torch scalars on the left defer to __rmul__

    def __init__(self, terms: dict[Key, Coef] | None = None) -> None:
        self.terms: dict[Key, Coef] = {} if terms is None else terms

    def __add__(self, other: Line) -> Line:
        out = dict(self.terms)
        for key, c in other.terms.items():
            out[key] = out[key] + c if key in out else c
        return Line(out)

    def __mul__(self, c: Coef) -> Line:
        return Line({key: v * c for key, v in self.terms.items()})

    __rmul__ = __mul__

    def __neg__(self) -> Line:
        return self * -1.0

    def __sub__(self, other: Line) -> Line:
        return self + (-other)

    def __truediv__(self, c: Coef) -> Line:
        return Line({key: v / c for key, v in self.terms.items()})

    def part(self, symbol: str) -> Iterable[tuple[Key, Coef]]:
        """The terms of one kind of symbol ("x", "p", "n", "i", "1") whose coefficients are not exactly zero, keys without the symbol."""
        return [(k[1:], c) for k, c in self.terms.items() if k[0] == symbol and not (isinstance(c, float) and c == 0.0)]


def state(j: int) -> Line:
    """State j: 0 is the initial state, k + 1 what stage k makes."""
    return Line({("x", j): 1.0})


def prediction(j: int, head: int = 0) -> Line:
    """What the model said at stage j (of state j)."""
    return Line({("p", j, head): 1.0})


def noise(j: int) -> Line:
    """The j-th elementary noise of the run."""
    return Line({("n", j): 1.0})


def given(name: str) -> Line:
    """A named input of the run (a degraded picture, a mean, a source)."""
    return Line({("i", name): 1.0})


def one() -> Line:
    """The number 1 in every coordinate: `c * one()` is a constant term, c a number or a tensor broadcastable to the state.

    >>> (state(0) + 0.5 * one()).terms
    {('x', 0): 1.0, ('1',): 0.5}
    """
    return Line({("1",): 1.0})
