"""DEIS (2204.13902): polynomials through past noise predictions, integrated exactly, help with every order.

On exact scores every order more gains a factor of 1.7 to 4.9. On the trained digits the first gains 2 to 3, the third only 1.13 to 1.17, which
suggests that the higher derivatives of a trained network's prediction are not smooth on the scale of these steps. With 5 and 6 evaluations order
3 is never reached, for the warm-up and the falling order at the end take all steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reverie.papers.claim import Budget, Case, Claim, Figures
from reverie.papers.problems import digits, mixture

EVALUATIONS = (5, 6, 8, 10, 12, 15, 20)
ASKED = (10, 15, 20)
STEPS = (("second", "baseline"), ("third", "second"), ("method", "third"))


def run(arms: Mapping[str, Any], seed: int, budget: Budget) -> Figures:
    """Errors on both settings, all arms on the paper's quadratic grid."""
    figures = mixture(seed, budget.pick(32, 256, 1024)).figures(
        "error", arms, budget.pick(ASKED, EVALUATIONS, EVALUATIONS)
    )
    if budget.name != "tiny":
        figures |= digits(seed, budget.pick(0, 64, 512)).figures("error", arms, EVALUATIONS)
    return figures


CLAIM = Claim(
    slug="deis",
    kind="superiority",
    statement="On the quadratic grid with 10, 15 and 20 evaluations, tAB-DEIS of order 3 ends at most half as far from the exact solution as DDIM "
    "(its order 0; 0.35 times at 10 and 0.15 times at 20 on exact scores), and every order from 1 to 3 ends nearer than the one below.",
    arms={
        "method": "deis-4@quadratic",
        "baseline": "ddim@quadratic",
        "second": "deis-2@quadratic",
        "third": "deis-3@quadratic",
    },
    names={
        "method": "tAB3-DEIS",
        "baseline": "DDIM = tAB0",
        "second": "tAB1-DEIS",
        "third": "tAB2-DEIS",
        "null": "DDIM in its place",
    },
    run=run,
    cases=(
        Case("mixture/10", factor=1 / 0.35),
        Case("mixture/15", factor=2.0),
        Case("mixture/20", factor=1 / 0.15),
        *(Case(f"digits/{n}", factor=2.0) for n in ASKED),
        *(
            Case(f"{setting}/{n}", factor=1.0, arm=arm, against=below)
            for setting in ("mixture", "digits")
            for n in ASKED
            for arm, below in STEPS
        ),
    ),
    axis="evaluations",
    units={
        "mixture": "median relative distance to the exact solution",
        "digits": "median relative distance to the exact solution",
    },
    use="""\
m = rv.load("digits")
plan = rv.solve.plan("deis-4", m.process, steps=10, grid="quadratic")
x = rv.sample(m, 16, plan=plan, cond=m.embed("7"))""",
)
