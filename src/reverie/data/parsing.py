"""From words to a request, by a small grammar:

    caption    = [opening] ask {link ask} [["on" | "against" | ...] "a" tone ("background" | "backdrop")]
    ask        = [count] {size | filling | colour} noun {place}
    link       = joint | [joint] relation
    joint      = "," | "and" | "with" | ", and"

A word that no rule takes is an error that names it: nothing in a caption is skipped.
"""

from __future__ import annotations

import re
from dataclasses import replace

from reverie.base import ArgumentError
from reverie.data.request import Ask, Request
from reverie.data.things import BACKGROUNDS, COLOURS, MOST, OUTLINED, SHAPES
from reverie.data.wording import COUNTS, plural

__all__ = ["parse"]

_PLAIN = {
    **{shape: [shape] for shape in SHAPES},
    "circle": ["circle", "disc", "disk", "dot"], "square": ["square", "box"], "cross": ["cross", "plus"],
}  # fmt: skip
_PLURALS: dict[str, str | None] = {plural(w): shape for shape, words in _PLAIN.items() for w in words}
_PLURALS |= {"shapes": None, "objects": None}
_NOUNS: dict[str, str | None] = {word: shape for shape, words in _PLAIN.items() for word in words}
_NOUNS |= {"shape": None, "object": None, **_PLURALS}
_NUMBERS = {"a": 1, "an": 1, "one": 1, "the": 1, "single": 1, "two": 2, "three": 3, "four": 4, "pair": 2, "couple": 2}
_NUMBERS |= {str(n): n for n in range(1, MOST + 1)}
_COLOUR_WORDS = {c: c for c in COLOURS} | {"violet": "purple", "turquoise": "cyan", "teal": "cyan", "aqua": "cyan"}
_SIZES = {"small": "small", "little": "small", "tiny": "small", "large": "large", "big": "large", "huge": "large"}
_FILLS = {"filled": True, "solid": True, "outlined": False, "hollow": False, "outline": False, "empty": False}
_TONES = {
    "dark": "dark", "black": "dark", "gray": "gray", "grey": "gray", "light": "light", "bright": "light", "pale": "light",
}  # fmt: skip
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
                raise _puzzled(word, text, f"say how many, {', '.join(COUNTS[1:])}")
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
