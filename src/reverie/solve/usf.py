"""USF: a solver as a list of choices, one row a step.

The row to node t starts at a node p that was visited before, h = lam_t - lam_p, and has an order n:

    noise:  x_t = first(p -> t; e_p) + sum_{k=1..n-1} w_k e^(k),        data:  the same with the predictions of x0,

w_k from `exponential.Step`. The derivative F^(k) is estimated from m >= k active nodes a_j: the weights v_j solve

    sum_j v_j (lam_aj - lam_p)^i / i! = [i = k]  for i = 1 .. m,        F^(k) = sum_j v_j (F_aj - F_p),

that is, from the polynomial through p and them (m < n - 1: low-order estimation). The first derivative may be scaled, z = h for noise, -h for data:

    c      1 + c h
    bh1    z^2 / (2 (expm1(z) - z))                    bh2    z expm1(z) / (2 (expm1(z) - z)), which also makes "taylor" the "midpoint"

A corrector, after the model was asked at the predicted x_t, makes the row again from the same start, with t among the active nodes of every
derivative and one order more. "pseudo" keeps the answer at the uncorrected state, "implicit" asks again. Every answer is known as eps and as x0, so
each row may choose. Into sigma = 0, and out of where alpha = 0, only order 1 makes sense; the row into sigma = 0 starts from the node that it
leaves, that out of alpha = 0 is written in x0. At order 1 the kinds differ only where a pseudo corrector has moved the state.

Source: Liu et al. 2023 (2312.07243, sections 3 and 4); of the first-step trick (afs), Dockhorn et al. 2022 (2210.05475).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from reverie.base import ArgumentError, implements, unknown
from reverie.process import Process
from reverie.solve.exponential import Step, derivatives, phi
from reverie.solve.grids import Node
from reverie.solve.line import Line, prediction
from reverie.solve.solver import Table, solver

__all__ = ["CORRECTORS", "SCALES", "usf"]

CORRECTORS = ("none", "pseudo", "implicit")
SCALES = ("none", "bh1", "bh2")
"""Of the first derivative, by name; a number c stands for 1 + c h."""
Nodes = tuple[tuple[int, ...], ...]
Scale = str | float
PerStep = Any
"""One choice for all steps, or a tuple of N."""


@dataclass(frozen=True)
class Choice:
    """What one row does; nodes count backwards, 0 is the one that the step leaves."""

    kind: str
    order: int
    start: int
    nodes: Nodes | None
    scale: Scale
    corrector: str
    corrector_scale: Scale


def scaling(scale: Scale, step: Step) -> float:
    """The factor of the first derivative.

    >>> import reverie as rv
    >>> p = rv.process.vp()
    >>> step = Step(Node.at(p, 0.5), Node.at(p, 0.4), "x0")
    >>> abs(step.weight(1) * scaling("bh2", step) - step.weight(0) * step.h / 2) < 1e-15
    True
    """
    if isinstance(scale, str):
        z = -step.h if step.kind == "x0" else step.h
        return {"none": 1.0, "bh1": 0.5 / phi(2, z), "bh2": 0.5 * phi(1, z) / phi(2, z)}[scale]
    return 1 + scale * step.h


class _Rows:
    """Nodes visited so far: the states from which rows start, and what the model said."""

    def __init__(self, at: Sequence[Node]) -> None:
        self.at = at
        self.states: list[Line] = []
        self.said: list[tuple[Line, Line]] = []
        """Of a node, the state that the model was asked about and its x0."""

    def value(self, j: int, kind: str) -> Line:
        x, x0 = self.said[j]
        return x0 if kind == "x0" else (x - self.at[j].alpha * x0) / self.at[j].sigma

    def active(self, i: int, c: Choice) -> tuple[int, list[list[int]]]:
        """Start node of step i, and the active nodes of each derivative; fewer derivatives where nodes are missing."""
        p = max(i - c.start, 0) if self.at[i + 1].sigma > 0 else i
        finite = [j for j in range(i, -1, -1) if j != p and math.isfinite(self.at[j].lam)]
        if not (math.isfinite(self.at[p].lam) and math.isfinite(self.at[i + 1].lam)):
            return p, []
        lists: list[list[int]] = []
        for k in range(1, c.order):
            wanted = finite[: c.order - 1] if c.nodes is None else [i - b for b in c.nodes[k - 1] if i - b in finite]
            if len(wanted) < k:
                break
            lists.append(wanted)
        return p, lists

    def row(self, p: int, t: int, kind: str, lists: Sequence[Sequence[int]], scale: Scale) -> Line:
        step = Step(self.at[p], self.at[t], kind if self.at[p].alpha > 0 else "x0")
        row = step.first(self.states[p], self.value(p, step.kind))
        for k, nodes in enumerate(lists, 1):
            near = [0.0, *(self.at[j].lam - self.at[p].lam for j in nodes)]
            slope = derivatives(near, [self.value(j, kind) for j in (p, *nodes)])[k]
            row = row + step.weight(k) * (scaling(scale, step) if k == 1 else 1.0) * slope
        return row


def _declared(order: PerStep = 2, nodes: PerStep = None, scale: PerStep = "none", **more: PerStep) -> int:
    """The order of the best of the rows."""
    found = {"order": order, "nodes": nodes, "scale": scale, **more}
    n = max((len(v) for v in found.values() if isinstance(v, tuple)), default=1)
    best = 1
    for c in choices(n, **{k: v for k, v in found.items() if k != "afs"}):
        # a derivative from m nodes leaves h^(m + 2), a scaled one h^3
        estimated = min([c.order, *(len(nodes) + 1 for nodes in (c.nodes or ())[: c.order - 1])])
        own = min(estimated, 2) if c.scale not in ("none", 0) else estimated
        if c.corrector != "none":
            own = min(own + 1, estimated + 1 if c.corrector_scale in ("none", 0) else 2)
        best = max(best, own)
    return best


@implements("usf-s3")
@solver("usf", order=_declared)
def usf(
    process: Process,
    at: Sequence[Node],
    *,
    kind: PerStep = "x0",
    order: PerStep = 2,
    start: PerStep = 0,
    nodes: PerStep = None,
    scale: PerStep = "none",
    corrector: PerStep = "none",
    corrector_scale: PerStep = "none",
    afs: bool = False,
) -> Table:
    """USF: each step has its own prediction type, order, start, derivatives and corrector; most solvers are special cases.

    Every option but afs is one value for all steps, or a tuple of N. The order falls where nodes are missing.

    Args:
        kind: which prediction a row combines, "x0" (default) or "eps".
        order: of the row, 1 to 6.
        start: from how many nodes back the row starts; 0 is the node that it leaves, 1 the one before it, as in single-step solvers.
        nodes: a tuple over steps; for each None (default: the nearest order - 1, for every derivative) or, for derivative 1, 2, ..., the
            active nodes, counted backwards like start; ((1,), (1, 2)) are those of a multistep row of order 3 with a low-order slope.
        scale: of the first derivative, "none" (default), "bh1", "bh2" or a number c, for 1 + c h.
        corrector: "none" (default), "pseudo" (no call more) or "implicit" (one call more); the last step has none.
        corrector_scale: of the first derivative in the corrected row; UniPC's corrector of order 1 has "bh1" or "bh2" there.
        afs: the first evaluation is replaced by its limit in pure noise, x0 = 0 and eps = x / sigma; one call less.
    """
    n = len(at) - 1
    made = choices(n, kind, order, start, nodes, scale, corrector, corrector_scale)
    if not isinstance(afs, bool) or (afs and n < 2):
        raise ArgumentError(f"afs is True or False, and takes at least 2 steps; got {afs!r} with {n}")
    table, rows = Table(), _Rows(at)
    correct: tuple[int, Choice, list[list[int]]] | None = None
    for i, (s, t) in enumerate(pairwise(at)):
        free = i == 0 and afs
        rows.states.append(table.x)
        rows.said.append((table.x, Line() if free else prediction(table.k)))
        if correct is not None:
            p, c, lists = correct
            more = [[*nodes, i] for nodes in (*lists, lists[-1] if lists else [])]
            table.ask(s, rows.row(p, i, c.kind, more, c.corrector_scale), s, i, inner=True)
            rows.states[i] = table.x
            if c.corrector == "implicit":
                rows.said[i] = (table.x, prediction(table.k))
            else:
                free = True
        p, lists = rows.active(i, made[i])
        row = rows.row(p, i + 1, made[i].kind, lists, made[i].scale)
        if free:
            table.move(row, t, i)
        else:
            table.ask(s, row, t, i)
        ends = math.isfinite(at[p].lam) and math.isfinite(t.lam)
        correct = (p, made[i], lists) if made[i].corrector != "none" and ends else None
    return table


def choices(
    n: int,
    kind: PerStep = "x0",
    order: PerStep = 2,
    start: PerStep = 0,
    nodes: PerStep = None,
    scale: PerStep = "none",
    corrector: PerStep = "none",
    corrector_scale: PerStep = "none",
) -> list[Choice]:
    """The choices of n steps, checked. Raises `ArgumentError` or `UnknownNameError` for a value that cannot be, naming its step."""
    columns = {
        "kind": kind, "order": order, "start": start, "nodes": nodes, "scale": scale, "corrector": corrector,
        "corrector_scale": corrector_scale,
    }  # fmt: skip
    for name, column in columns.items():
        if not isinstance(column, tuple | list):
            columns[name] = (column,) * n
        elif len(column) != n:
            raise ArgumentError(
                f"{name} of 'usf' has {len(column)} entries for {n} steps; give one a step, or one for all"
            )
    out = [Choice(*row) for row in zip(*columns.values(), strict=True)]
    for i, c in enumerate(out):
        _check(i, c)
    return out


def _check(i: int, c: Choice) -> None:
    for name, value, known in (("kind", c.kind, ("x0", "eps")), ("corrector", c.corrector, CORRECTORS)):
        if value not in known:
            raise unknown(f"{name} of step {i}", value, known)
    for name, number, least, most in (("order", c.order, 1, 6), ("start", c.start, 0, math.inf)):
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
            raise ArgumentError(f"{name} of step {i} must be a whole number from {least} to {most}, got {number!r}")
    for name, scale in (("scale", c.scale), ("corrector_scale", c.corrector_scale)):
        if isinstance(scale, str):
            if scale not in SCALES:
                raise unknown(f"{name} of step {i}", scale, SCALES)
        elif isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
            raise ArgumentError(f"{name} of step {i} is one of {', '.join(SCALES)} or a number c, got {scale!r}")
    if c.nodes is None:
        return
    good = isinstance(c.nodes, tuple | list) and len(c.nodes) >= c.order - 1
    for k, active in enumerate(c.nodes if good else (), 1):
        good &= isinstance(active, tuple | list) and all(isinstance(b, int) and b >= 0 and b != c.start for b in active)
        good = good and len(set(active)) == len(active) >= k
    if not good:
        raise ArgumentError(
            f"nodes of step {i} must list, for each of the {c.order - 1} derivatives k, at least k different nodes other than its start, "
            f"counted backwards; got {c.nodes!r:.80}"
        )
