"""Multistep consistency sampling: the network's x0, and fresh noise.

    x_t = alpha_t D + sigma_t z,      D the prediction of x0 at s

For consistency models and their latent kin, whose D is a sample rather than a mean; on an ordinary network it gives blurred pictures.

Source: Song et al. 2023 (2303.01469, algorithm 1), Luo et al. 2023 (2310.04378).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from reverie.base import cites
from reverie.process import Process
from reverie.solve.grids import Node
from reverie.solve.line import noise, prediction
from reverie.solve.solver import Table, solver

__all__ = ["lcm"]


@cites("consistency-models", "lcm")
@solver("lcm", order=0, grid="trailing", stochastic=True)
def lcm(process: Process, at: Sequence[Node]) -> Table:
    """Multistep consistency sampling: x0 at every step, noised afresh; for consistency models, 1 to 8 steps."""
    table = Table()
    for i, (s, t) in enumerate(pairwise(at)):
        row = t.alpha * prediction(table.k)
        table.ask(s, row + t.sigma * noise(table.draw()) if t.sigma else row, t, i)
    return table
