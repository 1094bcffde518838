"""Painters (2303.02490): what one Gaussian a class says of the first steps need not be asked of the network.

The paper only hints that steps can be skipped; that six calls after the jump do as well as eight from noise is the index's own check. The jump goes
as low as sigma / alpha equal to the largest standard deviation, where plain noise at the same start is far worse, as the null control shows, and one
law for all classes hardly better than that. Two cautions, from trials on other seeds. Higher up, at two or three times that, plain noise is as good
as the jump: starting late is then the gain. And Heun, which wastes calls near noise, gains from plain noise at the late start too; with it the null
control passes, and it is no setting of this claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from reverie.data import digits as real
from reverie.measure import frechet_distance, judge
from reverie.papers.claim import Budget, Case, Claim, Figures
from reverie.papers.problems import digits
from reverie.solve import Teleport, plan, sample
from reverie.solve.context import Run

CALLS, FACTOR, RANK = 6, 1.0, 30
SOLVER = "dpmpp-2m"
"""Both on the grid even in log SNR; the short one begins at t*, where sigma / alpha is FACTOR times the largest standard deviation."""


class _Plain:
    """Starts from the run's own noise at t*."""

    begins = True

    def start(self, ctx: Run) -> None:
        """Leave the state."""


def run(arms: Mapping[str, Any], seed: int, budget: Budget) -> Figures:
    """Fréchet distances of digits to the real ones, in the judge's features, and calls."""
    problem, (x, labels) = digits(seed, budget.pick(30, 300, 350)), real("train")
    p = problem.m.process
    jump = Teleport.fit(x, rank=RANK, labels=labels)
    low, high = p.lam_range
    span = ((high - p.lam(jump.time(p, FACTOR))) / (high - low), 0.0)
    begins = {"classes": jump, "one law": Teleport.fit(x, rank=RANK), "plain": _Plain()}
    frechet, cost = dict[str, float](), dict[str, float]()
    known = dict[tuple[str, int], float]()
    for arm, (begin, calls) in arms.items():
        made = plan(SOLVER, p, nfe=max(calls, 1), span=span if begin in begins else (1.0, 0.0))
        if (begin, calls) not in known:
            if begin == "data":
                y = problem.fresh
            else:
                hooks = begins.get(begin, ())
                y = sample(
                    problem.m, problem.n, plan=made, cond=problem.cond, seed=seed, batch=problem.batch, hooks=hooks
                )
            with torch.no_grad():
                features = judge().features(y.float()), judge().features(problem.data.float())
            known[begin, calls] = frechet_distance(*features)
        frechet[arm] = known[begin, calls]
        cost[arm] = float(made.nfe or 0)
    return {f"digits/{CALLS}": frechet, f"digits, cost/{CALLS}": cost}


CLAIM = Claim(
    slug="painters",
    kind="saving",
    statement="On the digits, 6 calls of 2M after a jump by the closed form of a Gaussian a class, to where sigma / alpha is the largest standard "
    "deviation, come within 1.05 times the Fréchet distance of 8 from noise, and below that of 6 from noise.",
    arms={
        "method": ("classes", CALLS),
        "baseline": ("noise", 8),
        "cheap": ("noise", CALLS),
        "one": ("one law", CALLS),
    },
    null=("plain", CALLS),
    ideal=("data", CALLS),
    names={
        "method": "a jump",
        "baseline": "8 calls",
        "cheap": "6 calls",
        "one": "a jump, one law",
        "null": "noise at the jump's end",
        "ideal": "held-out digits",
    },
    run=run,
    cases=(
        Case(f"digits/{CALLS}", factor=1 / 1.05),
        Case(f"digits/{CALLS}", factor=1.0, against="cheap"),
        Case(f"digits, cost/{CALLS}", factor=4 / 3, cost=True),
    ),
    axis="calls",
    units={"digits": "Fréchet distance to data (with its bias)", "digits, cost": "calls"},
    use="""\
m, (x, labels) = rv.load("digits"), rv.data.digits("train")
jump = rv.solve.Teleport.fit(x, rank=30, labels=labels)
plan = rv.solve.plan("dpmpp-2m", m.process, grid=[jump.time(m.process, 1.0), 0.3, 0.2, 0.1, 0.05, 0.02, 0.0])
x = rv.sample(m, 16, plan=plan, cond=m.embed("7"), hooks=jump)""",
)
