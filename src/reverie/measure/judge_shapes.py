"""The judge of `shapes`: an independent classifier that finds the objects of a scene, and tells how the picture looks.

A picture is divided into 8x8 cells, and no two objects of a scene have their centres in one. From 64 numbers g of each cell it is told, linearly,

    shape    none, or that of the object centred there      colour    of that object      look    its x, y, size, and whether it is an outline

With p the probability that an object is centred in a cell, the features are

    sum over cells of p g,      sum over cells of (1 - p) g / sum over cells of (1 - p),

what the objects are, all together, and what the rest is like. From them it is told, linearly, how the whole looks: the background's tone, and how
much the picture was blurred and made noisy. They are given shifted and scaled to mean 0 and deviation 1 over training pictures, so that objects do
not drown the rest. Counts are sums over cells of p(shape) p(colour).

So the features carry what a scene holds, what captions leave open, and what can be drawn badly and still be read; Fréchet and kernel distances in
them see all three (Heusel et al. 2017, 1706.08500, with this classifier in Inception's place).

It shares nothing with the verifier (`reverie.measure.scene`), which reads scenes by rules, nor with the models that both judge, but the data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

import torch
from torch import Tensor, nn

from reverie.base import ArgumentError, FileError, ShapeError
from reverie.data.things import COLOURS, SHAPES, SIDE, Scene

__all__ = ["CELLS", "KINDS", "LOOKS", "PARTS", "SceneJudge", "counts", "scene_judge"]

CELLS = 8
"""Cells of a picture each way."""
KINDS = tuple((shape, colour) for shape in SHAPES for colour in COLOURS)
"""The 40 kinds of object, (shape, colour)."""
PARTS = (1 + len(SHAPES), len(COLOURS), 4)
"""Numbers told of a cell: logits of no object and of each shape, logits of its colour, and its x, y, size and outline."""
LOOKS = ("red", "green", "blue", "blur", "noise")
"""What is told of a whole picture: the background's tone, and how it was spoilt."""


def counts(scenes: Sequence[Scene]) -> Tensor:
    """How many objects of each of `KINDS` scenes have, `(N, 40)`, whole numbers.

    Raises:
        ArgumentError: an object of another kind.

    >>> from reverie.data import Thing
    >>> counts([Scene((Thing("circle", "red", 20, 20, 12), Thing("circle", "red", 44, 44, 12)))])[0, :3].tolist()
    [2, 0, 0]
    """
    at = {kind: i for i, kind in enumerate(KINDS)}
    out = torch.zeros(len(scenes), len(KINDS), dtype=torch.long)
    for row, scene in zip(out, scenes, strict=True):
        for thing in scene.things:
            if (thing.shape, thing.colour) not in at:
                raise ArgumentError(f"the judge of shapes knows no {thing.colour} {thing.shape}")
            row[at[thing.shape, thing.colour]] += 1
    return out


def _layer(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, 3, padding=1), nn.GroupNorm(4, outer), nn.SiLU())


class _Placed(nn.Module):
    """A map `(B, C, H, W)` with two channels more: x and y, from -1 to 1."""

    def forward(self, f: Tensor) -> Tensor:
        y, x = (torch.linspace(-1, 1, size, dtype=f.dtype, device=f.device) for size in f.shape[2:])
        return torch.cat([f, torch.stack(torch.meshgrid(x, y, indexing="xy")).expand(len(f), -1, -1, -1)], 1)


class SceneJudge(nn.Module):
    """A small convolutional reader of 64x64 scenes; `scene_judge()` gives the trained one.

    Args:
        widths: channels at 32x32, 16x16 and 8x8, multiples of 4.
        width: numbers of a cell; features are twice as many.

    >>> net = SceneJudge()
    >>> cells, looks = net(torch.zeros(2, 3, 64, 64))
    >>> cells.shape, looks.shape, net.features(torch.zeros(2, 3, 64, 64)).shape
    (torch.Size([2, 18, 8, 8]), torch.Size([2, 5]), torch.Size([2, 128]))
    """

    def __init__(self, widths: Sequence[int] = (24, 48, 96), width: int = 64) -> None:
        super().__init__()
        if len(widths) != 3 or min(*widths, width) < 1 or any(w % 4 for w in widths):
            raise ArgumentError(f"widths must be three multiples of 4 and width positive, got {widths}, {width}")
        fine, middle, coarse = widths
        self.config: dict[str, Any] = {"widths": list(widths), "width": width}
        self.body = nn.Sequential(
            nn.Conv2d(3, fine, 4, stride=2, padding=1), nn.GroupNorm(4, fine), nn.SiLU(), _layer(fine, fine), nn.MaxPool2d(2),
            _layer(fine, middle), _layer(middle, middle), nn.MaxPool2d(2),
            _layer(middle, coarse), _layer(coarse, coarse), _Placed(), nn.Conv2d(coarse + 2, width, 1), nn.SiLU(),
        )  # fmt: skip
        self.cells = nn.Conv2d(width, sum(PARTS), 1)
        self.looks = nn.Linear(2 * width, len(LOOKS))
        self.scale = nn.BatchNorm1d(2 * width, eps=1e-3, momentum=0.01, affine=False)  # over the last 100 steps or so

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is told of pictures `(B, 3, 64, 64)` in [-1, 1]: of each cell `(B, 18, 8, 8)` as `PARTS` has it, of the whole `(B, 5)` as `LOOKS`."""
        if x.ndim != 4 or x.shape[1:] != (3, SIDE, SIDE):
            raise ShapeError(f"the judge of shapes reads pictures (B, 3, {SIDE}, {SIDE}), got {tuple(x.shape)}")
        cells, features = self._told(self.body(x))
        if self.training and len(x) > 1:
            self.scale(features.detach())  # keeps count of their mean and variance; nothing else comes of it
        return cells, self.looks(features)

    def _told(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """What is told of cells, and the features before they are scaled, of the numbers of cells `(B, width, 8, 8)`."""
        cells = self.cells(g)
        p = 1 - cells[:, : PARTS[0]].softmax(1)[:, :1]
        rest = (g * (1 - p)).sum((2, 3)) / (1 - p).sum((2, 3)).clamp(min=1e-3)
        return cells, torch.cat([(g * p).sum((2, 3)), rest], 1)

    @torch.no_grad()
    def features(self, x: Tensor, batch: int = 250) -> Tensor:
        """The features `(B, 2 width)` of pictures `(B, 3, 64, 64)`: first of the objects, then of the rest; `batch` pictures at a time."""
        self.forward(x[:1])
        raw = torch.cat([self._told(self.body(part))[1] for part in x.split(batch)])
        return nn.functional.batch_norm(raw, self.scale.running_mean, self.scale.running_var, eps=self.scale.eps)

    @torch.no_grad()
    def read(self, x: Tensor, batch: int = 250) -> Tensor:
        """How many objects of each of `KINDS` the judge sees in each picture `(B, 3, 64, 64)`: `(B, 40)`, whole numbers."""

        def seen(part: Tensor) -> Tensor:
            shape, colour, _ = self(part)[0].flatten(2).split(PARTS, 1)
            return torch.einsum("bsk,bck->bsc", shape.softmax(1)[:, 1:], colour.softmax(1)).flatten(1).round().long()

        return torch.cat([seen(part) for part in x.split(batch)])

    def accuracy(self, x: Tensor, scenes: Sequence[Scene]) -> float:
        """The share, in [0, 1], of pictures `(B, 3, 64, 64)` of which all 40 counts are read as those of their scenes.

        Raises:
            ShapeError: no picture, or not one scene a picture. ArgumentError: a scene that cannot be counted.
        """
        if not len(x) or len(scenes) != len(x):
            raise ShapeError(f"one scene a picture is needed, got {len(scenes)} for {tuple(x.shape)}")
        return (self.read(x) == counts(scenes).to(x.device)).all(1).double().mean().item()


@lru_cache(maxsize=1)
def scene_judge() -> SceneJudge:
    """The trained judge of `shapes`: stored in half, computing in single precision, in evaluation mode.

    Raises:
        FileError: its file, a part of the package, is missing or damaged.

    >>> import reverie as rv
    >>> judge, (x, _) = rv.measure.scene_judge(), rv.data.shapes(256)
    >>> here, there = judge.features(x[:128]), judge.features(x[128:])
    >>> rv.measure.frechet_distance(here, there) < rv.measure.frechet_distance(here, judge.features(0.8 * x[128:]))
    True
    """
    from safetensors.torch import load

    folder = resources.files("reverie.measure")
    try:
        config = json.loads((folder / "judge-shapes.json").read_text())["net"]["args"]
        weights = load((folder / "judge-shapes.safetensors").read_bytes())
    except Exception as error:
        raise FileError(f"the judge's weights in {folder} cannot be read ({error}); install reverie again") from error
    net = SceneJudge(**config)
    net.load_state_dict({name: value.float() for name, value in weights.items()})
    return net.eval().requires_grad_(False)
