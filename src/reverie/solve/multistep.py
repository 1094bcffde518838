"""Multistep DPM-Solver: one evaluation a step, higher order from the predictions of earlier steps.

In noise prediction (dpm-2m) or data prediction (dpmpp-2m, dpmpp-3m). With r_0 = (lam_s - lam_{s-1}) / h, r_1 = (lam_{s-1} - lam_{s-2}) / h,
P_0, P_1, P_2 the predictions at s, s-1, s-2 and w_k from `exponential.Step`:

    d_0 = (P_0 - P_1) / r_0,       d_1 = (P_1 - P_2) / r_1
    2   first(P_0 + d_0 / 2)                 "midpoint";        first(P_0) + w_1 d_0 / h         "taylor"
    3   D1 = d_0 + r_0 (d_0 - d_1) / (r_0 + r_1),    D2 = 2 (d_0 - d_1) / (r_0 + r_1)
        first(P_0) + w_1 D1 / h + w_2 D2 / h^2

D1 / h and D2 / h^2 are the first and second derivative of the polynomial through the three predictions. The released code of dpm-solver,
diffusers and k-diffusion has D2 without the factor 2, which leaves the step of second order (`released=True` reproduces it).

The SDE forms (dpmpp-2m-sde, dpmpp-3m-sde) are the same rows with the weights of eta > 0 and its noise; eta = 0 is the ODE form, eta = 1 the
reverse SDE. They are of second order in distribution: the difference of two predictions carries the noise of the step between them, whose
correlation with the state is, to that order, what the next step's own would be.

The first steps are of order 1, 2, ...; the step to sigma = 0 is of order 1, and `lower_final` lets the order fall towards the end:
order_i = min(k, N - i).

Source: Lu et al. 2022 (2211.01095, algorithm 2, appendix B, and section 5 for the SDE).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from reverie.base import ArgumentError, implements, unknown
from reverie.process import Process
from reverie.solve.exponential import Step
from reverie.solve.grids import Node
from reverie.solve.line import Line, noise, prediction
from reverie.solve.solver import Table, solver

__all__ = ["dpm_2m", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "dpmpp_3m_sde"]


def _multistep(
    at: Sequence[Node],
    kind: str,
    top: int,
    variant: str = "midpoint",
    lower_final: bool | None = None,
    released: bool = False,
    eta: float = 0.0,
) -> Table:
    if variant not in ("midpoint", "taylor"):
        raise unknown("variant", variant, ["midpoint", "taylor"])
    if not 0 <= eta < math.inf:
        raise ArgumentError(f"eta must be finite and at least 0, got {eta}")
    n = len(at) - 1
    lower = n < 10 if lower_final is None else lower_final
    table = Table(kinds=(kind,))
    for i, (s, t) in enumerate(pairwise(at)):
        order = min(top, i + 1, n - i if lower else top)
        while order > 1 and not (math.isfinite(t.lam) and math.isfinite(at[i - order + 1].lam)):
            order -= 1
        step = Step(s, t, kind, eta)
        row = _row(at, i, step, table.x, order, variant, released)
        table.ask(s, row + step.std * noise(table.draw()) if step.std else row, t, i)
    return table


def _row(at: Sequence[Node], i: int, step: Step, x: Line, order: int, variant: str, released: bool) -> Line:
    now, h = prediction(i), step.h
    if order == 1:
        return step.first(x, now)
    r0 = (at[i].lam - at[i - 1].lam) / h
    d0 = (now - prediction(i - 1)) / r0
    if order == 2:
        return step.first(x, now + 0.5 * d0) if variant == "midpoint" else step.first(x, now) + step.weight(1) / h * d0
    r1 = (at[i - 1].lam - at[i - 2].lam) / h
    d1 = (prediction(i - 1) - prediction(i - 2)) / r1
    first = d0 + r0 / (r0 + r1) * (d0 - d1)
    second = (1 if released else 2) / (r0 + r1) * (d0 - d1)
    return step.first(x, now) + step.weight(1) / h * first + step.weight(2) / h**2 * second


@implements("dpm-solver")
@solver("dpm-2m", order=2)
def dpm_2m(
    process: Process, at: Sequence[Node], *, variant: str = "midpoint", lower_final: bool | None = None
) -> Table:
    """Second-order multistep in noise prediction, one evaluation a step.

    Args:
        variant: "midpoint" (default) or "taylor". lower_final: let the order fall towards the end (default: when N < 10).
    """
    return _multistep(at, "eps", 2, variant, lower_final)


@implements("dpm-solver-pp")
@solver("dpmpp-2m", order=2)
def dpmpp_2m(
    process: Process, at: Sequence[Node], *, variant: str = "midpoint", lower_final: bool | None = None
) -> Table:
    """DPM-Solver++(2M): second-order multistep in data prediction, one evaluation a step; the default.

    Args:
        variant: "midpoint" (default) or "taylor". lower_final: let the order fall towards the end (default: when N < 10).
    """
    return _multistep(at, "x0", 2, variant, lower_final)


@implements("dpm-solver-pp")
@solver("dpmpp-3m", order=lambda released=False, **_: 2 if released else 3)
def dpmpp_3m(
    process: Process,
    at: Sequence[Node],
    *,
    variant: str = "midpoint",
    lower_final: bool | None = None,
    released: bool = False,
) -> Table:
    """DPM-Solver++(3M): third-order multistep in data prediction, one evaluation a step.

    Args:
        variant: of the second-order steps, "midpoint" (default) or "taylor". lower_final: let the order fall towards the end (default: when N < 10).
        released: the second difference without its factor 2, as in the released code; of second order.
    """
    return _multistep(at, "x0", 3, variant, lower_final, released)


@implements("dpm-solver-pp")
@solver("dpmpp-2m-sde", order=2, stochastic=True)
def dpmpp_2m_sde(
    process: Process,
    at: Sequence[Node],
    *,
    eta: float = 1.0,
    variant: str = "midpoint",
    lower_final: bool | None = None,
) -> Table:
    """SDE-DPM-Solver++(2M): the reverse SDE by second-order multistep, one evaluation a step.

    Args:
        eta: >= 0, share of the SDE's noise: 1 is the reverse SDE, 0 is dpmpp-2m. variant: "midpoint" (default) or "taylor".
        lower_final: let the order fall towards the end (default: when N < 10).
    """
    return _multistep(at, "x0", 2, variant, lower_final, eta=eta)


@implements("dpm-solver-pp")
@solver("dpmpp-3m-sde", order=2, stochastic=True)
def dpmpp_3m_sde(
    process: Process,
    at: Sequence[Node],
    *,
    eta: float = 1.0,
    variant: str = "midpoint",
    lower_final: bool | None = None,
    released: bool = False,
) -> Table:
    """The three-prediction form of SDE-DPM-Solver++; third order in the part without noise.

    Args:
        eta: >= 0, share of the SDE's noise: 1 is the reverse SDE, 0 is dpmpp-3m. variant: of the second-order steps.
        lower_final: let the order fall towards the end (default: when N < 10).
        released: the second difference without its factor 2, as in k-diffusion.
    """
    return _multistep(at, "x0", 3, variant, lower_final, released, eta)
