"""What the demo shows of a text-to-image model: a picture a prompt in few steps, and what the verifier reads in it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.base import ArgumentError
from reverie.cli import parse
from reverie.data.things import SIDE
from reverie.measure import reward
from reverie.model import Model
from reverie.solve import plan_for, sample

__all__ = ["PROMPTS", "STEPS", "Scenes", "check", "draw"]

PROMPTS = (
    "a large red circle",
    "a small yellow star on the right",
    "a green triangle above a purple square",
    "a blue cross to the left of an orange circle",
    "three cyan stars",
    "two pink squares",
    "a hollow green square and a red triangle",
    "a yellow circle below a blue star",
)
STEPS = 8


@dataclass(frozen=True)
class Scenes:
    """Pictures `(N, 3, H, W)` in [-1, 1] of prompts; the share of each prompt's demands that its picture meets; and what they cost.

    Args:
        source: how the model was asked for. guide: the words of the guide. calls, forwards: of the model and its network, a picture. seconds: of all.
    """

    model: str
    source: str
    prompts: tuple[str, ...]
    pictures: Tensor
    rewards: tuple[float, ...]
    guide: str | None
    calls: int
    forwards: int
    seconds: float

    def summary(self) -> str:
        """The figure that matters, in a line."""
        met = sum(r == 1 for r in self.rewards)
        return f"{met} of {len(self.prompts)} pictures from words are what was asked for, in {self.calls} calls ({self.seconds:.0f} s for all)"


def check(model: Model) -> None:
    """Raise `ArgumentError` for a model that makes no 64x64 pictures in colour from words."""
    if model.embed is None or model.codec is None or model.shape is None:
        raise ArgumentError(f"{model.name} makes no pictures from words")
    size = tuple(model.decode(torch.zeros(1, *model.shape)).shape[1:])
    if size != (3, SIDE, SIDE):
        raise ArgumentError(f"{model.name} makes pictures of shape {size}; the demo's scenes are (3, {SIDE}, {SIDE})")


def draw(model: Model, seed: int = 0, prompts: tuple[str, ...] = PROMPTS, source: str = "shapes") -> Scenes:
    """Two pictures of each prompt, guided as the model recommends.

    Args:
        model: takes prompts, and makes 64x64 pictures in colour (`shapes`). seed: of all noise. source: how it was asked for.

    Raises:
        ArgumentError: another kind of model.
    """
    check(model)
    assert model.embed is not None
    words = parse.own_guide(model, None)
    guide = None if words is None else parse.guide(words)
    plan = plan_for(model, steps=STEPS)
    every = [text for text in prompts for _ in range(2)]
    began = time.monotonic()
    x = sample(model, len(every), plan=plan, guide=guide, cond=model.embed(every), seed=seed, batch=len(every))
    seconds = time.monotonic() - began
    return Scenes(
        model.name or source, source, tuple(every), x, tuple(reward(x, every).tolist()), words, plan.nfe or 0,
        plan.cost(model if guide is None else model | guide) or 0, seconds,
    )  # fmt: skip
