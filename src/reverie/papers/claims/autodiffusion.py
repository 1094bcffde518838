"""AutoDiffusion (2309.10438), its time-step half: four time steps found by evolution are worth more than any fixed spacing of four.

The score is the Fréchet distance of 1500 samples, always of the same noises, to data; what is compared are other noises and other data. Random search
with as many evaluations, from the same uniform candidate, is an arm of its own. Where the first step is found to lie below t_max, the run starts
there from noise alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from reverie.base import DATA, PRIOR, Noise
from reverie.measure import frechet_distance
from reverie.oracle import Mixture
from reverie.papers.claim import Budget, Case, Claim, Figures
from reverie.process import vp
from reverie.solve import Plan, evolve, plan, run, search_times
from reverie.solve.tuning.timesets import TimeSets

STEPS, MODES, DIM = (4, 6), 6, 8
SEARCH = 0xAD  # stream of the noises that a search sees


def setting(seed: int) -> Mixture:
    """Six modes in eight dimensions, another arrangement every seed."""
    means = Noise(seed).normal((DIM,), range(MODES), stream=DATA).double()
    return Mixture(3 * means / means.norm(dim=1, keepdim=True), 0.5, process=vp(), name="mixture")


def distance(o: Mixture, n: int, seed: int, stream: int, first: int) -> Callable[[Plan], float]:
    """The Fréchet distance of n samples of a plan to as many data and more, always the same."""
    z = o.process.draw(Noise(seed), (DIM,), range(n), stream=stream)
    data = o.sample(max(4 * n, 4000), seed, start=first)
    return lambda table: frechet_distance(run(table, o, o.process.prior(z, table.start)), data)


def run_claim(arms: Mapping[str, Any], seed: int, budget: Budget) -> Figures:
    """The distance of each arm's four- and six-step DDIM on fresh samples."""
    o = setting(seed)
    seen = distance(o, budget.pick(200, 1500, 1500), seed, SEARCH, 1 << 20)
    fresh = distance(o, budget.pick(1000, 20000, 20000), seed, PRIOR, 1 << 22)
    evaluations = budget.pick(80, 350, 350)
    out = {}
    for steps in STEPS[: budget.pick(1, 2, 2)]:
        of = {}
        for arm, what in arms.items():
            if what == "search":
                of[arm] = fresh(search_times(o.process, seen, steps, evaluations=evaluations, seed=seed).plan)
            elif what == "random":
                space = TimeSets(o.process, steps)
                of[arm] = fresh(evolve(space, seen, evaluations=evaluations, mutations=0, crossovers=0, seed=seed).plan)
            else:
                of[arm] = min(fresh(plan("ddim", o.process, steps=steps, grid=grid)) for grid in what)
        out[f"mixture/{steps}"] = of
    return out


CLAIM = Claim(
    slug="autodiffusion",
    kind="superiority",
    statement="On fresh samples of a mixture, DDIM with 4 and 6 time steps that evolution found in 350 evaluations has at most 0.6 times the Fréchet "
    "distance of the best of four fixed spacings, and at most 1.1 times that of random search with as many.",
    arms={
        "method": "search",
        "baseline": ("time", "quadratic", "logsnr", "karras"),
        "uniform": ("time",),
        "random": "random",
    },
    names={
        "method": "evolution",
        "baseline": "the best fixed spacing",
        "uniform": "uniform in time",
        "random": "random search",
        "null": "the best fixed spacing in its place",
    },
    run=run_claim,
    cases=(
        *(Case(f"mixture/{n}", factor=1 / 0.6) for n in STEPS),
        *(Case(f"mixture/{n}", factor=1 / 1.1, against="random") for n in STEPS),
    ),
    axis="steps",
    units={"mixture": "Fréchet distance of fresh samples"},
    use="""\
m = rv.load("digits")
score = rv.solve.endpoint_error(m, 8, cond=m.embed("7"), reference=1e-2)
plan = rv.solve.search_times(m.process, score, 4, evaluations=20).plan
x = rv.sample(m, 16, plan=plan, cond=m.embed("7"))""",
)
