"""Training the judge of `shapes` (`reverie.measure.SceneJudge`): scenes drawn as they are needed, spoilt a little, and read.

    loss = mean over pictures of [ sum over cells of -log p(shape or none)
                                 + sum over cells with an object of -log p(colour) + |look - true|^2 / 2
                                 + |looks - true|^2 / 2 ]

the likelihood of shapes, colours and looks of unit deviation. A picture is blurred by a Gaussian, brightened or darkened, and made noisy, each by
a strength of its own,

    blur, noise = largest max(0, 2 u - 1),   light = largest (2 u - 1),   u uniform in (0, 1),

so half of the pictures are sharp, and half without noise. The judge must read them all, and tell how much each was blurred and made noisy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from reverie.base.noise import DATA, Noise
from reverie.data.things import COLOURS, SHAPES, SIDE, Scene
from reverie.measure.judge_shapes import CELLS, LOOKS, PARTS, SceneJudge
from reverie.train.recipe import Spoil

__all__ = ["Truth", "blurred", "reading", "spoilt", "truth"]


@dataclass(frozen=True)
class Truth:
    """What a judge should tell of N pictures.

    Attributes:
        shape: `(N, 8, 8)`, 0 where no object has its centre. colour: `(N, 8, 8)`. look: `(N, 4, 8, 8)`, x, y, size and outline of the object there.
        looks: `(N, 5)`, the background's tone, blur and noise. All looks are shifted and scaled to be of about unit size.
    """

    shape: Tensor
    colour: Tensor
    look: Tensor
    looks: Tensor


def truth(scenes: Sequence[Scene]) -> Truth:
    """What a judge should tell of scenes as drawn."""
    shape, colour = (torch.zeros(len(scenes), CELLS, CELLS, dtype=torch.long) for _ in range(2))
    look, looks = torch.zeros(len(scenes), PARTS[2], CELLS, CELLS), torch.zeros(len(scenes), len(LOOKS))
    colours, half = list(COLOURS), SIDE / 2
    for i, scene in enumerate(scenes):
        looks[i, :3] = torch.tensor([3 * ((a + b) / 2 - 0.5) for a, b in zip(*scene.tones, strict=True)])
        for t in scene.things:
            at = (int(t.y * CELLS / SIDE), int(t.x * CELLS / SIDE))
            shape[i][at], colour[i][at] = 1 + SHAPES.index(t.shape), colours.index(t.colour)
            look[i][:, *at] = torch.tensor(
                [(t.x - half) / 16, (t.y - half) / 16, (t.size - 15) / 4, 0.0 if t.filled else 2.0]
            )
    return Truth(shape, colour, look, looks)


def blurred(x: Tensor, deviation: Tensor) -> Tensor:
    """Pictures `(B, C, H, W)` under a Gaussian of deviation `(B,)` pixels, its weights made to sum to 1 where it meets the frame; 0 returns them."""

    def kernel(size: int) -> Tensor:
        at = torch.arange(size, dtype=x.dtype)
        return torch.softmax(-(at[:, None] - at).square() / (2 * deviation.clamp(min=0.05).square()[:, None, None]), 2)

    return kernel(x.shape[2])[:, None] @ x @ kernel(x.shape[3])[:, None].mT


def spoilt(x: Tensor, spoil: Spoil, seed: int, step: int, slots: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures blurred, brightened or darkened, and made noisy at random.

    Args:
        x: `(B, C, H, W)` in [-1, 1]. spoil: how much at most. seed, step, slots: what the draws depend on, a slot a picture.

    Returns:
        The pictures; `(B, 2)` how much each was blurred and made noisy, as shares of the largest; and `(B,)` what was added to its brightness.
    """
    noise = Noise(seed)
    u = noise.uniform((3,), index=slots, stage=1 + step, stream=DATA)
    share, light = (2 * u[:, :2] - 1).clamp(min=0), spoil.light * (2 * u[:, 2] - 1)
    x = blurred(x, spoil.blur * share[:, 0]) + light[:, None, None, None]
    eps = noise.normal(tuple(x.shape[1:]), index=slots, stage=1 + step, stream=DATA)
    return x + eps * (spoil.noise * share[:, 1])[:, None, None, None], share, light


def reading(net: SceneJudge, x: Tensor, true: Truth) -> Tensor:
    """The loss of a judge at pictures `(B, 3, 64, 64)` of which this is true, a scalar."""
    cells, looks = net(x)
    shape, colour, look = cells.split(PARTS, 1)
    there, right = (
        (true.shape > 0).to(x.device),
        [v.to(x.device) for v in (true.shape, true.colour, true.look, true.looks)],
    )
    named = F.cross_entropy(shape, right[0], reduction="sum")
    named = named + (F.cross_entropy(colour, right[1], reduction="none") * there).sum()
    looked = ((look - right[2]).square().sum(1) * there).sum() + (looks - right[3]).square().sum()
    return (named + looked / 2) / len(x)
