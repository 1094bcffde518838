"""Gradients through a run in flat memory: by going back over the run itself, or by the adjoint of its differential equation.

    full          every operation of the run is kept: exact, memory grows with the steps
    checkpoint    states are kept and every evaluation is made again: exact, memory grows by a state a step, one more forward an evaluation
    reversible    the last states are kept, and the earlier ones found by the plan's own algebra (`Plan.inverse`): exact up to rounding, flat memory,
                  for plans that can be inverted (bdia)
    adjoint       the last state is kept, and the probability-flow ODE solved back together with its adjoint: any deterministic plan, flat memory,
                  and the gradient of the *equation*, from which that of the plan differs by the order of both

Sources: Chen et al. 2018 (1806.07366) for the adjoint, Zhang et al. 2023 (2307.10829) for a reversible plan, Chen et al. 2016 (1604.06174) for
checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError
from reverie.model import Model, Shared
from reverie.solve.adjoint import Adjoint, AdjointBack, check_ode
from reverie.solve.backward import Back, Last
from reverie.solve.inverse import window
from reverie.solve.plan import Plan
from reverie.solve.reversible import Reversible

__all__ = ["through"]

Forward = Callable[[Tensor, Any], Tensor]
"""`(x, hook) -> x`, the run without gradients, seen by a hook."""


def through(
    plan: Plan,
    model: Model,
    x: Tensor,
    cond: dict[str, Any],
    inputs: dict[str, Tensor],
    grad: str | Adjoint,
    forward: Forward,
) -> Tensor:
    """The final state `(B, *shape)` of a run, with its gradient by the mode "reversible" or "adjoint"; see `run`."""
    if not isinstance(model, Model):
        raise ArgumentError(
            f"grad={grad!r} is for one model; a plan that asks several has grad='full' and 'checkpoint'"
        )
    wanted = [name for name, v in inputs.items() if v.requires_grad]
    leaves = [*_tensors(cond.values()), *(inputs[name] for name in wanted)]
    spots = {name: len(leaves) - len(wanted) + i for i, name in enumerate(wanted)}
    if isinstance(grad, Adjoint) or grad == "adjoint":
        how = grad if isinstance(grad, Adjoint) else Adjoint()
        check_ode(plan, how.form)
        back: Back = AdjointBack(plan, model, cond, inputs, how)
    else:
        back = Reversible(plan, model, cond, inputs, window(plan), spots)
    leaves += _parameters(back, x, leaves)
    made: Tensor = _Through.apply(back, forward, x, *leaves)
    return made


class _Through(torch.autograd.Function):
    """The run as one operation of autograd."""

    @staticmethod
    def forward(ctx: Any, back: Back, forward: Forward, x: Tensor, *leaves: Tensor) -> Tensor:
        kept = Last(back.keeps, x, outer=back.outer)
        made = forward(x.detach(), kept).clone()
        ctx.back, ctx.count = back, len(kept.states)
        ctx.save_for_backward(*kept.states, *leaves)
        return made

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        saved = ctx.saved_tensors
        first, grads = ctx.back.run(saved[: ctx.count], g, saved[ctx.count :])
        return None, None, first, *grads


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among conditions that want a gradient."""
    every = (v.value if isinstance(v, Shared) else v for v in values)
    return [v for v in every if isinstance(v, Tensor) and v.requires_grad]


def _parameters(back: Back, x: Tensor, given: list[Tensor]) -> list[Tensor]:
    """The leaves of the model's graph that want a gradient: weights, a guide's scale; found by one evaluation."""
    stage = next(s for s in back.plan.table if s.t is not None)
    with torch.enable_grad():
        outs = back.ask(x.detach(), stage)
    found: dict[int, Tensor] = {}
    known, seen = {id(v) for v in given}, set()
    todo = [out.grad_fn for out in outs if out.grad_fn is not None]
    stop = {v.grad_fn for v in given if v.grad_fn is not None}
    while todo:
        node: Any = todo.pop()
        if node is None or node in seen or node in stop:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            found[id(leaf)] = leaf
        todo += [parent for parent, _ in node.next_functions]
    return list(found.values())
