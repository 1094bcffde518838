"""Held-out scenes with their captions, how pictures blur, and a scene of two objects."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from reverie.data import Scene, Thing, render, shapes

N = 500
A, B = Thing("circle", "red", 12, 14, 12), Thing("square", "blue", 42, 42, 22, filled=False)
DARK, LIGHT = ((0.17, 0.18, 0.22),) * 2, ((0.92, 0.9, 0.85),) * 2


@lru_cache(maxsize=1)
def held() -> tuple[Tensor, list[str]]:
    return shapes(N, seed=21, split="heldout")


def blurred(x: Tensor, sigma: float) -> Tensor:
    w = torch.exp(-(torch.arange(-4, 5.0) ** 2) / (2 * sigma**2))
    w = w / w.sum()
    x = F.pad(x.flatten(0, 1)[:, None], (4, 4, 4, 4), mode="replicate")
    x = F.conv2d(F.conv2d(x, w.view(1, 1, 9, 1)), w.view(1, 1, 1, 9))
    return x.view(-1, 3, 64, 64)


def picture(*things: Thing, background: str = "dark") -> Tensor:
    return render([Scene(things, background, DARK if background == "dark" else LIGHT)])
