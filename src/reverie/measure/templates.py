"""Drawn objects as they look in their own frame, which neither place nor scale changes; a found object is what it resembles most.

An object's coverage alpha is its difference d from the background projected on its own v, the mean of d where that is strongest. The origin
and unit of its frame are its centre of mass c and its radius of gyration rho:

    alpha = d . v / |v|^2,    c = sum alpha p / sum alpha,    rho^2 = sum alpha |p - c|^2 / sum alpha,    p = c + rho u,  |u_x|, |u_y| <= 2.3

A template is a drawn shape of some size, filling and angle, blurred a little, seen in that frame and of unit norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from reverie.data.coverage import coverage
from reverie.data.things import OUTLINED, SHAPES, Thing
from reverie.measure.background import length

__all__ = ["Templates", "framed", "templates"]

FRAME, REACH = 24, 2.3
"""Pixels of the frame, and how many rho it reaches each way."""


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of `(N, C, H, W)`."""
    n = max(1, round(3 * sigma))
    w = torch.exp(-(torch.arange(-n, n + 1.0) ** 2) / (2 * sigma**2))
    w = (w / w.sum()).repeat(x.shape[1], 1, 1, 1)
    x = F.pad(x, (n, n, n, n), mode="replicate")
    x = F.conv2d(x, w, groups=x.shape[1])
    return F.conv2d(x, w.transpose(2, 3), groups=x.shape[1])


def framed(d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Objects in their own frame, from differences from the background `(M, 3, S, S)` that hold one object each.

    Returns:
        The differences in the frame `(M, 3, FRAME, FRAME)`, the coverage there `(M, FRAME, FRAME)` in [0, 1.2], mass `(M,)`, and
        centre (x, y) and rho `(M, 3)`.
    """
    side = d.shape[-1]
    far = length(d.flatten(2))
    core = (far >= 0.7 * far.amax(1, keepdim=True)).float()
    v = torch.einsum("mck,mk->mc", d.flatten(2), core) / core.sum(1, keepdim=True)
    alpha = torch.einsum("mchw,mc->mhw", d, v / (v * v).sum(1, keepdim=True).clamp_min(1e-6)).clamp(0, 1.2)
    at = torch.arange(side) + 0.5
    across, down = alpha.sum(1), alpha.sum(2)
    mass = across.sum(1).clamp_min(1e-6)
    x, y = (across @ at) / mass, (down @ at) / mass
    spread = (across * (at - x[:, None]) ** 2).sum(1) + (down * (at - y[:, None]) ** 2).sum(1)
    rho = (spread / mass).sqrt().clamp_min(0.5)
    u = ((torch.arange(FRAME) + 0.5) / FRAME * 2 - 1) * REACH
    gx, gy = ((z[:, None] + rho[:, None] * u) / side * 2 - 1 for z in (x, y))
    grid = torch.stack([gx[:, None].expand(-1, FRAME, -1), gy[:, :, None].expand(-1, -1, FRAME)], 3)
    both = F.grid_sample(torch.cat([d, alpha[:, None]], 1), grid, align_corners=False)
    return both[:, :3], both[:, 3], mass, torch.stack([x, y, rho], 1)


@dataclass(frozen=True)
class Templates:
    """K templates: what was drawn, and how it looks in its frame."""

    things: tuple[Thing, ...]
    images: Tensor
    """Coverage in the frame, `(K, FRAME^2)`, of unit norm."""
    norms: Tensor
    """What that norm was, `(K,)`."""
    rho: Tensor
    """Radius of gyration in pixels, `(K,)`."""
    handicap: Tensor
    """What is taken off the cosine, `(K,)`: a turn by more than 15 degrees is rare, and blur makes a cross resemble a turned square."""


@lru_cache(maxsize=1)
def templates() -> Templates:
    """All templates, drawn at the first call."""
    things, images, rhos = [], [], []
    for shape in SHAPES:
        # A square turned by 45 degrees is still one; a cross is an x.
        turn = {"circle": 0, "square": 45, "triangle": 60}.get(shape, 25)
        angles = range(min(0, 5 - turn), turn + 1, 5)
        some = [
            Thing(shape, "red", 32 + 0.37 * k % 1, 32 + 0.61 * k % 1, size, filled, angle)
            for k, size in enumerate((8.5, 10, 11.5, 13.5, 15.5, 18, 21, 24, 27))
            for filled in ((True, False) if shape in OUTLINED else (True,))
            for angle in angles
        ]
        drawn = coverage(some)
        for sigma in (0.4, 0.8, 1.2):
            frames, _, _, moments = framed(_blurred(drawn[:, None], sigma).expand(-1, 3, -1, -1))
            things += some
            images.append(frames[:, 0].flatten(1))
            rhos.append(moments[:, 2])
    image = torch.cat(images)
    norms = image.norm(dim=1)
    turned = torch.tensor([abs(t.angle) for t in things])
    return Templates(tuple(things), image / norms[:, None], norms, torch.cat(rhos), 0.001 * (turned - 15).clamp_min(0))
