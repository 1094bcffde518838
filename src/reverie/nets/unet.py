"""A small class-conditional U-Net for small pictures.

With e = MLP(cos(f_k label), sin(f_k label)) + class embedding, a residual block is

    h = conv(silu(norm(x))),        x <- skip(x) + conv(dropout(silu((1 + s(e)) norm(h) + b(e)))),

its last convolution starting at zero. Every level but the lowest has `depth` blocks on the way down, halves the picture
by a strided convolution, and has `depth` blocks on the way up, the first of which sees the way down's output beside its
own input. The lowest level has `depth + 1` blocks with self-attention after the first.

Sources: Ronneberger et al. 2015 (1505.04597), Ho et al. 2020 (2006.11239), Dhariwal & Nichol 2021 (2105.05233, scale
and shift).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.base import ArgumentError, ShapeError

__all__ = ["UNet"]


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(g for g in range(1, 9) if width % g == 0), width)


def _zero(module: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


class _Block(nn.Module):
    """A residual block `(B, inner, H, W)` -> `(B, outer, H, W)`, told e `(B, embed)`."""

    def __init__(self, inner: int, outer: int, embed: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inner), nn.Conv2d(inner, outer, 3, padding=1)
        self.norm2, self.conv2 = _norm(outer), _zero(nn.Conv2d(outer, outer, 3, padding=1))
        self.embed = nn.Linear(embed, 2 * outer)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.embed(e)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class _Attention(nn.Module):
    """Self-attention over all positions with a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = _norm(width), nn.Conv2d(width, 3 * width, 1), _zero(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        q, k, v = (
            self.qkv(self.norm(x))
            .reshape(b, 3, self.heads, c // self.heads, height * width)
            .transpose(-1, -2)
            .unbind(1)
        )
        weights = (q @ k.transpose(-1, -2) * (c // self.heads) ** -0.5).softmax(-1)
        return x + self.out((weights @ v).transpose(-1, -2).reshape(b, c, height, width))


class UNet(nn.Module):
    """A denoiser of small pictures: `net(x, label, class_labels=None)` returns a tensor of x's shape.

    Args:
        channels: of a picture.
        widths: channels of each level, the finest first; a picture's sides must be divisible by 2^(levels - 1).
        depth: residual blocks a level and way.
        classes: how many there are; index `classes` means "no class said". 0: unconditional.
        embed: width of the embedding of label and class.
        heads: of the self-attention at the lowest level; 0 for none.
        dropout: inside the residual blocks, while training, in [0, 1).
        frequencies: lowest and highest angular frequency, in radians per unit of the label, of its sine and cosine
            features.

    Raises:
        ArgumentError: an argument out of range. ShapeError: pictures or class labels of the wrong shape.

    >>> net = UNet(widths=(8, 16), embed=16)
    >>> net(torch.zeros(2, 1, 8, 8), torch.zeros(2), torch.tensor([3, 10])).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (32, 80),
        depth: int = 2,
        classes: int = 10,
        embed: int = 96,
        heads: int = 4,
        dropout: float = 0.0,
        frequencies: Sequence[float] = (0.1, 4.0),
    ) -> None:
        super().__init__()
        widths = tuple(int(w) for w in widths)
        if not widths or min(channels, depth, embed, *widths) < 1 or embed % 2:
            raise ArgumentError(
                f"channels, widths and depth must be positive and embed even, "
                f"got {channels}, {widths}, {depth} and {embed}"
            )
        if heads and (heads < 0 or widths[-1] % heads):
            raise ArgumentError(f"heads must divide the lowest width {widths[-1]}, got {heads}")
        if not 0 <= dropout < 1 or classes < 0:
            raise ArgumentError(f"dropout must be in [0, 1) and classes >= 0, got {dropout} and {classes}")
        low, high = (float(f) for f in frequencies)
        if not 0 < low <= high:
            raise ArgumentError(f"frequencies must be 0 < low <= high, got {low} and {high}")
        self.config: dict[str, Any] = {
            "channels": channels, "widths": list(widths), "depth": depth, "classes": classes, "embed": embed,
            "heads": heads, "dropout": dropout, "frequencies": [low, high],
        }  # fmt: skip
        half = embed // 2
        steps = torch.linspace(math.log(low), math.log(high), half, dtype=torch.float64).exp().float()
        self.frequencies: Tensor
        self.register_buffer("frequencies", steps, persistent=False)
        self.embed = nn.Sequential(nn.Linear(embed, embed), nn.SiLU(), nn.Linear(embed, embed))
        self.classes = nn.Embedding(classes + 1, embed) if classes else None
        *upper, lowest = widths
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for width, below in zip(upper, widths[1:], strict=True):
            self.down.append(nn.ModuleList([_Block(width, width, embed, dropout) for _ in range(depth)]))
            self.down.append(nn.Conv2d(width, below, 3, stride=2, padding=1))
            inner = [below + width, *[width] * (depth - 1)]
            self.up.append(nn.ModuleList([_Block(w, width, embed, dropout) for w in inner]))
        self.middle = nn.ModuleList([_Block(lowest, lowest, embed, dropout) for _ in range(depth + 1)])
        self.attention = _Attention(lowest, heads) if heads else nn.Identity()
        self.last_norm, self.last = _norm(widths[0]), _zero(nn.Conv2d(widths[0], channels, 3, padding=1))

    def forward(self, x: Tensor, label: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The raw prediction at pictures x `(B, channels, H, W)`, labels `(B,)` and class labels `(B,)` (None: no class
        said).
        """
        factor = 2 ** (len(self.up))
        if x.ndim != 4 or x.shape[1] != self.config["channels"] or x.shape[2] % factor or x.shape[3] % factor:
            raise ShapeError(
                f"pictures must be (B, {self.config['channels']}, H, W) with sides divisible by {factor}, "
                f"got {tuple(x.shape)}"
            )
        angle = label.float()[:, None] * self.frequencies.float()  # a label rounded to bfloat16 would be another time
        e = self.embed(torch.cat([angle.cos(), angle.sin()], dim=1).to(x.dtype))
        if self.classes is None and class_labels is not None:
            raise ArgumentError("this network is unconditional (classes=0); do not give class_labels")
        if self.classes is not None:
            null = self.classes.num_embeddings - 1
            if class_labels is None:
                class_labels = torch.full((len(x),), null, device=x.device)
            if class_labels.shape != (len(x),):
                raise ShapeError(f"class_labels must be ({len(x)},), got {tuple(class_labels.shape)}")
            try:
                e = e + self.classes(class_labels)
            except IndexError:
                low, high = int(class_labels.min()), int(class_labels.max())
                raise ArgumentError(
                    f"class_labels must be in 0 to {null - 1}, or {null} for none, got {low} to {high}"
                ) from None
        e = F.silu(e)
        h, kept = self.first(x), []
        for i in range(len(self.up)):
            for block in cast(nn.ModuleList, self.down[2 * i]):
                h = block(h, e)
            kept.append(h)
            h = self.down[2 * i + 1](h)
        for i, block in enumerate(self.middle):
            h = block(h, e)
            h = self.attention(h) if i == 0 else h
        for blocks in reversed(self.up):
            h = torch.cat([F.interpolate(h, scale_factor=2.0), kept.pop()], dim=1)
            for block in cast(nn.ModuleList, blocks):
                h = block(h, e)
        return self.last(F.silu(self.last_norm(h)))
