"""Sources: the clean pictures that a denoiser learns from, and those by which it is judged.

A set of so many samples is gone through in epochs, each in a new order; one that is drawn without end gives step k its numbers
k B to (k + 1) B. Either way a batch is a pure function of the recipe and the step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.base import ArgumentError, unknown
from reverie.data import digits, patches
from reverie.train.batches import augmented, rows
from reverie.train.recipe import Augment, Recipe

__all__ = ["SOURCES", "Pictures", "Source", "source"]

HELD = 256  # drawn pictures by which a model is judged

Pictures = tuple[Tensor, Tensor | None]
"""Clean pictures `(N, C, H, W)` in [-1, 1], and their classes `(N,)`, None where there are none."""


@dataclass(frozen=True)
class Source:
    """What a denoiser learns from.

    Attributes:
        classes: how many there are; 0: an unconditional model. batch: the pictures of a step, all of them, on the CPU.
        heldout, trained: as many of either kind, for the figures.
    """

    classes: int
    batch: Callable[[int], Pictures]
    heldout: Pictures
    trained: Pictures


def source(recipe: Recipe) -> Source:
    """The source of a recipe for denoising.

    Raises:
        UnknownNameError: another data set. ArgumentError: a field that it has no use for, or its packages are missing.

    >>> source(Recipe("mine", data="digits", batch=5)).batch(0)[0].shape
    torch.Size([5, 1, 8, 8])
    """
    if recipe.data not in SOURCES:
        raise unknown("data set", recipe.data, SOURCES)
    return SOURCES[recipe.data](recipe)


def _digits(recipe: Recipe) -> Source:
    (x, labels), heldout = digits("train"), digits("heldout")

    def batch(step: int) -> Pictures:
        pick = rows(recipe.seed, step, recipe.batch, len(x))
        return augmented(x[pick], recipe.augment, recipe.seed, step), labels[pick]

    pick = torch.arange(len(heldout[0])) * len(x) // len(heldout[0])  # evenly spread
    return Source(int(labels.max()) + 1, batch, heldout, (x[pick], labels[pick]))


def _patches(recipe: Recipe) -> Source:
    if recipe.augment != Augment():
        raise ArgumentError(
            f"recipe field 'augment' must be left out for patches, of which every one is new, got {recipe.augment}"
        )

    def batch(step: int) -> Pictures:
        return patches(range(step * recipe.batch, (step + 1) * recipe.batch), recipe.seed), None

    return Source(0, batch, (patches(HELD, split="heldout"), None), (patches(HELD, recipe.seed), None))


SOURCES: dict[str, Callable[[Recipe], Source]] = {"digits": _digits, "patches": _patches}
