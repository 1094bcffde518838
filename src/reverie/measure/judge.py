"""The judge: an independent classifier that says what a drawn digit shows.

It shares nothing with the models it judges but the training split, and its penultimate layer gives the features in
which Fréchet distances between sets of digits are measured (Heusel et al. 2017, 1706.08500, with this classifier in
Inception's place).
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

__all__ = ["Judge", "judge"]


def _layer(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, 3, padding=1), nn.GroupNorm(4, outer), nn.SiLU())


class Judge(nn.Module):
    """A small convolutional classifier of 8x8 pictures; `judge()` gives the trained one.

    Args:
        classes: how many.
        widths: channels at 8x8 and at 4x4, multiples of 4.
        width: of the penultimate layer, the features.
        dropout: before the last two layers, while training, in [0, 1).

    >>> net = Judge()
    >>> net(torch.zeros(2, 1, 8, 8)).shape, net.features(torch.zeros(2, 1, 8, 8)).shape
    (torch.Size([2, 10]), torch.Size([2, 64]))
    """

    def __init__(
        self, classes: int = 10, widths: Sequence[int] = (20, 40), width: int = 64, dropout: float = 0.0
    ) -> None:
        super().__init__()
        fine, coarse = widths
        if min(classes, width, fine, coarse) < 1 or fine % 4 or coarse % 4:
            raise ArgumentError(
                f"classes and width must be positive and widths multiples of 4, got {classes}, {width}, {widths}"
            )
        if not 0 <= dropout < 1:
            raise ArgumentError(f"dropout must be in [0, 1), got {dropout}")
        self.config: dict[str, Any] = {"classes": classes, "widths": list(widths), "width": width, "dropout": dropout}
        self.body = nn.Sequential(
            _layer(1, fine), _layer(fine, fine), nn.MaxPool2d(2), _layer(fine, coarse), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * coarse, width), nn.SiLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, classes)` of pictures `(B, 1, 8, 8)` in [-1, 1]."""
        if x.ndim != 4 or x.shape[1:] != (1, 8, 8):
            raise ShapeError(f"the judge reads pictures (B, 1, 8, 8), got {tuple(x.shape)}")
        return self.head(self.body(x))

    @torch.no_grad()
    def features(self, x: Tensor, batch: int = 1000) -> Tensor:
        """The penultimate layer `(B, width)` of pictures `(B, 1, 8, 8)`; `batch` pictures at a time."""
        self.forward(x[:1])
        return torch.cat([self.body(part) for part in x.split(batch)])

    @torch.no_grad()
    def read(self, x: Tensor, batch: int = 1000) -> Tensor:
        """The class `(B,)` that the judge sees in each picture `(B, 1, 8, 8)`."""
        return torch.cat([self(part).argmax(1) for part in x.split(batch)])

    def accuracy(self, x: Tensor, labels: Tensor) -> float:
        """The share, in [0, 1], of pictures `(B, 1, 8, 8)` read as their label `(B,)`.

        Raises:
            ShapeError: no picture, or not one label a picture.
        """
        if not len(x) or labels.shape != (len(x),):
            raise ShapeError(f"one label a picture is needed, got {tuple(labels.shape)} for {tuple(x.shape)}")
        return (self.read(x) == labels).double().mean().item()


@lru_cache(maxsize=1)
def judge() -> Judge:
    """The trained judge of handwritten digits: stored in half, computing in single precision, in evaluation mode.

    Raises:
        FileError: its file, a part of the package, is missing or damaged.

    >>> import reverie as rv
    >>> rv.measure.judge().accuracy(*rv.data.digits("heldout")) > 0.98
    True
    """
    from safetensors.torch import load

    folder = resources.files("reverie.measure")
    try:
        config = json.loads((folder / "judge-digits.json").read_text())["net"]["args"]
        weights = load((folder / "judge-digits.safetensors").read_bytes())
    except Exception as error:
        raise FileError(f"the judge's weights in {folder} cannot be read ({error}); install reverie again") from error
    net = Judge(**config)
    net.load_state_dict({name: value.float() for name, value in weights.items()})
    return net.eval().requires_grad_(False)
