"""A plan run backwards by algebra: from its last states to the first, exactly.

A row makes x_{k+1} = sum_j a_j x_j + sum_j b_j prediction_j + (inputs and constants). Where the oldest state that it reads, x_o, is older than every
state whose prediction it reads, it can be solved for x_o,

    x_o = (x_{k+1} - sum_{j > o} a_j x_j - sum_{j > o} b_j prediction_j - ...) / a_o,

and all on the right is known when one comes from above: the predictions are asked at states that are there already. So W = k - o + 1 neighbouring
states at the end give all before them, at the plan's own cost.

Rounding, and whatever else the last states are wrong by, grows on the way. `amplification` says by how much, relative to the states' own scale, on
data of unit variance, where the predictions are linear too: the norm of the product of the recurrence's companion matrices. (On mixtures of modes of
width 0.7 it was met within a factor of 2.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reverie.base import ArgumentError
from reverie.model import as_target
from reverie.solve.line import Key, Line, given, one, prediction, state
from reverie.solve.plan import Plan, Stage

__all__ = ["amplification", "inverse", "window"]

LIMIT = 1e3
"""Of the amplification."""


def window(plan: Plan) -> int:
    """W, how many neighbouring states at the end determine all before. Raises `ArgumentError` for a plan that algebra cannot invert."""
    remedy = "take a plan that is invertible by construction (bdia), or an approximate inversion (reverie.edit)"
    if plan.rule is not None or any(s.rule is not None or s.net is not None for s in plan.table):
        raise ArgumentError(
            f"{plan.solver!r} decides what it does during the run, so it has no inverse by algebra; {remedy}"
        )
    if plan.noises:
        raise ArgumentError(f"{plan.solver!r} draws noise; {remedy}, or replay its noise (reverie.edit)")
    n, wide = len(plan.table), 0
    for k in range(n - 1, -1, -1):  # from the end, where the inverse begins
        states, said = (sorted(key[0] for key, _ in plan.table[k].row.part(symbol)) for symbol in "xp")
        back = k - states[0] + 1 if states else 0
        solvable = bool(states) and (not said or said[0] > states[0])
        if wide and k < wide - 1:
            return wide  # the states that the first rows make are all found by then
        if not solvable:
            raise ArgumentError(
                f"stage {k} of {plan.solver!r} reads the prediction at the oldest state of its row, so that it has no explicit solution; {remedy}"
            )
        if wide and back != wide:
            raise ArgumentError(f"stage {k} of {plan.solver!r} reaches {back} states back, later ones {wide}; {remedy}")
        wide = back
    return wide


def inverse(plan: Plan, limit: float = LIMIT) -> Plan:
    """The plan from the last state to the first; see `Plan.inverse`."""
    w, n = window(plan), len(plan.table)
    grown = amplification(plan)
    if grown > limit:
        raise ArgumentError(
            f"the inverse of this {plan.solver!r} plan of {plan.steps} steps multiplies errors by {grown:.2g}, above {limit:g}: take gamma "
            "nearer to 1, fewer steps, or float64 and a larger limit="
        )
    stages: list[Stage] = []
    for m in range(n):
        k = n - m  # y_m is state k of the plan, and y_0 the state that the inverse begins with
        forward = plan.table[k] if k < n else None
        asked = None if forward is None else forward.t
        if m < w - 1:
            row = given("before" if w == 2 else f"before{m + 1}")
        else:
            top = k + w - 2  # the row whose oldest state is k - 1
            row = _solved(plan.table[top], top, w, n)
        label = None if forward is None or asked is None else forward.label
        stages.append(
            Stage(row, asked, plan.times[k - 1], m, label=label, args={} if forward is None else forward.args)
        )
    return plan.replace(
        solver=f"{plan.solver}, inverse", table=tuple(stages), start=plan.times[-1], grid="", end="", options={}, order=plan.order
    )  # fmt: skip


def _solved(stage: Stage, k: int, w: int, n: int) -> Line:
    """Row k, solved for its oldest state, in the inverse's numbers: state j is y_{n - j}, and its prediction asked at stage n - j."""
    o = k - w + 1
    row = state(n - k - 1)
    pivot = None
    for key, c in stage.row.terms.items():
        if key == ("x", o):
            pivot = c
        else:
            row = row - c * _moved(key, n)
    assert pivot is not None
    return row / pivot


def _moved(key: Key, n: int) -> Line:
    kinds = {
        "x": lambda: state(n - key[1]),
        "p": lambda: prediction(n - key[1], key[2]),
        "i": lambda: given(key[1]),
        "1": one,
    }
    made: Line = kinds[key[0]]()
    return made


def amplification(plan: Plan) -> float:
    """By how much the inverse multiplies a relative error of the states that it is given; 1 for none.

    >>> import reverie as rv
    >>> p = rv.process.vp()
    >>> [round(amplification(rv.solve.plan("bdia", p, steps=10, gamma=g)), 1) for g in (1.0, 0.5)]
    [1.0, 499.5]
    """
    w, n, p = window(plan), len(plan.table), plan.process
    total = torch.eye(w, dtype=torch.float64)
    scale = [math.hypot(float(p.alpha(t)), float(p.sigma(t))) for t in plan.times]
    for k in range(n - 1, w - 2, -1):
        c: dict[int, float] = {}
        for key, value in plan.table[k].row.terms.items():
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ArgumentError(
                    f"stage {k} of {plan.solver!r} has a coefficient an entry; its inverse's amplification is not one number"
                )
            if key[0] == "x":
                c[key[1]] = c.get(key[1], 0.0) + float(value)
            elif key[0] == "p":
                c[key[1]] = c.get(key[1], 0.0) + float(value) * _said(plan, key[1], key[2])
        step = torch.zeros(
            w, w, dtype=torch.float64
        )  # (x_{k+1}, x_k, ..., x_{o+1}) -> (x_k, ..., x_o), each over its scale
        for i in range(w - 1):
            step[i, i + 1] = 1.0
        o = k - w + 1
        step[-1, 0] = scale[k + 1] / (c[o] * scale[o])
        for j in range(o + 1, k + 1):
            step[-1, k + 1 - j] -= c.get(j, 0.0) * scale[j] / (c[o] * scale[o])
        total = step @ total
    return float(torch.linalg.matrix_norm(total, 2))


def _said(plan: Plan, j: int, head: int) -> float:
    """The prediction of stage j over its state, on data of unit variance: x0 = alpha x / (alpha^2 + sigma^2)."""
    t, p = plan.table[j].t, plan.process
    assert isinstance(t, float | int)
    alpha, sigma = float(p.alpha(t)), float(p.sigma(t))
    share = as_target("x0").to(plan.kinds[head], p, t)
    return float(share.x) + float(share.raw) * alpha / (alpha**2 + sigma**2)
