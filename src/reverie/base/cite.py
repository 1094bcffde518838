"""BibTeX of whatever was used."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterator
from importlib import resources
from typing import Any

from reverie.base.errors import ArgumentError, unknown

__all__ = ["bibliography", "cite"]


@functools.cache
def bibliography() -> dict[str, dict[str, Any]]:
    """The known works by key: title, authors (a list), year, and eprint (an arXiv id) or venue."""
    text = (resources.files("reverie.base") / "bibliography.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def cite(*things: Any) -> str:
    """BibTeX entries of everything that the given things rest on, each once, in order of appearance.

    Args:
        things: keys ("dpm-solver"), plans, guides, models, functions and classes marked by `@implements` or `@cites`, or lists of these.

    Raises:
        UnknownNameError: a key that is not in the bibliography. ArgumentError: a thing that names no source.

    >>> print(cite("ddim").splitlines()[0])
    @misc{ddim,
    """
    keys = dict.fromkeys(key for thing in things for key in _keys(thing))
    return "\n\n".join(_entry(key) for key in keys)


def _keys(thing: Any) -> Iterator[str]:
    if isinstance(thing, str):
        yield thing
        return
    if isinstance(thing, list | tuple):
        for part in thing:
            yield from _keys(part)
        return
    found = False
    for attribute in ("papers", "__papers__", "__cites__"):
        for key in getattr(thing, attribute, ()):
            found = True
            yield key
    for part in getattr(thing, "guides", ()):
        found = True
        yield from _keys(part)
    if not found:
        raise ArgumentError(
            f"{thing!r:.100} names no source; cite takes keys, plans, guides, and what @implements or @cites marks"
        )


def _entry(key: str) -> str:
    known = bibliography()
    if key not in known:
        raise unknown("work", key, known)
    work = known[key]
    fields = {"title": f"{{{work['title']}}}", "author": " and ".join(work["authors"]), "year": str(work["year"])}
    if "eprint" in work:
        fields |= {"eprint": work["eprint"], "archivePrefix": "arXiv"}
    if "venue" in work:
        fields["booktitle"] = work["venue"]
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@{'inproceedings' if 'venue' in work and 'eprint' not in work else 'misc'}{{{key},\n{body}\n}}"
