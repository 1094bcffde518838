"""BDIA: every step is corrected by the step back that the same prediction makes, so that the plan can be run backwards exactly.

With D(i -> j) = (sigma_j / sigma_i) x_i + (alpha_j - alpha_i sigma_j / sigma_i) x0_i the DDIM step of state i by its own prediction, towards less
noise or more,

    x_1 = D(0 -> 1),        x_{k+1} = g x_{k-1} - g D(k -> k-1) + D(k -> k+1).

The step before, from k-1 to k, is undone by what is known at k (x_{k-1} - D(k -> k-1) is its error), in the share g. One evaluation a step. The new
state is linear in x_{k-1}, whose prediction it does not read: from two neighbouring states all earlier ones follow, `plan.inverse()`.

g = 1 is a leapfrog: symmetric, of second order on even nodes, with a mode of its own, of alternating sign, that nothing damps. g < 1 damps it, is of
first order, and its inverse multiplies any error by 1 / g a step: 0.5 for some 10 steps, 1 beyond.

Source: Zhang et al. 2023 (2307.10829, equations 20 to 24).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from reverie.base import ArgumentError, implements
from reverie.process import Process
from reverie.solve.ddim import transfer
from reverie.solve.grids import Node
from reverie.solve.line import prediction, state
from reverie.solve.solver import Table, solver

__all__ = ["bdia"]


@implements("bdia")
@solver("bdia", order=1)
def bdia(process: Process, at: Sequence[Node], *, gamma: float = 1.0) -> Table:
    """DDIM corrected by its own steps back; it can be inverted exactly.

    Args:
        gamma: in (0, 1], the share of the correction; 1 is exactly reversible at any number of steps, 0.5 is for about 10.
    """
    if not 0 < gamma <= 1:
        raise ArgumentError(f"gamma lies in (0, 1], got {gamma}; 0 would be ddim, which cannot be inverted")
    table = Table()
    for k, (s, t) in enumerate(pairwise(at)):
        x, said = state(k), prediction(k)
        row = transfer(s, t, x, said)
        if k:
            row = row + gamma * state(k - 1) - gamma * transfer(s, at[k - 1], x, said)
        table.ask(s, row, t, k)
    return table
