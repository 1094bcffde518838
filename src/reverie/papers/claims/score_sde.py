"""Score SDEs (2011.13456): a corrector beside each predictor step beats twice as many predictor steps.

With exact scores the corrector has nothing to correct. At 100 evaluations both arms are next to the noise floor of the distance, and beyond that
the corrector is the worse one: Langevin steps of finite size leave the variance larger by snr^2 (2.6 % at 0.16), however many there are. With few
evaluations it is far worse, since every correction takes the place of a predictor step, whose error falls with the number of steps.

On the trained digits, whose score is in error, predictor-corrector is the nearer one at 100 evaluations, as the paper has it, but by 7 % on
average and not in every seed, where the claim asks for 10 %. The paper works with 2000 evaluations in 3072 dimensions; here there are 64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reverie.papers.claim import Budget, Case, Claim, Figures
from reverie.papers.problems import digits, mixture
from reverie.process import ve

EVALUATIONS = (20, 50, 100)


def run(arms: Mapping[str, Any], seed: int, budget: Budget) -> Figures:
    """Distances to data: of the mixture under the VE process and geometric levels, of the digits under VP and uniform times, as in the paper."""
    exact = mixture(seed, budget.pick(64, 800, 4000), process=ve())
    figures = exact.figures(
        "sliced", {a: s.format(grid="logsnr") for a, s in arms.items()}, budget.pick((100,), EVALUATIONS, EVALUATIONS)
    )
    if budget.name != "tiny":
        net = digits(seed, budget.pick(0, 128, 1000))
        figures |= net.figures("frechet", {a: s.format(grid="time") for a, s in arms.items()}, EVALUATIONS)
    return figures


CLAIM = Claim(
    slug="score-sde",
    kind="superiority",
    statement="With 100 evaluations, 50 predictor steps with a Langevin correction each end at most 0.9 times as far from the data as 100 "
    "predictor steps: in sliced Wasserstein distance on exact VE scores, in Fréchet distance on the digits.",
    arms={"method": "pc@{grid}:snr=0.16", "baseline": "pc@{grid}:corrections=0"},
    names={"method": "predictor-corrector", "baseline": "predictor only", "null": "predictor only in its place"},
    run=run,
    cases=(Case("mixture/100", factor=1 / 0.9), Case("digits/100", factor=1 / 0.9)),
    axis="evaluations",
    units={"mixture": "sliced Wasserstein distance to data", "digits": "Fréchet distance to data"},
    use="""\
m = rv.load("digits")
plan = rv.solve.plan("pc", m.process, nfe=100, grid="time")
x = rv.sample(m, 16, plan=plan, cond=m.embed("7"))""",
)
