"""Score SDEs (2011.13456): a corrector beside each predictor step beats twice as many predictor steps.

With few evaluations it is the other way round, by a factor of five in the unbiased distance on exact scores: every correction takes the place of
a predictor step, whose error falls with the number of steps. The paper works with 2000 evaluations in 3072 dimensions. Here the two draw level by
100, where both are next to the data and samples of this size cannot tell them apart. Beyond that exact scores leave the corrector nothing to
correct, while its own steps of finite size widen the samples' variance by snr^2 (2.6 % at 0.16), however many there are.
"""

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
        figures |= net.figures("frechet", times, budget.pick((), (20, 50, 100), (20, 50, 100, 200)))
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
    cases=(Case("mixture/20", factor=1 / 0.9, signed=True), Case("digits/20", factor=1 / 0.9)),
    axis="evaluations",
    units={
        "mixture": "kernel distance to data",
        "digits": "Fréchet distance to data (with its bias)",
    },
    use="""\
m = rv.load("digits")
plan = rv.solve.plan("pc", m.process, nfe=100, grid="time")
x = rv.sample(m, 16, plan=plan, cond=m.embed("7"))""",
)
