"""Which of the colours' names a colour deserves: the nearest in CIE L*a*b*, where lightness, which shading changes, counts half.

    f(t) = t^(1/3)  if t > 0.008856,  else 7.787 t + 16/116;     L = 116 f(Y) - 16,   a = 500 (f(X) - f(Y)),   b = 200 (f(Y) - f(Z)),

with X, Y, Z of linear sRGB over those of its white. Source: CIE 1976; IEC 61966-2-1 (sRGB).
"""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.data.things import COLOURS

__all__ = ["named"]

NEAR = 34.0
"""Largest distance from a colour, in Lab with half the lightness; beyond it is another colour, without a name here."""


def _lab(rgb: Tensor) -> Tensor:
    """CIE L*a*b* of sRGB in [0, 1], `(..., 3)`."""
    c = rgb.clamp(0, 1)
    c = torch.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    m = torch.tensor([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    f = (c @ m.T) / torch.tensor([0.9505, 1.0, 1.089])
    f = torch.where(f > 0.008856, f.clamp_min(1e-9) ** (1 / 3), 7.787 * f + 16 / 116)
    return torch.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def named(rgb: Tensor) -> list[str]:
    """The nearest colour's name, or "other", for each of `(M, 3)`, sRGB in [0, 1].

    >>> named(torch.tensor([[0.8, 0.2, 0.2], [1.0, 1.0, 1.0]]))
    ['red', 'other']
    """
    weight = torch.tensor([0.5, 1.0, 1.0])
    names = [*COLOURS, "other"]
    apart = torch.cdist(_lab(rgb) * weight, _lab(torch.tensor(list(COLOURS.values()))) * weight)
    near, which = apart.min(1)
    return [names[k] for k in torch.where(near <= NEAR, which, len(COLOURS)).tolist()]
