"""One More Step: a small network takes the step from pure noise to where a frozen model's schedule begins.

Many schedules still hold some signal at their last training time T (Stable Diffusion: alpha_T^2 = 0.00466), but runs start from pure noise. On data
N(m, s^2) the exact flow from N(0, 1) instead of N(alpha m, alpha^2 s^2 + sigma^2) moves the mean of the samples by

    -alpha m s / sqrt(alpha^2 s^2 + sigma^2):

brightness is pulled towards the middle. The module v(x_S, c), with no time input and a prompt of its own, is told pure noise x_S. There alpha = 0,
v = alpha eps - sigma x0 is -x0, and from it the state at the plan's own first time is made, with fresh noise:

    v = v(x_S, null) + w (v(x_S, c) - v(x_S, null)),        x0 = -v,        x_T = alpha_T x0 + sigma_T eps',
    L = E |v(x_S, c) + x0|^2.

This is one ancestral step from alpha = 0, in which x_S itself has no weight. The optimum is v = -E[x0 | c] whatever x_S: means are restored, and
diversity comes from eps'. (`AnalyticInit` with a mean and a variance a class is the same in closed form, and restores the variance too.) One module
serves every model of the same states and schedule; another prompt for it than for the model sets colour and brightness alone.

Source: Hu et al. 2024 (2311.15744). Its released step multiplies eps' by sigma^2, the variance, instead of sigma (0.2 % at Stable
Diffusion's schedule, 29 % at alpha^2 = 0.5); here it is sigma.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from reverie.base import HOOK, ArgumentError, Noise, ShapeError, implements
from reverie.model import Cond, conditions, in_turn
from reverie.model.conditions import unwrap
from reverie.solve.starts import elementary

if TYPE_CHECKING:
    from reverie.solve.context import Run

__all__ = ["OneMoreStep", "oms_loss"]

_STAGE = 0x0A35
"""Of its draws in the stream of hooks."""


@implements("oms")
class OneMoreStep:
    """A hook that starts a run from alpha x0 + sigma eps, x0 = -v of a module that is told pure noise.

    Args:
        module: called as `module(x, **cond)` with x `(B, *shape)`, standard normal, in its own dtype; gives v, of x's shape.
        scale: w, guidance of the module; 1 is none and takes one call of it, another number two.
        null: the module's condition that says nothing; needed where the scale is not 1.
        cond: the module's own condition, instead of the run's: of a tensor with K rows sample i gets row i mod K; the rest is shared.

    The run's own draw is x_S; eps' is a function of seed and sample id. Calls of the module are counted as forwards. At alpha = 0 it changes nothing.

    Raises:
        ArgumentError: a scale that is not finite or lacks `null`; in a run: noise given as a tensor, another kind of noise. ShapeError: v of another
        shape.

    >>> import torch, reverie as rv
    >>> p = rv.process.ddpm((1 - torch.linspace(0.01, 0.2, 20)).cumprod(0))
    >>> o = rv.oracle.Gaussian([5.0], [[0.01]], process=p)
    >>> [round(rv.sample(o, 64, nfe=10, hooks=h).mean().item(), 1) for h in ((), OneMoreStep(lambda x: -5 + 0 * x))]
    [4.9, 5.0]
    """

    begins: ClassVar[bool] = True

    def __init__(
        self,
        module: Callable[..., Tensor],
        scale: float = 1.0,
        null: Mapping[str, Any] | None = None,
        cond: Mapping[str, Any] | None = None,
    ) -> None:
        if not callable(module):
            raise ArgumentError(f"a module is called as module(x, **cond), got {type(module).__name__}")
        if not math.isfinite(scale):
            raise ArgumentError(f"the scale must be finite, got {scale}")
        if scale != 1 and null is None:
            raise ArgumentError(f"scale {scale:g} compares with a null condition of the module; give null=")
        self.module, self.scale, self.null, self.cond = module, scale, null, cond
        first = (
            next((q for q in module.parameters() if q.is_floating_point()), None)
            if isinstance(module, nn.Module)
            else None
        )
        self.dtype = None if first is None else first.dtype

    def v(self, x: Tensor, cond: Cond) -> Tensor:
        """The guided answer `(B, *shape)` to pure noise, in x's dtype; `cond` as `conditions` prepared it."""
        told = self._ask(x, cond)
        if self.scale == 1:
            return told
        nothing = self._ask(x, conditions(self.null, len(x), self.null, x.device))
        return nothing + self.scale * (told - nothing)

    def _ask(self, x: Tensor, cond: Cond) -> Tensor:
        v = self.module(x if self.dtype is None else x.to(self.dtype), **unwrap(cond))
        if not isinstance(v, Tensor) or v.shape != x.shape:
            got = tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
            raise ShapeError(f"the module returned {got} for noise of shape {tuple(x.shape)}")
        return v.to(x)

    def start(self, ctx: Run) -> None:
        """Set the state."""
        p, t, x = ctx.plan.process, ctx.plan.start, elementary(ctx, "OneMoreStep")
        if not isinstance(ctx.noise, Noise):
            raise ArgumentError(
                f"OneMoreStep draws noise of its own, from a seed; run(..., noise=) is a {type(ctx.noise).__name__}"
            )
        cond = ctx.cond
        if self.cond is not None:
            cond = conditions(in_turn(self.cond, ctx.index.tolist()), len(x), self.null, x.device)
        eps = p.draw(ctx.noise, x.shape[1:], ctx.index, _STAGE, HOOK, x.device, x.dtype)
        ctx.x = p.sigma(t) * eps - p.alpha(t) * self.v(x, cond)
        ctx.spent["forwards"] += 1 if self.scale == 1 else 2


def oms_loss(
    module: Callable[..., Tensor],
    x0: Tensor,
    noise: Tensor,
    cond: Mapping[str, Any] | None = None,
    null: Mapping[str, Any] | None = None,
    dropped: Tensor | None = None,
) -> Tensor:
    """The mean square of v(x_S, c) + x0, a scalar.

    Args:
        x0: clean states `(B, *shape)`. noise: x_S, standard normal, of x0's shape.
        cond: what the module is told, `B` rows or shared. null, dropped: rows where `dropped` `(B,)` is True are told `null` instead: a tenth,
            for a scale other than 1.

    Raises:
        ShapeError: noise, conditions or `dropped` that do not fit x0. ArgumentError: `dropped` without `null`, or a shared condition that is dropped.

    >>> oms_loss(lambda x: 0 * x - 2, torch.ones(3, 2), torch.zeros(3, 2)).item()
    1.0
    """
    if noise.shape != x0.shape:
        raise ShapeError(f"noise of shape {tuple(noise.shape)} for data of shape {tuple(x0.shape)}")
    told = conditions(cond, len(x0), null, x0.device)
    if dropped is not None:
        if null is None:
            raise ArgumentError("dropped conditions are told null=; give it")
        if dropped.shape != x0.shape[:1]:
            raise ShapeError(f"dropped has shape {tuple(dropped.shape)} for a batch of {len(x0)}")
        told = {
            key: _dropped(key, value, conditions(null, len(x0), null, x0.device), dropped)
            for key, value in told.items()
        }
    return (module(noise, **unwrap(told)) + x0).square().mean()


def _dropped(key: str, value: Any, null: Cond, dropped: Tensor) -> Tensor:
    """The condition with the null's rows where it is dropped."""
    instead = null.get(key)
    if not isinstance(value, Tensor) or not value.ndim or not isinstance(instead, Tensor) or not instead.ndim:
        raise ArgumentError(f"the condition {key!r} has no rows to drop here or in null=; give it a row a sample")
    return torch.where(dropped.to(value.device).reshape(-1, *[1] * (value.ndim - 1)), instead.to(value), value)
