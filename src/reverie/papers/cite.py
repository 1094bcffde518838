"""BibTeX of whatever was used: the papers of the index, and the works outside it that the code rests on (`papers/works.toml`)."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from types import MappingProxyType
from typing import Any

from reverie.base import ArgumentError, unknown
from reverie.papers.index import papers

__all__ = ["bibliography", "cite"]

_JOURNALS = frozenset(
    (
        "IEEE Access", "IEEE Robotics and Automation Letters", "IEEE TIP", "IEEE TPAMI", "IEEE/ACM TASLP", "JMLR", "Journal of Mechanical Design",
        "Machine Intelligence Research", "Medical Image Analysis", "Proceedings of the Royal Society B", "TMLR", "TPAMI",
    )
)  # fmt: skip


@functools.cache
def bibliography() -> Mapping[str, Mapping[str, Any]]:
    """All known works by key: title, authors (a list), year, and eprint (an arXiv id) or venue. Keys of the index are its slugs."""
    text = (resources.files("reverie.papers") / "works.toml").read_text(encoding="utf-8")
    works: dict[str, Mapping[str, Any]] = dict(tomllib.loads(text))
    for p in papers().values():
        works[p.slug] = {"title": p.title, "authors": list(p.authors), "year": p.year, "eprint": p.arxiv} | (
            {"venue": p.venue} if p.venue else {}
        )
    return MappingProxyType(works)


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
        raise unknown("work", key, known, "`reverie papers` (and rv.papers.bibliography() beyond the index)")
    work = known[key]
    fields = {"title": f"{{{work['title']}}}", "author": " and ".join(work["authors"]), "year": str(work["year"])}
    venue = work.get("venue")
    journal = venue in _JOURNALS
    if venue:
        fields["journal" if journal else "booktitle"] = venue
    if "eprint" in work:
        fields |= {"eprint": work["eprint"], "archivePrefix": "arXiv"}
    for name in ("title", "author", "journal", "booktitle"):
        if name in fields:
            fields[name] = re.sub(r"([&%#_$])", r"\\\1", fields[name])
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value)
    return f"@{'article' if journal else 'inproceedings' if venue else 'misc'}{{{key},\n{body}\n}}"
