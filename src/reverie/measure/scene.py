"""Reads a drawn scene: which shapes a 64x64 picture shows. No weight is learned.

1. background b: a quadratic in x and y a channel, fitted to the pixels near it, three times over
2. objects: connected parts where |picture - b| exceeds a share of the part's own peak
3. an object's coverage: its difference from b projected on its own colour; mass, centre and radius of gyration rho
4. shape, filling, size, angle: the drawn template, seen in the same frame (centre, rho), of the highest cosine
5. colour: least squares of the difference on the template's coverage, which undoes what edges and blur took; nearest name in Lab
"""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.base import ArgumentError, NonFiniteError, ShapeError
from reverie.data.things import BACKGROUNDS, SIDE, Scene, Thing
from reverie.measure.background import ground
from reverie.measure.colour import named
from reverie.measure.segments import AREA, parts, windows
from reverie.measure.templates import framed, templates

__all__ = ["read"]

LIKE = 0.92
"""Least cosine with a template; less is a blob, which has no shape."""


@torch.no_grad()
def read(pictures: Tensor, batch: int = 64) -> list[Scene]:
    """What each picture shows.

    Args:
        pictures: `(N, 3, 64, 64)` in [-1, 1]; what lies outside is cut off. batch: how many are worked on at a time.

    Returns:
        N scenes: their objects, largest first, with shape, colour, centre, size (pixels), filled, angle and rgb, and the background.

    Raises:
        ShapeError: other shapes. NonFiniteError: NaN or infinity. ArgumentError: SciPy is missing.

    >>> import reverie as rv
    >>> thing = rv.data.Thing("square", "blue", x=20, y=40, size=16)
    >>> seen = read(rv.data.render([rv.data.Scene((thing,))]))[0].things[0]
    >>> seen.shape, seen.colour, round(seen.x), round(seen.y), round(seen.size)
    ('square', 'blue', 20, 40, 16)
    """
    if not isinstance(pictures, Tensor) or pictures.ndim != 4 or tuple(pictures.shape[1:]) != (3, SIDE, SIDE):
        got = tuple(pictures.shape) if isinstance(pictures, Tensor) else type(pictures).__name__
        raise ShapeError(f"scenes are read from pictures (N, 3, {SIDE}, {SIDE}), got {got}")
    bad = (~pictures.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        raise NonFiniteError(
            f"{len(bad)} pictures hold NaN or infinity, the first is number {bad[0]}", samples=tuple(bad)
        )
    try:
        import scipy.ndimage  # noqa: F401
    except ImportError as error:
        raise ArgumentError(
            "reading scenes needs scipy, which is not installed: pip install 'reverie[data]'"
        ) from error
    out: list[Scene] = []
    for part in pictures.split(batch) if len(pictures) else ():
        out += _read(((part.float().cpu() + 1) / 2).clamp(0, 1))
    return out


def _read(p: Tensor) -> list[Scene]:
    behind = ground(p)
    numbers, owner = parts(p - behind)
    found: list[list[Thing]] = [[] for _ in p]
    if len(owner):
        bank = templates()
        around, corner = windows(p - behind, numbers, owner)
        d, alpha, mass, moments = framed(around)
        flat, (x, y, rho) = alpha.flatten(1), moments.T
        fit = (flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-6)) @ bank.images.T
        apart = (rho[:, None].log() - bank.rho.log()).abs()
        like, best = (fit - (apart - 0.12).clamp_min(0) - bank.handicap).max(1)
        painted = torch.einsum("mck,mk->mc", d.flatten(2), bank.images[best]) / bank.norms[best, None]
        x, y = x + corner[:, 0], y + corner[:, 1]
        column, row = (v.long().clamp(0, SIDE - 1) for v in (x, y))
        rgb = (behind[owner, :, row, column] + painted).clamp(0, 1)
        scale = rho / bank.rho[best]
        columns = (owner, best, like, x, y, scale, mass, rgb)
        for colour, (n, k, cosine, cx, cy, s, area, paint) in zip(
            named(rgb), zip(*(c.tolist() for c in columns), strict=True), strict=True
        ):
            if area >= AREA:
                t = bank.things[k]
                shape = t.shape if cosine >= LIKE else "blob"
                found[n].append(Thing(shape, colour, cx, cy, t.size * s, t.filled, t.angle, tuple(paint)))
    return [
        Scene(
            tuple(sorted(things, key=lambda t: -t.size)),
            BACKGROUNDS[(value > 0.36) + (value > 0.67)],
            (tuple(tone), tuple(tone)),
        )
        for things, value, tone in zip(
            found, behind.mean((1, 2, 3)).tolist(), behind.mean((2, 3)).tolist(), strict=True
        )
    ]
