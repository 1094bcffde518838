"""Training by a recipe: one network on one loss, AdamW with warm-up and a cosine, clipped gradients, an average of the weights.

    rate(step) = rate min(1, (step + 1) / warmup) (1 + cos(pi max(0, step - warmup) / (steps - warmup))) / 2

Everything random is a pure function of (seed, step): batches, times and noise by `Noise`, dropout by seeding torch for each part of a step. So a
training that was killed and resumed ends with the same bits as one that was not (on the same kind of machine, with as many threads). The loop is
`engine.fit`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError
from reverie.base.files import atomic
from reverie.nets import write_tensors
from reverie.train.engine import fit
from reverie.train.players import Objective, Player
from reverie.train.recipe import Recipe, load_recipe
from reverie.train.tasks import Task, task

__all__ = ["Trained", "train"]


@dataclass(frozen=True)
class Trained:
    """A finished training: its folder, the model's two files, the steps done, and the figures of the averaged
    weights.
    """

    folder: Path
    weights: Path
    card: Path
    steps: int
    figures: dict[str, float]


def train(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    steps: int | None = None,
    resume: bool = True,
    quiet: bool = False,
) -> Trained:
    """Train what a recipe says and write the model: `NAME.safetensors` (averaged weights, half precision) and
    `NAME.json`; of a text-to-image model the folder `NAME` in Stable Diffusion's layout.

    Checkpoints and a log (`train.jsonl`, a line each `check_every` steps) go to the same folder. Ctrl-C saves a
    checkpoint first.

    Args:
        recipe: a `Recipe`, a YAML file, or the name of a recipe of the package.
        out: the folder; `runs/NAME` by default.
        steps: instead of the recipe's own number (the learning rate's cosine ends there).
        resume: go on from the newest checkpoint in the folder; False starts anew and removes the checkpoints there.
        quiet: show no progress.

    Raises:
        UnknownNameError, ArgumentError: a recipe that cannot work, or a checkpoint of another recipe.
        FileError: a folder that cannot be written, a full disk (the previous checkpoint survives), a damaged
            checkpoint.
        NonFiniteError: the loss is not finite any more; the last checkpoint is from before.
        KeyboardInterrupt: after Ctrl-C, once the checkpoint is saved; its message says how to resume.

    >>> import tempfile
    >>> net = {"name": "unet", "args": {"widths": [8, 8], "depth": 1, "heads": 0}}
    >>> tiny = {"name": "tiny", "net": net, "steps": 1, "batch": 4}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     train(Recipe.of(tiny), folder, quiet=True).steps
    1
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if steps is not None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ArgumentError(f"steps must be at least 1, got {steps!r}")
        recipe = replace(recipe, steps=steps)
    folder = Path("runs") / recipe.name if out is None else Path(out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        kept = () if recipe.task != "text-to-image" else (folder, _unsaid if quiet else _said)  # where latents are kept
        work = task(recipe, *kept)
        objective = Objective(
            {"net": _player(recipe, work)},
            lambda players, batch, step: {"net": work.loss(step)},
            lambda players, step: None,
            lambda players: work.check(),
            (lambda players: pictures()) if (pictures := work.pictures) is not None else None,
        )
        fitted = fit(
            objective, folder, recipe.steps, name=recipe.name, seed=recipe.seed, accumulate=recipe.accumulate, precision=recipe.precision,
            spec=_fixed(recipe), defaults=_fixed(Recipe(recipe.name)), save_every=recipe.save_every, check_every=recipe.check_every,
            picture_every=recipe.picture_every, resume=resume, quiet=quiet,
        )  # fmt: skip
        return _export(recipe, folder, work, fitted.averages["net"], fitted.main)


def _said(text: str) -> None:
    print(text, file=sys.stderr)


def _unsaid(text: str) -> None:
    pass


_FREE = ("save_every", "check_every", "picture_every", "sampling")
"""Fields that do not change the weights."""


def _fixed(recipe: Recipe) -> dict[str, Any]:
    """What must not change when a training is resumed."""
    return {k: v for k, v in recipe.spec().items() if k not in _FREE}


def _player(recipe: Recipe, work: Task) -> Player:
    return Player(
        work.net,
        "adamw",
        recipe.rate,
        {"weight_decay": recipe.decay},
        "cosine",
        recipe.warmup,
        ema=recipe.ema,
        clip=recipe.clip,
    )


def _export(recipe: Recipe, folder: Path, work: Task, average: Mapping[str, Tensor], main: bool) -> Trained:
    """Write the averaged weights in half precision, and the card with the figures of just these."""
    half = {name: value.half() if value.is_floating_point() else value for name, value in average.items()}
    own = {name: value.clone() for name, value in work.net.state_dict().items()}
    work.net.load_state_dict({name: value.to(average[name].dtype) for name, value in half.items()})
    work.net.eval()
    with torch.no_grad():
        figures = work.check()
    if work.write is not None:
        card = work.card | {"steps": recipe.steps, "figures": figures}
        place = folder / recipe.name
        if main:
            work.write(place, card)
        work.net.load_state_dict(own)
        return Trained(
            folder, place / "unet" / "diffusion_pytorch_model.safetensors", place / "card.json", recipe.steps, figures
        )
    work.net.load_state_dict(own)
    weights, text, card = folder / f"{recipe.name}.safetensors", folder / f"{recipe.name}.json", work.card
    header = {"kind": card["kind"], "format": card["format"], "card": text.name}
    if main:
        write_tensors(weights, {k: v.cpu() for k, v in half.items()}, {"reverie": json.dumps(header)})
        with atomic(text) as temporary:
            temporary.write_text(
                json.dumps(card | {"steps": recipe.steps, "figures": figures}, indent=1) + "\n", encoding="utf-8"
            )
    return Trained(folder, weights, text, recipe.steps, figures)
