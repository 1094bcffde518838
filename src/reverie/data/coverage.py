"""How much of each pixel a drawn object covers.

A shape is the set where its signed distance d (pixels, negative inside) is negative; a pixel is covered by

    clamp(1/2 - d, 0, 1)  if filled,      clamp(1/2 - (|d + w/2| - w/2), 0, 1)  for an outline of width w inside the shape,

which is anti-aliasing to first order. Values are made by IEEE operations (+, -, *, sqrt, min, max) one at a time, which round alike
wherever a value stands in a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.data.things import SIDE, Thing

__all__ = ["AT", "box", "coverage"]

AT = torch.arange(SIDE) + 0.5
"""Where the pixels' middles are along an axis, `(64,)`."""

# A shape's signed distance, from coordinates (M, H, W) turned with it and its half size (M, 1, 1). Its centre of mass is 0.

_CROSS, _TRIANGLE, _STAR, _INNER = 0.36, 1.27, 1.16, 0.45
"""A cross's arm, a triangle's and a star's circumradius, all over half the size; a star's inner radius over its outer."""


def _circle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return (x * x + y * y).sqrt() - r


def _square(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - r


def _triangle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.maximum(y, x.abs() * (math.sqrt(3) / 2) - y * 0.5) - r * (_TRIANGLE / 2)


def _cross(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    x, y = x.abs(), y.abs()
    return torch.maximum(torch.maximum(x, y) - r, torch.minimum(x, y) - r * _CROSS)


def _star(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Folded by reflections into the half wedge of one point; there it is bounded by a line (Quilez, "distance functions")."""
    c, s = math.cos(math.radians(36)), math.sin(math.radians(36))
    x, y = x.abs(), -y
    for k in (c, -c):
        over = (x * k - y * s).clamp_min(0.0) * 2
        x, y = x - over * k, y + over * s
    along, down = _INNER * s, _INNER * c - 1  # from the tip to the inner corner
    norm = math.hypot(along, down)
    return (y - r * _STAR) * (along / norm) - x.abs() * (down / norm)


_DISTANCE = {"circle": _circle, "square": _square, "triangle": _triangle, "star": _star, "cross": _cross}
_CORNERS: dict[str, tuple[tuple[float, float], ...]] = {
    "square": ((1, 1), (-1, 1), (1, -1), (-1, -1)),
    "triangle": ((0, -_TRIANGLE), (_TRIANGLE * math.sqrt(3) / 2, _TRIANGLE / 2), (-_TRIANGLE * math.sqrt(3) / 2, _TRIANGLE / 2)),
    "star": tuple((_STAR * math.sin(2 * math.pi * k / 5), -_STAR * math.cos(2 * math.pi * k / 5)) for k in range(5)),
    "cross": tuple((a, b) for a in (1, -1) for b in (_CROSS, -_CROSS)) + tuple((b, a) for a in (1, -1) for b in (_CROSS, -_CROSS)),
}  # fmt: skip


def box(thing: Thing) -> tuple[float, float, float, float]:
    """The box around an object: left, top, right, bottom, in pixels.

    >>> box(Thing("circle", "red", x=20, y=12, size=10))
    (15.0, 7.0, 25.0, 17.0)
    """
    r = thing.size / 2
    if thing.shape == "circle":
        return thing.x - r, thing.y - r, thing.x + r, thing.y + r
    c, s = math.cos(math.radians(thing.angle)) * r, math.sin(math.radians(thing.angle)) * r
    xs = [c * a - s * b for a, b in _CORNERS[thing.shape]]
    ys = [s * a + c * b for a, b in _CORNERS[thing.shape]]
    return thing.x + min(xs), thing.y + min(ys), thing.x + max(xs), thing.y + max(ys)


def _stroke(size: float) -> float:
    """The width of an outline, in pixels, of an object of that size."""
    return max(2.0, 0.15 * size)


def coverage(things: Sequence[Thing]) -> Tensor:
    """How much of each pixel an object covers, `(M, 64, 64)` in [0, 1].

    >>> round(coverage([Thing("square", "red", x=20, y=12, size=10)]).sum().item())
    100
    """
    out = torch.empty(len(things), SIDE, SIDE)
    for shape, distance in _DISTANCE.items():
        rows = [k for k, thing in enumerate(things) if thing.shape == shape]
        if not rows:
            continue
        x, y, r, c, s = torch.tensor(
            [
                (t.x, t.y, t.size / 2, math.cos(math.radians(t.angle)), math.sin(math.radians(t.angle)))
                for t in (things[k] for k in rows)
            ]
        ).T[:, :, None, None]
        dx, dy = AT - x, AT[:, None] - y
        d = distance(dx * c + dy * s, dy * c - dx * s, r)
        halves = [math.inf if things[k].filled else _stroke(things[k].size) / 2 for k in rows]
        half = torch.tensor(halves)[:, None, None]
        ring = (d + half).abs() - half
        out[rows] = (0.5 - torch.where(half.isinf(), d, ring)).clamp(0, 1)
    return out
