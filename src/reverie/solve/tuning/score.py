"""Scores of plans, for searches: how far a plan's samples end from where the model's own flow takes them.

    score(plan) = median over samples of |x - x*|, over the root mean square of |x*|,

x from the plan, x* from `fine.Fine`, both from the same noises, which `sample` never draws; the median, for samples near a
boundary between modes may switch to the other one. x* is that of a run from t_max also where a plan begins later: what it skips is part of its
error.

Source: the measure of 2206.00927 (its figure 1) and of every claim about solvers here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from reverie.model import Model, select
from reverie.solve.fine import Fine
from reverie.solve.plan import Plan
from reverie.solve.run import run
from reverie.solve.tuning.common import state_shape

__all__ = ["endpoint_error"]

STREAM = 0x5C0  # of noise: no sample begins with a noise that a search has seen


def endpoint_error(
    m: Model,
    n: int = 64,
    *,
    shape: Sequence[int] | None = None,
    cond: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch: int = 64,
    reference: float | int | Plan = 1e-4,
) -> Callable[[Plan], float]:
    """A score of plans: the relative distance to the model's own fine solution, for `search_solver`, `search_times`, or by itself.

    Args:
        m: the model, guided or not. n: samples. shape, cond, seed, batch: as for `sample`; no sample begins with the noises of a score.
        reference: how the fine solution is found, see `fine.Fine`; once for every end of the plans.

    Returns: a function of a plan; it raises `NonFiniteError` where the samples do.

    Raises: `ShapeError` where no shape is known.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Gaussian(torch.zeros(2), 0.2 * torch.eye(2), process=rv.process.vp())
    >>> error = endpoint_error(o, 8)
    >>> error(rv.solve.plan("dpmpp-2m", o.process, steps=8)) < error(rv.solve.plan("ddim", o.process, steps=8))
    True
    """
    size = state_shape(m, shape)
    fine = Fine(m, n, size, cond=cond, seed=seed, batch=batch, reference=reference, stream=STREAM)

    def score(plan: Plan) -> float:
        parts, x = [], fine.begin(plan.start).to(m.device)
        for rows in torch.arange(n, device=m.device).split(batch):
            told = select(fine.cond, rows, n) if n > 1 else fine.cond
            parts.append(run(plan, m, x[rows], cond=told).double().cpu())
        target = fine(m.process.t_max, plan.times[-1])
        rms = target.flatten(1).square().sum(1).mean().sqrt()
        return float((torch.cat(parts) - target).flatten(1).norm(dim=1).median() / rms)

    return score
