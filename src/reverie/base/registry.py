"""Which code implements which paper: said in the code, so that it cannot go stale.

`@implements("dpm-solver")` points a function or class to a paper's record in the index; `@cites("ddim")` to a work outside the index. Whatever a
run used can then be cited (`rv.cite`), and the index can say where a paper lives.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from reverie.base.errors import ArgumentError

__all__ = ["Implementation", "cites", "implementations", "implements"]

T = TypeVar("T")
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_IMPLEMENTATIONS: dict[str, list[Implementation]] = {}


@dataclass(frozen=True)
class Implementation:
    """One object that implements a paper: where it is and how it is called."""

    slug: str
    module: str
    qualname: str
    obj: Any


def _mark(attribute: str, keys: tuple[str, ...]) -> Callable[[T], T]:
    if not keys:
        raise ArgumentError("name at least one paper, e.g. @implements('dpm-solver')")
    for key in keys:
        if not isinstance(key, str) or not _SLUG.fullmatch(key):
            raise ArgumentError(
                f"{key!r} is no slug: lower-case words and numbers joined by single hyphens, e.g. 'dpm-solver-pp'"
            )

    def mark(obj: T) -> T:
        before = obj.__dict__.get(attribute, ()) if hasattr(obj, "__dict__") else ()
        setattr(obj, attribute, tuple(dict.fromkeys((*keys, *before))))
        return obj

    return mark


def implements(*slugs: str) -> Callable[[T], T]:
    """Register the decorated function or class as an implementation of one or more papers of the index.

    Args:
        slugs: of the papers' records, e.g. "dpm-solver".

    Raises `ArgumentError` for what is no slug; that the record exists is checked where the index is (room `papers`).

    >>> @implements("dpm-solver")
    ... def solver(): ...
    >>> solver.__papers__
    ('dpm-solver',)
    """
    mark = _mark("__papers__", slugs)

    def add(obj: T) -> T:
        mark(obj)
        for slug in slugs:
            entry = Implementation(slug, getattr(obj, "__module__", ""), getattr(obj, "__qualname__", repr(obj)), obj)
            known = _IMPLEMENTATIONS.setdefault(slug, [])
            known[:] = [e for e in known if (e.module, e.qualname) != (entry.module, entry.qualname)] + [entry]
        return obj

    return add


def cites(*keys: str) -> Callable[[T], T]:
    """Say which works outside the index the decorated function or class rests on; keys of the bibliography.

    >>> @cites("ddim")
    ... def solver(): ...
    >>> solver.__cites__
    ('ddim',)
    """
    return _mark("__cites__", keys)


def implementations() -> dict[str, list[Implementation]]:
    """What has been registered so far (by the rooms imported so far), by slug.

    >>> import reverie.solve
    >>> "dpmpp_3m" in [i.qualname for i in implementations()["dpm-solver-pp"]]
    True
    """
    return {slug: list(found) for slug, found in sorted(_IMPLEMENTATIONS.items())}
