"""The index of papers, a page a room: each paper's idea and claim, where it is in the code, and what became of its claim here."""

from __future__ import annotations

from collections.abc import Sequence

from generate.page import Page, cell, plain, table
from reverie.papers import ROOMS, VERDICTS, Status, find

__all__ = ["badge", "pages"]


def pages(found: Sequence[Status] | None = None) -> list[Page]:
    """The overview, and the rooms in the house's order."""
    listed = find() if found is None else found
    rooms = {room: [s for s in listed if s.paper.room == room] for room in ROOMS}
    return [
        Page("papers/index.md", "All papers", _overview(rooms)),
        *(Page(f"papers/{room}.md", room, _room(room, of)) for room, of in rooms.items()),
    ]


def badge(s: Status, up: str = "../") -> str:
    """A paper's verdict, else its state, linked to its claim where it has run."""
    word = s.verdict or s.state
    shown = f'<span class="badge {word.replace(" ", "-")}">{word}{", stale" if s.stale else ""}</span>'
    return f"[{shown}]({up}claims/{s.paper.slug}.md)" if s.record is not None else shown


def _overview(rooms: dict[str, list[Status]]) -> str:
    listed = [s for of in rooms.values() for s in of]
    states = {k: sum(s.state == k for s in listed) for k in ("planned", "implemented", "claimed")}
    out = [
        "# Papers",
        f"{len(listed)} papers, each with a record in our own words, a room in the house, and a claim that one command can test. What is"
        " implemented is read from the code (`@implements`), what is claimed from the records of the [claims](../claims/index.md); nothing here is"
        f" written down twice. Today {states['claimed']} are claimed, {states['implemented']} implemented, {states['planned']} planned.",
        "```\nreverie papers --room solve          # as a table\nreverie papers show dpm-solver       # one of them, whole\n"
        "reverie cite dpm-solver              # as BibTeX\n```",
    ]
    rows = []
    for room, of in rooms.items():
        verdicts = [sum(s.verdict == v for s in of) or "" for v in VERDICTS]
        done = sum(s.state != "planned" for s in of)
        rows.append((f"[{room}]({room}.md)", ROOMS[room], len(of), done or "", *verdicts))
    head = ("room", "", "papers", "implemented", *VERDICTS)
    return "\n\n".join([*out, table(head, rows, "llrrrrr")]) + "\n"


def _room(room: str, of: Sequence[Status]) -> str:
    out = [f"# {room}", f"{ROOMS[room][0].upper()}{ROOMS[room][1:]}. {len(of)} papers."]
    rows = [(f"[`{s.paper.slug}`](#{s.paper.slug})", cell(s.paper.title), badge(s)) for s in of]
    out.append(table(("paper", "title", "state"), rows))
    for s in of:
        out += _paper(s)
    return "\n\n".join(out) + "\n"


def _paper(s: Status) -> list[str]:
    p = s.paper
    names = [a.partition(",")[0] for a in p.authors]
    who = ", ".join(names) if len(names) < 4 else f"{names[0]} et al."
    where = f"{p.venue} {p.year}" if p.venue else str(p.year)
    code = f" · [code](https://github.com/{p.repo})" if p.repo else ""
    out = [
        f"## {p.slug} {{ #{p.slug} }}",
        f"**{p.title}** {badge(s)}",
        f'<p class="source" markdown>{who.rstrip(".")}. {where}. [arXiv {p.arxiv}]({p.url}){code} · adds {", ".join(p.adds)}</p>',
        plain(p.idea),
        f"*It reports:* {plain(p.claim)}",
    ]
    if s.places:
        out.append("*Here:* " + ", ".join(_place(x) for x in s.places))
    if s.problem:
        out.append("*Its record is broken:* `reverie claims list` says why.")
    return out


def _place(place: object) -> str:
    solver, module = getattr(place, "solver", ""), getattr(place, "module", "")
    if solver:
        return f"[`{solver}`](../solvers/{module.rpartition('.')[2]}.md#{solver})"
    return f"`{module}.{getattr(place, 'name', '')}`"
