"""Score SDEs (2011.13456): a corrector beside each predictor step beats twice as many predictor steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reverie.papers.claim import Budget, Case, Claim, Figures
from reverie.papers.problems import digits, mixture
from reverie.process import ve


def run(arms: Mapping[str, Any], seed: int, budget: Budget) -> Figures:
    """Distances to data: of the mixture under the VE process and geometric levels, of the digits under VP and uniform times, as in the paper."""
    exact = mixture(seed, budget.pick(64, 1000, 4000), process=ve())
    levels = {a: s.format(grid="logsnr") for a, s in arms.items()}
    figures = exact.figures("kernel", levels, budget.pick((20,), (20, 50, 100), (20, 50, 100, 200)))
    if budget.name != "tiny":
        net = digits(seed, budget.pick(0, 128, 350))
        times = {a: s.format(grid="time") for a, s in arms.items()}
        figures |= net.figures("kernel", times, budget.pick((), (20, 50, 100), (20, 50, 100, 200)))
    return figures


CLAIM = Claim(
    slug="score-sde",
    kind="superiority",
    statement="With 20 evaluations, half of them spent on Langevin corrections, samples end at most 0.9 times as far from the data as with predictor "
    "steps alone.",
    arms={"method": "pc@{grid}:snr=0.16", "baseline": "pc@{grid}:corrections=0"},
    ideal="data",
    names={
        "method": "predictor-corrector",
        "baseline": "predictor only",
        "null": "predictor only in its place",
        "ideal": "fresh data",
    },
    run=run,
    cases=tuple(Case(figure, factor=1 / 0.9, signed=True) for figure in ("mixture/20", "digits/20")),
    axis="evaluations",
    units={
        "mixture": "kernel distance to data",
        "digits": "kernel distance to data, in the judge's features",
    },
    use="""\
m = rv.load("digits")
plan = rv.solve.plan("pc", m.process, nfe=100, grid="time")
x = rv.sample(m, 16, plan=plan, cond=m.embed("7"))""",
)
