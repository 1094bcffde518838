"""Rows on a process with a degraded input.

Solvers are written for x = alpha x0 + sigma eps. Where x = alpha x0 + gamma y + sigma eps, that is, for any number c,

    x - (gamma + c alpha) y = alpha (x0 - c y) + sigma eps,

so a row holds for states that lack (gamma + c alpha) y and predictions that lack w c y, w being the share of x0 in what the plan predicts
(1 for x0, 0 for eps, -1 for flow). Written for the states themselves,

    row_k + (G_{k+1} - sum_j a_kj G_j - c sum_jh b_kjh w_jh) y,        G_j = gamma(t_j) + c alpha(t_j).

c matters only to methods that are not exact for a constant prediction (Euler-Maruyama). Mean reversion has c = 1, which makes G = 1: the
solver sees x - y. Other processes have c = 0.
"""

from __future__ import annotations

import dataclasses

import torch

from reverie.base import ArgumentError
from reverie.model import as_target
from reverie.process import MeanReverting, Process
from reverie.solve.line import Coef, Line
from reverie.solve.plan import Plan

__all__ = ["with_input"]

_Y = ("i", "y")
_ADDING = ("langevin", "learned-variance")
"""Rules that add to a state what does not depend on where it is counted from."""


def with_input(plan: Plan) -> Plan:
    """The plan with the terms of y that its process asks for, in place of any it has; itself where the process has no y.

    Raises `ArgumentError` for plans that decide their stages during the run, and for rules that are not known to allow it.

    >>> import reverie as rv
    >>> rv.solve.plan("dpmpp-2m", rv.process.mean_reverting(), steps=5).inputs
    ('y',)
    """
    p = plan.process
    if type(p).gamma is Process.gamma:
        return plan
    if plan.rule is not None:
        raise ArgumentError(
            f"{plan.solver!r} makes its rows during the run, without the degraded input of {p}; take a static solver"
        )
    c = 1.0 if isinstance(p, MeanReverting) else 0.0
    lacks = [p.gamma(t) + c * p.alpha(t) for t in plan.times]
    stages = []
    for k, stage in enumerate(plan.table):
        if stage.rule is not None and stage.rule[0] not in _ADDING:
            raise ArgumentError(
                f"{plan.solver!r} has the rule {stage.rule[0]!r}, which knows no degraded input as {p} has one"
            )
        terms = {key: v for key, v in stage.row.terms.items() if key != _Y}
        own: Coef = lacks[k + 1]
        for (j,), a in stage.row.part("x"):
            own = own - a * lacks[j]
        for (j, head), b in stage.row.part("p") if c else ():
            own = own - b * (c * _share(plan.kinds[head], p, plan.times[j]))
        stages.append(dataclasses.replace(stage, row=Line({**terms, _Y: own})))
    return plan.replace(table=tuple(stages))


def _share(kind: str, p: Process, t: float) -> float:
    """How much of x0 a quantity holds at time t."""
    target, at = as_target(kind), torch.tensor(t, dtype=torch.float64)
    value = target.x0(p, at)
    return float(value if target.scale is None else value / target.scale(p, at))
