"""Claims as Markdown: for a report, and for the site's gallery."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reverie.base import ArgumentError
from reverie.base.files import atomic
from reverie.papers.figure import save, table
from reverie.papers.show import lesson
from reverie.papers.state import Status
from reverie.papers.verdict import VERDICTS

__all__ = ["markdown", "section"]


def section(s: Status, picture: str = "", level: int = 2) -> str:
    """One claim: verdict, statement, figure, cases, what was learned, how it was measured."""
    p, r = s.paper, s.record
    if r is None:
        return f"{'#' * level} {p.slug}\n\n**Record broken.** {s.problem}"
    parts = [f"{'#' * level} {p.slug}: {r.verdict}", f"*{p.title}* ([{p.arxiv}]({p.url}))", r.statement]
    parts += [picture] * bool(picture) + [table(r), *lesson(p.slug)]
    stale = f" **Stale**: {', '.join(f'`{c}`' for c in s.changed)} changed since." if s.stale else ""
    versions = ", ".join(f"{k} {v}" for k, v in r.versions.items())
    parts.append(
        f"<small>{r.kind}; {r.budget} budget, {len(r.seeds)} seeds, {r.seconds:.0f} s on {r.threads} threads, {r.day}, {versions}."
        f" Again: `reverie claims run {p.slug}`.{stale}</small>"
    )
    return "\n\n".join(parts)


def markdown(found: Sequence[Status], path: str | Path) -> list[str]:
    """Write a report of claims, its plots (.png) beside it; returns what a reader should know. Raises `FileError`."""
    file = Path(path)
    sections: list[str] = []
    notes: list[str] = []
    for s in found:
        picture = ""
        if s.record is not None and not notes:
            try:
                save(s.record, file.parent / f"{s.paper.slug}.png")
                picture = f"![{s.paper.slug}]({s.paper.slug}.png)"
            except ArgumentError as error:  # the report is worth having without its pictures
                notes.append(str(error))
        sections.append(section(s, picture))
    by = ", ".join(f"{sum(s.verdict == v for s in found)} {v}" for v in VERDICTS)
    with atomic(file) as temporary:
        temporary.write_text(
            "\n\n".join([f"# Claims\n\n{len(found)} claims: {by}.", *sections]) + "\n", encoding="utf-8"
        )
    return notes
