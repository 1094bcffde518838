"""What is true of an object or of two: small or large, at a place, in a relation.

Every word has a band of its own: a caption says it of what lies well inside, and it counts as true in a wider band, so that a
borderline object makes no caption wrong. In pixels of a 64x64 picture:

    word                 said                          true
    small, large         size <= 13, >= 20             size <= 16, >= 17
    left, right, ...     |x - 32| >= 8                 |x - 32| >= 4          (a corner: both coordinates)
    center               |x - 32|, |y - 32| <= 5       <= 9
    left of, above, ...  d >= 8 and d >= 1.25 |d'|     d >= 4 and d >= 0.5 |d'|   (d along the relation, d' across it)
"""

from __future__ import annotations

from reverie.data.things import SIDE, Thing

__all__ = ["PLACES", "RELATIONS", "placed", "related", "sized"]

PLACES = {
    "top left": (-1, -1), "top right": (1, -1), "bottom left": (-1, 1), "bottom right": (1, 1),
    "top": (None, -1), "bottom": (None, 1), "left": (-1, None), "right": (1, None), "center": (0, 0),
}  # fmt: skip  # fmt: skip
"""Where on each axis, x and y: -1 near its start, 1 near its end, 0 in the middle, None anywhere."""
RELATIONS = {"left of": (1, 0), "right of": (-1, 0), "above": (0, 1), "below": (0, -1)}
"""The direction from the first object to the second."""
_SMALL, _LARGE, _MIDDLE = (13.0, 16.0), (20.0, 17.0), SIDE / 2  # said, true


def sized(thing: Thing, word: str, said: bool = False) -> bool:
    """Whether an object is "small" or "large", in the band in which a caption says so or in that in which it is true.

    >>> sized(Thing("circle", "red", 20, 12, size=15), "small"), sized(Thing("circle", "red", 20, 12, size=15), "small", said=True)
    (True, False)
    """
    return thing.size <= _SMALL[not said] if word == "small" else thing.size >= _LARGE[not said]


def placed(thing: Thing, place: str, said: bool = False) -> bool:
    """Whether an object is at one of `PLACES`, in either band.

    >>> placed(Thing("circle", "red", x=20, y=12, size=15), "top left")
    True
    """
    side, middle = (8.0, 5.0) if said else (4.0, 9.0)
    return all(
        want is None or (abs(at - _MIDDLE) <= middle if want == 0 else want * (at - _MIDDLE) >= side)
        for want, at in zip(PLACES[place], (thing.x, thing.y), strict=True)
    )


def related(a: Thing, relation: str, b: Thing, said: bool = False) -> bool:
    """Whether a stands in one of `RELATIONS` to b, in either band.

    >>> related(Thing("circle", "red", 20, 12, 14), "above", Thing("square", "blue", 22, 50, 12))
    True
    """
    across = RELATIONS[relation]
    d = across[0] * (b.x - a.x) + across[1] * (b.y - a.y)
    other = abs(across[1] * (b.x - a.x)) + abs(across[0] * (b.y - a.y))
    return d >= (8.0 if said else 4.0) and d >= (1.25 if said else 0.5) * other
