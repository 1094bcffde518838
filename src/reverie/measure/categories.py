"""The tasks by which text-to-image models are told apart, and captions of each.

    single        "a small star"                     two objects   "a star and a cross"
    counting      "three red stars"                  colours       "a red star"
    position      "a red star above a blue cross"    binding       "a red star and a blue cross"

Source: Ghosh et al. 2023 (2310.11513), GenEval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reverie.base import ArgumentError, Noise, unknown
from reverie.data.parsing import parse
from reverie.data.request import Request
from reverie.data.things import COLOURS, SHAPES
from reverie.data.wording import COUNTS, SAID_PLACES, SAID_RELATIONS, article, plural

__all__ = ["CATEGORIES", "category", "prompts"]

CATEGORIES = ("single", "two objects", "counting", "colours", "position", "binding")
"""GenEval's tasks: one object, two objects without colours, a number of objects, one object's colour, where objects are (in the frame
or to each other), and which object has which colour."""
_PROMPTS = 0x5A6  # a stream of noise


def category(caption: str | Request) -> str:
    """Which of `CATEGORIES` a caption belongs to.

    >>> category("a red circle and a blue square"), category("two circles"), category("a circle on the left")
    ('binding', 'counting', 'position')
    """
    request = parse(caption) if isinstance(caption, str) else caption
    asks = request.asks
    if request.relations or any(ask.place for ask in asks):
        return "position"
    if any(ask.count > 1 for ask in asks):
        return "counting"
    if len(asks) == 1:
        return "colours" if asks[0].colour else "single"
    return "binding" if len({ask.colour for ask in asks} - {None}) > 1 else "two objects"


def prompts(n: int = 50, seed: int = 0, categories: Iterable[str] = CATEGORIES) -> list[str]:
    """Captions that a text-to-image model is judged by: n of each category, one category after the other.

    Args:
        n: of each, at least 1. seed: what they are drawn from. categories: which, of `CATEGORIES`.

    Raises:
        ArgumentError: n below 1. UnknownNameError: another category.

    >>> prompts(1, categories=["counting"])[0].split()[0] in ("two", "three", "four")
    True
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ArgumentError(f"n must be a whole number of at least 1, got {n!r}")
    out = []
    for name in categories:
        if name not in CATEGORIES:
            raise unknown("category", name, CATEGORIES)
        draws = Noise(seed).uniform((8,), range(n), stage=CATEGORIES.index(name), stream=_PROMPTS).tolist()
        out += [_prompt(name, k, u) for k, u in enumerate(draws)]
    return out


def _prompt(name: str, k: int, u: list[float]) -> str:
    """Prompt k of a category; shapes and colours go round in turn, so that few prompts cover them evenly."""
    first, second = SHAPES[k % len(SHAPES)], SHAPES[(k + 1 + int(u[0] * (len(SHAPES) - 1))) % len(SHAPES)]
    names = tuple(COLOURS)
    one = names[(k + int(u[1] * 2)) % len(names)]
    other = names[(names.index(one) + 1 + int(u[2] * (len(names) - 1))) % len(names)]
    this, that = f"{article(one)} {one} {first}", f"{article(other)} {other} {second}"
    if name == "single":
        size = ("", "small ", "large ")[int(u[3] * 3)]
        return f"a {size}{first}"
    if name == "two objects":
        return f"a {first} and a {second}"
    if name == "counting":
        return f"{COUNTS[2 + int(u[3] * 3)]} {one} {plural(first)}"
    if name == "colours":
        return this
    if name == "binding":
        return f"{this} and {that}"
    if k % 2:
        return f"{this} {_plainest(SAID_PLACES, u[4])}"
    return f"{this} {_plainest(SAID_RELATIONS, u[4])} {that}"


def _plainest(said: Mapping[str, tuple[str, ...]], u: float) -> str:
    """What one of some places or relations is called first."""
    return list(said.values())[int(u * len(said))][0]
