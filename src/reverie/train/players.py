"""Who plays in a training: named parameters of any kind, each with its own optimiser, cadence and average.

A player is a network, a few tensors by name (an embedding, pixels, the parameters of a noise law), or one tensor. In step k the players that are due
(k mod every = offset) move: each by the gradient of its own loss with respect to its own parameters and nobody else's.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from reverie.base import ArgumentError, unknown

__all__ = ["OPTIMIZERS", "SCHEDULES", "Objective", "Player", "Step", "plain"]

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}
SCHEDULES = ("constant", "cosine")


class Step(int):
    """The number of a step, from 0, and which part of its batch this call is about.

    A batch is taken in `parts` parts when gradients are accumulated or several processes share it; what is drawn for a slot of the batch is the same
    however it is divided.

    Attributes:
        part, parts: this part, from 0, and how many there are. seed: of the training.

    >>> list(Step(7, part=1, parts=2).slots(4)), Step(7) + 1
    ([2, 3], 8)
    """

    part: int
    parts: int
    seed: int

    def __new__(cls, number: int, part: int = 0, parts: int = 1, seed: int = 0) -> Step:
        made = super().__new__(cls, number)
        made.part, made.parts, made.seed = part, parts, seed
        return made

    def slots(self, batch: int) -> range:
        """The slots of a batch that this part holds. Raises `ArgumentError` for a batch that the parts do not divide."""
        if batch % self.parts:
            raise ArgumentError(
                f"a batch of {batch} cannot be divided into {self.parts} equal parts (processes times accumulation)"
            )
        size = batch // self.parts
        return range(self.part * size, (self.part + 1) * size)


@dataclass
class Player:
    """Named parameters that are trained together.

    Attributes:
        what: a module (of which the parameters that require a gradient are trained), tensors by name, or one tensor.
        optimizer: "adamw", "adam", "sgd", or a function from parameters to a `torch.optim.Optimizer`; None for what is kept with the training but
            not moved (a buffer of samples, a frozen copy), whose module stays in its mode, training or evaluation.
        rate: learning rate; an optimiser of the caller's own keeps its groups' rates, times schedule and warm-up. options: further arguments of the
            optimiser. schedule: "constant", or "cosine" (to 0 at the last step), or a function from the step's number to a factor of the rate.
            warmup: steps of a linear rise before it.
        every, offset: moves in steps k with k mod every = offset. ema: decay of an average of its weights (with a ramp, see `ema`); None keeps none.
        clip: largest norm of its gradient; None clips nothing.

    Raises:
        UnknownNameError, ArgumentError: a field that cannot work, named with its value.
    """

    what: nn.Module | Mapping[str, Tensor] | Tensor
    optimizer: str | Callable[[Sequence[Tensor]], torch.optim.Optimizer] | None = "adamw"
    rate: float = 1e-3
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str | Callable[[int], float] = "constant"
    warmup: int = 0
    every: int = 1
    offset: int = 0
    ema: float | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.optimizer, str) and self.optimizer not in OPTIMIZERS:
            raise unknown("optimizer", self.optimizer, OPTIMIZERS)
        if isinstance(self.schedule, str) and self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)
        checks = (
            ("rate", 0 < self.rate < math.inf, "positive"),
            ("warmup", _whole(self.warmup) and self.warmup >= 0, "a whole number of at least 0"),
            ("every", _whole(self.every) and self.every >= 1, "a whole number of at least 1"),
            ("offset", _whole(self.offset) and 0 <= self.offset < self.every, "a whole number from 0 to below every"),
            ("ema", self.ema is None or 0 <= self.ema < 1, "in [0, 1)"),
            ("clip", self.clip is None or self.clip > 0, "positive"),
        )
        for name, ok, what in checks:
            if not ok:
                raise ArgumentError(f"{name} of a player must be {what}, got {getattr(self, name)!r}")
        if not isinstance(self.what, nn.Module):
            tensors = {"": self.what} if isinstance(self.what, Tensor) else dict(self.what)
            for name, value in tensors.items():
                if not value.is_leaf:
                    raise ArgumentError(f"the tensor {name!r} of a player was computed from others; detach it first")
                if self.optimizer is not None and not value.is_floating_point():
                    raise ArgumentError(
                        f"the tensor {name!r} of a player holds {value.dtype}, which has no gradient; convert it, or take optimizer=None"
                    )
                if self.optimizer is not None:
                    value.requires_grad_(True)
        if self.optimizer is not None and not self.parameters:
            raise ArgumentError("a player that is trained has no parameter that requires a gradient")

    @property
    def parameters(self) -> dict[str, Tensor]:
        """What is trained, by name; empty for a player that is not moved."""
        if self.optimizer is None:
            return {}
        if isinstance(self.what, nn.Module):
            return {name: p for name, p in self.what.named_parameters() if p.requires_grad}
        return {"value": self.what} if isinstance(self.what, Tensor) else dict(self.what)

    @property
    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: everything trained and all buffers; of a module in which something is frozen, not the frozen parameters."""
        if not isinstance(self.what, nn.Module):
            return {"value": self.what} if isinstance(self.what, Tensor) else dict(self.what)
        if self.optimizer is None:
            return dict(self.what.state_dict())
        frozen = {name for name, p in self.what.named_parameters(remove_duplicate=False) if not p.requires_grad}
        return {name: value for name, value in self.what.state_dict().items() if name not in frozen}

    def due(self, step: int) -> bool:
        """Whether it moves in a step."""
        return self.optimizer is not None and step % self.every == self.offset

    def moves(self, step: int) -> int:
        """How often it has moved before a step."""
        return 0 if self.optimizer is None else max(0, (step - self.offset + self.every - 1) // self.every)

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step, of so many."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        if callable(self.schedule):
            return self.rate * rise * self.schedule(step)
        if self.schedule == "constant":
            return self.rate * rise
        after = max(0, step - self.warmup) / max(1, steps - self.warmup)
        return self.rate * rise * (1 + math.cos(math.pi * after)) / 2

    def make_optimizer(self) -> torch.optim.Optimizer | None:
        """A fresh optimiser of its parameters."""
        parameters = list(self.parameters.values())
        if self.optimizer is None:
            return None
        if isinstance(self.optimizer, str):
            try:
                return OPTIMIZERS[self.optimizer](parameters, lr=self.rate, **self.options)  # type: ignore[call-arg]
            except (TypeError, ValueError) as error:
                raise ArgumentError(f"optimizer {self.optimizer!r}: {error}") from None
        made = self.optimizer(parameters)
        if not isinstance(made, torch.optim.Optimizer):
            raise ArgumentError(
                f"the optimizer of a player must make a torch.optim.Optimizer, got {type(made).__name__}"
            )
        try:
            inspect.signature(made.step).bind()
        except TypeError:
            raise ArgumentError(
                f"{type(made).__name__} evaluates the loss itself in each step (a closure), and its state cannot be saved as tensors; "
                f"take one of {', '.join(OPTIMIZERS)}, or another that steps on gradients alone"
            ) from None
        return made


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


Players = Mapping[str, Any]
"""What plays, by name: the modules and tensors themselves."""
Losses = Mapping[str, Tensor | Callable[[], Tensor]]


@dataclass(frozen=True)
class Objective:
    """A training: who plays, for what, on which batches.

    Attributes:
        players: by name.
        losses: `(players, batch, step) -> {name: loss}`, scalars, for players that are due (others are ignored). Tensors are all taken at the
            same weights; a loss given as a function is called when its player's turn has come, in the order of the mapping, so that it sees what
            the players before it have become (a critic's step before the generator's).
        source: `(players, step) -> batch`; a function of seed and step, so that a resumed training sees the same; it may sample the students
            themselves.
        check: `players -> figures`, on held-out data, with averaged weights where there are averages.
        pictures: `players -> (N, C, H, W)` in [-1, 1], for a sheet of samples along the way, likewise.

    Raises:
        ArgumentError: nobody is trained, a name that cannot stand in a checkpoint, or a parameter that two players would train.
    """

    players: Mapping[str, Player]
    losses: Callable[[Players, Any, Step], Losses]
    source: Callable[[Players, Step], Any]
    check: Callable[[Players], Mapping[str, float]] | None = None
    pictures: Callable[[Players], Tensor] | None = None

    def __post_init__(self) -> None:
        if not any(p.optimizer is not None for p in self.players.values()):
            raise ArgumentError("an objective needs a player that is trained")
        owners: dict[int, str] = {}
        for name, player in self.players.items():
            if not isinstance(name, str) or not name or "/" in name:
                raise ArgumentError(f"a player's name is a word without '/', got {name!r}")
            for key, parameter in player.parameters.items():
                if owners.setdefault(id(parameter), name) != name:
                    raise ArgumentError(
                        f"the parameter {key!r} belongs to two players, {owners[id(parameter)]!r} and {name!r}; freeze it in one "
                        "(requires_grad_(False)), or make them one player"
                    )


def plain(
    net: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Callable[[Step], Any] | Iterable[Any],
    check: Callable[[nn.Module], Mapping[str, float]] | None = None,
    **player: Any,
) -> Objective:
    """The usual training: one network, one loss.

    Args:
        net: what is trained. loss: `(net, batch) -> scalar`. batches: `step -> batch`, or a sequence of batches that is gone through again and again.
        check: `net -> figures`. player: arguments of `Player`.

    >>> net = nn.Linear(1, 1)
    >>> plain(net, lambda f, x: f(x).square().mean(), [torch.ones(2, 1)], rate=0.1).players["net"].rate
    0.1
    """
    if callable(batches):
        source = batches
    else:
        listed = list(batches)
        if not listed:
            raise ArgumentError("there is no batch to train on")

        def source(step: Step) -> Any:
            return listed[step % len(listed)]

    return Objective(
        {"net": Player(net, **player)},
        lambda players, batch, step: {"net": loss(players["net"], batch)},
        lambda players, step: source(step),
        None if check is None else lambda players: check(players["net"]),
    )
