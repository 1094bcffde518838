"""What goes back over a run for its gradient: the states that it needs, and how it asks the model again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.model import Model
from reverie.solve.context import Run
from reverie.solve.plan import Plan, Stage

__all__ = ["Back", "Last"]


class Last:
    """A hook that keeps the last states, of steps or of stages."""

    def __init__(self, count: int, x: Tensor, outer: bool) -> None:
        self.states: deque[Tensor] = deque([x.detach()], maxlen=count)
        self.outer = outer

    def after(self, ctx: Run) -> None:
        assert ctx.stage is not None
        if not (self.outer and ctx.stage.inner):
            self.states.append(ctx.x.detach())


@dataclass
class Back(ABC):
    """What goes back over a run. `keeps`: how many states it needs; `outer`: whether those at nodes of the grid only."""

    plan: Plan
    model: Model
    cond: dict[str, Any]
    inputs: dict[str, Tensor]

    @property
    def keeps(self) -> int:
        return 1

    @property
    def outer(self) -> bool:
        return False

    def ask(self, x: Tensor, stage: Stage) -> tuple[Tensor, ...]:
        """The model's raw heads at a stage."""
        m, t = self.model, stage.t
        assert isinstance(t, float | int)
        told = float(m.label(t)) if stage.label is None else stage.label
        label = torch.full(
            (len(x),), told, device=x.device, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32
        )
        return m.raw(x, t, label, self.cond, stage.args, m.target.input_scale(m.process, t))

    @abstractmethod
    def run(
        self, states: tuple[Tensor, ...], g: Tensor, leaves: tuple[Tensor, ...]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The gradients by the initial state and by the leaves."""
