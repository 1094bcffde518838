"""Unrolling: a plan as what each evaluation is asked, in the initial state and the evaluations before it.

    state of evaluation k = a_k x_T + sum_{j<k} b_kj P_j,    k = 0 .. N, the last being the answer,

with P_j the prediction of x0 (or another kind) at evaluation j. Every static plan of an ODE with one head has this form, however it was written:
multistep or single-step, in eps or x0, with corrector or without. Two plans are the same method just if these numbers and their times agree.

Source: Shaul et al. 2024 (2403.01329, section 3, non-stationary solvers).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.base import ArgumentError, ShapeError
from reverie.model import as_target
from reverie.process import Process
from reverie.solve.line import Line, prediction, state
from reverie.solve.plan import Plan, Stage

__all__ = ["Unrolled", "reroll", "unroll"]


@dataclass(frozen=True, eq=False)
class Unrolled:
    """A plan's evaluations.

    Attributes:
        process: whose times they are. times: N of them, when the model is asked. labels: what the network is told instead, or None.
        rows: `(N + 1, N + 1)`, float64: row k is evaluation k's state (the last the answer), column 0 the factor of x_T, column j + 1 that of
            prediction j. kind: of the predictions. to: the time of the answer.
    """

    process: Process
    times: tuple[float, ...]
    labels: tuple[float | None, ...]
    rows: Tensor
    kind: str
    to: float

    def distance(self, other: Unrolled) -> float:
        """The largest difference of coefficients and times, 0 for the same method. Raises `ShapeError` for another number of evaluations."""
        if self.rows.shape != other.rows.shape or self.kind != other.kind:
            raise ShapeError(
                f"methods of {len(self.times)} and {len(other.times)} evaluations in {self.kind} and {other.kind} have no distance"
            )
        gaps = [abs(s - t) for s, t in zip(self.times, other.times, strict=True)]
        return max((self.rows - other.rows).abs().max().item(), *gaps)


def unroll(plan: Plan, kind: str = "x0") -> Unrolled:
    """The evaluations of a static plan without noise, inputs and rules, one head, numbers as coefficients.

    Args:
        kind: of the predictions in the answer ("x0", "eps", "v", ...).

    Raises:
        ArgumentError: a plan that has no such form, or a kind that is undefined at one of its times.

    >>> import reverie as rv
    >>> p = rv.process.vp()
    >>> one = unroll(rv.solve.plan("ddim", p, steps=3))
    >>> one.rows.shape, one.rows[0].tolist()
    (torch.Size([4, 4]), [1.0, 0.0, 0.0, 0.0])
    >>> times = [float(t) for t in one.times] + [0.0]
    >>> two = unroll(rv.solve.plan("euler", p, grid=times, coordinates="ratio"))
    >>> one.distance(two) < 1e-12
    True
    """
    if plan.rule is not None or len(plan.kinds) != 1 or plan.noises or plan.inputs:
        raise ArgumentError(
            f"{plan.solver!r} is dynamic, stochastic, or has inputs or several heads; it cannot be unrolled"
        )
    asked = [k for k, stage in enumerate(plan.table) if stage.t is not None]
    if not asked or any(s.rule is not None or s.net is not None or s.args for s in plan.table):
        raise ArgumentError(f"{plan.solver!r} asks nothing, or has stages with rules, nets or arguments of their own")
    if any(True for s in plan.table for _ in s.row.part("1")):
        raise ArgumentError(f"{plan.solver!r} has rows with a constant term; it cannot be unrolled")
    n, p = len(asked), plan.process
    own, wanted = as_target(plan.kinds[0]), as_target(kind)
    unit = torch.eye(n + 1, dtype=torch.float64)
    states, said, rows = [unit[0]], dict[int, Tensor](), list[Tensor]()
    for k, stage in enumerate(plan.table):
        if stage.t is not None:
            assert not isinstance(stage.t, Tensor)
            map_ = wanted.to(own, p, stage.t)
            said[k] = map_.x * states[k] + map_.raw * unit[len(rows) + 1]
            rows.append(states[k])
        row = torch.zeros(n + 1, dtype=torch.float64)
        for key, c in stage.row.terms.items():
            if isinstance(c, Tensor):
                if c.numel() != 1:
                    raise ArgumentError(
                        f"stage {k} of {plan.solver!r} has tensors as coefficients; it cannot be unrolled"
                    )
                c = float(c)
            row = row + c * (states[key[1]] if key[0] == "x" else said[key[1]])
        states.append(row)
    times = tuple(float(plan.table[k].t) for k in asked)  # type: ignore[arg-type]
    labels = tuple(plan.table[k].label for k in asked)
    return Unrolled(p, times, labels, torch.stack([*rows, states[-1]]), kind, plan.table[-1].to)


def reroll(u: Unrolled, solver: str = "unrolled") -> Plan:
    """The plan whose evaluations these are, each state written in x_T and the predictions.

    Raises `ArgumentError` unless the first state is x_T, and what a `Plan` refuses.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Gaussian(torch.ones(2), torch.eye(2), process=rv.process.vp())
    >>> plan, x = rv.solve.plan("unipc-3", o.process, steps=5), torch.ones(1, 2, dtype=torch.float64)
    >>> bool((rv.run(plan, o, x) - rv.run(reroll(unroll(plan)), o, x)).abs().max() < 1e-12)
    True
    """
    n = len(u.times)
    first = torch.zeros(n + 1, dtype=torch.float64)
    first[0] = 1.0
    if not torch.equal(u.rows[0], first):
        raise ArgumentError("the first evaluation must be of the initial state itself")
    to = (*u.times[1:], u.to)
    stages = tuple(Stage(_line(u.rows[k + 1]), u.times[k], to[k], k, label=u.labels[k]) for k in range(n))
    return Plan(solver, u.process, stages, u.times[0], kinds=(u.kind,))


def _line(row: Tensor) -> Line:
    line = state(0) * float(row[0])
    for j, c in enumerate(row[1:].tolist()):
        if c != 0.0:
            line = line + prediction(j) * c
    return line
