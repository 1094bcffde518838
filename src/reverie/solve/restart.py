"""Restart: Heun down, noise back up, Heun down again.

On reaching the node whose rho = sigma / alpha is nearest to `low`, the state is noised to `high` and solved down to that node by Heun on `substeps`
Karras nodes, `times` times:

    y <- y + sqrt(high^2 - low^2) z,      y = x / alpha

The noise undoes errors gathered so far, at small cost where the ODE is easy; between restarts the path is the ODE's.

Source: Xu et al. 2023 (2306.14878, equations 3 and 4, algorithm 1; the default interval is their CIFAR-10 setting).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from reverie.base import ArgumentError, cites
from reverie.process import Process
from reverie.solve.grids import Node
from reverie.solve.heun import coordinates_of, step
from reverie.solve.line import noise
from reverie.solve.solver import Table, solver

__all__ = ["restart"]

Interval = tuple[float, float, int, int]


@cites("restart", "edm")
@solver("restart", order=2, grid="karras", stochastic=True)
def restart(
    process: Process,
    at: Sequence[Node],
    *,
    intervals: Sequence[Interval] = ((0.06, 0.3, 3, 2),),
    coordinates: str | None = None,
) -> Table:
    """Restart sampling: Heun's method with forward noise inserted on intervals of sigma / alpha.

    Args:
        intervals: (low, high, substeps, times) each: 0 < low < high in sigma / alpha, substeps >= 2 nodes from high to low, times >= 0.
        coordinates: as for heun.
    """
    where = coordinates_of(process, coordinates)
    if isinstance(intervals, str) or not isinstance(intervals, Sequence):
        raise ArgumentError(f"intervals is a list of (low, high, substeps, times), got {intervals!r}")
    after: dict[int, list[Interval]] = {}
    for interval in intervals:
        _check(interval, at[0].ratio)
        near = min(
            (j for j in range(1, len(at)) if at[j].sigma > 0), key=lambda j: abs(at[j].ratio - interval[0]), default=0
        )
        if not near or at[near].ratio >= interval[1]:
            found = f"the node nearest to low lies at {at[near].ratio:.4g}" if near else "no node lies between the ends"
            raise ArgumentError(f"restart interval {tuple(interval)}: {found}; take more steps, or another interval")
        low, high, substeps, times = interval
        after.setdefault(near, []).append((low, high, int(substeps), int(times)))
    table = Table(kinds=(("eps" if where == "ratio" else "flow"),))
    for i, (s, t) in enumerate(pairwise(at)):
        again = after.get(i + 1, [])
        passes = sum(times for *_, times in again)
        step(table, s, t, where, i, inner=passes > 0)
        for _, high, substeps, times in again:
            path = _karras(process, high, t, substeps)
            std = path[0].alpha * math.sqrt(path[0].ratio ** 2 - t.ratio**2)
            for _ in range(times):
                table.move(path[0].alpha / t.alpha * table.x + std * noise(table.draw()), path[0], i, inner=True)
                passes -= 1
                for j, (u, v) in enumerate(pairwise(path)):
                    step(table, u, v, where, i, inner=passes > 0 or j < len(path) - 2)
    return table


def _check(interval: Interval, top: float) -> None:
    try:
        low, high, substeps, times = interval
        right = (
            0 < low < high <= top and substeps >= 2 and times >= 0 and int(substeps) == substeps and int(times) == times
        )
    except (TypeError, ValueError, OverflowError):  # no numbers, not four of them, or infinite
        right = False
    if not right:
        raise ArgumentError(
            f"a restart interval is (low, high, substeps, times) with 0 < low < high <= {top:.4g}, substeps >= 2, times >= 0, got {interval!r}"
        )


def _karras(process: Process, high: float, low: Node, n: int, rho: float = 7.0) -> list[Node]:
    """n nodes from sigma / alpha = high to the node `low`, even in its power 1 / rho."""
    a, b = high ** (1 / rho), low.ratio ** (1 / rho)
    ratios = [(a + j / (n - 1) * (b - a)) ** rho for j in range(n - 1)]
    return [*(Node.at(process, process.t_of_ratio(r)) for r in ratios), low]
