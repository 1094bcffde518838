"""The index: a record of each of the 194 papers, in our own words, one TOML file a room in `papers/rooms/`.

What a record says is what the paper says; what Reverie has of it (where, state, verdict) is never written down but read from the code and from
the claims' records (`papers.state`).
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType

from reverie.base import ArgumentError, unknown

__all__ = ["ADDS", "COUNT", "ROOMS", "Paper", "load", "paper", "papers"]

COUNT = 194
ROOMS: Mapping[str, str] = MappingProxyType(
    {
        "process": "how clean becomes noisy",
        "solve": "solvers: few steps from noise to data",
        "data": "making and choosing data",
        "measure": "metrics and estimators",
        "nets": "architectures and conditioning",
        "guide": "guidance: model to model",
        "steer": "rewards and measurements at inference",
        "edit": "inversion and editing",
        "train": "training and pre-training",
        "tokens": "diffusion over tokens",
        "align": "preferences and rewards, by training",
        "distill": "fewer steps, by training",
        "fast": "cheaper forwards",
        "restore": "restoration",
        "inspect": "what is inside a model",
        "audio": "speech, music, sound",
        "control": "policies and planning",
        "design": "engineering and molecules",
        "language": "text",
        "people": "faces, bodies, motion",
        "scene": "three dimensions and video",
        "series": "time series",
        "vision": "perception",
        "volume": "medical volumes",
    }
)
"""The rooms that papers belong to, in the house's order; from "audio" on they lie in `fields`."""

ADDS = (
    "process", "model", "plan", "guide", "hook", "objective", "net", "data", "measure", "recipe", "inspect",
)  # fmt: skip
"""What a paper can add: one of the six nouns or of the supporting kinds."""


@dataclass(frozen=True)
class Paper:
    """One paper of the index.

    Attributes:
        id: 1 to 194, never changed. slug: its name in code, files and commands. title: as published. arxiv: its arXiv id.
        room: where its code lives. adds: kinds of things that it brings (`ADDS`). idea: what it does and why. claim: what it reports.
        repo: "owner/name" of its released code, or "". authors: "Family, Given", as far as known. year: of the venue, or of arXiv. venue: or "".
    """

    id: int
    slug: str
    title: str
    arxiv: str
    room: str
    adds: tuple[str, ...]
    idea: str
    claim: str
    repo: str = ""
    authors: tuple[str, ...] = ()
    year: int = 0
    venue: str = ""

    @property
    def url(self) -> str:
        """Its page at arXiv."""
        return f"https://arxiv.org/abs/{self.arxiv}"


@functools.cache
def papers() -> Mapping[str, Paper]:
    """All papers by slug, in the order of the rooms and of their ids.

    >>> len(papers()), papers()["dpm-solver"].room
    (194, 'solve')
    """
    folder = resources.files("reverie.papers") / "rooms"
    found: dict[str, Paper] = {}
    for room in ROOMS:
        for p in load((folder / f"{room}.toml").read_text(encoding="utf-8"), room):
            if p.slug in found:
                raise ArgumentError(f"{p.slug!r} is in the rooms {found[p.slug].room} and {room}; a slug is unique")
            found[p.slug] = p
    return MappingProxyType(found)


def load(text: str, room: str) -> list[Paper]:
    """The papers of one room from TOML. Raises `ArgumentError` for a field that is missing, unknown or of a wrong kind."""
    out = []
    for slug, fields in tomllib.loads(text).items():
        if not isinstance(fields, dict):
            raise ArgumentError(f"{slug!r} in {room}.toml is no record: it stands before the first [slug]")
        for name, value in fields.items():
            kind = int if name in ("id", "year") else list if name in ("adds", "authors") else str
            if not isinstance(value, kind):
                raise ArgumentError(
                    f"the record of {slug!r} in {room}.toml has {name} = {value!r}, which is no {kind.__name__}"
                )
        if not re.fullmatch(r"\d{4}\.\d{4,5}", fields.get("arxiv", "0000.0000")):
            raise ArgumentError(
                f"the record of {slug!r} in {room}.toml has arxiv {fields['arxiv']!r}; an id is like '2206.00927'"
            )
        fields = {k: " ".join(v.split()) if isinstance(v, str) else v for k, v in fields.items()}
        fields |= {k: tuple(fields[k]) for k in ("adds", "authors") if k in fields}
        fields.setdefault("year", 2000 + int(str(fields.get("arxiv", "0"))[:2]))
        try:
            p = Paper(slug=slug, room=room, **fields)
        except TypeError as error:
            raise ArgumentError(f"the record of {slug!r} in {room}.toml: {error}") from None
        wrong = [kind for kind in p.adds if kind not in ADDS]
        if wrong or not p.adds or not all((p.title, p.arxiv, p.idea, p.claim)):
            what = f"adds {wrong[0]!r}, which is none of {', '.join(ADDS)}" if wrong else "has an empty field"
            raise ArgumentError(f"the record of {slug!r} in {room}.toml {what}")
        out.append(p)
    return sorted(out, key=lambda p: p.id)


def paper(slug: str) -> Paper:
    """The paper of a slug. Raises `UnknownNameError` with the nearest slugs.

    >>> paper("deis").title
    'Fast Sampling of Diffusion Models with Exponential Integrator'
    """
    known = papers()
    if slug not in known:
        raise unknown("paper", slug, known, "`reverie papers`")
    return known[slug]
