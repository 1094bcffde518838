"""KDPM2: the midpoint rule in log sigma, deterministic and ancestral, as k-diffusion has it.

With y = x / alpha, rho = sigma / alpha and dy / drho = eps,

    m = sqrt(rho_s rho_d),    u = y_s + (m - rho_s) eps(y_s, rho_s),    y_d = y_s + (rho_d - rho_s) eps(u, m),

rho_d being the next node's rho, or, ancestral, that rho less the noise which is then added:

    up = min(rho_t, eta rho_t sqrt(1 - rho_t^2 / rho_s^2)),    rho_d = sqrt(rho_t^2 - up^2),    y_t = y_d + up z.

Euler into sigma = 0. Source: Karras et al. 2022 (2206.00364, algorithm 2 with another inner point), Crowson's k-diffusion (dpm_2, dpm_2_ancestral).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from reverie.base import ArgumentError, cites
from reverie.process import Process
from reverie.solve.exponential import Step
from reverie.solve.grids import Node
from reverie.solve.line import noise, prediction
from reverie.solve.solver import Table, solver

__all__ = ["kdpm_2", "kdpm_2_a"]


def _kdpm(process: Process, at: Sequence[Node], eta: float) -> Table:
    if not 0 <= eta < math.inf:
        raise ArgumentError(f"eta must be finite and at least 0, got {eta}")
    table = Table(kinds=("eps",))
    for i, (s, t) in enumerate(pairwise(at)):
        x, k = table.x, table.k
        if t.sigma == 0:
            table.ask(s, Step(s, t, "eps").first(x, prediction(k)), t, i)
            continue
        carry = Step(s, t, "eps").carry  # says where alpha = 0 has no way out
        share = eta * math.sqrt(1 - (t.ratio / s.ratio) ** 2)
        up = t.ratio * min(1.0, share)
        # 1 - share^2 without cancellation
        down = t.ratio * math.sqrt(max(0.0, (1 - eta) * (1 + eta) + (eta * t.ratio / s.ratio) ** 2))
        if down == 0:
            raise ArgumentError(f"eta = {eta} replaces all noise at t = {t.t:.4g}; take a smaller eta, or more steps")
        mid = Node.at(process, process.t_of_ratio(math.sqrt(s.ratio * down)))
        table.ask(s, mid.alpha / s.alpha * x + mid.alpha * (mid.ratio - s.ratio) * prediction(k), mid, i, inner=True)
        row = carry * x + t.alpha * (down - s.ratio) * prediction(k + 1)
        table.ask(mid, row + t.alpha * up * noise(table.draw()) if up else row, t, i)
    return table


@cites("edm")
@solver("kdpm-2", order=2, grid="karras")
def kdpm_2(process: Process, at: Sequence[Node]) -> Table:
    """The midpoint rule in log sigma (k-diffusion's dpm_2), two evaluations a step; first order into sigma = 0."""
    return _kdpm(process, at, 0.0)


@cites("edm")
@solver("kdpm-2-a", order=2, grid="karras", stochastic=True)
def kdpm_2_a(process: Process, at: Sequence[Node], *, eta: float = 1.0) -> Table:
    """KDPM2 ancestral (k-diffusion's dpm_2_ancestral): the midpoint rule down, and fresh noise up.

    Args:
        eta: >= 0, share of the ancestral noise; 0 is kdpm-2.
    """
    return _kdpm(process, at, eta)
