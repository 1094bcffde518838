"""SA-Solver: stochastic Adams, a predictor and a corrector for the reverse SDE with any noise tau(t).

With eta = tau^2 the exact step is that of `exponential.Step`; the predictor puts the polynomial through the last predictions into its integral, the
corrector the polynomial through the new one too. Both rows of a step draw one noise:

    x~_t = Step(s -> t).through(D_s, D_{s-1}, ...) + std z,        D_t = model(x~_t, t),
    x_t  = Step(s -> t).through(D_t, D_s, D_{s-1}, ...) + std z.

The released code weighs the slope in rows of two predictions by alpha_t (1 + tau^2) h^2 / 2, which differs by O(h^3) (`simplified`).

tau acts where sigma / alpha at s lies in [tau_min, tau_max]; elsewhere the step is of the ODE. The last row predicts only.

Source: Xue et al. 2023 (2309.05019, equations 13 to 19 and algorithm 1; released code for `simplified`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from reverie.base import ArgumentError, cites
from reverie.process import Process
from reverie.solve.exponential import Step
from reverie.solve.grids import Node
from reverie.solve.line import Line, noise, prediction
from reverie.solve.solver import Table, solver

__all__ = ["sa_solver"]


def _row(step: Step, x: Line, at: Sequence[Node], values: Sequence[Line], simplified: bool) -> Line:
    if simplified and len(at) == 2:
        slope = (values[0] - values[1]) / (at[0].lam - at[1].lam)
        now = values[0] if at[0] is step.s else values[1]
        return step.first(x, now) + step.t.alpha * (1 + step.eta) * step.h**2 / 2 * slope
    return step.through(x, at, values)


def _order(predictor: int = 3, corrector: int = 3, tau: float = 1.0, **_: object) -> int:
    return min(2, max(predictor, corrector)) if tau else max(predictor, corrector)


@cites("sa-solver")
@solver("sa-solver", order=_order, stochastic=True)
def sa_solver(
    process: Process,
    at: Sequence[Node],
    *,
    predictor: int = 3,
    corrector: int = 3,
    tau: float = 1.0,
    tau_min: float = 0.0,
    tau_max: float = math.inf,
    simplified: bool = True,
    lower_final: bool | None = None,
) -> Table:
    """SA-Solver: stochastic Adams predictor and corrector, one evaluation a step.

    Args:
        predictor: predictions it combines, 1 to 4. corrector: predictions it combines, the new one included, 2 to 4; 0 or 1: no corrector
            of that kind (0 none, 1 the new prediction alone).
        tau: >= 0, amount of noise: 1 is the reverse SDE, 0 the ODE. tau_min, tau_max: the sigma / alpha between which it acts.
        simplified: rows of two predictions as released; False: exact weights.
        lower_final: let the order fall towards the end (default: when N < 10).
    """
    if predictor not in (1, 2, 3, 4) or corrector not in (0, 1, 2, 3, 4):
        raise ArgumentError(f"predictor must be 1 to 4 and corrector 0 to 4, got {predictor!r} and {corrector!r}")
    if not 0 <= tau < math.inf:
        raise ArgumentError(f"tau must be finite and at least 0, got {tau}")
    if not 0 <= tau_min <= tau_max:
        raise ArgumentError(f"0 <= tau_min <= tau_max is needed, got {tau_min} and {tau_max}")
    n = len(at) - 1
    lower = n < 10 if lower_final is None else lower_final
    table, asked, base = Table(), list[int](), Line()
    last: tuple[Step, Line] | None = None
    correct = 0
    for i, (s, t) in enumerate(pairwise(at)):
        if last is not None and correct:
            asked.append(table.k)
            back = range(i, i - correct, -1)
            step, z = last
            row = _row(step, base, [at[j] for j in back], [prediction(asked[j]) for j in back], simplified)
            table.ask(s, row + z, s, i, inner=True)
        base = table.x
        step = Step(s, t, "x0", tau**2 if tau_min <= s.ratio <= tau_max else 0.0)
        z = step.std * noise(table.draw()) if step.std else Line()
        corrected = len(asked) == i + 1
        if not corrected:
            asked.append(table.k)
        order = min(predictor, i + 1, n - i if lower else predictor)
        while order > 1 and not (math.isfinite(t.lam) and math.isfinite(at[i - order + 1].lam)):
            order -= 1
        back = range(i, i - order, -1)
        row = _row(step, base, [at[j] for j in back], [prediction(asked[j]) for j in back], simplified) + z
        if corrected:
            table.move(row, t, i)
        else:
            table.ask(s, row, t, i)
        correct = min(corrector, i + 2, n - i + 1 if lower else corrector)
        while correct > 0 and not all(math.isfinite(at[j].lam) for j in range(i + 2 - max(correct, 2), i + 2)):
            correct -= 1 if correct > 2 else correct
        last = step, z
    return table
