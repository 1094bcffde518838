"""What a caption asks for, and how much of it a scene meets.

A request is a list of asks (so many objects, each with a shape, a colour, ... or anything), relations between them, and a background. Each
word of it is one demand. Objects are assigned to what is asked for by the injection pi that meets most,

    max over pi of  sum_i [demands of ask i that object pi(i) meets] + [relations that hold under pi],

found by trying all, at most 6! / 2! of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

from reverie.data.bands import placed, related, sized
from reverie.data.things import Scene, Thing

__all__ = ["Ask", "Demand", "Request", "demands"]


@dataclass(frozen=True, slots=True)
class Ask:
    """Objects that a caption asks for: how many, and what must be true of each (None: anything)."""

    count: int = 1
    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    filled: bool | None = None
    place: str | None = None


class Request(NamedTuple):
    """What a caption asks for: objects, relations (number of an ask, relation, number of an ask), background."""

    asks: tuple[Ask, ...]
    relations: tuple[tuple[int, str, int], ...] = ()
    background: str | None = None


class Demand(NamedTuple):
    """One thing that a caption demands, of which kind, and whether it is met."""

    kind: str
    met: bool


def demands(request: Request, scene: Scene) -> list[Demand]:
    """What a request demands and whether a scene meets it, objects assigned to what is asked for in the best way.

    The number of objects in all, the background and each relation are one demand each; so is, for each object asked for, each of
    its shape, colour, size, filling and place that is named. A relation holds only between objects of the right shape and colour.

    Args:
        request: by `parse`. scene: drawn, or read from a picture; beyond 6 objects the 6 largest count.

    >>> from reverie.data import parse
    >>> red = Scene((Thing("circle", "red", 20, 12, 14),))
    >>> [(d.kind, d.met) for d in demands(parse("a blue circle"), red)]
    [('count', True), ('shape', True), ('colour', False)]
    """
    things: list[Thing | None] = list(scene.things)
    if len(things) > 6:
        things = sorted(scene.things, key=lambda thing: -thing.size)[:6]  # type: ignore[assignment]
    owners = [i for i, ask in enumerate(request.asks) for _ in range(ask.count)]
    things += [None] * (len(owners) - len(things))
    table = [[_judged(ask, thing) for thing in things] for ask in request.asks]
    scores = [[sum(d.met for d in cell) for cell in row] for row in table]
    full = sum(len(table[i][0]) for i in owners) + len(request.relations)
    best = -1
    chosen: tuple[int, ...] = ()
    held: list[Demand] = []
    for order in permutations(range(len(things)), len(owners)):
        score = sum(scores[i][k] for i, k in zip(owners, order, strict=True))
        if score + len(request.relations) <= best:
            continue
        now = [
            Demand("relation", _all_related(request, r, owners, [things[k] for k in order])) for r in request.relations
        ]
        score += sum(d.met for d in now)
        if score > best:
            best, chosen, held = score, order, now
            if best == full:
                break
    out = [Demand("count", len(scene.things) == len(owners))]
    for i, k in zip(owners, chosen, strict=True):
        out += table[i][k]
    out += held
    if request.background is not None:
        out.append(Demand("background", scene.background == request.background))
    return out


def _judged(ask: Ask, thing: Thing | None) -> list[Demand]:
    """The demands of one object asked for, met by `thing` or not; None meets nothing."""
    out = []
    for kind, want in (("shape", ask.shape), ("colour", ask.colour), ("filled", ask.filled)):
        if want is not None:
            out.append(Demand(kind, thing is not None and getattr(thing, kind) == want))
    if ask.size is not None:
        out.append(Demand("size", thing is not None and sized(thing, ask.size)))
    if ask.place is not None:
        out.append(Demand("place", thing is not None and placed(thing, ask.place)))
    return out


def _all_related(
    request: Request, relation: tuple[int, str, int], owners: list[int], things: list[Thing | None]
) -> bool:
    """Whether the objects of two asks have the right shape and colour and stand in a relation."""
    first, word, second = relation
    a, b = ([t for i, t in zip(owners, things, strict=True) if i == k] for k in (first, second))
    return all(
        s is not None
        and t is not None
        and _named(request.asks[first], s)
        and _named(request.asks[second], t)
        and related(s, word, t)
        for s in a
        for t in b
    )


def _named(ask: Ask, thing: Thing) -> bool:
    return ask.shape in (None, thing.shape) and ask.colour in (None, thing.colour)
