"""Null-text inversion: the empty prompt's states are bent, step by step, until a guided run goes through a given picture.

The anchor is the picture's way up without guidance, x*_0 .. x*_N (`ascent`, under the picture's own prompt). Then from the noise down, with z the
state that has been reached and u the null condition, beginning with the model's own or the step's before,

    minimise over u    mean |step(z; e_u + w (e_c - e_u)) - x*_next|^2,        e_u = eps(z, t, u),  e_c = eps(z, t, c) held,

by Adam, until the mean is below 1e-5 + 2e-5 i (i the step's number) or the rounds are over. The run goes on from what the step made, not from the
anchor. Weights and the prompt stay as they are, so other prompts can be put in place of c at the same u: an edit.

Without any rounds and u = c it is negative-prompt inversion: the guided answer is then e_c at every scale.

Sources: Mokady et al. 2023 (2211.09794); Miyake et al. 2023 (2305.16807) for u = c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, implements
from reverie.edit.ascent import ascent, nodes_of
from reverie.guide import CFG
from reverie.model import Model, conditions
from reverie.solve import Plan, run
from reverie.solve import plan as compile_plan

__all__ = ["NullText", "null_text"]


@implements("null-text")
@dataclass(frozen=True, eq=False)
class NullText:
    """What `null_text` found: `run` again with it, or with another prompt.

    Attributes:
        start: `(B, *shape)`, the noise. times: of the nodes, falling. nulls: one null condition a step. scale: of the guidance.
        errors: `(N,)`, the mean squared distance to the anchor that each step ended with. rounds: how many each step took.
    """

    start: Tensor
    times: tuple[float, ...]
    nulls: tuple[dict[str, Any], ...]
    scale: float
    errors: tuple[float, ...]
    rounds: tuple[int, ...]

    def replay(self, m: Model, cond: Mapping[str, Any], *, scale: float | None = None, hooks: Any = ()) -> Tensor:
        """The picture under a prompt, `(B, *shape)`: its own, or another. scale: of the guidance, the same by default."""
        z = self.start
        for step, null in zip(_steps(m, self.times), self.nulls, strict=True):
            z = run(step, m.with_null(null) | CFG(self.scale if scale is None else scale), z, cond=cond, hooks=hooks)
        return z


@implements("null-text")
def null_text(
    m: Model,
    x0: Tensor,
    cond: Mapping[str, Any],
    *,
    times: tuple[float, ...] | Plan,
    scale: float = 7.5,
    rounds: int = 10,
    rate: float = 1e-2,
    fixed: int = 0,
    negative: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> NullText:
    """The null conditions with which a guided DDIM run makes x0.

    Args:
        m: unguided, with a null condition; its floating tensors are what is optimised. x0: clean states `(B, *shape)`. cond: the picture's prompt.
        times: nodes, falling, or a plan whose times they are. scale: w. rounds: of Adam at most a step. rate: of Adam, falling by a percent of
            itself a step. fixed: rounds of the fixed-point iteration of the way up, see `ascent`.
        negative: begin with u = cond instead of the null condition (with rounds=0: negative-prompt inversion). tell: is told how it comes along.

    Raises `ArgumentError` for a model without a null condition, or one without floating tensors where it is to be optimised.

    >>> import reverie as rv
    >>> net = lambda x, t, c: 0.5 * torch.tanh(x + c)
    >>> m = rv.Model(net, rv.process.vp(), "v", null={"c": torch.zeros(1, 2)})
    >>> x, c = torch.tensor([[0.5, -0.2]]), {"c": torch.tensor([[1.0, -1.0]])}
    >>> plan = rv.solve.plan("ddim", m.process, steps=10)
    >>> plain, found = (null_text(m, x, c, times=plan, rounds=n) for n in (0, 30))
    >>> bool((found.replay(m, c) - x).abs().max() < 0.1 * (plain.replay(m, c) - x).abs().max())
    True
    """
    falling = nodes_of(times)
    if m.null is None:
        raise ArgumentError(f"{m.name} has no null condition, which is what null-text inversion bends")
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
        raise ArgumentError(f"rounds is a whole number of at least 0, got {rounds!r}")
    batch = len(x0)
    told = conditions(cond, batch, m.null, x0.device)
    u = conditions(told if negative else m.null, batch, None, x0.device)
    free = [name for name, v in u.items() if isinstance(v, Tensor) and v.is_floating_point()]
    if rounds and not free:
        raise ArgumentError(f"the null condition of {m.name} has no floating tensor to optimise; embed classes first")
    with torch.no_grad():
        anchor = [x0, *_states(ascent(m.process, falling[::-1], fixed), m, x0, told)][::-1]
    z, nulls, errors, took = anchor[0], [], [], []
    for i, step in enumerate(_steps(m, falling)):
        u = {name: v.detach().clone() if isinstance(v, Tensor) else v for name, v in u.items()}
        leaves = [u[name].requires_grad_() for name in free] if rounds else []
        adam = torch.optim.Adam(leaves, lr=rate * max(0.0, 1 - i / 100)) if rounds else None
        used = 0
        for _ in range(rounds):
            assert adam is not None
            made = run(step, m.with_null(u) | CFG(scale), z, cond=told, grad="full")
            loss = (made - anchor[i + 1]).square().mean()
            if float(loss.detach()) < 1e-5 + 2e-5 * i:
                break
            adam.zero_grad()
            torch.autograd.backward(loss, inputs=leaves)
            adam.step()
            used += 1
        u = {name: v.detach() if isinstance(v, Tensor) else v for name, v in u.items()}
        with torch.no_grad():
            z = run(step, m.with_null(u) | CFG(scale), z, cond=told)
        nulls.append(u)
        errors.append(float((z - anchor[i + 1]).square().mean()))
        took.append(used)
        tell(f"step {i + 1} of {len(falling) - 1}: {used} rounds, error {errors[-1]:.2g}")
    return NullText(anchor[0], falling, tuple(nulls), scale, tuple(errors), tuple(took))


def _steps(m: Model, falling: tuple[float, ...]) -> list[Plan]:
    return [compile_plan("ddim", m.process, grid=[a, b]) for a, b in pairwise(falling)]


def _states(up: Plan, m: Model, x0: Tensor, cond: Mapping[str, Any]) -> list[Tensor]:
    """The states at the nodes of the way up, above the first."""
    last, kept = run(up, m, x0, cond=cond, record="x")
    return [x for x, stage in zip([*kept["x"][1:], last], up.table, strict=True) if not stage.inner]
