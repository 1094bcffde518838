"""The distribution of scenes: from independent uniform numbers to what is drawn.

    objects      one (0.22), a pair (0.40), 2 to 4 alike (0.19), or a mixture of 3 or 4 (0.19); a pair mostly differs in both
    sizes        uniform from 10 (13 for stars and outlines) to 24, of three objects to 20, of four to 17; turned by up to 12 degrees
    places       uniform, larger objects first, until boxes are 3 pixels apart
    colours      the purest with a little jitter of each and of all together, then contrast and brightness of the whole picture
    background   dark or light (0.4 each) or gray (0.2), in one of a few tones, with a slope and faint clouds

Where an object finds no place in 20 tries there is no scene, and whoever asks tries other numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from reverie.data.coverage import box
from reverie.data.things import COLOURS, OUTLINED, RGB, SHAPES, SIDE, Scene, Thing

__all__ = ["NUMBERS", "layout"]

_GAP, _MARGIN = 3.0, 1.5  # pixels between the boxes of two objects, and to the frame
_TRIES = 20  # places tried for an object before the whole scene is drawn again
_LARGEST = (24.0, 24.0, 20.0, 17.0)  # by number of objects
_TONES: dict[str, tuple[RGB, ...]] = {
    "dark": ((0.17, 0.18, 0.22), (0.14, 0.18, 0.26), (0.21, 0.17, 0.23), (0.14, 0.21, 0.20), (0.22, 0.19, 0.17)),
    "gray": ((0.50, 0.51, 0.53), (0.45, 0.48, 0.53), (0.54, 0.51, 0.48), (0.47, 0.51, 0.48)),
    "light": ((0.93, 0.90, 0.84), (0.88, 0.89, 0.91), (0.83, 0.87, 0.91), (0.86, 0.90, 0.84), (0.92, 0.87, 0.85)),
}
NUMBERS = 72 + 4 * 2 * _TRIES
"""Uniform numbers that a scene may use."""


def layout(numbers: Iterable[float], avoid: frozenset[tuple[str, str]] = frozenset()) -> Scene | None:
    """The scene of some uniform numbers, or None if an object found no place or a pair is to be avoided.

    Args:
        numbers: `NUMBERS` of them, in (0, 1). avoid: pairs (colour, shape).

    >>> [thing.shape for thing in layout([0.1] * NUMBERS).things]
    ['circle']
    """
    u = iter(numbers)
    kinds = _kinds(u)
    if avoid and any((colour, shape) in avoid for shape, colour in kinds):
        return None
    contrast, brightness = 1 + 0.10 * (2 * next(u) - 1), 0.04 * (2 * next(u) - 1)

    def seen(rgb: RGB) -> RGB:
        return _clipped(0.5 + (c - 0.5) * contrast + brightness for c in rgb)

    background = ("dark", "light", "gray")[int(next(u) * 2.5)]  # gray half as often
    tones = _TONES[background]
    tone = tones[int(next(u) * len(tones))]
    ends = (seen(_painted(tone, u, 0.012, 0.05)), seen(_painted(tone, u, 0.012, 0.05)))
    turn, strength = 2 * math.pi * next(u), next(u)
    slope = (strength * math.cos(turn), strength * math.sin(turn))
    texture, clouds = int(next(u) * 2**23), 0.03 * next(u)
    things = _arranged(_drafts(kinds, seen, u), u)
    return None if things is None else Scene(things, background, ends, slope, texture, clouds)


def _clipped(values: Iterable[float]) -> RGB:
    return tuple(min(1.0, max(0.0, v)) for v in values)  # type: ignore[return-value]


def _painted(rgb: RGB, u: Iterator[float], hue: float, light: float) -> RGB:
    """A colour with a little jitter of each channel and of all together."""
    shift = light * (2 * next(u) - 1)
    return _clipped(c + shift + hue * (2 * next(u) - 1) for c in rgb)


def _kinds(u: Iterator[float]) -> list[tuple[str, str]]:
    """The shapes and colours of a scene: one object, a pair, a group of 2 to 4 alike, or a mixture of 3 or 4."""

    def colour() -> str:
        return tuple(COLOURS)[int(next(u) * len(COLOURS))]

    def shape() -> str:
        return SHAPES[int(next(u) * len(SHAPES))]

    which, first = next(u), (shape(), colour())
    if which < 0.22:
        return [first]
    if which < 0.62:  # a pair that differs in shape, in colour, or mostly in both
        alike, s, c = next(u), shape(), colour()
        return [first, (first[0] if alike < 0.12 else s, first[1] if alike > 0.85 else c)]
    if which < 0.81:
        return [first] * (2 + int(next(u) * 3))
    second = (shape(), colour())
    if which < 0.89:
        return [[first, first, second], [first, first, second, second], [first] * 3 + [second]][int(next(u) * 3)]
    third = (shape(), colour())
    return [first, second, third, (shape(), colour())][: 3 + (next(u) < 0.3)]


def _drafts(kinds: list[tuple[str, str]], seen: Callable[[RGB], RGB], u: Iterator[float]) -> list[Thing]:
    """Objects of these kinds, largest first, all at (0, 0)."""
    largest = _LARGEST[len(kinds) - 1]
    alike, one_size = next(u) < 0.8, next(u) < 0.5  # in a group, objects are mostly of one style and often of one size
    fill, scale = next(u), next(u)
    drafts = []
    for shape, colour in kinds:
        draw = (next(u), next(u))
        grouped = kinds.count((shape, colour)) > 1
        filled = (fill if alike and grouped else draw[0]) > 0.3 or shape not in OUTLINED
        low = 10.0 if filled and shape != "star" else 13.0
        size = low + (largest - low) * (scale if one_size and grouped else draw[1])
        angle = 0.0 if shape == "circle" else 12 * (2 * next(u) - 1)
        drafts.append(Thing(shape, colour, 0, 0, size, filled, angle, seen(_painted(COLOURS[colour], u, 0.025, 0.04))))
    return sorted(drafts, key=lambda thing: -thing.size)


def _arranged(drafts: list[Thing], u: Iterator[float]) -> tuple[Thing, ...] | None:
    """The objects at places of their own, or None if one found none."""
    central = len(drafts) == 1 and next(u) < 0.2
    things: list[Thing] = []
    taken: list[tuple[float, float, float, float]] = []
    for draft in drafts:
        left, top, right, bottom = box(draft)
        for _ in range(_TRIES):
            x = _MARGIN - left + (SIDE - 2 * _MARGIN - right + left) * next(u)
            y = _MARGIN - top + (SIDE - 2 * _MARGIN - bottom + top) * next(u)
            if central:  # so that "in the center" is heard of
                x, y = (SIDE / 2 + (v - SIDE / 2) * 0.2 for v in (x, y))
            here = (x + left - _GAP, y + top - _GAP, x + right + _GAP, y + bottom + _GAP)
            if all(here[0] > b[2] or here[2] < b[0] or here[1] > b[3] or here[3] < b[1] for b in taken):
                break
        else:
            return None
        taken.append((x + left, y + top, x + right, y + bottom))
        things.append(replace(draft, x=x, y=y))
    return tuple(things)
