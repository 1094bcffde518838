"""From a scene to words: a caption is true of its scene and names every object.

It names an object by shape, or by colour and shape; what it may add are sizes, fillings, places, one relation and the background, and what
it leaves out is free. Uniform numbers choose among the words; each is said only well inside its band (`reverie.data.bands`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reverie.base import ArgumentError
from reverie.data.bands import PLACES, RELATIONS, placed, related, sized
from reverie.data.things import MOST, OUTLINED, Scene, Thing

__all__ = ["COUNTS", "SAID_PLACES", "SAID_RELATIONS", "article", "caption", "plural"]

COUNTS = ("no", "one", "two", "three", "four")
SAID_RELATIONS = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "above", "over"),
    "below": ("below", "below", "under"),
}
SAID_PLACES = {
    **{c: (f"in the {c}", f"in the {c} corner") for c in PLACES if " " in c}, "center": ("in the center", "in the middle"),
    "top": ("at the top",), "bottom": ("at the bottom",), "left": ("on the left",), "right": ("on the right",),
}  # fmt: skip
"""Ways to say each relation and each place, the plainest first."""


def article(word: str) -> str:
    """The indefinite article of a word.

    >>> article("orange")
    'an'
    """
    return "an" if word[0] in "aeiou" else "a"


def plural(word: str) -> str:
    """The plural of a noun.

    >>> plural("cross")
    'crosses'
    """
    return word + ("es" if word[-1] in "sx" else "s")


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

    relations: tuple[str, ...] = ()
    if [len(g) for g in listed] == [1, 1]:
        (a,), (b,) = listed
        relations = tuple(r for r in RELATIONS if related(a, r, b, said=True))
    if relations and draws.chance(0.7):
        word = draws.pick(SAID_RELATIONS[relations[0]])
        text = f"{_phrase(listed[0], colourless, draws, False)} {word} {_phrase(listed[1], colourless, draws, False)}"
    else:
        parts: list[str] = []
        placing = len(listed) <= 2  # and no place for the last alone, which would seem to be that of all
        for group in listed:
            parts.append(_phrase(group, colourless, draws, placing))
            placing = placing and " the " in parts[-1]
        text = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    if draws.chance(0.12):
        text = draws.pick(("a picture of", "a drawing of", "an image of")) + " " + text
    if draws.chance(0.2):
        text += f" {draws.pick(('on', 'on', 'against'))} a {scene.background} background"
    return text


def _phrase(group: list[Thing], colourless: bool, draws: _Draws, placing: bool) -> str:
    """One group in words: "a small red circle in the top left", "two outlined squares"."""
    words = []
    size = next((s for s in ("small", "large") if all(sized(t, s, said=True) for t in group)), None)
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
        return " ".join([COUNTS[len(group)], *words, plural(group[0].shape)])
    words.append(group[0].shape)
    one = "one" if draws.chance(0.1) else article(words[0])
    text = " ".join([one, *words])
    place = next((p for p in PLACES if placed(group[0], p, said=True)), None)
    if placing and place and draws.chance(0.4):
        text += " " + draws.pick(SAID_PLACES[place])
    return text
