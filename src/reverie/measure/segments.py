"""Which pixels of a drawn scene are objects: connected parts that differ from the background.

With d = picture - background, smoothed by the binomial (1, 2, 1) / 4 each way, a part is connected where

    |d| > 0.10  and  |d| > 0.35 of the part's own peak,

so that faint and strong objects end at the same share of their edge. Objects that touch are told apart by colour: pixels of a part whose d
misses the line through 0 and that of its strongest pixel by more than 0.45 |d| are another object's if there are enough of them, and with them
whatever is nearer to the line of the pixel that misses most.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from reverie.data.things import SIDE
from reverie.measure.background import length

__all__ = ["AREA", "parts", "windows"]

SEEN = 0.10
"""Least difference from the background, in RGB of [0, 1], of an object."""
EDGE = 0.35
"""Share of an object's peak difference at which it ends."""
OTHER = 0.45
"""Share of its difference from the background by which a pixel misses a colour's line to be another object's."""
MOST = 12
"""Objects looked at in one picture; a picture of noise has hundreds."""
WINDOW = 44
"""Pixels around an object that are looked at."""
AREA = 18.0
"""Least area of an object in pixels; less is a speck."""


def _labelled(mask: Tensor) -> Tensor:
    """The connected parts of masks `(N, 64, 64)`, numbered from 1 over all of them; 0 is none."""
    from scipy import ndimage

    tall = F.pad(mask, (0, 0, 0, 1)).flatten(0, 1)  # all pictures in one, with an empty row between two
    return torch.from_numpy(ndimage.label(tall.numpy())[0]).long().view(len(mask), SIDE + 1, SIDE)[:, :SIDE]


def _peak(values: Tensor, numbers: Tensor) -> Tensor:
    """The largest of the values `(N, 64, 64)` in each part, from 0."""
    start = torch.zeros(int(numbers.max()) + 1)
    return start.scatter_reduce(0, numbers.flatten(), values.flatten(), "amax")


def _off(d: Tensor, strength: Tensor, numbers: Tensor) -> Tensor:
    """How far each pixel's difference is from the line through 0 and that of its part's strongest pixel, `(N, 64, 64)`."""
    peak = _peak(strength, numbers)
    top = (strength == peak[numbers]) & (numbers > 0)
    v = torch.zeros(len(peak), 3)
    v[numbers[top]] = d.permute(0, 2, 3, 1)[top]
    line = v[numbers].permute(0, 3, 1, 2)
    share = ((d * line).sum(1) / (line * line).sum(1).clamp_min(1e-6)).clamp(0, 1.3)
    return length(d - share[:, None] * line)


def parts(d: Tensor) -> tuple[Tensor, Tensor]:
    """Connected parts that differ from the background by `d`: a number for each pixel `(N, 64, 64)`, and each part's picture."""
    d = F.pad(d, (1, 1, 1, 1), mode="replicate")
    d = d[..., :-2, :] + 2 * d[..., 1:-1, :] + d[..., 2:, :]
    d = (d[..., :-2] + 2 * d[..., 1:-1] + d[..., 2:]) / 16
    far = length(d)
    rough = _labelled(far > SEEN)
    numbers = _labelled((far > EDGE * _peak(far, rough)[rough]) & (rough > 0))

    # Objects that touch: pixels off the line from the background to a part's strongest colour are another object's, if enough.
    first = _off(d, far, numbers)
    second = _off(d, first * (first > OTHER * far), numbers)
    many = torch.bincount(numbers.flatten(), ((first > OTHER * far) & (numbers > 0)).flatten().float()) >= AREA
    if many.any():
        other = many[numbers] & (second < first)
        more = _labelled(other)
        numbers = _labelled((numbers > 0) & ~other)
        numbers = torch.where(more > 0, more + numbers.max(), numbers)

    area = torch.bincount(numbers.flatten())
    area[0] = 0
    owner = torch.zeros(len(area), dtype=torch.long)
    owner[numbers.flatten()] = torch.arange(len(d))[:, None, None].expand_as(numbers).flatten()
    rank = torch.empty_like(area)  # among the parts of one picture, by area
    rank[(owner * SIDE**2 * 2 - area).argsort(stable=True)] = torch.arange(len(area))
    first = torch.full((len(d),), len(area)).scatter_reduce(0, owner, rank, "amin")
    keep = (area >= AREA / 2) & (rank - first[owner] < MOST)
    return torch.where(keep, keep.cumsum(0), 0)[numbers], owner[keep]


def windows(d: Tensor, numbers: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Around each part a window: the differences where the part may reach, `(M, 3, WINDOW, WINDOW)`, and its corner (x, y), `(M, 2)`."""
    low, high = torch.full((2, len(owner) + 1, 2), SIDE).unbind()
    high = high * 0
    n, row, column = numbers.nonzero().T
    which, at = numbers[n, row, column], torch.stack([column, row], 1)
    low = low.scatter_reduce(0, which[:, None].expand(-1, 2), at, "amin")[1:]
    high = high.scatter_reduce(0, which[:, None].expand(-1, 2), at, "amax")[1:]
    corner = ((low + high + 1) // 2 - WINDOW // 2).clamp(0, SIDE - WINDOW)
    span = torch.arange(WINDOW)
    rows, columns = (corner[:, 1:] + span)[:, :, None], (corner[:, :1] + span)[:, None]
    there = numbers[owner[:, None, None], rows, columns]
    own = there == torch.arange(1, len(owner) + 1)[:, None, None]
    near = F.max_pool2d(own[:, None].float(), 5, 1, 2)[:, 0] > 0
    seen = d.permute(0, 2, 3, 1)[owner[:, None, None], rows, columns]
    return (seen * (near & (own | (there == 0)))[..., None]).permute(0, 3, 1, 2).contiguous(), corner
