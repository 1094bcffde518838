"""A page of the site: where it lies, how the navigation calls it, and its Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Page", "cell", "plain", "table"]


@dataclass(frozen=True)
class Page:
    """A generated page: `path` below `docs/`, its `title` in the navigation, and its Markdown `text`."""

    path: str
    title: str
    text: str


def table(head: Sequence[str], rows: Iterable[Sequence[object]], align: str = "") -> str:
    """A Markdown table; `align` has one of `l`, `r`, `c` a column."""
    marks = {"l": ":--", "r": "--:", "c": ":-:"}
    rule = [marks[a] for a in (align or "l" * len(head))]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, rule, *rows))


def plain(text: str) -> str:
    """Prose as it stands: nothing in it is Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)


def cell(text: str) -> str:
    """Prose that may stand in a table's cell: on one line."""
    return " ".join(text.split())
