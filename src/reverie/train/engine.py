"""The engine of every training: players move in turn, and a killed run ends with the same bits.

In step k, for each player p that is due, with theta_p its parameters and J parts of the batch (accumulated parts times processes),

    g_p = 1/J sum_j grad_{theta_p} loss_p(part j),        clipped,        theta_p <- optimiser_p(theta_p, g_p),        average_p <- (ema).

Everything random is a function of (seed, step, part): sources draw by `Noise` or by torch, which is seeded anew before each part. So a checkpoint
needs no random state, and one process that accumulates two parts makes the step of two processes that take one each, up to the order of a sum.

Devices and processes are accelerate's. Players start with the weights of process 0, and buffers (running statistics) are its own after each step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie.base import ArgumentError, FileError, NonFiniteError, unknown
from reverie.base.files import check_writable
from reverie.train import ema, states
from reverie.train.log import Log, sheet, stop_signals
from reverie.train.players import Objective, Player, Players, Step
from reverie.train.progress import Progress

__all__ = ["PRECISIONS", "Fitted", "fit"]

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Fitted:
    """A finished training.

    Attributes:
        steps: that were made in all. averages: player -> name -> averaged weights, of players that have them. figures: of the last check.
        main: whether this process is the one that writes files.
    """

    steps: int
    averages: Mapping[str, Mapping[str, Tensor]]
    figures: Mapping[str, float]
    main: bool = True


def fit(
    objective: Objective,
    folder: str | Path,
    steps: int,
    *,
    name: str = "training",
    seed: int = 0,
    accumulate: int = 1,
    precision: str = "float32",
    spec: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    save_every: int = 500,
    check_every: int = 250,
    picture_every: int = 0,
    resume: bool = True,
    quiet: bool = False,
) -> Fitted:
    """Train the players of an objective, in place; they end with their own weights, `Fitted.averages` has the averaged ones.

    Checkpoints, a log (`train.jsonl`, a line each `check_every` steps) and sheets of samples (`samples-STEP.png`) go to the folder. Ctrl-C saves
    first. Under torchrun every process takes its part of each batch.

    Args:
        folder: of the training. steps: in all. name: for the progress. seed: of everything random, in [0, 2^32).
        accumulate: parts in which a process takes its share of a batch. precision: of the networks' arithmetic, "float32", "bfloat16", "float16"
            (CUDA).
        spec: plain values that a checkpoint must agree on to be resumed, beside the seed. defaults: those that a checkpoint without them has.
        save_every, check_every, picture_every: steps between checkpoints, checks, and sheets (0: none).
        resume: go on from the newest checkpoint; False starts anew and removes those there.

    Raises:
        ArgumentError: a setting that cannot work, a loss that is no scalar or of nobody, a checkpoint of another training.
        FileError: a folder that cannot be written, a full disk (the previous checkpoint survives), a damaged checkpoint, or one that is no
            safetensors file (nothing is unpickled).
        NonFiniteError: a loss or gradient is not finite any more. KeyboardInterrupt: after Ctrl-C, once the checkpoint is saved.
    """
    for what, value in (
        ("steps", steps),
        ("accumulate", accumulate),
        ("save_every", save_every),
        ("check_every", check_every),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(f"{what} must be a whole number of at least 1, got {value!r}")
    if isinstance(picture_every, bool) or not isinstance(picture_every, int) or picture_every < 0:
        raise ArgumentError(f"picture_every must be a whole number of at least 0, got {picture_every!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ArgumentError(f"seed must be a whole number in [0, 2^32), got {seed!r}")
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    where = Path(folder)
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {str(where)!r}: {error.strerror or error}; choose another") from None
    check_writable(where / "train.jsonl")
    run = _Run(objective, where, steps, seed, accumulate, precision, {"seed": seed} | dict(spec or {}))
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        done = run.begin(resume, {"seed": seed} | dict(defaults or {}))
        return run.go(done, name, save_every, check_every, picture_every, quiet)


class _Run:
    """A training under way."""

    def __init__(
        self,
        objective: Objective,
        folder: Path,
        steps: int,
        seed: int,
        accumulate: int,
        precision: str,
        spec: dict[str, Any],
    ) -> None:
        try:
            from accelerate import PartialState
        except ImportError:
            raise ArgumentError(
                "training needs accelerate, which is not installed: pip install 'reverie[train]'"
            ) from None
        self.objective, self.folder, self.spec = objective, folder, spec
        self.steps, self.seed, self.accumulate = steps, seed, accumulate
        if precision == "float16" and not torch.cuda.is_available():
            raise ArgumentError("precision 'float16' needs a GPU; take 'bfloat16' on a CPU")
        self.world: Any = PartialState(cpu=not torch.cuda.is_available())
        self.parts = accumulate * self.world.num_processes
        self.dtype = None if precision == "float32" else getattr(torch, precision)
        self.scaler = torch.amp.GradScaler("cuda") if precision == "float16" else None
        self.players: dict[str, Player] = dict(objective.players)
        for player in self.players.values():
            if isinstance(player.what, nn.Module):
                player.what.to(self.world.device)
                if player.optimizer is not None:
                    player.what.train()
            self._alike(player.what.state_dict() if isinstance(player.what, nn.Module) else player.state)
        self.objects: Players = {name: player.what for name, player in self.players.items()}
        self.optimizers = {name: player.make_optimizer() for name, player in self.players.items()}
        self.rates = {  # of an optimiser of the caller's own, which the schedule multiplies
            name: [group["lr"] / self.players[name].rate for group in optimizer.param_groups]
            for name, optimizer in self.optimizers.items()
            if optimizer is not None and not isinstance(self.players[name].optimizer, str)
        }
        self.gradients: dict[str, list[Tensor | None]] = {}
        self.said: dict[str, float] = {}
        self.averages = {
            name: {key: value.detach().clone() for key, value in player.state.items()}
            for name, player in self.players.items()
            if player.ema is not None and player.optimizer is not None
        }

    @property
    def main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return bool(self.world.is_main_process)

    def begin(self, resume: bool, defaults: Mapping[str, Any]) -> int:
        """Go on from the newest checkpoint, or from nothing; the steps that were done."""
        found = states.checkpoints(self.folder)
        done = 0
        if found and resume:
            done, self.said = states.restore(
                found[-1], self.spec, self.players, self.optimizers, self.averages, self.scaler, defaults
            )
            if done > self.steps:
                raise ArgumentError(
                    f"{found[-1]} has done {done} steps, more than steps = {self.steps}; ask for as many, choose another folder, or start anew "
                    "with resume=False"
                )
        elif resume:
            states.refuse_pickles(self.folder)
        elif self.main:
            for old in found:
                old.unlink()
        if self.main:
            states.sweep(self.folder)
        self.world.wait_for_everyone()
        return done

    def go(self, done: int, name: str, save_every: int, check_every: int, picture_every: int, quiet: bool) -> Fitted:
        """The steps that are left."""
        log = Log(self.folder / "train.jsonl", done) if self.main else None
        began, figures = time.monotonic(), self._check() if done == self.steps else dict[str, float]()
        with stop_signals() as stop, Progress(name, self.steps, done, quiet or not self.main) as bar:
            if done:
                bar.say(f"resumed from {states.checkpoints(self.folder)[-1]} at step {done}")
            for step in range(done, self.steps):
                self.said |= self._shared(self._step(step))
                done = step + 1
                said = self._named()
                if done % check_every == 0 or done == self.steps:
                    figures = self._check()
                    if log is not None:
                        log.write({"step": done} | said | figures | {"seconds": time.monotonic() - began})
                    bar.say(bar.line(done, **said | figures))
                else:
                    bar.step(done, **said)
                if picture_every and (done % picture_every == 0 or done == self.steps):
                    self._pictures(done)
                stopped = self._any(bool(stop))
                if stopped or done % save_every == 0 or done == self.steps:
                    path = self._save(done)
                if stopped and done < self.steps:
                    raise KeyboardInterrupt(
                        f"stopped after step {done}; saved {path}. The same command with the same folder resumes there"
                    )
        return Fitted(self.steps, self.averages, figures, self.main)

    # -- one step

    def _step(self, number: int) -> dict[str, float]:
        """All due players move; their rates, losses and the norms of their gradients."""
        due = [name for name, player in self.players.items() if player.due(number)]
        for name in due:
            rate = self.players[name].rate_at(number, self.steps)
            for i, group in enumerate(self._optimizer(name).param_groups):
                group["lr"] = rate * self.rates[name][i] if name in self.rates else rate
        waiting: list[tuple[Step, dict[str, Any]]] = []
        said: dict[str, float] = {}
        for j in range(self.accumulate):
            step = Step(number, self.world.process_index * self.accumulate + j, self.parts, self.seed)
            _seed(step, 0)
            batch = self.objective.source(self.objects, step)
            with self._autocast():
                losses = self.objective.losses(self.objects, batch, step)
            self._known(losses, due)
            taken = [name for name in losses if name in due and not callable(losses[name])]
            for name in taken:
                self._backward(name, losses[name], said, keep=name != taken[-1])
            waiting.append((step, {name: loss for name, loss in losses.items() if name in due and callable(loss)}))
            del batch, losses
        lazy = list(dict.fromkeys(name for _, losses in waiting for name in losses))
        for name in due:
            if name not in lazy and f"loss {name}" in said:
                self._move(name, number, said)
        for turn, name in enumerate(lazy):
            for step, losses in waiting:
                if name in losses:
                    _seed(step, turn + 1)
                    with self._autocast():
                        loss = losses[name]()
                    self._backward(name, loss, said, keep=False)
            self._move(name, number, said)
        if self.scaler is not None and due:
            self.scaler.update()
        if self.world.num_processes > 1:
            for name in due:
                what = self.objects[name]
                self._alike(dict(what.named_buffers()) if isinstance(what, nn.Module) else {})
        return said

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.world.device.type, self.dtype, enabled=self.dtype is not None)

    def _known(self, losses: Any, due: list[str]) -> None:
        if not isinstance(losses, Mapping) or set(losses) - set(self.players):
            got = ", ".join(map(str, losses)) if isinstance(losses, Mapping) else type(losses).__name__
            raise ArgumentError(f"losses is a mapping from players ({', '.join(self.players)}) to losses, got {got}")
        if due and not set(losses) & set(due):
            raise ArgumentError(
                f"nobody has a loss in this step: {', '.join(due)} are due, losses were given for {', '.join(losses) or 'none'}"
            )

    def _backward(self, name: str, loss: Any, said: dict[str, float], keep: bool) -> None:
        """Add one part's gradient to a player's, which are kept apart: sources and losses may use `grad` for their own ends."""
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise ArgumentError(
                f"the loss of {name!r} must be a scalar tensor, got {tuple(loss.shape) if isinstance(loss, Tensor) else loss!r}"
            )
        own = list(self.players[name].parameters.values())
        if loss.requires_grad:
            scaled = loss / self.accumulate
            for p, gathered in zip(own, self.gradients.get(name, [None] * len(own)), strict=True):
                p.grad = gathered
            (scaled if self.scaler is None else self.scaler.scale(scaled)).backward(inputs=own, retain_graph=keep)
            self.gradients[name] = [p.grad for p in own]
            for p in own:
                p.grad = None
        said[f"loss {name}"] = said.get(f"loss {name}", 0.0) + loss.item() / self.accumulate

    def _move(self, name: str, number: int, said: dict[str, float]) -> None:
        """One optimiser's step on the gradients that were gathered."""
        player, optimizer = self.players[name], self._optimizer(name)
        everything = list(player.parameters.values())
        for p, gathered in zip(everything, self.gradients.pop(name, [None] * len(everything)), strict=True):
            p.grad = gathered
        self._gather(everything)
        own = [p for p in everything if p.grad is not None]
        if not own:
            raise ArgumentError(
                f"the loss of {name!r} does not depend on any of its parameters; was something detached, or computed without gradients?"
            )
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(own, math.inf if player.clip is None else player.clip).item()
        loss, rate = said[f"loss {name}"], float(optimizer.param_groups[0]["lr"])
        if not math.isfinite(loss) or (self.scaler is None and not math.isfinite(norm)):
            raise NonFiniteError(
                f"the loss of {name!r} in step {number} is {loss} (gradient {norm:.3g}); lower its rate (now {rate:g}) or raise its warmup; "
                f"the checkpoints in {self.folder} are from before"
            )
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
        said |= {f"gradient {name}": norm, f"rate {name}": rate}
        if name in self.averages:
            ema.update(self.averages[name], player.state, player.moves(number), player.ema or 0.0)

    def _gather(self, parameters: list[Tensor]) -> None:
        """Gradients averaged over processes; one that a process lacks counts as 0, one that all lack stays away."""
        if self.world.num_processes == 1:
            return
        has = self._reduced(torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32))
        own = [p for p, some in zip(parameters, has.tolist(), strict=True) if some]
        if own:
            flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in own])
            for p, part in zip(own, self._reduced(flat).split([p.numel() for p in own]), strict=True):
                p.grad = part.view_as(p).clone()

    def _reduced(self, value: Tensor) -> Tensor:
        """The mean over processes."""
        from accelerate.utils import reduce

        result: Any = reduce(value.to(self.world.device), reduction="mean")
        return result.to(value.device)

    def _alike(self, tensors: Mapping[str, Tensor]) -> None:
        """What process 0 has, in all processes."""
        if self.world.num_processes > 1:
            from accelerate.utils import broadcast

            for value in tensors.values():
                value.detach().copy_(broadcast(value.detach().to(self.world.device), from_process=0))

    def _optimizer(self, name: str) -> torch.optim.Optimizer:
        optimizer = self.optimizers[name]
        assert optimizer is not None
        return optimizer

    # -- around the steps

    def _shared(self, said: dict[str, float]) -> dict[str, float]:
        """Figures of a step, averaged over processes."""
        if self.world.num_processes > 1 and said:
            values = self._reduced(torch.tensor(list(said.values()), dtype=torch.float64))
            said = dict(zip(said, values.tolist(), strict=True))
        return said

    def _named(self) -> dict[str, float]:
        """Each player's figures when it last moved; a single trained player needs no name."""
        if sum(p.optimizer is not None for p in self.players.values()) == 1:
            return {key.split(" ")[0]: value for key, value in self.said.items()}
        return self.said

    def _any(self, stop: bool) -> bool:
        return stop if self.world.num_processes == 1 else bool(self._reduced(torch.tensor(float(stop))).item())

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Averaged weights in the players' place, networks in evaluation mode, and everything as it was afterwards."""
        own = {name: {k: v.detach().clone() for k, v in self.players[name].state.items()} for name in self.averages}
        nets = [what for what in self.objects.values() if isinstance(what, nn.Module)]
        modes = [(part, part.training) for net in nets for part in net.modules()]
        try:
            for name, average in self.averages.items():
                states.put(self.players[name], average)
            for net in nets:
                net.eval()
            with torch.no_grad():
                yield
        finally:
            for name, weights in own.items():
                states.put(self.players[name], weights)
            for part, mode in modes:
                part.training = mode

    def _check(self) -> dict[str, float]:
        if self.objective.check is None:
            return {}
        _seed(Step(2**40, seed=self.seed), 0)
        with self._averaged():
            figures = {key: float(value) for key, value in self.objective.check(self.objects).items()}
        taken = {"step", "seconds", *self._named()}
        return {f"check {key}" if key in taken else key: value for key, value in figures.items()}

    def _pictures(self, done: int) -> None:
        if self.objective.pictures is not None and self.main:
            _seed(Step(2**41, seed=self.seed), 0)
            with self._averaged():
                sheet(self.objective.pictures(self.objects), self.folder / f"samples-{done:08d}.png")

    def _save(self, done: int) -> Path:
        path = self.folder / states.name_of(done)
        if self.main:
            path = states.save(
                self.folder, done, self.spec, self.players, self.optimizers, self.averages, self.scaler, self.said
            )
        self.world.wait_for_everyone()
        return path


def _seed(step: Step, turn: int) -> None:
    """Torch's global generators as a function of seed, step, part, and whose turn it is."""
    torch.manual_seed((((step.seed * 1_000_003 + int(step)) * 1009 + step.part) * 31 + turn) % 2**63)
