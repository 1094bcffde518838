"""DC-Solver (2409.03755): ratios found on ten noises bring UniPC nearer to the guided solution, on noises that they were not found on.

Nearly all of the gain is the last ratio's, an arm of its own: on a grid even in time the last row goes to the data from far away, by the newest
prediction alone, and reading that prediction beyond its own time is what helps. UniPC without ratios on a grid that ends in shorter steps
gains much of it too, which the paper, on one grid, does not compare. On the trained digits ten noises are too few: their ratios fit the few samples
that a mean square is made of, and on others the fourth of twelve quotients is 0.8, the worst 1.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from reverie.inspect.entries import entry
from reverie.papers.claim import Budget, Case, Claim, Figures
from reverie.papers.problems import Problem, digits, mixture
from reverie.solve import Cascade, Fine, Plan, compensate, plan, sample

SCALES = (1.5, 4.0, 7.5)
BETWEEN = 2.5
STEPS = (5, 6, 8, 10)
UNSEEN = 7
FINE, REFERENCE = 120, 40
"""Calls of the fine solutions by which the digits are judged, and of those by which ratios are found."""
SEARCHED, LAST, PREDICTED = "searched", "the last of them", "predicted"
CLASSES = {"class_labels": torch.arange(10)}
Ratios = tuple[float, ...]


def run(arms: Mapping[str, Any], seed: int, budget: Budget) -> Figures:
    """Mean squared distances to the guided solution, over UniPC's: sorted over twelve cells, and where no ratios were searched."""
    n, tiny = budget.pick(32, 96, 1024), budget.name == "tiny"
    exact = {w: mixture(seed, n, w) for w in (SCALES[-1:] if tiny else (*SCALES, BETWEEN))}
    figures, known = _cells({w: p for w, p in exact.items() if w != BETWEEN}, arms)
    if not tiny:
        figures["unseen"] = _unseen(exact, arms, known)
        figures |= _cells({w: _digits(seed, budget.pick(0, 20, 256), w) for w in SCALES}, arms)[0]
    return figures


def _digits(seed: int, n: int, guidance: float) -> Problem:
    """The digits with a fine plan as their exact solution, a quarter of the time of one to a tolerance, and hundreds of times nearer than any arm."""
    problem = digits(seed, n, guidance)
    problem.fine = Fine(problem.m, n, (1, 8, 8), cond=problem.cond, seed=seed, batch=problem.batch, reference=FINE)
    return problem


def _cells(
    problems: Mapping[float, Problem], arms: Mapping[str, Any]
) -> tuple[dict[str, dict[str, float]], dict[tuple[float, int], Ratios]]:
    """Figures "name/k": the k-th smallest quotient over the cells; and the ratios of each cell."""
    cells: dict[str, dict[str, float]] = {}
    known: dict[tuple[float, int], Ratios] = {}
    for w, problem in problems.items():
        for n in STEPS:
            known[w, n] = _search(problem, n)
            cells[f"{problem.name}, guidance {w:g}, {n} calls"] = _squares(problem, n, arms, known[w, n])
    figures: dict[str, dict[str, float]] = {}
    for arm in next(iter(cells.values())):
        ranked = sorted(of[arm] / of["baseline"] for of in cells.values())
        for k, value in enumerate(ranked, 1):
            figures.setdefault(f"{problem.name}/{k}", {})[arm] = value
    return figures | cells, known


def _unseen(
    problems: Mapping[float, Problem], arms: Mapping[str, Any], known: Mapping[tuple[float, int], Ratios]
) -> dict[str, float]:
    """The geometric mean over guidance scales of the quotient at a number of steps that the regression has not seen."""
    cells = {**known, **{(BETWEEN, n): _search(problems[BETWEEN], n) for n in STEPS}}
    cascade, logs = Cascade.fit(cells), dict[str, list[float]]()
    for w, problem in problems.items():
        found = _squares(problem, UNSEEN, arms, _search(problem, UNSEEN), cascade(w, UNSEEN))
        for arm, value in found.items():
            logs.setdefault(arm, []).append(math.log(value / found["baseline"]))
    return {arm: math.exp(math.fsum(values) / len(values)) for arm, values in logs.items()}


def _search(problem: Problem, n: int) -> Ratios:
    found = compensate(problem.m, n, cond=CLASSES, seed=problem.seed, reference=REFERENCE, grid="time", end="denoise")
    return tuple(found.options["ratios"])


def _squares(
    problem: Problem, n: int, arms: Mapping[str, Any], ratios: Ratios, predicted: Ratios | None = None
) -> dict[str, float]:
    """Each arm's mean squared distance to the guided solution; without those that need predicted ratios where there are none."""
    special = {SEARCHED: ratios, LAST: (1.0,) * (n - 1) + ratios[-1:], PREDICTED: predicted}
    out: dict[str, float] = {}
    known: dict[Any, float] = {}
    for arm, what in arms.items():
        if what == PREDICTED and predicted is None:
            continue
        if what not in known:
            if what in special:
                made = plan("dc-solver", problem.m.process, steps=n, ratios=special[what], grid="time")
            else:
                made = entry(what).compile(problem.m, nfe=n, end="denoise")
            known[what] = _square(problem, made)
        out[arm] = known[what]
    return out


def _square(problem: Problem, made: Plan) -> float:
    x = sample(problem.m, problem.n, plan=made, cond=problem.cond, seed=problem.seed, batch=problem.batch, decode=False)
    return float((x.double().cpu() - problem.fine(made.start, made.times[-1])).square().mean())


CLAIM = Claim(
    slug="dc-solver",
    kind="superiority",
    statement="Under guidance 1.5, 4 and 7.5 with 5, 6, 8 and 10 evaluations, ratios found on ten noises leave on others at most 0.8 times UniPC's "
    "mean squared distance to the guided solution in 8 of these 12 cells, 0.5 times in 4 and 1.05 times in all, on exact and on trained scores, and "
    "predicted ratios keep half of the gain at 7 evaluations.",
    arms={
        "method": SEARCHED,
        "baseline": "unipc-2@time",
        "cascade": PREDICTED,
        "last": LAST,
        "grid": "unipc-2@quadratic",
    },
    names={
        "method": "DC-Solver",
        "baseline": "UniPC-2",
        "cascade": "with predicted ratios",
        "last": "with the last ratio alone",
        "grid": "UniPC-2 on the quadratic grid",
        "null": "UniPC-2 in its place",
    },
    run=run,
    cases=(
        *(
            Case(f"{setting}/{k}", at_most=bound)
            for setting in ("mixture", "digits")
            for k, bound in ((4, 0.5), (8, 0.8), (12, 1.05))
        ),
        Case("unseen", share=0.5, arm="cascade", against="method"),
    ),
    axis="cells, from the best to the worst",
    units={
        "mixture": "mean squared distance to the guided solution, over UniPC's",
        "digits": "mean squared distance to the guided solution, over UniPC's",
        "unseen": "the same at 7 evaluations, geometric mean over four guidance scales",
    },
    use="""\
m = rv.load("digits") | rv.guide.CFG(7.5)
plan = rv.solve.compensate(m, steps=5, cond=m.embed("all"))
x = rv.sample(m, 16, plan=plan, cond=m.embed("7"))""",
)
