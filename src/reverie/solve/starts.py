"""What hooks need that set the state from which a run starts: the noise that it drew, and the class of each sample.

Such a hook has `begins = True`, by which `sample` knows that a plan may start below the noise end without data to start from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from reverie.base import ArgumentError
from reverie.process import Process

if TYPE_CHECKING:
    from reverie.solve.context import Run

__all__ = ["classes", "elementary"]


def elementary(ctx: Run, who: str) -> Tensor:
    """The noise `(B, *shape)` that the run began with: its state in units of the prior's standard deviation at the plan's start.

    Args:
        ctx: a run whose state is the prior's draw, in a hook's `start`. who: asks, for the message.

    Raises `ArgumentError` for a process with a degraded input, or whose noise is not Gaussian.
    """
    p = ctx.plan.process
    if type(p).gamma is not Process.gamma or type(p).draw is not Process.draw:
        raise ArgumentError(
            f"{who} is for Gaussian noise and no degraded input; on {p} a run starts as its prior says, without it"
        )
    return ctx.x / p.prior_std(ctx.plan.start)


def classes(ctx: Run, key: str, count: int, who: str) -> Tensor:
    """The class of each sample of a run, `(B,)` in 0 to count - 1, from its condition. Raises `ArgumentError` for a missing or unknown one."""
    told = ctx.cond.get(key)
    if not isinstance(told, Tensor) or told.shape != ctx.x.shape[:1] or told.is_floating_point():
        raise ArgumentError(
            f"{who} has {count} classes: the run needs cond={{{key!r}: one of 0 .. {count - 1} a sample}}"
        )
    if int(told.min()) < 0 or int(told.max()) >= count:
        raise ArgumentError(
            f"{who} knows classes 0 to {count - 1}, the run asks for {int(told.min())} to {int(told.max())}"
        )
    return told.long()
