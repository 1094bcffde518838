"""What of a paper the code itself says: its formulas, from docstrings, and three lines of use."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap

from reverie.papers.claims import claim_of, claimed
from reverie.papers.index import paper
from reverie.papers.sources import implementations

__all__ = ["formulas", "lesson", "use"]


def formulas(slug: str) -> dict[str, list[str]]:
    """The mathematics of a paper as its modules have it: module -> the indented blocks of its docstring, each under the sentence that leads to it.

    Raises `UnknownNameError`.

    >>> "tau" in formulas("deis")["reverie.solve.deis"][0] or "rho" in formulas("deis")["reverie.solve.deis"][0]
    True
    """
    paper(slug)
    found: dict[str, list[str]] = {}
    for place in implementations().get(slug, ()):
        if place.module not in found:
            found[place.module] = _blocks(place.about)
    return {module: blocks for module, blocks in found.items() if blocks}


def _blocks(doc: str) -> list[str]:
    parts = [p.strip("\n") for p in re.split(r"\n\s*\n", doc)]
    out = []
    for before, part in zip(["", *parts], parts, strict=False):
        if all(line.startswith("    ") for line in part.splitlines()):
            lead = "" if not before or before.startswith("    ") or before is parts[0] else before + "\n"
            out.append(lead + textwrap.indent(textwrap.dedent(part), "    "))
    return out


def lesson(slug: str) -> list[str]:
    """What was learned from a claim: the paragraphs of its file's docstring after the first; none where there is no claim."""
    if slug not in claimed():
        return []
    paragraphs = re.split(r"\n\s*\n", inspect.getdoc(sys.modules[claim_of(slug).run.__module__]) or "")
    return [" ".join(p.split()) for p in paragraphs[1:]]


def use(slug: str) -> str:
    """Three lines that use a paper: those of its claim, else the first example of its code; "" where there is none. Raises `UnknownNameError`."""
    paper(slug)
    if slug in claimed() and (lines := claim_of(slug).use):
        return lines
    for place in implementations().get(slug, ()):
        code = [line.strip()[4:] for line in place.doc.splitlines() if line.strip().startswith((">>> ", "... "))]
        if code:
            return "\n".join(code)
    return ""
