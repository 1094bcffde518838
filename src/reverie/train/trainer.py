"""The trainer: AdamW with warm-up and a cosine, clipped gradients, an average of the weights, and checkpoints that
resume exactly.

    rate(step) = rate min(1, (step + 1) / warmup) (1 + cos(pi max(0, step - warmup) / (steps - warmup))) / 2

Everything random is a pure function of (seed, step): batches, times and noise by `Noise`, dropout by seeding torch for
each step. So a training that was killed and resumed ends with the same bits as one that was not (on the same kind of
machine, with as many threads).
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie.base import ArgumentError, FileError, NonFiniteError
from reverie.base.files import atomic, check_writable
from reverie.nets import write_tensors
from reverie.train import checkpoint, ema
from reverie.train.progress import Progress
from reverie.train.recipe import Recipe, load_recipe
from reverie.train.tasks import task

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
    `NAME.json`.

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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"cannot make the folder {str(folder)!r}: {error.strerror or error}; choose another with out="
        ) from None
    check_writable(folder / "train.jsonl")
    with torch.random.fork_rng(devices=[]):
        return _fit(recipe, folder, resume, quiet)


def _rate(recipe: Recipe, step: int) -> float:
    after = max(0, step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.rate * min(1.0, (step + 1) / max(1, recipe.warmup)) * (1 + math.cos(math.pi * after)) / 2


def _seed(recipe: Recipe, step: int) -> None:
    torch.manual_seed((recipe.seed * 1_000_003 + step) % 2**32)  # torch's CPU generator has seeds of 32 bits


def _fit(recipe: Recipe, folder: Path, resume: bool, quiet: bool) -> Trained:
    _seed(recipe, -1)
    work = task(recipe)
    net, spec = work.net.train(), recipe.spec()
    average = {name: value.detach().clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    done, found = 0, checkpoint.checkpoints(folder)
    if found and resume:
        done = checkpoint.restore(found[-1], spec, net, average, optimizer)
    elif not resume:
        for old in found:
            old.unlink()
    checkpoint.sweep(folder)
    log = _Log(folder / "train.jsonl", done)
    began, last = time.monotonic(), math.nan
    with _stop_signals() as stop, Progress(recipe.name, recipe.steps, done, quiet) as bar:
        if done:
            bar.say(f"resumed from {found[-1]} at step {done}")
        for step in range(done, recipe.steps):
            _seed(recipe, step)
            for group in optimizer.param_groups:
                group["lr"] = _rate(recipe, step)
            loss = work.loss(step)
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
            last = loss.item()
            if not math.isfinite(last + norm.item()):
                raise NonFiniteError(
                    f"the loss of step {step} is {last} (gradient {norm.item():.3g}); lower 'rate' "
                    f"(now {recipe.rate:g}) or raise 'warmup'; the checkpoints in {folder} are from before"
                )
            optimizer.step()
            ema.update(average, net, step, recipe.ema)
            done = step + 1
            if done % recipe.check_every == 0 or done == recipe.steps:
                figures = _check(work.check, net, average)
                log.write(
                    step=done,
                    loss=last,
                    gradient=norm.item(),
                    rate=_rate(recipe, step),
                    **figures,
                    seconds=time.monotonic() - began,
                )
                bar.say(bar.line(done, loss=last, **figures))
            else:
                bar.step(done, loss=last)
            if stop or done % recipe.save_every == 0 or done == recipe.steps:
                path = checkpoint.save(folder, done, spec, net, average, optimizer)
            if stop and done < recipe.steps:
                message = (
                    f"stopped after step {done}; saved {path}. The same command with the same folder resumes there"
                )
                raise KeyboardInterrupt(message)
    return _export(recipe, folder, work.card, work.check, net, average)


def _check(check: Any, net: nn.Module, weights: dict[str, Tensor]) -> dict[str, float]:
    """Figures of the network with other weights, in evaluation mode; its own come back afterwards."""
    own = {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(weights)
    net.eval()
    with torch.no_grad():
        figures = check()
    net.load_state_dict(own)
    net.train()
    return figures


def _export(
    recipe: Recipe, folder: Path, card: dict[str, Any], check: Any, net: nn.Module, average: dict[str, Tensor]
) -> Trained:
    half = {name: value.half() if value.is_floating_point() else value for name, value in average.items()}
    figures = _check(check, net, {name: value.to(average[name].dtype) for name, value in half.items()})
    weights, text = folder / f"{recipe.name}.safetensors", folder / f"{recipe.name}.json"
    write_tensors(
        weights, half, {"reverie": json.dumps({"kind": card["kind"], "format": card["format"], "card": text.name})}
    )
    with atomic(text) as temporary:
        temporary.write_text(
            json.dumps(card | {"steps": recipe.steps, "figures": figures}, indent=1) + "\n", encoding="utf-8"
        )
    return Trained(folder, weights, text, recipe.steps, figures)


class _Log:
    """Figures as lines of JSON; what a previous run wrote beyond the step it is resumed from is dropped."""

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() and done else []
        kept = []
        for line in lines:
            with contextlib.suppress(ValueError, KeyError):  # a line cut short by a kill
                if json.loads(line)["step"] <= done:
                    kept.append(line + "\n")
        with atomic(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    def write(self, **figures: float) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(figures) + "\n")
        except OSError as error:
            raise FileError(
                f"cannot write {str(self.path)!r}: {error.strerror or error}; the last checkpoint is intact"
            ) from error


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that gets the first SIGINT or SIGTERM, so that a step is never torn; a second one acts at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: Any) -> None:
        caught.append(number)
        signal.signal(number, before[signal.Signals(number)])

    try:
        for s in before:
            signal.signal(s, note)
        yield caught
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
