"""The gallery of claims: verdict, figure, one line; then a page a claim. Failures are as plain as successes."""

from __future__ import annotations

import html
from collections.abc import Sequence
from statistics import median

from generate.page import Page, plain, table
from generate.rooms import badge
from reverie.papers import VERDICTS, Record, Status, find
from reverie.papers.figure import rows, svg
from reverie.papers.show import lesson, use

__all__ = ["pages"]

_INK = "#1b1b20"


def pages(found: Sequence[Status] | None = None) -> list[Page]:
    """The gallery, and each claim that has run."""
    listed = [s for s in (find() if found is None else found) if s.record is not None or s.problem]
    whole = [s for s in listed if s.record is not None]
    return [
        Page("claims/index.md", "Gallery", _gallery(listed)),
        *(Page(f"claims/{s.paper.slug}.md", s.paper.slug, _claim(s, s.record)) for s in whole if s.record is not None),
        *(
            Page(f"claims/{s.paper.slug}.svg", "", svg(s.record, _INK, forest=False))
            for s in whole
            if s.record is not None
        ),
    ]


def _gallery(listed: Sequence[Status]) -> str:
    by = [(v, sum(s.verdict == v for s in listed)) for v in VERDICTS]
    out = [
        "---\nhide: [toc]\n---\n\n# Claims",
        "A paper's headline, put so that it can fail, and run: the method, its baseline and a null control in the same run, on the same seeds."
        " The unit is the paired difference within a seed; a case holds where its whole 95 % interval lies beyond what was asked, weakly where only"
        " the mean does. A claim that does not hold here stays, with what was learned. [How a verdict is made](../claims.md) says the rest.",
        " · ".join(f"**{v}** {n}" for v, n in by),
    ]
    cards = []
    for s in listed:
        r = s.record
        if r is None:
            cards.append(
                f'<div class="claim" markdown>\n\n### {s.paper.slug}\n\nIts record is broken: `reverie claims list` says why.\n\n</div>'
            )
            continue
        picture = f'<figure class="plot"><img src="{s.paper.slug}.svg" alt="{_alt(r)}" loading="lazy"></figure>'
        head, words = f"### [{s.paper.slug}]({s.paper.slug}.md) {badge(s)}", f"{plain(r.statement)}\n\n{_learned(s)}"
        cards.append(
            "\n\n".join(['<div class="claim" markdown>', head, picture, "<div markdown>", words, "</div>", "</div>"])
        )
    return "\n\n".join([*out, '<div class="gallery" markdown>', *cards, "</div>"]) + "\n"


def _claim(s: Status, r: Record) -> str:
    p = s.paper
    out = [
        f"# {p.slug}",
        f"{badge(s)} [{p.title}](../papers/{p.room}.md#{p.slug})",
        f"**{plain(r.statement)}**",
        f'<figure class="plot">{svg(r)}</figure>',
        _cases(r),
    ]
    if learned := lesson(p.slug):
        out += ["## What was learned", *map(plain, learned)]
    arms = list(dict.fromkeys(a for of in r.figures.values() for a in of))
    rows = [(f, *(_middle(of[a]) if a in of else "" for a in arms)) for f, of in r.figures.items()]
    out += [
        "## The figures",
        f"Medians over {len(r.seeds)} seeds." + (f" The number after the slash: {r.axis}." if r.axis else ""),
        table(("figure", *(r.name(a) for a in arms)), rows, "l" + "r" * len(arms)),
    ]
    if lines := use(p.slug):
        out += ["## Use", f"```python\nimport reverie as rv\n\n{lines}\n```"]
    versions = ", ".join(f"{k} {v}" for k, v in r.versions.items())
    out += [
        "## How it was measured",
        f"A claim of {r.kind}; {r.budget} budget, {r.seconds:.0f} s on {r.threads} threads, {r.day}; {versions}. The null control {r.null}.",
        f"```\nreverie claims run {p.slug}\n```",
    ]
    if s.stale:
        out.append(f"The record is stale: {', '.join(f'`{c}`' for c in s.changed)} changed since.")
    return "\n\n".join(out) + "\n"


def _cases(r: Record) -> str:
    shown = [(a, b, c, f'<span class="badge {v.replace(" ", "-")}">{v}</span>') for a, b, c, v in rows(r)]
    return table(("asked", "mean found [95 %]", "null control", ""), shown, "lrrl")


def _learned(s: Status) -> str:
    first = lesson(s.paper.slug)[:1]
    return f'<p class="learned">{html.escape(first[0])}</p>' if first else ""


def _alt(r: Record) -> str:
    return html.escape(f"The figures of {r.slug} over the {r.axis or 'settings'}, a line an arm", quote=True)


def _middle(values: Sequence[float]) -> str:
    return f"{median(values):.3g}"
