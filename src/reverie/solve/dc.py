"""DC-Solver: UniPC with dynamic compensation.

A predictor-corrector reuses the prediction that was made at the uncorrected state, so that its history and its states drift apart, the more the
stronger the guidance. At node i, before the predictor leaves it, the newest prediction is therefore replaced by the parabola through the last
three, read a little beside its own time:

    tau_i = r_i t_i + (1 - r_i) t_{i-1},        P_i <- sum_{a=0..2} P_{i-a} prod_{b != a} (tau_i - t_{i-b}) / (t_{i-a} - t_{i-b})

t is the process's own time (the label, where it was trained on labels), not lam. What replaces P_i stays: the predictor to t_{i+1}, the corrector
there and all later rows read it, later compensations too. r_i = 1 changes nothing, and with r = 1 throughout the table is UniPC's. Any other
ratio makes the method one of first order; with few steps that is no loss. `solve.tuning.compensate` finds the ratios of a model, `solve.Cascade`
predicts them for other guidance scales and numbers of steps.

Source: Zhao et al. 2024 (2409.03755, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from reverie.base import ArgumentError, cites, implements
from reverie.process import Process
from reverie.solve.exponential import derivatives
from reverie.solve.grids import Node
from reverie.solve.line import Line
from reverie.solve.solver import Table, solver
from reverie.solve.tuning.cascade import FIRST
from reverie.solve.unipc import unipc

__all__ = ["dc_solver"]


def _ratios(given: Any, n: int) -> list[float]:
    """The ratios of n steps."""
    if given is None:
        return [1.0] * n
    if isinstance(given, Real):
        given = [1.0] * min(FIRST, n) + [given] * (n - FIRST)
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != n:
        count = f"{len(given)} ratios" if isinstance(given, Sequence) and not isinstance(given, str) else repr(given)
        raise ArgumentError(f"dc-solver takes one ratio for all steps, or one a step: {n} here, got {count:.80}")
    for i, r in enumerate(given):
        if isinstance(r, bool) or not isinstance(r, Real) or not math.isfinite(r):
            raise ArgumentError(f"ratio {i} of dc-solver must be a finite number, got {r!r:.80}")
        if i < FIRST and r != 1:
            raise ArgumentError(
                f"ratio {i} of dc-solver must be 1, got {r}: three predictions are known from step {FIRST} on"
            )
    return [float(r) for r in given]


def _order(order: int = 2, corrector: bool = True, ratios: Any = None, **_: Any) -> int:
    plain = ratios is None or all(r == 1 for r in ([ratios] if isinstance(ratios, Real) else ratios))
    return order + bool(corrector) if plain else 1


@implements("dc-solver")
@cites("unipc")
@solver("dc-solver", order=_order, grid="time", elsewhere="logsnr")
def dc_solver(
    process: Process,
    at: Sequence[Node],
    *,
    ratios: Sequence[float] | float | None = None,
    order: int = 2,
    variant: str = "bh2",
    corrector: bool = True,
    lower_final: bool | None = None,
) -> Table:
    """DC-Solver: UniPC whose newest prediction is read beside its time, by a ratio a step.

    Args:
        ratios: one a step, the first two 1, as `solve.tuning.compensate` finds them; a number for all steps from the third on; None (default): all 1,
            which is UniPC. They belong to one model, grid, guidance scale and order.
        order: of the predictor, 1 to 3: 2 (default) under guidance, 3 without (there with "bh1").
        variant: "bh2" (default) or "bh1". corrector: whether the predicted states are corrected.
        lower_final: let the order fall towards the end (default: when N < 10).
    """
    if not 1 <= order <= 3:
        raise ArgumentError(f"the order of dc-solver is 1, 2 or 3, got {order}")
    told = _ratios(ratios, len(at) - 1)

    def revise(i: int, said: Sequence[Line]) -> Line:
        if told[i] == 1:
            return said[i]
        back, tau = (i, i - 1, i - 2), told[i] * at[i].t + (1 - told[i]) * at[i - 1].t
        return derivatives([at[j].t - tau for j in back], [said[j] for j in back])[0]

    return unipc(at, order, variant, "x0", corrector, lower_final, revise)
