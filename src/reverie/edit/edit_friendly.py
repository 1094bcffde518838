"""Edit-friendly noise: the noises with which a stochastic plan makes a given picture, and which carry its layout.

A stochastic plan's step is x_{k+1} = mu_k(x_0 .. x_k) + c_k z_k. For a picture x0, states of every level are drawn independently of each other,

    x_k = alpha_k x0 + sigma_k e_k,        and then        z_k = (x_{k+1} - mu_k) / c_k,

so that the plan, begun at the first of them and given these noises, goes through all of them. Neighbouring states of a forward chain would differ by
little, and their z would be plain noise; states drawn independently differ by much, and their z are large (about 4 at 100 steps) and
correlated with their neighbours (about -0.5). Replayed under another prompt they change what is shown and keep where it is.

Each state is overwritten by mu + c z, so that rounding does not add up. The last step, without noise, leaves a rest x0 - mu, which a replay may
add. Any plan whose steps draw at most one noise will do; ddim with eta = 1 is the paper's. A plan with a `span` begins lower and stays closer to the
picture.

Source: Huberman-Spiegelglas et al. 2024 (2304.06140).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.base import HOOK, ArgumentError, Noise, implements
from reverie.model import Model
from reverie.solve import Plan, Run, run

__all__ = ["Extracted", "edit_friendly"]

_STAGE = 0xEDF


@implements("edit-friendly-ddpm")
@dataclass(frozen=True, eq=False)
class Extracted:
    """What `edit_friendly` found.

    Attributes:
        plan: of the extraction, and of replays. start: `(B, *shape)`, the state to begin with. noises: `(draws, B, *shape)`, for `run(..., noise=)`.
        rest: `(B, *shape)`, what the last step, which draws no noise, missed the picture by.
    """

    plan: Plan
    start: Tensor
    noises: Tensor
    rest: Tensor

    def replay(self, m: Model, *, cond: Mapping[str, Any] | None = None, rest: bool = False, **settings: Any) -> Tensor:
        """The picture made again `(B, *shape)`, under other conditions an edit.

        Args:
            m: the model, guided as wanted. rest: whether to add the rest, for an exact reconstruction. settings: of `run`.
        """
        made: Tensor = run(self.plan, m, self.start, cond=cond, noise=self.noises, **settings)
        return made + self.rest if rest else made


@implements("edit-friendly-ddpm")
def edit_friendly(
    m: Model,
    x0: Tensor,
    plan: Plan,
    *,
    cond: Mapping[str, Any] | None = None,
    guide: Callable[[Model], Model] | None = None,
    seed: int = 0,
    index: Tensor | None = None,
) -> Extracted:
    """The noises with which a plan makes x0.

    Args:
        x0: clean states `(B, *shape)` (of pictures for a model with a codec: `m.encode(pictures)`). plan: static and stochastic.
        cond, guide: what the picture is described by, and how strongly; those of a faithful reconstruction. seed, index: of the states drawn, and
            sample ids; other seeds give other edits.

    Raises `ArgumentError` for a plan that draws no noise, or more than one a step.

    >>> import reverie as rv
    >>> o = rv.oracle.Mixture([[-1.0], [1.0]], 0.3, process=rv.process.vp())
    >>> plan, x = rv.solve.plan("ddim", o.process, steps=30, eta=1.0), torch.tensor([[0.9], [-1.2]], dtype=torch.float64)
    >>> found = edit_friendly(o, x, plan)
    >>> bool((found.replay(o, rest=True) - x).abs().max() < 1e-10)
    True
    """
    sizes = _sizes(plan)
    p, guided = plan.process, m if guide is None else m | guide
    ids = torch.arange(len(x0)) if index is None else index
    draw = Noise(seed)

    def level(k: int) -> Tensor:
        """State k, drawn independently of the others."""
        e = p.draw(draw, x0.shape[1:], ids, _STAGE + k, HOOK, x0.device, x0.dtype)
        return p.perturb(x0, plan.times[k], e)

    follow = _Follow(sizes, level, x0)
    start = level(0)
    run(plan, guided, start, cond=cond, index=ids, hooks=follow, noise=lambda j: torch.zeros_like(x0))
    return Extracted(plan, start, torch.stack(follow.noises), follow.rest)


class _Follow:
    """A hook that reads the noise which each step would need, and takes it."""

    def __init__(self, sizes: list[float], level: Callable[[int], Tensor], x0: Tensor) -> None:
        self.sizes, self.level, self.x0 = sizes, level, x0
        self.noises: list[Tensor] = []
        self.rest = torch.zeros_like(x0)

    def after(self, ctx: Run) -> None:
        c, mu = self.sizes[ctx.k], ctx.x
        last = ctx.k == len(self.sizes) - 1
        if c:
            z = (
                (self.x0 if last and float(ctx.plan.process.sigma(ctx.plan.times[-1])) == 0 else self.level(ctx.k + 1))
                - mu
            ) / c
            self.noises.append(z)
            ctx.x = mu + c * z
        if last:
            self.rest = self.x0 - ctx.x


def _sizes(plan: Plan) -> list[float]:
    """The factor of each row's noise, 0 where it draws none."""
    if plan.rule is not None or any(s.rule is not None for s in plan.table):
        raise ArgumentError(
            f"{plan.solver!r} decides what it does during the run; take a static plan, such as ddim with eta=1"
        )
    out, seen = [], 0
    for k, s in enumerate(plan.table):
        drawn = list(s.row.part("n"))
        if len(drawn) > 1 or (drawn and drawn[0][0][0] != seen):
            raise ArgumentError(
                f"stage {k} of {plan.solver!r} draws more than one noise; take a plan with one a step, such as ddim with eta=1"
            )
        seen += len(drawn)
        out.append(float(drawn[0][1]) if drawn else 0.0)
    if not seen:
        raise ArgumentError(
            f"{plan.solver!r} draws no noise under these options, so there is none to find; take ddim with eta=1"
        )
    return out
