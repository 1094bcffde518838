"""S3: a search for the solver itself, over USF's tables, with a predictor.

The first generation has the known solvers on several grids (`genome.Tables`); then, in stages, `evolve` draws several times as many tables as will
be scored, and scores those that a predictor, which has learnt from every score so far, puts first.

The predictor looks at the unrolled table: the numbers by which the states are made of x_T and of the predictions, and lam where the model is asked.
Two genomes that compute the same are one point there. It is the distance-weighted mean of the logarithms of the k nearest scores,

    s(q) = sum_i s_i / d_i^2 / sum_i 1 / d_i^2,        d_i the distance to table i, every number in units of its interquartile range.

Nearest neighbours rather than ridge regression, since around a good table the error rises on all sides, which no linear function does, and the
scores of bad tables differ by orders of magnitude, which would decide a quadratic one. The paper's own predictor is a recurrent network that was
trained to rank; its code was not released.

Source: Liu et al. 2023 (2312.07243, section 4.2).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reverie.base import implements
from reverie.process import Process
from reverie.solve.plan import Plan
from reverie.solve.tuning.evolve import Found, evolve
from reverie.solve.tuning.genome import Genome, Tables
from reverie.solve.unroll import unroll

__all__ = ["neighbours", "search_solver"]


@functools.lru_cache(maxsize=1024)
def features(plan: Plan) -> Tensor:
    """The numbers of the unrolled table below its diagonal, and lam of its evaluations, `((N + 1) (N + 2) / 2 + N,)`, float64."""
    u = unroll(plan)
    lower = torch.ones_like(u.rows, dtype=torch.bool).tril()
    lam = [u.process.lam(t) for t in u.times]
    low, high = u.process.lam_range
    return torch.cat([u.rows[lower], torch.tensor(lam, dtype=torch.float64).clamp(low, high)])


def neighbours(plans: Sequence[Plan], scores: Sequence[float], others: Sequence[Plan], k: int = 8) -> list[float]:
    """Predicted logarithms of the scores of others, from the k nearest of the plans by their unrolled tables; all of one number of evaluations.

    >>> import reverie as rv
    >>> a, b = (rv.solve.plan(s, rv.process.vp(), steps=5) for s in ("ddim", "dpmpp-2m"))
    >>> round(neighbours([a, b], [1.0, 0.5], [b])[0], 6) == round(math.log(0.5), 6)
    True
    """
    seen, asked = torch.stack([features(p) for p in plans]), torch.stack([features(p) for p in others])
    spread = seen.quantile(0.75, dim=0) - seen.quantile(0.25, dim=0)
    used = spread > 1e-9
    distance = torch.cdist(asked[:, used] / spread[used], seen[:, used] / spread[used])
    near, which = distance.topk(min(k, len(plans)), largest=False)
    weight = 1 / (near**2 + 1e-12)
    logs = torch.tensor([math.log(max(s, 1e-300)) for s in scores], dtype=torch.float64)
    return ((weight * logs[which]).sum(1) / weight.sum(1)).tolist()


@implements("usf-s3")
def search_solver(
    process: Process,
    score: Callable[[Plan], float],
    nfe: int,
    *,
    evaluations: int = 400,
    seed: int = 0,
    end: str = "denoise",
    known: Mapping[str, float] | None = None,
    progress: Callable[[str, float], None] | None = None,
    predict: bool = True,
    breadth: int = 4,
    population: int = 50,
    mutations: int = 20,
    crossovers: int = 25,
    **space: Any,
) -> Found[Genome]:
    """S3: the table of USF's choices with which a model is sampled best in so many evaluations, by evolution with a predictor.

    Args:
        process: the model's. score: of a plan, lower is better, always of the same noises, e.g. `solve.endpoint_error`. It has fitted these in the
            end: score the winner again on fresh ones.
        nfe: evaluations of every table, at least 2. evaluations: tables that are scored. end: as for `solve.plan`.
        predict: whether a predictor chooses what is scored, of `breadth` times as many.
        seed, known, progress, population, mutations, crossovers: see `evolve`.
        space: see `genome.Tables`: seeds, grids, kinds, correctors, afs.

    Returns: `Found`, whose `plan` is the best; no seed solver scores better.

    Raises: as `evolve` and `Tables`.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Gaussian(torch.zeros(2), 0.2 * torch.eye(2), process=rv.process.vp())
    >>> found = search_solver(o.process, rv.solve.endpoint_error(o, 4), 3, evaluations=30, grids=("logsnr",))
    >>> found.plan.nfe, found.curve[-1] <= min(found.curve[:7])
    (3, True)
    """
    tables = Tables(process, nfe, end, **space)
    found = evolve(
        tables, score, evaluations=evaluations, population=population, parents=15, mutations=mutations, crossovers=crossovers, seed=seed,
        known=known, progress=progress, predictor=neighbours if predict else None, breadth=breadth, name="usf-s3",
    )  # fmt: skip
    return found.cited("usf-s3")
