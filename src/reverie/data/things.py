"""Scenes: objects of a shape, a colour, a place and a size before a background, as they are drawn, worded and read.

A picture has 64x64 pixels; x runs to the right and y down, both from the top left corner, and pixel (i, j) is the unit square around
(j + 1/2, i + 1/2).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BACKGROUNDS", "COLOURS", "MOST", "OUTLINED", "RGB", "SHAPES", "SIDE", "Scene", "Thing"]

RGB = tuple[float, float, float]

SIDE = 64
"""Pixels of a picture each way."""
MOST = 4
"""Objects that a caption can name."""
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
