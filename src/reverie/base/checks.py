"""Checks of arguments that many functions make."""

from __future__ import annotations

from reverie.base.errors import ArgumentError

__all__ = ["at_least"]


def at_least(**numbers: tuple[object, int]) -> None:
    """Raise `ArgumentError` unless each number, given as (value, least), is whole and not below its least.

    >>> at_least(steps=(4, 1), noises=(16, 2))
    """
    for name, (value, least) in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ArgumentError(f"{name} must be a whole number of at least {least}, got {value!r}")
