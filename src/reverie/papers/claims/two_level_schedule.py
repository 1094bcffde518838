"""The two-level schedule (2510.02390): nodes almost even in the label, but ending early, are better than even nodes; so are other grids.

The paper compares with its solvers' usual even labels. With 2M the whole gain over these, nearly a half, is had by Karras's grid and by the
quadratic one too, with DDIM by the quadratic one. Ending early costs an evaluation more for x0, except under a decoder that takes the noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from reverie.base import DATA, Noise
from reverie.measure import Sliced
from reverie.oracle import Mixture
from reverie.papers.claim import Budget, Case, Claim, Figures
from reverie.papers.problems import digits
from reverie.process import ddpm
from reverie.solve import plan, sample

SOLVERS = {5: "ddim", 8: "dpmpp-2m"}
"""The paper's, by its steps; each finishes with one evaluation more."""
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
"""Stable Diffusion's."""
DIM, MODES, NORM, STD = 8, 8, 2.0, 0.2


def run(arms: Mapping[str, Any], seed: int, budget: Budget) -> Figures:
    """Distances to the data of a mixture on Stable Diffusion's schedule; errors to the exact solution on the digits."""
    means = Noise(seed).normal((DIM,), range(MODES), stream=DATA).double()
    p = ddpm((1 - BETAS).cumprod(0))
    o = Mixture(NORM * means / means.norm(dim=1, keepdim=True), STD, process=p)
    n = budget.pick(500, 2000, 20000)
    distance = Sliced(o.sample(budget.pick(2000, 10000, 50000), seed, start=1 << 20), projections=48)
    out: dict[str, dict[str, float]] = {}
    for steps, solver in SOLVERS.items():
        of = out[f"mixture/{steps + 1}"] = {}
        for arm, grid in arms.items():
            made = None if grid == "data" else plan(solver, p, steps + 1, grid=grid)
            x = o.sample(n, seed, start=1 << 22) if made is None else sample(o, n, plan=made, seed=seed, batch=n)
            of[arm] = distance(x)
    if budget.name == "tiny":
        return out
    problem = digits(seed, budget.pick(0, 64, 512))
    for steps, solver in SOLVERS.items():
        grids = {arm: f"{solver}@{grid}" for arm, grid in arms.items() if grid != "data"}
        out |= problem.figures("error", grids, [steps + 1])
    return out


CLAIM = Claim(
    slug="two-level-schedule",
    kind="superiority",
    statement="DDIM in 5 steps and DPM-Solver++(2M) in 8, each with one evaluation more for x0, end at most 0.85 times as far away on the two-level "
    "schedule as on even labels: from the data on a mixture with Stable Diffusion's noise levels, and from the exact solution on the digits.",
    arms={"method": "two-level", "baseline": "time", "karras": "karras", "quadratic": "quadratic"},
    ideal="data",
    names={
        "method": "two-level",
        "baseline": "even labels",
        "karras": "Karras, rho 7",
        "quadratic": "quadratic",
        "null": "even labels in its place",
        "ideal": "fresh data",
    },
    run=run,
    cases=tuple(Case(f"{name}/{steps + 1}", factor=1 / 0.85) for name in ("mixture", "digits") for steps in SOLVERS),
    axis="evaluations",
    units={
        "mixture": "sliced Wasserstein distance to the data",
        "digits": "median relative distance to the exact solution",
    },
    use="""\
m = rv.load("digits")
plan = rv.solve.plan("dpmpp-2m", m.process, steps=9, grid="two-level")
x = rv.sample(m, 16, plan=plan, cond=m.embed("7"))""",
)
