"""Scenes of a few drawn shapes, and the words for them: a caption states what is true, and parses back into what it asks.

A caption names every object by shape, or by colour and shape, and may add sizes, fillings, places, one relation and the
background; what it leaves out is free. Every word has a band of its own: a caption says it of what lies well inside, and it
counts as true in a wider band, so that a borderline object makes no caption wrong. In pixels of a 64x64 picture:

    word                 said                          true
    small, large         size <= 13, >= 20             size <= 16, >= 17
    left, right, ...     |x - 32| >= 8                 |x - 32| >= 4          (a corner: both coordinates)
    center               |x - 32|, |y - 32| <= 5       <= 9
    left of, above, ...  d >= 8 and d >= 1.25 |d'|     d >= 4 and d >= 0.5 |d'|   (d along the relation, d' across it)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from typing import NamedTuple

from reverie.base import ArgumentError

__all__ = [
    "BACKGROUNDS", "COLOURS", "OUTLINED", "SHAPES", "Ask", "Demand", "Request", "Scene", "Thing", "caption", "demands", "parse",
]  # fmt: skip

RGB = tuple[float, float, float]

SHAPES = ("circle", "square", "triangle", "star", "cross")
OUTLINED = ("circle", "square", "triangle")
"""Shapes that may be drawn as an outline; a star or a cross is always filled."""
COLOURS: dict[str, RGB] = {
    "red": (0.83, 0.20, 0.21),
    "orange": (0.95, 0.55, 0.14),
    "yellow": (0.97, 0.84, 0.26),
    "green": (0.24, 0.63, 0.31),
    "cyan": (0.26, 0.76, 0.82),
    "blue": (0.18, 0.36, 0.82),
    "purple": (0.51, 0.27, 0.70),
    "pink": (0.96, 0.56, 0.75),
}
"""The colours' names and what they are at their purest, RGB in [0, 1]."""
BACKGROUNDS = ("dark", "gray", "light")
PLACES = {
    "top left": (-1, -1), "top right": (1, -1), "bottom left": (-1, 1), "bottom right": (1, 1),
    "top": (None, -1), "bottom": (None, 1), "left": (-1, None), "right": (1, None), "center": (0, 0),
}  # fmt: skip
"""Where on each axis, x and y: -1 near its start, 1 near its end, 0 in the middle, None anywhere."""
RELATIONS = {"left of": (1, 0), "right of": (-1, 0), "above": (0, 1), "below": (0, -1)}
"""The direction from the first object to the second."""
MOST = 4
SMALL, LARGE, MIDDLE = (13.0, 16.0), (20.0, 17.0), 32.0  # said, true


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a scene.

    Args:
        shape: of `SHAPES`. colour: of `COLOURS`. x, y: its centre (of mass), in pixels from the top left corner.
        size: in pixels, 10 to 24; a circle's diameter, a square's side. filled: or an outline.
        angle: in degrees, clockwise. rgb: the colour as drawn or seen, in [0, 1]; None is the purest.

    >>> Thing("circle", "red", x=20, y=12, size=14).rgb is None
    True
    """

    shape: str
    colour: str
    x: float
    y: float
    size: float
    filled: bool = True
    angle: float = 0.0
    rgb: RGB | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows: objects before a background.

    Args:
        things: the objects. background: of `BACKGROUNDS`. tones: its two colours, RGB in [0, 1], between which it changes along
            `slope`, a vector (x, y) of length up to 1. texture: an integer that says which faint clouds it has.
            clouds: how much they brighten or darken it at most.

    >>> Scene((Thing("circle", "red", 20, 12, 14),)).background
    'light'
    """

    things: tuple[Thing, ...] = ()
    background: str = "light"
    tones: tuple[RGB, RGB] = ((0.92, 0.90, 0.85), (0.92, 0.90, 0.85))
    slope: tuple[float, float] = (0.0, 0.0)
    texture: int = 0
    clouds: float = 0.0


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


# What is true of a scene. `said` picks the narrow band, in which a caption says so.


def _sized(thing: Thing, word: str, said: bool = False) -> bool:
    return thing.size <= SMALL[not said] if word == "small" else thing.size >= LARGE[not said]


def _placed(thing: Thing, place: str, said: bool = False) -> bool:
    side, middle = (8.0, 5.0) if said else (4.0, 9.0)
    return all(
        want is None or (abs(at - MIDDLE) <= middle if want == 0 else want * (at - MIDDLE) >= side)
        for want, at in zip(PLACES[place], (thing.x, thing.y), strict=True)
    )


def _related(a: Thing, relation: str, b: Thing, said: bool = False) -> bool:
    across = RELATIONS[relation]
    d = across[0] * (b.x - a.x) + across[1] * (b.y - a.y)
    other = abs(across[1] * (b.x - a.x)) + abs(across[0] * (b.y - a.y))
    return d >= (8.0 if said else 4.0) and d >= (1.25 if said else 0.5) * other


def demands(request: Request, scene: Scene) -> list[Demand]:
    """What a request demands and whether a scene meets it, objects assigned to what is asked for in the best way.

    The number of objects in all, the background and each relation are one demand each; so is, for each object asked for, each of
    its shape, colour, size, filling and place that is named. A relation holds only between objects of the right shape and colour.

    Args:
        request: by `parse`. scene: drawn, or read from a picture; beyond 6 objects the 6 largest count.

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
    related: list[Demand] = []
    for order in permutations(range(len(things)), len(owners)):
        score = sum(scores[i][k] for i, k in zip(owners, order, strict=True))
        if score + len(request.relations) <= best:
            continue
        now = [
            Demand("relation", _all_related(request, r, owners, [things[k] for k in order])) for r in request.relations
        ]
        score += sum(d.met for d in now)
        if score > best:
            best, chosen, related = score, order, now
            if best == full:
                break
    out = [Demand("count", len(scene.things) == len(owners))]
    for i, k in zip(owners, chosen, strict=True):
        out += table[i][k]
    out += related
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
        out.append(Demand("size", thing is not None and _sized(thing, ask.size)))
    if ask.place is not None:
        out.append(Demand("place", thing is not None and _placed(thing, ask.place)))
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
        and _related(s, word, t)
        for s in a
        for t in b
    )


def _named(ask: Ask, thing: Thing) -> bool:
    return ask.shape in (None, thing.shape) and ask.colour in (None, thing.colour)


# From a scene to words.

_COUNTS = ("no", "one", "two", "three", "four")
_SAID_RELATIONS = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "above", "over"),
    "below": ("below", "below", "under"),
}
_SAID_PLACES = {
    **{c: (f"in the {c}", f"in the {c} corner") for c in PLACES if " " in c},
    "top": ("at the top",), "bottom": ("at the bottom",), "left": ("on the left",), "right": ("on the right",),
    "center": ("in the center", "in the middle"),
}  # fmt: skip


class _Draws:
    """Choices from uniform numbers; when those are used up, the first option and never a chance."""

    def __init__(self, numbers: Iterable[float]) -> None:
        self.numbers: Iterator[float] = iter(numbers)

    def pick(self, options: tuple[str, ...]) -> str:
        return options[int(next(self.numbers, 0.0) * len(options))]

    def chance(self, p: float) -> bool:
        return next(self.numbers, 0.0) > 1 - p


def caption(scene: Scene, wording: Iterable[float] = ()) -> str:
    """A caption that is true of a scene and names all its objects.

    Args:
        scene: 1 to 4 objects. wording: uniform numbers in (0, 1) that choose the words (up to 32 are used); without, the plainest.

    Raises:
        ArgumentError: a scene without objects, or with more than 4.

    >>> caption(Scene((Thing("circle", "red", 20, 12, 14), Thing("square", "blue", 22, 50, 12))))
    'a red circle and a blue square'
    """
    if not 1 <= len(scene.things) <= MOST:
        raise ArgumentError(f"a caption names 1 to {MOST} objects, the scene has {len(scene.things)}")
    draws = _Draws(wording)
    colourless = draws.chance(0.1)
    groups: dict[tuple[str, ...], list[Thing]] = {}
    for thing in scene.things:
        groups.setdefault((thing.shape,) if colourless else (thing.shape, thing.colour), []).append(thing)
    listed = list(groups.values())
    if draws.chance(0.5):
        listed.reverse()

    related: tuple[str, ...] = ()
    if [len(g) for g in listed] == [1, 1]:
        (a,), (b,) = listed
        related = tuple(r for r in RELATIONS if _related(a, r, b, said=True))
    if related and draws.chance(0.7):
        word = draws.pick(_SAID_RELATIONS[related[0]])
        text = f"{_phrase(listed[0], colourless, draws, False)} {word} {_phrase(listed[1], colourless, draws, False)}"
    else:
        parts: list[str] = []
        placed = len(listed) <= 2  # and no place for the last alone, which would seem to be that of all
        for group in listed:
            parts.append(_phrase(group, colourless, draws, placed))
            placed = placed and " the " in parts[-1]
        text = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    if draws.chance(0.12):
        text = draws.pick(("a picture of", "a drawing of", "an image of")) + " " + text
    if draws.chance(0.2):
        text += f" {draws.pick(('on', 'on', 'against'))} a {scene.background} background"
    return text


def _phrase(group: list[Thing], colourless: bool, draws: _Draws, placed: bool) -> str:
    """One group in words: "a small red circle in the top left", "two outlined squares"."""
    words = []
    size = next((s for s in ("small", "large") if all(_sized(t, s, said=True) for t in group)), None)
    if size and draws.chance(0.35):
        words.append(draws.pick({"small": ("small", "small", "little"), "large": ("large", "large", "big")}[size]))
    if not any(t.filled for t in group):
        if draws.chance(0.6):
            words.append(draws.pick(("outlined", "hollow")))
    elif all(t.filled for t in group) and group[0].shape in OUTLINED and draws.chance(0.15):
        words.append(draws.pick(("filled", "solid")))
    if not colourless:
        words.append(group[0].colour)
    if len(group) > 1:
        plural = "crosses" if group[0].shape == "cross" else group[0].shape + "s"
        return " ".join([_COUNTS[len(group)], *words, plural])
    words.append(group[0].shape)
    article = "one" if draws.chance(0.1) else "an" if words[0][0] in "aeiou" else "a"
    text = " ".join([article, *words])
    place = next((p for p in PLACES if _placed(group[0], p, said=True)), None)
    if placed and place and draws.chance(0.4):
        text += " " + draws.pick(_SAID_PLACES[place])
    return text


# From words to a request.

_PLAIN = {
    **{shape: [shape] for shape in SHAPES},
    "circle": ["circle", "disc", "disk", "dot"], "square": ["square", "box"], "cross": ["cross", "plus"],
}  # fmt: skip
_PLURALS: dict[str, str | None] = {
    w + ("es" if w[-1] in "sx" else "s"): shape for shape, words in _PLAIN.items() for w in words
}
_PLURALS |= {"shapes": None, "objects": None}
_NOUNS: dict[str, str | None] = {word: shape for shape, words in _PLAIN.items() for word in words}
_NOUNS |= {"shape": None, "object": None, **_PLURALS}
_NUMBERS = {"a": 1, "an": 1, "one": 1, "the": 1, "single": 1, "two": 2, "three": 3, "four": 4, "pair": 2, "couple": 2}
_NUMBERS |= {str(n): n for n in range(1, MOST + 1)}
_COLOUR_WORDS = {c: c for c in COLOURS} | {"violet": "purple", "turquoise": "cyan", "teal": "cyan", "aqua": "cyan"}
_SIZES = {"small": "small", "little": "small", "tiny": "small", "large": "large", "big": "large", "huge": "large"}
_FILLS = {"filled": True, "solid": True, "outlined": False, "hollow": False, "outline": False, "empty": False}
_TONES = {
    "dark": "dark",
    "black": "dark",
    "gray": "gray",
    "grey": "gray",
    "light": "light",
    "bright": "light",
    "pale": "light",
}
_RELATION = re.compile(
    r"(?:(?:is|are|which is|that is) )?"
    r"(?:(?:to|on|at) the (left|right) (?:side )?of|(left|right) of|(on top of|above|over)|(?:below|under|beneath|underneath))\b"
)
_FRAME = r"(?: of the (?:picture|image|frame|scene|canvas|drawing))?"
_PLACE = re.compile(
    rf"(?:(?:is|are) )?(?:in|at|on|near|to) the (?:(top|upper|bottom|lower)[ -](left|right)|(top|upper|bottom|lower|left|right|cent(?:er|re)|middle))"
    rf"(?: (?:corner|side|half|part|hand side|edge))?{_FRAME}(?!(?: side)? of\b)(?= |$)"
)
_BACKGROUND = re.compile(
    r"(?:(?:all )?(?:on|against|over|with|before|in front of) )?an? (\w+) (?:background|backdrop)$"
)
_OPENING = re.compile(
    r"^(?:(?:an?|the) (?:\w+ )?(?:picture|image|drawing|photo|rendering|illustration|painting|scene) (?:of|with|showing) )?"
    r"(?:there (?:is|are) )?(?:(?:only|just|exactly) )?"
)
_ALIKE = {"upper": "top", "lower": "bottom", "centre": "center", "middle": "center"}


def parse(text: str) -> Request:
    """What a caption asks for.

    It reads what `caption` writes, whatever the case, and ordinary variants: counts up to four as words or digits, synonyms ("violet",
    "tiny", "hollow", "disc", "underneath", "upper left corner of the picture"), lists with commas and "and", and chains of relations ("a star
    above a cross and to the left of a circle": both are the star's).

    Raises:
        ArgumentError: a word that it cannot understand, which the message names; no object; more than 4; an outlined star or cross.

    >>> parse("Two small red circles and a blue square on a dark background").asks[0]
    Ask(count=2, shape='circle', colour='red', size='small', filled=None, place=None)
    >>> parse("a red circle to the left of a blue square").relations
    ((0, 'left of', 1),)
    """
    if not isinstance(text, str):
        raise ArgumentError(f"a caption is a str, got {type(text).__name__}")
    rest = " ".join(re.sub(r"[.;:!\"']", " ", text.lower()).replace(",", " , ").split())
    rest = _OPENING.sub("", rest)
    background = None
    if (found := _BACKGROUND.search(rest)) is not None:
        if found[1] not in _TONES:
            raise _puzzled(found[1], text, f"a background is {', '.join(BACKGROUNDS)}")
        background = _TONES[found[1]]
        rest = rest[: found.start()].strip(" ,")
    asks: list[Ask] = []
    relations: list[tuple[int, str, int]] = []
    while rest:
        ask, rest = _ask(rest, text)
        this, joined = len(asks), False
        subject = relations[-1][0] if relations and relations[-1][2] == this else this  # of an "and to the left of"
        asks.append(ask)
        while rest and not joined:
            separated = re.match(r"(?:,|(?:and|with)\b)(?: and\b)? ?", rest)
            after = rest[separated.end() :] if separated else rest
            if (found := _RELATION.match(after)) and not _PLACE.match(after):
                side, bare, above = found.groups()
                word = f"{side or bare} of" if side or bare else "above" if above else "below"
                relations.append((subject if separated else this, word, this + 1))
                rest, joined = after[found.end() :].strip(), True
                if not rest:
                    raise ArgumentError(f"nothing follows {found[0]!r} in the caption {text!r}")
            elif separated:
                rest, joined = after, True
                if not rest:
                    raise ArgumentError(f"nothing follows the last {separated[0].strip()!r} in the caption {text!r}")
            elif (found := _PLACE.match(rest)) is not None:
                words = [_ALIKE.get(w, w) for w in found.groups() if w]
                asks[this] = replace(asks[this], place=" ".join(words))
                rest = rest[found.end() :].strip()
            else:
                raise _puzzled(rest.split()[0], text, "after an object, a place, a relation or 'and' can follow")
    total = sum(ask.count for ask in asks)
    if not 1 <= total <= MOST:
        raise ArgumentError(f"the caption {text!r} asks for {total} objects; 1 to {MOST} can be shown")
    return Request(tuple(asks), tuple(relations), background)


def _ask(rest: str, text: str) -> tuple[Ask, str]:
    """The objects named at the beginning of `rest`, and what follows them."""
    words = rest.split()
    count, found, start = 0, Ask(), 0
    while start < len(words) and (words[start] in _NUMBERS or (count and words[start] == "of")):  # "a pair of"
        count, start = _NUMBERS.get(words[start], count), start + 1
    for at in range(start, len(words)):
        word = words[at]
        if word in _NOUNS:
            if not count and word in _PLURALS:
                raise _puzzled(word, text, f"say how many, {', '.join(_COUNTS[1:])}")
            ask = replace(found, count=max(count, 1), shape=_NOUNS[word])
            if ask.filled is False and ask.shape not in (*OUTLINED, None):
                raise ArgumentError(f"{word!r} in {text!r} cannot be an outline; {', '.join(OUTLINED)} can")
            return ask, " ".join(words[at + 1 :])
        if word in _COLOUR_WORDS and found.colour is None:
            found = replace(found, colour=_COLOUR_WORDS[word])
        elif word in _SIZES and found.size is None:
            found = replace(found, size=_SIZES[word])
        elif word in _FILLS and found.filled is None:
            found = replace(found, filled=_FILLS[word])
        else:
            shapes, colours = ", ".join(SHAPES), ", ".join(COLOURS)
            raise _puzzled(word, text, f"an object is a count, size, filling, colour ({colours}) and shape ({shapes})")
    raise ArgumentError(
        f"no shape follows {' '.join(words)!r} in the caption {text!r}; it needs one of {', '.join(SHAPES)}"
    )


def _puzzled(word: str, text: str, remedy: str) -> ArgumentError:
    return ArgumentError(f"cannot understand {word!r} in the caption {text!r}: {remedy}")
