"""Samples as pictures: eight bits a value."""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.base import ShapeError

__all__ = ["pixels"]


def pixels(x: Tensor) -> Tensor:
    """Samples `(n, C, H, W)` in [-1, 1], C 1 (grey) or 3 (RGB), as uint8 `(n, H, W, C)`; what lies outside is cut off.

    Raises:
        ShapeError: samples that are no pictures.

    >>> pixels(torch.tensor([-1.0, 0.0, 2.0]).reshape(1, 1, 1, 3)).flatten().tolist()
    [0, 128, 255]
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ShapeError(
            f"samples of shape {tuple(x.shape[1:])} are no pictures (1 or 3, H, W); write them to a .safetensors or .npy file"
        )
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
