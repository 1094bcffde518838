"""One initial noise for every picture: a restorer's best boundary condition, found on a few reference pairs.

With a deterministic plan a conditional restorer is a function h(x_T, y) of its initial noise and its input. Some noises are better than others for
nearly every y. So

    q_k = mean over pairs of metric(h(x_T^k, y_i), z_i),        x_T* = argmin_k q_k,        then h(x_T*, y) for every y,

without training.

The pairs are cut in two. On one half the candidates compete by successive halving: all of them on the first few pairs, the best part on twice as
many, until one is left. On the other half, which selection has not seen, the winner is compared with random draws: what is left of its lead is
real, the rest was luck. The rank correlation of the draws' scores between the halves says whether there is a shared optimum at all.

On Gaussian data h = E[x0 | y] + A x_T, and under the squared error q_k = const + |A x_T^k|^2 / d: the choice is the smallest noise, hence a blurry
picture, and x_T = 0 is better still. The metric defines what the result means. It is one answer a picture: never call it samples. It
holds for the same solver, steps, guidance and size.

Source: Ma et al. 2023 (2305.15357). The halving, the held-out half and the correlation are ours.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from reverie.base import PRIOR, ArgumentError, Noise, ShapeError, implements
from reverie.model import Model, conditions, select
from reverie.solve import SOLVERS, Plan, Run, run

__all__ = ["FixedStart", "OptimalStart", "optimal_start"]

Metric = Callable[[Tensor, Tensor], Tensor]


def _deterministic(plan: Plan) -> None:
    """Raise `ArgumentError` for a plan whose result is no function of where it starts."""
    entry = SOLVERS.get(plan.solver)
    if plan.noises or (not plan.table and entry is not None and entry.stochastic):
        raise ArgumentError(
            f"{plan.solver!r} draws noise on its way, so that its initial noise does not determine the result; "
            f"take a deterministic plan (ddim with eta=0, dpmpp-2m, unipc-2, ...)"
        )


class FixedStart:
    """A hook that starts every sample from one noise.

    Args:
        noise: `(*shape)`, of unit variance as `Process.draw` makes it, e.g. `optimal_start(...).noise`.

    Raises:
        ArgumentError: in a run whose plan draws noise. ShapeError: states of another shape.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Gaussian([1.0, 2.0], torch.eye(2), process=rv.process.vp())
    >>> rv.sample(o, 3, nfe=6, hooks=FixedStart(torch.zeros(2))).std(0).tolist()
    [0.0, 0.0]
    """

    begins: ClassVar[bool] = True

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise

    def start(self, ctx: Run) -> None:
        """Set the state."""
        _deterministic(ctx.plan)
        if self.noise.shape != ctx.x.shape[1:]:
            raise ShapeError(f"a noise of shape {tuple(self.noise.shape)} for states {tuple(ctx.x.shape)}")
        z = self.noise.to(ctx.x).expand(ctx.x.shape)
        ctx.x = ctx.plan.process.prior(z, ctx.plan.start, ctx.inputs.get("y"))


@dataclass(frozen=True, eq=False)
class OptimalStart:
    """What was found; scores are the metric's, lower is better.

    Attributes:
        noise: x_T*, `(*shape)`, for `FixedStart`. candidate: its number: where sample number `candidate` of the seed begins.
        score: of x_T* on the held-out half. mean, std, median: of random draws there. zero: of x_T = 0 there.
        gain: (mean - score) / std, in standard deviations over draws; selected_gain: the same on the half that chose, luck included.
        spearman: rank correlation of the draws' scores between the halves.
        draws: the draws' scores on both halves, `(2, draws)`, the held-out half second.
        rounds: of the halving: (candidates, pairs, best score) each. runs: how many states were sampled in all.
    """

    noise: Tensor
    candidate: int
    score: float
    mean: float
    std: float
    median: float
    zero: float
    gain: float
    selected_gain: float
    spearman: float
    draws: Tensor
    rounds: tuple[tuple[int, int, float], ...]
    runs: int

    def __str__(self) -> str:
        return (
            f"candidate {self.candidate}: {self.score:.4g} on held-out pairs; random draws {self.mean:.4g} ± {self.std:.2g} "
            f"({self.gain:.2g} sd better, {self.selected_gain:.2g} where it was chosen), zero noise {self.zero:.4g}; "
            f"rank correlation of the halves {self.spearman:.3f}"
        )


def spearman(a: Tensor, b: Tensor) -> float:
    """The rank correlation of two vectors `(n,)`; ties share their mean rank. NaN where one of them is constant.

    >>> spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 30.0, 20.0]))
    0.5
    """

    def ranks(v: Tensor) -> Tensor:
        less, equal = (v[None] < v[:, None]).sum(1).double(), (v[None] == v[:, None]).sum(1).double()
        return less + (equal - 1) / 2

    x, y = (r - r.mean() for r in (ranks(a), ranks(b)))
    scale = float((x.square().sum() * y.square().sum()).sqrt())
    return float((x * y).sum()) / scale if scale else math.nan


@implements("optimal-bc")
def optimal_start(
    m: Model,
    plan: Plan,
    targets: Tensor,
    metric: Metric,
    *,
    cond: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    candidates: int = 200,
    keep: float = 0.25,
    first: int = 4,
    draws: int = 32,
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
    batch: int = 16,
    dtype: torch.dtype = torch.float32,
    decode: bool = True,
    progress: bool = False,
) -> OptimalStart:
    """The initial noise that restores reference pairs best.

    Args:
        m: a conditional model, guided or not. plan: deterministic, and the one that will be used.
        targets: z, `(n, ...)`, n >= 4, what the model should give. cond, inputs: y, as `run` takes them: tensors with n rows are a pair's, the rest
            is shared. Even pairs choose, odd pairs are held out.
        metric: `(made, targets) -> (B,)`, a distance a picture, lower is better.
        candidates: noises to begin with. keep: the part that a round keeps, in (0, 1). first: pairs of the first round; each further one has twice as
            many.
        draws: candidates that are scored on all pairs, chosen or not, for the statistics.
        shape: of a state; by default the model's. seed: candidate k is the noise of sample k of this seed. batch: rows of a network call.
        dtype: of the states. decode: whether the metric sees decoded pictures (of a model with a codec). progress: a line a round on stderr.

    Raises:
        ArgumentError: a plan that draws noise, numbers out of range. ShapeError: fewer than 4 pairs, conditions or scores that do not fit them.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Gaussian([0.0, 0.0], torch.eye(2), process=rv.process.flow())
    >>> plan = rv.solve.plan("ddim", o.process, steps=4, grid="time")
    >>> found = optimal_start(o, plan, torch.zeros(8, 2), lambda made, z: (made - z).square().mean(1), candidates=20, draws=8)
    >>> found.rounds[0][:2], found.spearman, found.zero
    ((20, 4), 1.0, 0.0)
    """
    _deterministic(plan)
    n, shape = len(targets), m.shape if shape is None else tuple(shape)
    if shape is None:
        raise ShapeError("the model does not know its state's shape; give shape=(channels, height, width)")
    if n < 4:
        raise ShapeError(f"{n} reference pairs; at least 4 are needed, two to choose and two to check")
    for name, value, least in (
        ("candidates", candidates, 2),
        ("draws", draws, 2),
        ("first", first, 1),
        ("batch", batch, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ArgumentError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if not 0 < keep < 1:
        raise ArgumentError(f"keep is the part of the candidates that goes on, in (0, 1), got {keep!r}")
    told, given = conditions(cond, n, m.null, m.device), conditions(inputs, n, None, m.device)
    spent = 0

    def score(noises: Tensor, pairs: Tensor) -> Tensor:
        """The mean metric of each noise (K, *shape) over some pairs, (K,) float64."""
        nonlocal spent
        spent += len(noises) * len(pairs)
        every = torch.arange(len(noises) * len(pairs))
        found = []
        for ids in torch.split(every, batch):
            full = torch.cat([ids, ids[:1].expand(batch - len(ids))])  # a network call always has `batch` rows
            of = pairs[full % len(pairs)]
            y = select(given, of.to(m.device), n)
            x = plan.process.prior(noises[full // len(pairs)].to(m.device), plan.start, y.get("y"))
            made = run(plan, m, x, cond=select(told, of.to(m.device), n), inputs=y)
            with torch.no_grad():
                values = metric(m.decode(made) if decode else made, targets[of.to(targets.device)].to(made.device))
            if values.shape != (batch,):
                raise ShapeError(
                    f"the metric gave {tuple(values.shape)} for {batch} pictures; one number each is needed"
                )
            found.append(values[: len(ids)].double().cpu())
        return torch.cat(found).reshape(len(noises), len(pairs)).mean(1)

    choose, check = torch.arange(0, n, 2), torch.arange(1, n, 2)
    pool = plan.process.draw(Noise(seed), shape, range(candidates), stream=PRIOR, dtype=dtype)
    alive, rounds = torch.arange(candidates), []
    for k in itertools.count():
        pairs = choose[: first * 2**k]
        scores = score(pool[alive], pairs)
        order = scores.argsort(stable=True)
        rounds.append((len(alive), len(pairs), float(scores[order[0]])))
        whole = len(pairs) == len(choose)
        alive = alive[order[: 1 if whole else max(2, math.ceil(keep * len(alive)))]]
        if progress:
            sys.stderr.write(f"{rounds[-1][0]} candidates on {rounds[-1][1]} pairs: best {rounds[-1][2]:.4g}\n")
        if whole:
            break
    best = int(alive[0])
    random = pool[: min(draws, candidates)]
    both = torch.stack([score(random, half) for half in (choose, check)])
    mine, zero = pool[best][None], torch.zeros_like(pool[:1])
    chosen, held = (float(score(mine, half)) for half in (choose, check))
    means, stds = both.mean(1).tolist(), both.std(1).tolist()
    gains = [(mean - q) / std if std else math.nan for mean, std, q in zip(means, stds, (chosen, held), strict=True)]
    return OptimalStart(
        pool[best], best, held, means[1], stds[1], float(both[1].median()), float(score(zero, check)), gains[1], gains[0],
        spearman(both[0], both[1]), both, tuple(rounds), spent,
    )  # fmt: skip
