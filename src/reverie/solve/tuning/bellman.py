"""Bellman's grid: the nodes of few steps, chosen on a fine grid by dynamic programming.

A fine first-order solution from many noises visits the states X_0 .. X_F at t_0 > ... > t_F and predicts x0 = D_i on its way. A jump from node i to
node j is one first-order step (DDIM; on flows this is Euler's step), and costs what it misses:

    c[i, j] = mean over noises |k X_i + w D_i - X_j|^2,        k = sigma_j / sigma_i,  w = alpha_j - k alpha_i,

summed over coordinates. It needs only the inner products of all states and predictions, so no tensor of F x F states is made. The cheapest path of
exactly K jumps from 0 to F follows from its end:

    V_1[i] = c[i, F],        V_k[i] = min_{j > i} c[i, j] + discount V_{k-1}[j].

A cost is local, seen from the fine solution's own states: the sum is not the error at the end. A discount above 1 weighs later jumps more.

Sources: Nguyen et al. 2024 (2312.16414), on flows, with Euler's step; Chen et al. 2024 (2405.11326), on sigma / alpha and with the discount.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, Noise, implements
from reverie.base.checks import at_least
from reverie.model import Model, conditions, in_turn, select
from reverie.process import Process
from reverie.solve.grids import Node
from reverie.solve.origin import origin
from reverie.solve.plan import Plan
from reverie.solve.run import run
from reverie.solve.solver import plan as compile_plan
from reverie.solve.tuning.common import state_shape

__all__ = ["BellmanGrid", "bellman_grid", "jump_costs", "shortest_path"]

_STREAM = 0xB05  # of noise: no sample begins with a noise that a grid was fitted to
_CHUNK = 1 << 22
"""Most float64 entries of states and predictions at a time (32 MiB)."""


def shortest_path(costs: Tensor, steps: int, discount: float = 1.0) -> tuple[int, ...]:
    """The cheapest path of exactly K jumps from node 0 to the last, as its K + 1 indices.

    Args:
        costs: `(F + 1, F + 1)`; only what lies above the diagonal counts. steps: K, from 1 to F. discount: > 0.

    Raises `ArgumentError`: numbers out of range.

    >>> shortest_path(torch.tensor([[0.0, 1, 5, 9], [0, 0, 1, 3], [0, 0, 0, 1], [0, 0, 0, 0]]), 2)
    (0, 1, 3)
    """
    last = len(costs) - 1
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= last:
        raise ArgumentError(f"steps must be a whole number from 1 to {last}, the steps of the fine grid, got {steps!r}")
    if isinstance(discount, bool) or not isinstance(discount, int | float) or not 0 < discount < math.inf:
        raise ArgumentError(f"discount must be a positive number, got {discount!r}")
    jump = torch.where(torch.ones_like(costs, dtype=torch.bool).triu(1), costs.double(), math.inf)
    value, nexts = jump[:, last], []
    for _ in range(steps - 1):
        value, best = (jump + discount * value).min(1)
        nexts.append(best)
    path = [0]
    for best in reversed(nexts):
        path.append(int(best[path[-1]]))
    return (*path, last)


def jump_costs(at: Sequence[Node], gram: Tensor) -> Tensor:
    """c[i, j] from inner products; infinite on and below the diagonal.

    Args:
        at: the F + 1 nodes. gram: `(2F + 1, 2F + 1)`, float64, the mean over noises of <a, b> for a, b among X_0 .. X_F, D_0 .. D_{F-1}.
    """
    n = len(at)
    alpha, sigma = (torch.tensor([getattr(s, name) for s in at], dtype=torch.float64) for name in ("alpha", "sigma"))
    k = sigma / sigma[:-1, None]
    w = alpha - k * alpha[:-1, None]
    xx, xd, dd = gram[:n, :n], gram[:n, n:], gram[n:, n:]
    moved = (
        k.square() * xx.diagonal()[:-1, None] + w.square() * dd.diagonal()[:, None] + 2 * k * w * xd.diagonal()[:, None]
    )
    missed = moved + xx.diagonal() - 2 * k * xx[:-1] - 2 * w * xd.T
    out = torch.full((n, n), math.inf, dtype=torch.float64)
    out[:-1] = torch.where(torch.ones_like(missed, dtype=torch.bool).triu(1), missed.clamp(min=0), math.inf)
    out.diagonal(1).zero_()  # the fine solution's own steps
    return out


@dataclass(frozen=True, eq=False)
class BellmanGrid:
    """A grid chosen by dynamic programming, and what it was chosen from.

    Attributes:
        process: whose times they are. fine: the F + 1 times of the fine grid. costs: `(F + 1, F + 1)`, float64, c[i, j] for i < j.
        indices: the K + 1 nodes chosen. discount: with which. noises: how many. evaluations: of the model that were spent, one a noise and node;
            forwards: of the network (guided models: more). model, fingerprint, seed: of the fine solution.
    """

    process: Process
    fine: tuple[float, ...]
    costs: Tensor
    indices: tuple[int, ...]
    discount: float
    noises: int
    evaluations: int
    forwards: int
    model: str
    fingerprint: str
    seed: int

    @property
    def steps(self) -> int:
        """K."""
        return len(self.indices) - 1

    @property
    def times(self) -> tuple[float, ...]:
        """The K + 1 times: `grid=` of any solver."""
        return tuple(self.fine[i] for i in self.indices)

    def cost(self, indices: Sequence[int] | None = None) -> float:
        """The summed cost of a path, without discount; by default its own."""
        path = self.indices if indices is None else tuple(indices)
        return math.fsum(float(self.costs[i, j]) for i, j in pairwise(path))

    @property
    def even(self) -> tuple[int, ...]:
        """The path of K jumps that are even in the fine grid, to compare with."""
        last = len(self.fine) - 1
        return tuple(round(k * last / self.steps) for k in range(self.steps + 1))

    def of(self, steps: int, discount: float | None = None) -> BellmanGrid:
        """The grid of another number of steps, from the same costs: nothing is evaluated. Raises as `shortest_path`."""
        weight = self.discount if discount is None else discount
        return replace(self, indices=shortest_path(self.costs, steps, weight), discount=weight)

    def plan(self, solver: str = "ddim", **options: Any) -> Plan:
        """A solver's plan on this grid, which knows where the grid comes from: on another model it warns. Raises as `solve.plan`."""
        made = compile_plan(solver, self.process, grid=self.times, **options)
        source = {
            "grid": "bellman", "model": self.model, "fingerprint": self.fingerprint, "fine": len(self.fine) - 1, "noises": self.noises,
            "seed": self.seed, "discount": self.discount, "evaluations": self.evaluations,
        }  # fmt: skip
        papers = tuple(dict.fromkeys((*made.papers, *bellman_grid.__papers__)))  # type: ignore[attr-defined]
        return made.replace(papers=papers, provenance={**made.provenance, **source})


@implements("boss")
def bellman_grid(
    m: Model,
    steps: int,
    *,
    fine: int = 100,
    noises: int = 100,
    grid: str | Sequence[Any] | None = None,
    end: str = "denoise",
    discount: float = 1.0,
    shape: Sequence[int] | None = None,
    cond: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch: int = 16,
    dtype: torch.dtype = torch.float32,
    tell: Callable[[str, float], None] = lambda what, share: None,
) -> BellmanGrid:
    """The K + 1 nodes on which K first-order steps of this model miss its fine solution least, each seen from there.

    Args:
        m: the model, with its guide. steps: K.
        fine: F, steps of the fine grid, at least K: one evaluation a noise each. noises: how many fine solutions; no sample of any seed begins
            with one of theirs.
        grid, end: of the fine grid, see `solve.plan`; a name or F + 1 values. By default even in time on flows, "karras" elsewhere.
        discount: of the cost to come; 1 is the paper's, above 1 weighs later jumps more (1.15 in GITS).
        shape: of one state; the model's by default. cond: the conditions that the noises take in turn: of a tensor with R rows noise i gets
            row i mod R; the rest is shared.
        seed: of the noises. batch: rows of a network call; 2 F states are held for each. dtype: of the states. tell: called with what is
            done and the share, in [0, 1], that is finished.

    Returns:
        A `BellmanGrid`: its `times` are a grid for any solver, `plan(solver)` a plan on it, `of(K)` the grid of another K at no cost.

    Raises:
        ArgumentError: numbers out of range. ShapeError: no shape, or conditions that do not fit. TimeError, UnknownNameError: as `solve.plan`.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Mixture(torch.tensor([[-1.0, 0.5], [1.0, 0.0]]), 0.3, process=rv.process.flow())
    >>> found = bellman_grid(o, 4, fine=20, noises=32)
    >>> found.steps, found.evaluations, found.cost() <= found.cost(found.even)
    (4, 640, True)
    >>> rv.solve.plan("dpmpp-2m", o.process, grid=found.times).nfe
    4
    """
    at_least(steps=(steps, 1), fine=(fine, 1), noises=(noises, 1), batch=(batch, 1))
    state = state_shape(m, shape)
    p = m.process
    if grid is None:
        grid = "karras" if math.isfinite(p.lam(p.t_min)) else "time"
    named = isinstance(grid, str)
    teacher = compile_plan("ddim", p, fine if named else None, grid=grid, end=end)
    if steps > teacher.steps:
        raise ArgumentError(f"{steps} steps do not fit into a fine grid of {teacher.steps}; give fine={steps} or more")
    told = conditions(in_turn(cond, range(noises)), noises, m.null, m.device)
    gram = torch.zeros(2 * teacher.steps + 1, 2 * teacher.steps + 1, dtype=torch.float64)
    for rows in torch.arange(noises).split(batch):
        tell("fine solutions", int(rows[0]) / noises)
        z = p.draw(Noise(seed), state, rows, stage=0, stream=_STREAM, device=m.device, dtype=dtype)
        here = select(told, rows.to(m.device), noises) if noises > 1 else told
        x, kept = run(teacher, m, p.prior(z, teacher.start), cond=here, record=("x", "x0"))
        gram += _gram([*kept["x"], x, *kept["x0"]])
    tell("done", 1.0)
    at = tuple(Node.at(p, t) for t in teacher.times)
    costs = jump_costs(at, gram / noises)
    return BellmanGrid(
        p, teacher.times, costs, shortest_path(costs, steps, discount), discount, noises,
        noises * teacher.steps, noises * (teacher.cost(m) or 0), m.name, origin(m)["fingerprint"], seed,
    )  # fmt: skip


def _gram(vectors: Sequence[Tensor]) -> Tensor:
    """The inner products of a batch's states, summed over its rows, float64 on the CPU; a bounded part of them at a time."""
    out = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
    flat = [v.flatten() for v in vectors]
    for first in range(0, len(flat[0]), width := max(1, _CHUNK // len(flat))):
        part = torch.stack([v[first : first + width].cpu().double() for v in flat])
        out += part @ part.T
    return out
