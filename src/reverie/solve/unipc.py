"""UniPC: a multistep predictor, and a corrector that costs no evaluation.

The predictor of order p goes from s to t through the predictions at s, s-1, ..., s-p+1. The model is asked at the predicted x_t; that answer
first corrects x_t (one order higher, through t too) and then serves the next step as its newest prediction:

    x~_t = predict(x_s; P_s, P_{s-1}, ...),     P_t = model(x~_t, t),     x_t = correct(x_s; P_t, P_s, P_{s-1}, ...)

Both are the polynomial rows of `exponential.Step.through`. The paper's free function B(h) cancels from them, except in the two rows it
simplifies, which weigh the slope by B(h) / 2: the predictor of order 2, d = (P_s - P_{s-1}) / r, and the corrector of order 1, d = P_t - P_s:

    bh1: B = h alpha_t,      bh2: B = (1 - exp(-h)) alpha_t           (data prediction; noise prediction: -sigma_t h, -sigma_t expm1(h))

The last row predicts only, and to sigma = 0 in first order. `lower_final` lets the order fall towards the end.

Source: Zhao et al. 2023 (2302.04867, algorithms 5 to 8, section 3.4 for B(h)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from reverie.base import cites, unknown
from reverie.process import Process
from reverie.solve.exponential import Step
from reverie.solve.grids import Node
from reverie.solve.line import Line, prediction
from reverie.solve.solver import Table, solver

__all__ = ["unipc", "unipc_1", "unipc_2", "unipc_3"]


def _half(step: Step, variant: str) -> float:
    """B(h) / 2, the simplified weight of a difference over one step."""
    if variant == "bh2":
        return step.weight(0) / 2
    return (step.t.alpha if step.kind == "x0" else -step.t.sigma) * step.h / 2


def _predict(step: Step, x: Line, at: Sequence[Node], values: Sequence[Line], variant: str) -> Line:
    if len(at) == 2:
        r = (at[0].lam - at[1].lam) / step.h
        return step.first(x, values[0]) + _half(step, variant) / r * (values[0] - values[1])
    return step.through(x, at, values)


def _correct(step: Step, x: Line, at: Sequence[Node], values: Sequence[Line], variant: str) -> Line:
    if len(at) == 2:
        return step.first(x, values[1]) + _half(step, variant) * (values[0] - values[1])
    return step.through(x, at, values)


def unipc(
    at: Sequence[Node],
    top: int,
    variant: str,
    kind: str,
    corrector: bool,
    lower_final: bool | None,
    revise: Callable[[int, Sequence[Line]], Line] | None = None,
) -> Table:
    """The table of UniPC of order `top`; see `unipc_1`.

    Args:
        revise: `(i, predictions at the nodes 0 .. i)` -> what takes the place of the last of them from the predictor of step i on.
    """
    if variant not in ("bh1", "bh2"):
        raise unknown("variant", variant, ["bh1", "bh2"])
    if kind not in ("x0", "eps"):
        raise unknown("kind", kind, ["x0", "eps"])
    n = len(at) - 1
    lower = n < 10 if lower_final is None else lower_final
    table, said, base, order = Table(kinds=(kind,)), list[Line](), Line(), 0
    for i, (s, t) in enumerate(pairwise(at)):
        if corrector and i and math.isfinite(Step(at[i - 1], s, kind).h):
            # ask at the predicted state; the row is the corrected one
            said.append(prediction(table.k))
            back = range(i, i - order - 1, -1)
            row = _correct(Step(at[i - 1], s, kind), base, [at[j] for j in back], [said[j] for j in back], variant)
            table.ask(s, row, s, i, inner=True)
        order = min(top, i + 1, n - i if lower else top)
        while order > 1 and not (math.isfinite(t.lam) and math.isfinite(at[i - order + 1].lam)):
            order -= 1
        base = table.x
        corrected = len(said) == i + 1
        if not corrected:
            said.append(prediction(table.k))
        if revise is not None:
            said[i] = revise(i, said)
        back = range(i, i - order, -1)
        row = _predict(Step(s, t, kind), base, [at[j] for j in back], [said[j] for j in back], variant)
        if corrected:
            table.move(row, t, i)
        else:
            table.ask(s, row, t, i)
    return table


@cites("unipc")
@solver("unipc-1", order=lambda corrector=True, **_: 1 + bool(corrector))
def unipc_1(
    process: Process,
    at: Sequence[Node],
    *,
    variant: str = "bh2",
    kind: str = "x0",
    corrector: bool = True,
    lower_final: bool | None = None,
) -> Table:
    """UniPC-1: predictor of order 1, corrector of order 2, one evaluation a step.

    Args:
        variant: "bh2" (default) or "bh1", the function B(h). kind: of the predictions that are combined, "x0" (default) or "eps".
        corrector: whether the predicted states are corrected. lower_final: let the order fall towards the end (default: when N < 10).
    """
    return unipc(at, 1, variant, kind, corrector, lower_final)


@cites("unipc")
@solver("unipc-2", order=lambda corrector=True, **_: 2 + bool(corrector))
def unipc_2(
    process: Process,
    at: Sequence[Node],
    *,
    variant: str = "bh2",
    kind: str = "x0",
    corrector: bool = True,
    lower_final: bool | None = None,
) -> Table:
    """UniPC-2: predictor of order 2, corrector of order 3, one evaluation a step.

    Args:
        variant: "bh2" (default) or "bh1", the function B(h). kind: of the predictions that are combined, "x0" (default) or "eps".
        corrector: whether the predicted states are corrected. lower_final: let the order fall towards the end (default: when N < 10).
    """
    return unipc(at, 2, variant, kind, corrector, lower_final)


@cites("unipc")
@solver("unipc-3", order=lambda corrector=True, **_: 3 + bool(corrector))
def unipc_3(
    process: Process,
    at: Sequence[Node],
    *,
    variant: str = "bh2",
    kind: str = "x0",
    corrector: bool = True,
    lower_final: bool | None = None,
) -> Table:
    """UniPC-3: predictor of order 3, corrector of order 4, one evaluation a step.

    Args:
        variant: "bh2" (default) or "bh1", the function B(h). kind: of the predictions that are combined, "x0" (default) or "eps".
        corrector: whether the predicted states are corrected. lower_final: let the order fall towards the end (default: when N < 10).
    """
    return unipc(at, 3, variant, kind, corrector, lower_final)
