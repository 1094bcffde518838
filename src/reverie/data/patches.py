"""Patches: small pieces of photographs at several scales, for a prior of what pictures look like closely.

Patch i of a seed and split is a pure function of (seed, split, i, size). With numbers u_0 .. u_7 of its own from
`reverie.base.Noise`,

    u_0         which photograph and by which factor f it is reduced, P = (share of the photograph) f^-1/2 / normaliser
    u_1 .. u_4  row and column of two corners, uniform over those at which it fits; the patch of more contrast is taken
    u_5         whether it is mirrored
    u_6, u_7    of a texture also: upside down, and rows for columns

Two corners, because a sixth of all patches are empty sky or blur (deviation below 0.08), and a prior needs few of them: of those taken
it is a twentieth.

A photograph is reduced by Pillow's bicubic filter, widened by f, so that nothing finer than the new pixels is folded
into them; that is integer arithmetic, the same everywhere. Photographs in all their sizes lie one after another in one array of pixels, so
that a patch is an address and two strides in it: pixel (r, c) of patch i is array[first_i + r down_i + c right_i].
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from reverie.base import ArgumentError, Noise, unknown
from reverie.data.ids import listed
from reverie.data.photographs import PHOTOGRAPHS, SPLITS, opened, tensor

__all__ = ["patches"]

FACTORS = (1.0, 2**0.5, 2.0, 2**1.5, 4.0, 2**2.5)  # half an octave apart
_PATCH = 0x5B0  # a stream of noise, to which a split's number is added
_CHUNK = 1 << 20  # pixels cut at a time: their addresses take 8 MB


@dataclass(frozen=True)
class _Pyramid:
    """All sizes of a split's photographs: pixels `(P, 3)`, uint8, and for each of E sizes where it begins, its height and width, how often it is
    drawn from (not normalised), and whether it is a texture.
    """

    pixels: Tensor
    first: Tensor
    height: Tensor
    width: Tensor
    share: Tensor
    texture: Tensor


@lru_cache(maxsize=len(SPLITS))
def _pyramid(split: str) -> _Pyramid:
    pictures = opened(split)
    from PIL.Image import Resampling

    pixels, heights, widths, shares, textures = [], [], [], [], []
    for name, picture in pictures.items():
        for factor in FACTORS:
            width, height = round(picture.width / factor), round(picture.height / factor)
            small = picture if factor == 1 else picture.resize((width, height), Resampling.BICUBIC)
            pixels.append(tensor(small).permute(1, 2, 0).reshape(-1, 3))
            heights.append(height)
            widths.append(width)
            shares.append(PHOTOGRAPHS[name].share * factor**-0.5)
            textures.append(PHOTOGRAPHS[name].texture)
    first = [0, *itertools.accumulate(len(p) for p in pixels)][:-1]
    places = torch.tensor([first, heights, widths])
    share = torch.tensor(shares, dtype=torch.float64)
    return _Pyramid(torch.cat(pixels), places[0], places[1], places[2], share, torch.tensor(textures))


def _cut(pyramid: _Pyramid, u: Tensor, size: int) -> Tensor:
    """The patches `(N, 3, size, size)`, uint8, of numbers u `(N, 8)` in (0, 1), float64."""
    fits = torch.minimum(pyramid.height, pyramid.width) >= size
    upto = (pyramid.share * fits).cumsum(0)
    pick = torch.searchsorted(upto, u[:, 0] * upto[-1])
    height, width = pyramid.height[pick], pyramid.width[pick]
    corners = [
        pyramid.first[pick] + (u[:, k] * (height - size + 1)).long() * width + (u[:, k + 1] * (width - size + 1)).long()
        for k in (1, 3)
    ]
    one, two = (_contrast(_gathered(pyramid.pixels, corner, width, torch.ones_like(width), size)) for corner in corners)
    mirrored, texture = u[:, 5] < 0.5, pyramid.texture[pick]
    upset, turned = texture & (u[:, 6] < 0.5), texture & (u[:, 7] < 0.5)
    first = torch.where(two > one, corners[1], corners[0]) + (upset * width + mirrored) * (size - 1)
    down, right = torch.where(upset, -width, width), torch.where(mirrored, -1, 1)
    down, right = torch.where(turned, right, down), torch.where(turned, down, right)
    return _gathered(pyramid.pixels, first, down, right, size)


def _gathered(pixels: Tensor, first: Tensor, down: Tensor, right: Tensor, size: int) -> Tensor:
    """The patches `(N, 3, size, size)` whose pixel (r, c) is at first + r down + c right, each `(N,)`."""
    step = torch.arange(size)
    at = first[:, None, None] + step[:, None] * down[:, None, None] + step * right[:, None, None]
    return pixels[at.flatten()].reshape(-1, size, size, 3).permute(0, 3, 1, 2)


def _contrast(x: Tensor) -> Tensor:
    """The variance of patches `(N, 3, size, size)`, uint8, summed over colours and times size^4; an integer, so that no rounding decides."""
    x = x.int().flatten(2)
    return ((x * x).sum(2) * x.shape[2] - x.sum(2) ** 2).sum(1)


def patches(
    index: int | Iterable[int] | Tensor,
    seed: int = 0,
    split: str = "train",
    size: int = 32,
) -> Tensor:
    """Patches of photographs; number i is the same whatever else is asked for.

    Args:
        index: how many (0 to index - 1), or their numbers, in [0, 2^48). seed: in [0, 2^64). split: "train" or "heldout", which share no
            photograph. size: of a side in pixels, from 1 to the shortest side of the split's photographs (427, or 300 held out).

    Returns:
        Pictures `(N, 3, size, size)`, float32 in [-1, 1].

    Raises:
        UnknownNameError: another split. ArgumentError: an index, seed or size outside its range, or scikit-image or scikit-learn is missing.

    >>> x = patches(4)
    >>> x.shape, bool((patches([2])[0] == x[2]).all())
    (torch.Size([4, 3, 32, 32]), True)
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    ids, noise, pyramid = listed(index, "patches"), Noise(seed), _pyramid(split)
    most = int(torch.minimum(pyramid.height, pyramid.width)[:: len(FACTORS)].min())
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= most:
        raise ArgumentError(f"size is {size!r}; of the split {split!r} it must be an int in [1, {most}]")
    u = noise.uniform((8,), ids, stream=_PATCH + SPLITS.index(split), dtype=torch.float64)
    out = torch.empty(len(ids), 3, size, size)
    few = max(1, _CHUNK // size**2)
    for some, numbers in zip(out.split(few), u.split(few), strict=True):
        some.copy_(_cut(pyramid, numbers, size)).div_(127.5).sub_(1)
    return out
