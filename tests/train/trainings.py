"""Three small trainings that no recipe covers: two players in turn, a batch from the student itself, and pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reverie as rv
from reverie.base import Noise
from reverie.data import digits
from reverie.train import Objective, Player, Step
from reverie.train.batches import rows

STEPS, SAVE_EVERY = 12, 3
IMAGES, LABELS = digits("train")
IMAGES = IMAGES.flatten(1)


def critic() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 8), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(8, 1))


def generator() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 64), nn.Tanh())


def critic_loss(d: nn.Module, g: nn.Module, real: Tensor, z: Tensor) -> Tensor:
    with torch.no_grad():
        fake = g(z)
    return F.softplus(d(fake)).mean() + F.softplus(-d(real)).mean()


def generator_loss(d: nn.Module, g: nn.Module, z: Tensor) -> Tensor:
    return F.softplus(-d(g(z))).mean()


def gan_batch(step: Step, size: int = 8) -> tuple[Tensor, Tensor]:
    slots = step.slots(size)
    pick = rows(step.seed, int(step), size, len(IMAGES))[list(slots)]
    return IMAGES[pick], Noise(step.seed).normal((4,), index=slots, stage=int(step))


def gan(seed: int = 0) -> Objective:
    """A critic that moves each step, and a generator that moves every other and sees what the critic has become."""
    torch.manual_seed(seed)
    return Objective(
        {
            "critic": Player(critic(), "adam", 2e-3, {"betas": (0.5, 0.9)}, clip=1.0, ema=0.5),
            "generator": Player(generator(), "adamw", 1e-2, every=2, offset=1, ema=0.9, warmup=3),
        },
        lambda p, batch, step: {
            "critic": lambda: critic_loss(p["critic"], p["generator"], *batch),
            "generator": lambda: generator_loss(p["critic"], p["generator"], batch[1]),
        },
        lambda p, step: gan_batch(step),
        lambda p: {"fooled": p["critic"](p["generator"](torch.eye(4))).mean().item()},
    )


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(5, 16), nn.SiLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.inner(torch.cat([x, t.float().expand(len(x))[:, None]], 1))


def rollout(seed: int = 0) -> Objective:
    """A student whose own samples, of two Euler steps, are what it is trained on: towards the unit circle."""
    torch.manual_seed(seed)
    net = Net()

    def source(p: Any, step: Step) -> Tensor:
        model = rv.Model(p["student"], rv.process.flow(), "flow", shape=(4,))
        index = [8 * int(step) + slot for slot in step.slots(8)]
        return rv.sample(model, len(index), index=index, solver="euler", steps=2, seed=step.seed)

    def loss(p: Any, x: Tensor, step: Step) -> dict[str, Tensor]:
        t = torch.full((len(x),), 0.5)
        return {"student": (p["student"](x, t) - F.normalize(x, dim=1)).square().mean()}

    return Objective({"student": Player(net, "adamw", 1e-2, schedule="cosine", ema=0.9, clip=1.0)}, loss, source)


def pixels(seed: int = 0) -> Objective:
    """A change of four digits that makes a frozen classifier read each as the next one; only the pixels move."""
    torch.manual_seed(seed)
    reader = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10)).eval()
    x, labels = IMAGES[:4], LABELS[:4]

    def loss(p: Any, batch: Any, step: Step) -> dict[str, Tensor]:
        change = p["change"]
        return {"change": F.cross_entropy(p["reader"](x + change), (labels + 1) % 10) + 0.1 * change.square().mean()}

    players = {
        "change": Player(torch.zeros(4, 64), "sgd", 0.5, {"momentum": 0.9}, ema=0.5),
        "reader": Player(reader, None),
    }
    return Objective(
        players, loss, lambda p, step: None, pictures=lambda p: (x + p["change"]).detach().reshape(4, 1, 8, 8)
    )


TRAININGS = {"gan": gan, "rollout": rollout, "pixels": pixels}
