"""One of the processes of a training, under torchrun: `shared_by_two.py FOLDER`. Each has a folder of its own, so that whoever writes is seen."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from tiny_recipe import TINY
from torch import Tensor, nn
from torch.nn import functional as F
from trainings import IMAGES, LABELS

from reverie.train import Objective, Player, Recipe, Step, fit, train
from reverie.train.batches import rows

STEPS, BATCH = 6, 16
NET = {"name": "unet", "args": {**TINY["net"]["args"], "dropout": 0.0}}
RECIPE = Recipe.of({**TINY, "net": NET, "steps": 3, "check_every": 3})


class Reader(nn.Module):
    """A classifier with a part that only some slots of a batch reach."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
        self.rare, self.never = nn.Linear(64, 10), nn.Linear(2, 2)

    def forward(self, x: Tensor, first: bool) -> Tensor:
        return self.body(x) + self.rare(x) if first else self.body(x)


def objective(seed: int = 0) -> Objective:
    torch.manual_seed(seed)

    def source(p: object, step: Step) -> tuple[Tensor, Tensor, list[int]]:
        slots = list(step.slots(BATCH))
        pick = rows(step.seed, int(step), BATCH, len(IMAGES))[slots]
        return IMAGES[pick], LABELS[pick], slots

    def loss(p: dict, batch: tuple[Tensor, Tensor, list[int]], step: Step) -> dict[str, Tensor]:
        x, labels, slots = batch
        first = torch.tensor([slot < BATCH // 2 for slot in slots])
        logits = [p["net"](x[mask], is_first) for mask, is_first in ((first, True), (~first, False)) if mask.any()]
        return {"net": F.cross_entropy(torch.cat(logits), torch.cat([labels[first], labels[~first]]))}

    return Objective({"net": Player(Reader(), "adamw", 1e-2, {"eps": 1e-4}, ema=0.8, clip=1.0)}, loss, source)


def main(root: Path) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    fit(objective(seed=rank), root / f"of-{rank}", STEPS, seed=5, save_every=3, check_every=3, quiet=True)
    fit(objective(seed=rank), root / "stopped", STEPS // 2, seed=5, save_every=3, check_every=3, quiet=True)
    fit(objective(seed=7 + rank), root / "stopped", STEPS, seed=5, save_every=3, check_every=3, quiet=True)
    train(RECIPE, root / f"recipe-{rank}", quiet=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
