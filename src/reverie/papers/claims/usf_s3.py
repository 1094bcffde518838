"""USF and S3 (2312.07243): a table of choices found for a model is nearer than every solver that the search began from.

The search sees 64 noises and scores 400 tables, 5 evaluations each; what is compared are other noises. Random search from the same seeds, with as
many evaluations, is an arm of its own, and so is the evolution without its predictor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reverie.papers.claim import Budget, Case, Claim, Figures
from reverie.papers.problems import mixture
from reverie.solve import Plan, endpoint_error, evolve, search_solver
from reverie.solve.tuning.genome import Tables

NFE = 5


def run(arms: Mapping[str, Any], seed: int, budget: Budget) -> Figures:
    """Errors on fresh noises, of the seeds' best by that very measure."""
    problem = mixture(seed, budget.pick(32, 1000, 1000))
    p = problem.m.process
    options: dict[str, Any] = budget.pick({"grids": ("logsnr",)}, {}, {})
    space = Tables(p, NFE, **options)
    score = endpoint_error(problem.m, budget.pick(16, 64, 64), seed=seed, reference=budget.pick(1e-3, 1e-5, 1e-5))
    often: dict[str, Any] = {
        "evaluations": budget.pick(30, 400, 400),
        "population": budget.pick(10, 50, 50),
        "seed": seed,
    }
    bred = often | budget.pick({"mutations": 4, "crossovers": 4, "breadth": 2}, {}, {}) | options

    def plans(what: str) -> list[Plan]:
        if what == "seeds":
            return [space.plan(g) for g in space.first()]
        if what == "random":
            return [evolve(space, score, mutations=0, crossovers=0, **often).plan]
        return [search_solver(p, score, NFE, predict=what == "predicted", **bred).plan]

    error = {what: min(problem.error(plan, NFE) for plan in plans(what)) for what in sorted(set(arms.values()))}
    return {f"mixture/{NFE}": {arm: error[what] for arm, what in arms.items()}}


CLAIM = Claim(
    slug="usf-s3",
    kind="superiority",
    statement="With 5 evaluations on exact scores, the table that S3 finds by scoring 400 tables on 64 noises ends at most 0.8 times as far from the "
    "exact solution, on fresh noises, as the best of seven known solvers on three grids, and nearer than that of random search.",
    arms={"method": "predicted", "baseline": "seeds", "random": "random", "evolution": "evolution"},
    names={
        "method": "S3: evolution with a predictor",
        "baseline": "the best known solver",
        "random": "random search",
        "evolution": "evolution without predictor",
        "null": "the best known solver in its place",
    },
    run=run,
    cases=(Case(f"mixture/{NFE}", factor=1.25), Case(f"mixture/{NFE}", factor=1.0, against="random")),
    axis="evaluations",
    units={"mixture": "median relative distance to the exact solution"},
    use="""\
m = rv.load("digits")
score = rv.solve.endpoint_error(m, 8, cond=m.embed("7"), reference=1e-2)
plan = rv.solve.search_solver(m.process, score, 4, evaluations=30).plan
x = rv.sample(m, 16, plan=plan, cond=m.embed("7"))""",
)
