"""The claims: one file a paper, its slug with underscores, holding `CLAIM`."""

from __future__ import annotations

import importlib
from pathlib import Path

from reverie.base import ArgumentError
from reverie.papers.claim import Claim
from reverie.papers.index import paper, papers
from reverie.papers.sources import digests, implementations

__all__ = ["claim_of", "claimed", "rests_on", "strays"]

_JUDGES = ("reverie.papers.claim", "reverie.papers.verdict")


def _stem(slug: str) -> str:
    word = slug.replace("-", "_")
    return f"p{word}" if word[0].isdigit() else word


def rests_on(slug: str, anew: bool = False) -> dict[str, str]:
    """A digest of each module and data file that a claim rests on: its own file, how it is judged, and the paper's implementations, with all
    that these import. `anew` reads files again that were read before."""
    own = [f"{__name__}.{_stem(slug)}"] if slug in claimed() else []
    return digests([*own, *_JUDGES, *(place.module for place in implementations().get(slug, ()))], anew)


def claimed() -> list[str]:
    """The slugs that have a claim, in the order of the index.

    >>> "dpm-solver" in claimed()
    True
    """
    stems = {f.stem for f in Path(__file__).parent.glob("*.py")}
    return [slug for slug in papers() if _stem(slug) in stems]


def claim_of(slug: str) -> Claim:
    """The claim of a paper.

    Raises:
        UnknownNameError: no such paper, with the nearest. ArgumentError: the paper has no claim yet.
    """
    paper(slug)
    if slug not in claimed():
        raise ArgumentError(f"{slug!r} has no claim yet; those that have one: {', '.join(claimed())}")
    found = importlib.import_module(f"{__name__}.{_stem(slug)}").CLAIM
    if not isinstance(found, Claim) or found.slug != slug:
        raise ArgumentError(f"papers/claims/{_stem(slug)}.py holds no claim of {slug!r}")
    return found


def strays() -> list[str]:
    """Files here that belong to no paper of the index."""
    known = {_stem(slug) for slug in papers()}
    return sorted(f.stem for f in Path(__file__).parent.glob("*.py") if f.stem != "__init__" and f.stem not in known)
