"""Contact sheets: many small pictures as one, crisp.

A picture is enlarged by a whole number, each pixel a square, so that nothing is blurred or invented.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from reverie.base import ArgumentError
from reverie.data import pixels

__all__ = ["columns_for", "contact_sheet", "enlarged", "pixels"]

_PAPER, _INK = (250, 249, 246), (96, 96, 104)
_WANTED = 88
"""Width in pixels that a small picture is enlarged to at least about."""
_TITLE, _SMALL = 14, 10
"""Sizes in pixels of a title, and of captions that are wider than their picture."""


def enlarged(picture: Tensor, scale: int = 1) -> Image.Image:
    """One uint8 picture `(H, W, C)`, each pixel a square of `scale` pixels."""
    values = picture.numpy()
    image = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def columns_for(n: int, cycle: int = 1) -> int:
    """Columns of a tidy grid for n pictures: whole cycles as rows if they fit, else about square with few empty places.

    >>> columns_for(16), columns_for(40, cycle=10), columns_for(12), columns_for(7)
    (4, 10, 4, 4)
    """
    if 1 < cycle <= 16 and n >= cycle and n % cycle == 0:
        return cycle
    low = math.isqrt(n - 1) + 1
    return min(range(low, min(n, 2 * low) + 1), key=lambda c: (-n % c, c))


def contact_sheet(
    x: Tensor,
    captions: Sequence[str] | None = None,
    columns: int | None = None,
    scale: int | None = None,
    cycle: int = 1,
    title: str | None = None,
) -> Image.Image:
    """One picture of all samples.

    Args:
        x: `(n, C, H, W)` in [-1, 1], C 1 or 3.
        captions: one a sample, written below it, in as many lines as its width needs.
        columns: of the grid; a tidy number by default (`columns_for`, which `cycle` is for).
        scale: how often each pixel is repeated each way, from 1; by default enough for small pictures to be seen.
        title: written above all.

    Raises:
        ShapeError: no pictures. ArgumentError: columns or scale below 1.

    >>> import torch
    >>> contact_sheet(torch.zeros(6, 1, 8, 8), columns=3, scale=2).size
    (68, 48)
    """
    tiles = pixels(x)
    n, height, width = tiles.shape[:3]
    columns = columns_for(n, cycle) if columns is None else columns
    scale = max(1, math.ceil(_WANTED / max(height, width))) if scale is None else scale
    if columns < 1 or scale < 1:
        raise ArgumentError(f"columns and scale must be at least 1, got {columns} and {scale}")
    if captions is not None and len(captions) != n:
        raise ArgumentError(f"{n} pictures need as many captions, got {len(captions)}")
    columns = min(columns, n)
    gap = max(4, min(16, width * scale // 11))
    size = max(9, min(16, height * scale // 6))
    if captions and max(map(ImageFont.load_default(size).getlength, captions)) > width * scale:
        size = min(size, _SMALL)
    font = ImageFont.load_default(size)
    lines = [_wrapped(text, font, width * scale) for text in captions or []]
    below = max(map(len, lines)) * (size + 1) - 1 + gap // 2 if lines else 0
    wide, high = width * scale + gap, height * scale + gap + below
    rows = -(-n // columns)
    margin = gap + 2
    across = columns * wide - gap + 2 * margin
    heading = ImageFont.load_default(_TITLE)
    said = _wrapped(title, heading, across - 2 * margin) if title else []
    above = len(said) * (_TITLE + 4) + (gap // 2 if said else 0)
    sheet = Image.new("RGB", (across, above + rows * high - gap + 2 * margin), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for k, line in enumerate(said):
        pen.text((margin, margin - 2 + k * (_TITLE + 4)), line, _INK, heading)
    for i, tile in enumerate(tiles):
        left, top = margin + (i % columns) * wide, above + margin + (i // columns) * high
        sheet.paste(enlarged(tile, scale), (left, top))
        for k, line in enumerate(lines[i] if lines else []):
            place = (left + width * scale // 2, top + height * scale + gap // 4 + k * (size + 1))
            pen.text(place, line, _INK, font, anchor="ma")
    return sheet


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """A text in lines no wider than `width` pixels, broken between words; a single word may be wider."""
    lines: list[str] = []
    for word in text.split() or [text]:
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines
