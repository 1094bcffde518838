"""What Reverie has of a paper, computed: where it is implemented, whether its claim has run, and what came of it.

planned        nothing in the code says `@implements(slug)`
implemented    something does
claimed        its claim has run, and its record is whole
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reverie.base import FileError, unknown
from reverie.papers.claims import claimed, rests_on
from reverie.papers.index import ROOMS, Paper, paper, papers
from reverie.papers.records import FOLDER, Record, own_folder, read
from reverie.papers.sources import Place, implementations
from reverie.papers.verdict import VERDICTS

__all__ = ["STATES", "Status", "find", "record_of", "status"]

STATES = ("planned", "implemented", "claimed")


@dataclass(frozen=True)
class Status:
    """A paper and what Reverie has of it.

    Attributes:
        paper: its record in the index. places: where it is implemented. record: of its claim's last run, the fullest. problem: why a record could
            not be used.
        has_claim: whether there is a claim to run. changed: what the record rests on and has changed since.
    """

    paper: Paper
    places: tuple[Place, ...]
    has_claim: bool
    record: Record | None = None
    problem: str = ""
    changed: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """ "planned", "implemented" or "claimed"."""
        return STATES[0] if not self.places else STATES[1] if self.record is None else STATES[2]

    @property
    def verdict(self) -> str | None:
        """That of the record, or None."""
        return None if self.record is None else self.record.verdict

    @property
    def stale(self) -> bool:
        """Whether the record is of an earlier version of what it rests on."""
        return bool(self.changed)

    def entry(self) -> dict[str, Any]:
        """As plain values, for programs."""
        p, r = self.paper, self.record
        return {
            "id": p.id, "slug": p.slug, "title": p.title, "arxiv": p.arxiv, "room": p.room, "adds": list(p.adds), "state": self.state,
            "verdict": self.verdict, "stale": self.stale, "budget": None if r is None else r.budget, "day": None if r is None else r.day,
            "has_claim": self.has_claim, "where": [f"{x.module}.{x.name}" for x in self.places], "problem": self.problem or None,
            "year": p.year, "authors": list(p.authors), "venue": p.venue or None, "repo": p.repo or None, "idea": p.idea, "claim": p.claim,
        }  # fmt: skip


def record_of(slug: str, folder: str | Path | None = None) -> Record | None:
    """The record of a claim: of the full budget, else of the quick one; but one that is up to date before one that is stale.

    Args:
        folder: of the records; by default those that were made here, and then those that come with the package.

    Raises:
        FileError: a record that is broken or was edited.
    """
    found = []
    for place in [Path(folder)] if folder is not None else list(dict.fromkeys((own_folder(), FOLDER))):
        for budget in ("full", "quick"):
            file = place / file_name(slug, budget)
            if file.exists():
                record = read(file)
                if record.slug != slug or record.budget != budget:
                    raise FileError(
                        f"{str(file)!r} is the {record.budget} record of {record.slug!r}; restore it, or run `reverie claims run {slug}`"
                    )
                found.append(record)
    return next((r for r in found if not _changed(r)), found[0] if found else None)


def file_name(slug: str, budget: str) -> str:
    """The file of a record: "deis.json", "deis.full.json"."""
    return f"{slug}.json" if budget == "quick" else f"{slug}.{budget}.json"


def status(slug: str, folder: str | Path | None = None) -> Status:
    """What Reverie has of a paper. Raises `UnknownNameError`; a broken record is told in `problem`.

    >>> status("dpm-solver").state == "planned", status("dpm-solver").places[0].solver
    (False, 'dpm-2m')
    """
    found, places = paper(slug), implementations().get(slug, ())
    has = slug in claimed()
    try:
        record = record_of(slug, folder)
    except FileError as error:
        return Status(found, places, has, problem=str(error))
    return Status(found, places, has, record, changed=() if record is None else _changed(record))


def _changed(record: Record) -> tuple[str, ...]:
    """What a record rests on and is not what it was."""
    now = rests_on(record.slug)
    return tuple(sorted(name for name in {*now, *record.rests_on} if now.get(name) != record.rests_on.get(name)))


def find(
    *,
    room: str | None = None,
    state: str | None = None,
    verdict: str | None = None,
    text: str | Sequence[str] | None = None,
    folder: str | Path | None = None,
) -> list[Status]:
    """The papers that fit, in the order of the index.

    Args:
        room: a room. state: "planned", "implemented" or "claimed". verdict: "holds", "holds weakly", "does not hold here", or "none".
        text: words that must all occur in slug, title, authors, idea or claim, whatever their case.

    Raises:
        UnknownNameError: a room, state or verdict that does not exist.

    >>> [s.paper.slug for s in find(room="process", text="likelihoods")]
    ['score-sde']
    """
    for what, value, known in (
        ("room", room, [*ROOMS]),
        ("state", state, STATES),
        ("verdict", verdict, [*VERDICTS, "none"]),
    ):
        if value is not None and value not in known:
            raise unknown(what, value, known)
    words = [w.lower() for w in ([text] if isinstance(text, str) else text or ())]
    out = []
    for p in papers().values():
        said = " ".join((p.slug, p.title, p.arxiv, *p.authors, *p.adds, p.idea, p.claim)).lower()
        if (room is None or p.room == room) and all(w in said for w in words):
            s = status(p.slug, folder)
            if (state is None or s.state == state) and (verdict is None or (s.verdict or "none") == verdict):
                out.append(s)
    return out


def counts(found: Iterable[Status]) -> dict[str, int]:
    """How many papers of each state, and of each verdict among the claimed."""
    listed = list(found)
    by = {s: sum(x.state == s for x in listed) for s in STATES}
    return by | {v: sum(x.verdict == v for x in listed) for v in VERDICTS} | {"stale": sum(x.stale for x in listed)}
