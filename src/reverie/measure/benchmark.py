"""Accuracies of a text-to-image model beside those of the verifier itself, which say what they are worth.

    clean         held-out scenes as drawn, with their captions: 1 minus the verifier's own errors
    shuffled      with the caption of the scene before: chance
    round trip    through an autoencoder: what no model behind it can be expected to exceed

A model's figure means something between "shuffled" and "round trip".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.base import ArgumentError
from reverie.data.shapes import shapes
from reverie.measure.verifier import Accuracy, accuracy, table

__all__ = ["Benchmark", "benchmark", "calibration"]


@dataclass(frozen=True)
class Benchmark:
    """Several accuracies side by side, by name; it prints as one table."""

    columns: Mapping[str, Accuracy]

    def __str__(self) -> str:
        return table(self.columns)


def calibration(
    n: int = 500, seed: int = 0, autoencoder: Callable[[Tensor], Tensor] | None = None
) -> dict[str, Accuracy]:
    """What the verifier itself gets right on held-out scenes: as drawn, against others' captions, and through an autoencoder.

    Args:
        n: scenes, at least 2. seed: of the scenes. autoencoder: pictures `(n, 3, 64, 64)` to pictures, if there is one.

    Returns:
        "clean" (the verifier's own errors), "shuffled" (every picture with the caption of the one before: chance), and "round trip" (what
        no model behind that autoencoder can be expected to exceed).

    Raises:
        ArgumentError: n below 2.

    >>> {name: a.overall[0] > 0.5 for name, a in calibration(20).items()}
    {'clean': True, 'shuffled': False}
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 2:
        raise ArgumentError(f"n must be a whole number of at least 2, got {n!r}")
    x, captions = shapes(n, seed, "heldout")
    out = {"clean": accuracy(x, captions), "shuffled": accuracy(x, captions[-1:] + captions[:-1])}
    if autoencoder is not None:
        with torch.no_grad():
            out["round trip"] = accuracy(autoencoder(x), captions)
    return out


def benchmark(
    pictures: Tensor,
    captions: str | Sequence[str],
    autoencoder: Callable[[Tensor], Tensor] | None = None,
    n: int = 500,
    name: str = "pictures",
) -> Benchmark:
    """How often pictures are what their captions ask for, beside what the verifier itself gets right: one table.

    Args:
        pictures, captions: as of `accuracy`; those of `prompts`, for figures to compare. autoencoder, n: as of `calibration`.
        name: of the first column.

    >>> import reverie as rv
    >>> print(str(benchmark(*rv.data.shapes(8), n=20)).splitlines()[0])
                       n  pictures    clean  shuffled
    """
    return Benchmark({name: accuracy(pictures, captions), **calibration(n, autoencoder=autoencoder)})
