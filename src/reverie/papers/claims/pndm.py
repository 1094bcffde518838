"""PNDM (2202.09778): fifty evaluations are worth hundreds of DDIM's.

On exact scores 50 evaluations beat 1000 of DDIM tenfold. The digits show why the paper measures distances to data: there 50 evaluations are level
with 250, while in distance to the exact solution they are not (0.013 against 0.006, measured once beside this claim), for the time-uniform grid,
which PNDM's weights need, spends its steps where this network does not need them. iPNDM turns the 9 extra calls of the Runge-Kutta warm-up into
steps: on exact scores it is six times nearer at 20 evaluations, and a fifth farther at 50.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reverie.papers.claim import Budget, Case, Claim, Figures
from reverie.papers.problems import Problem, digits, mixture


def run(arms: Mapping[str, Any], seed: int, budget: Budget) -> Figures:
    """Errors on the mixture, distances to data on the digits; the evaluations that were spent."""
    exact = mixture(seed, budget.pick(32, 256, 1024))
    if budget.name == "tiny":
        return _measured(exact, "error", arms, 20, 5)
    net = digits(seed, budget.pick(0, 128, 1000))
    figures = _measured(exact, "error", arms, 20, 5) | _measured(exact, "error", arms, 50, 20)
    return figures | _measured(net, "frechet", arms, 20, 5) | _measured(net, "frechet", arms, 50, 5)


def _measured(
    problem: Problem, metric: str, arms: Mapping[str, Any], nfe: int, slow: int
) -> dict[str, dict[str, float]]:
    """All arms at a budget, the baseline at a multiple of it."""
    spend = {arm: (solver, slow if arm == "baseline" else 1) for arm, solver in arms.items()}
    cost = {arm: float(problem.samples(solver, nfe * k)[0].nfe or 0) for arm, (solver, k) in spend.items()}
    return problem.figures(metric, spend, [nfe]) | {f"{problem.name}, cost/{nfe}": cost}


CLAIM = Claim(
    slug="pndm",
    kind="saving",
    statement="On the time-uniform grid, PNDM with 20 and 50 evaluations ends nearer to the exact solution than DDIM with 100 and 1000 on exact "
    "scores, and on the digits closes at least four fifths of the gap in Fréchet distance between DDIM at its own cost and at five times that.",
    arms={"method": "pndm@time", "baseline": "ddim@time", "warm": "ipndm@time"},
    null="ddim@time",
    names={
        "method": "PNDM",
        "baseline": "DDIM, 5 to 20 times the evaluations",
        "warm": "iPNDM",
        "null": "DDIM at PNDM's cost",
    },
    run=run,
    cases=(
        *(Case(f"mixture/{n}", factor=1.0) for n in (20, 50)),
        *(Case(f"digits/{n}", share=0.8) for n in (20, 50)),
        Case("mixture, cost/20", factor=5.0, cost=True),
        Case("mixture, cost/50", factor=20.0, cost=True),
        *(Case(f"digits, cost/{n}", factor=5.0, cost=True) for n in (20, 50)),
    ),
    axis="evaluations",
    units={
        "mixture": "median relative distance to the exact solution",
        "digits": "Fréchet distance to data (with its bias)",
        "mixture, cost": "evaluations",
        "digits, cost": "evaluations",
    },
    use="""\
m = rv.load("digits")
plan = rv.solve.plan("pndm", m.process, nfe=20, grid="time")
x = rv.sample(m, 16, plan=plan, cond=m.embed("7"))""",
)
