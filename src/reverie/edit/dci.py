"""Dual-conditional inversion: each level's noisy state is a fixed point, found by descent, with the answer drawn a little towards the picture.

With x* the picture's state, f(x_t; e) = (alpha_s / alpha_t) x_t + (sigma_s - alpha_s sigma_t / alpha_t) e the step up from t to s, and c its prompt,

    begin with    x_s = f(x_t; eps(x_t, s, c)),
    descend on    |x_s - f(x_t; e)|^2,        e = eps(x_s, s, c),    e <- e + reach (x* - e) / |x* - e|

by AdamW. With reach = 0 its minimum is DDIM's exact inverse; the reach trades that for states nearer to the picture. The paper's reach is 1 for
16,384 numbers, whose |x* - e| is about 128; `reach` here is in units of sqrt(d) / 128, so that 1 means the same in every size. Plain fixed-point
iteration is `ascent(rounds=...)`.

Source: Li et al. 2025 (2506.02560).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, implements
from reverie.edit.ascent import ascent, nodes_of
from reverie.model import Model, conditions
from reverie.solve import Plan, run

__all__ = ["dci"]


@implements("dci")
def dci(
    m: Model,
    x0: Tensor,
    cond: Mapping[str, Any] | None,
    *,
    times: tuple[float, ...] | Plan,
    reach: float = 1.0,
    rounds: int = 10,
    rate: float = 1e-3,
    decay: float = 0.0,
    enough: float = 5e-6,
) -> tuple[Tensor, list[Tensor]]:
    """The noise of a picture.

    Args:
        m: guided as wanted, the paper without. x0: clean states `(B, *shape)`. cond: its prompt.
        times: nodes, falling, or a plan whose times they are. reach: >= 0.
        rounds, rate, decay: of AdamW a level (the released code has its default decay, 0.01, which shrinks the states).
        enough: mean square at which a level ends.

    Returns:
        The noise `(B, *shape)`, and the states at the nodes on the way up, the noise last.

    Raises `ArgumentError` for a negative reach, or rounds.

    >>> import reverie as rv
    >>> o = rv.oracle.Mixture([[-1.0], [1.0]], 0.5, process=rv.process.vp())
    >>> down, x = rv.solve.plan("ddim", o.process, steps=20), o.sample(6).double()
    >>> gaps = [(rv.run(down, o, dci(o, x, None, times=down, reach=0.0, rounds=n, rate=5e-3)[0]) - x).abs().median() for n in (0, 10)]
    >>> bool(gaps[1] < gaps[0] / 2)
    True
    """
    if not 0 <= reach < math.inf or isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
        raise ArgumentError(f"reach >= 0 and a whole number of rounds >= 0 are needed, got {reach!r} and {rounds!r}")
    falling = nodes_of(times)
    p, told = m.process, conditions(cond, len(x0), m.null, x0.device)
    dims, length = tuple(range(1, x0.ndim)), reach * math.sqrt(x0[0].numel()) / 128
    x, states = x0, []
    for low, high in pairwise(falling[::-1]):
        a, b = float(p.alpha(high)) / float(p.alpha(low)), float(p.sigma(high))
        b -= a * float(p.sigma(low))
        with torch.no_grad():
            at = run(ascent(p, [low, high]), m, x, cond=told)
        at = at.detach().requires_grad_()
        adam = torch.optim.AdamW([at], lr=rate, weight_decay=decay)
        for _ in range(rounds):
            with torch.enable_grad():
                e = m(at, high, **told).eps
                if length:
                    gap = x0 - e
                    e = e + length * gap / gap.square().sum(dims, keepdim=True).sqrt().clamp_min(1e-12)
                loss = (at - a * x - b * e).square().mean()
            if float(loss.detach()) < enough:
                break
            adam.zero_grad()
            torch.autograd.backward(loss, inputs=[at])
            adam.step()
        x = at.detach()
        states.append(x)
    return x, states
