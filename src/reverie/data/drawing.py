"""Scenes as pictures: objects, each of one colour, over a background that changes slowly.

    background   (1 - t) tone_0 + t tone_1 + clouds,      t = 1/2 + slope . (x - 32, y - 32) / 64
    an object    picture <- (1 - a) picture + a colour,   a its coverage (`reverie.data.coverage`)

Clouds are a 5x5 grid of uniform numbers, a function of the scene's texture alone, joined smoothly. Pixels are made by operations that round
alike in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.base import Noise, unknown
from reverie.data.coverage import AT, coverage
from reverie.data.things import COLOURS, SHAPES, SIDE, Scene

__all__ = ["render"]

_TEXTURE = 0x5A4  # a stream of noise
_CLOUDS = 5  # the texture's coarse grid


def _background(some: Sequence[Scene]) -> Tensor:
    """(N, 3, 64, 64) in [0, 1]: a gradient between two tones, plus faint clouds."""
    slope = torch.tensor([s.slope for s in some])[:, :, None, None]
    t = slope[:, :1] * ((AT - SIDE / 2) / SIDE) + slope[:, 1:] * ((AT[:, None] - SIDE / 2) / SIDE) + 0.5
    tones = torch.tensor([s.tones for s in some])[..., None, None]
    ids = torch.tensor([s.texture for s in some])
    coarse = Noise(0).uniform((_CLOUDS, _CLOUDS), ids, stream=_TEXTURE)
    at = AT / SIDE * (_CLOUDS - 1)
    cell = at.floor().long()
    w = at - cell
    w = w * w * (3 - 2 * w)  # smoothly from one node of the grid to the next
    rows = coarse[:, cell] * (1 - w)[:, None] + coarse[:, cell + 1] * w[:, None]
    fine = rows[:, :, cell] * (1 - w) + rows[:, :, cell + 1] * w
    clouds = torch.tensor([s.clouds for s in some])[:, None, None]
    return tones[:, 0] * (1 - t) + tones[:, 1] * t + ((fine * 2 - 1) * clouds)[:, None]


def render(scenes: Sequence[Scene], chunk: int = 32) -> Tensor:
    """Scenes as pictures `(N, 3, 64, 64)`, float32 in [-1, 1]; objects later in a scene lie over earlier ones.

    Args:
        scenes: N of them. chunk: how many are worked on at a time, which changes no bit.

    Raises:
        UnknownNameError: a shape that cannot be drawn, or a colour that is not known and has no rgb.

    >>> from reverie.data import Thing
    >>> x = render([Scene((Thing("circle", "red", x=20, y=12, size=14),))])
    >>> x.shape, [round(v, 2) for v in x[0, :, 12, 20].tolist()]
    (torch.Size([1, 3, 64, 64]), [0.66, -0.6, -0.58])
    """
    for thing in (t for s in scenes for t in s.things):
        if thing.shape not in SHAPES:
            raise unknown("shape", thing.shape, SHAPES)
        if thing.rgb is None and thing.colour not in COLOURS:
            raise unknown("colour", thing.colour, COLOURS)
    out = torch.empty(len(scenes), 3, SIDE, SIDE)
    for start in range(0, len(scenes), chunk):
        some = scenes[start : start + chunk]
        x = _background(some)
        for layer in range(max(len(s.things) for s in some)):  # one object of each scene
            rows = [k for k, s in enumerate(some) if len(s.things) > layer]
            things = [some[k].things[layer] for k in rows]
            alpha = coverage(things)[:, None]
            paint = torch.tensor([t.rgb or COLOURS[t.colour] for t in things])[:, :, None, None]
            x[rows] = x[rows] * (1 - alpha) + paint * alpha
        out[start : start + chunk] = (x * 2 - 1).clamp(-1, 1)
    return out
