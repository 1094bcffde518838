"""Repeat parts of a plan: time travel, as in RePaint.

After a block of steps from node a to node b the state is noised back,

    x_a = (alpha_a / alpha_b) x_b + sqrt(sigma_a^2 - (alpha_a / alpha_b)^2 sigma_b^2) z,

and the block is run again. A multistep solver starts afresh after every jump: its history belongs to another path.

Source: Lugmayr et al. 2022 (2201.09865, algorithm 1 and appendix B: jump length and resampling), Wang et al. 2023 (2212.00490, time travel).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from reverie.base import ArgumentError
from reverie.solve.degraded import with_input
from reverie.solve.grids import Node
from reverie.solve.line import Line, noise, state
from reverie.solve.plan import Plan, Stage
from reverie.solve.solver import SOLVERS

__all__ = ["repeat"]


def repeat(plan: Plan, times: int, length: int | None = None, first: int = 0, last: int | None = None) -> Plan:
    """The plan with its steps from `first` to before `last`, in blocks of `length`, run `times` times each; see `Plan.repeat`."""
    if plan.rule is not None:
        raise ArgumentError(
            f"{plan.solver!r} decides its steps during the run; a plan with a fixed grid can be repeated"
        )
    n = plan.steps
    last = n if last is None else last
    length = last - first if length is None else length
    for name, value in (("times", times), ("length", length), ("first", first), ("last", last)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ArgumentError(f"{name} must be a whole number, got {value!r}")
    if times < 1 or length < 1 or not 0 <= first < last <= n:
        raise ArgumentError(
            f"repeat takes times >= 1, length >= 1 and steps 0 <= first < last <= {n}, got times={times}, length={length}, first={first}, last={last}"
        )
    at = _nodes(plan)
    # maximal runs without a jump: from step a to before step b
    runs, begin = [], 0
    for a in range(first, last, length):
        b = min(a + length, last)
        for _ in range(times - 1):
            runs.append((begin, b))
            begin = a
    runs.append((begin, n))
    stages, draws, step, before = list[Stage](), 0, 0, 0
    for a, b in runs:
        if stages:
            back = dataclasses.replace(_jump(at[before], at[a], len(stages), draws), step=step)
            stages, draws = [*stages, back], draws + 1
        part = [s for s in _from(plan, at, a) if s.step < b - a]
        stages += [_moved(s, len(stages), step, draws) for s in part]
        draws, step, before = draws + _drawn(part), step + b - a, b
    made = plan.replace(
        table=tuple(stages),
        options={**plan.options, "repeat": (times, length, first, last)},
        papers=tuple(dict.fromkeys((*plan.papers, "repaint"))),
    )
    return with_input(made)


def _jump(s: Node, t: Node, k: int, draw: int) -> Stage:
    """Noise the current state, of node s, back to node t."""
    kept = t.alpha / s.alpha
    std = math.sqrt(max(0.0, t.sigma**2 - kept**2 * s.sigma**2))
    return Stage(kept * state(k) + std * noise(draw), None, t.t, inner=True)


def _nodes(plan: Plan) -> list[Node]:
    """The plan's grid, read from its stages."""
    ends = {s.step: s.to for s in plan.table}  # the last stage of a step ends it
    times = [plan.start, *(ends[i] for i in range(plan.steps))]
    told = {s.step: s.label for s in reversed(plan.table) if s.t == times[s.step]}  # the first to ask there
    return [Node.at(plan.process, t, told.get(i)) for i, t in enumerate(times)]


def _from(plan: Plan, at: Sequence[Node], a: int) -> list[Stage]:
    """The stages of the steps from a on, numbered from zero: the plan's own, or a fresh start where those look further back."""
    first = next(k for k, s in enumerate(plan.table) if s.step >= a)
    if all(key[1] >= first for s in plan.table[first:] for key in s.row.terms if key[0] in "xp"):
        least = min((j for s in plan.table[first:] for j in _noises(s)), default=0)
        return [_moved(s, -first, -a, -least) for s in plan.table[first:]]
    options = {k: v for k, v in plan.options.items() if k != "repeat"}
    if plan.solver not in SOLVERS or plan.provenance or options != plan.options:
        raise ArgumentError(
            f"{plan.solver!r} looks back beyond step {a}, and its table was changed since it was compiled; repeat it from step 0, "
            f"or repeat a plan fresh from solve.plan"
        )
    entry = SOLVERS[plan.solver]
    if entry.options.keys() >= {"lower_final"} and options.get("lower_final") is None:
        options["lower_final"] = plan.steps < 10  # as the whole plan had it
    return entry.build(plan.process, at[a:], **options).stages


def _noises(s: Stage) -> list[int]:
    rule = [int(s.rule[1]["noise"])] if s.rule is not None and "noise" in s.rule[1] else []
    return [key[1] for key in s.row.terms if key[0] == "n"] + rule


def _drawn(part: Sequence[Stage]) -> int:
    return 1 + max((j for s in part for j in _noises(s)), default=-1)


def _moved(s: Stage, stages: int, steps: int, draws: int) -> Stage:
    """The stage with its references and step shifted."""
    by = {"x": stages, "p": stages, "n": draws}
    row = Line({(k[0], k[1] + by[k[0]], *k[2:]) if k[0] in by else k: c for k, c in s.row.terms.items()})
    rule = s.rule
    if rule is not None and "noise" in rule[1]:
        rule = (rule[0], {**rule[1], "noise": rule[1]["noise"] + draws})
    return dataclasses.replace(s, row=row, step=s.step + steps, rule=rule)
