"""What the demo measures: pictures and errors of solvers from the same noises, the quality of many samples, orders of accuracy.

    error = median over samples of |x - x*| / |x*|,   x* the model's own fine solution from the same noise

so an error is the solver's alone, not the model's. Quality is the judge's: the share of samples read as their class, and the Fréchet
distance to the training pictures in the judge's features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError
from reverie.data import digits
from reverie.guide import CFG
from reverie.measure import Judge, frechet_distance
from reverie.model import Model
from reverie.process import vp
from reverie.solve import OrderCheck, check_order, plan, sample

__all__ = ["BUDGETS", "COUNT", "FINE", "LONG", "SCALE", "SHOWN", "SOLVERS", "Findings", "Quality", "Trial", "measure"]

SOLVERS = ("ddim", "heun", "dpm-fast", "dpmpp-2m", "dpmpp-3m")
SHOWN = (4, 6, 8)
"""Budgets whose pictures are shown."""
BUDGETS = (3, 4, 5, 6, 8, 10, 14, 20)
"""Budgets of the error curves, in evaluations."""
SCALE = 2.0
"""Of classifier-free guidance."""
FINE = 100
"""Evaluations of the fine solution, by dpmpp-3m."""
COUNT = 30
"""Samples behind an error."""
LONG = 50
"""Evaluations that quality is compared with."""
_ORDERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ddim", {}), ("heun", {}), ("dpm-fast", {}), ("dpmpp-2m", {}), ("dpmpp-3m", {}), ("dpmpp-3m", {"released": True})
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One solver at one budget: calls spent, its error, and its first ten samples."""

    solver: str
    calls: int
    error: float
    pictures: Tensor


@dataclass(frozen=True)
class Quality:
    """Many samples of a solver, as the judge sees them."""

    solver: str
    calls: int
    right: float
    frechet: float


@dataclass
class Findings:
    """All that the page shows.

    Attributes:
        trials: (guided, solver, budget) -> Trial. fine: guided -> pictures of the fine solution. quality: of samples.
        real: the judge's accuracy on held-out digits. frechet_real: between training and held-out digits. orders: (options, check).
    """

    model: str
    samples: int
    seed: int
    trials: dict[tuple[bool, str, int], Trial] = field(default_factory=dict)
    fine: dict[bool, Tensor] = field(default_factory=dict)
    quality: list[Quality] = field(default_factory=list)
    orders: list[tuple[str, OrderCheck]] = field(default_factory=list)
    real: float = 0.0
    frechet_real: float = 0.0

    def of(self, solver: str, calls: int) -> Quality:
        """The quality of a solver at a budget."""
        return next(q for q in self.quality if (q.solver, q.calls) == (solver, calls))

    def summary(self) -> list[str]:
        """The figures that matter, a line each."""
        eight, long = self.of("dpmpp-2m", 8), self.of("dpmpp-2m", LONG)
        return [
            f"8 evaluations: {eight.right:.1%} read as their class (real held-out digits: {self.real:.1%})",
            f"Fréchet distance at 8 evaluations: {eight.frechet:.2f}, {eight.frechet / long.frechet:.2f} times that at {LONG}",
        ]


def measure(
    model: Model,
    judge: Judge,
    samples: int = 1000,
    seed: int = 0,
    tell: Callable[[str, float], None] = lambda what, share: None,
) -> Findings:
    """Measure a class-conditional model of digits.

    Args:
        model: takes `class_labels`. judge: who reads the samples. samples: of each quality figure. seed: of all noise.
        tell: called with what is being done and the share, in [0, 1], that is finished.

    Raises:
        ArgumentError: a model of other data.
    """
    if model.shape != (1, 8, 8) or "class_labels" not in (model.null or {}):
        raise ArgumentError(
            f"the demo needs a class-conditional model of 8x8 digits; {model.name} has states of shape {model.shape}"
        )
    found = Findings(model.name, samples, seed)
    rows = {"curves": COUNT * 3 * (len(SOLVERS) * sum(BUDGETS) + FINE), "quality": samples * (2 * sum(SHOWN) + LONG)}
    whole, done = sum(rows.values()) * 1.15, 0.0  # the rest is the checks of order

    def spend(what: str, amount: float) -> None:
        nonlocal done
        done += amount
        tell(what, min(1.0, done / whole))

    classes = torch.arange(COUNT) % 10
    for guided in (False, True):
        m = model | CFG(SCALE) if guided else model
        cost = COUNT * (2 if guided else 1)
        common: dict[str, Any] = {"cond": {"class_labels": classes}, "seed": seed, "batch": COUNT}
        tell("the fine solution", done / whole)
        fine = sample(m, COUNT, solver="dpmpp-3m", nfe=FINE, **common)
        found.fine[guided] = fine[:10]
        spend("error curves", cost * FINE)
        for solver in SOLVERS:
            for budget in BUDGETS:
                table = plan(solver, model.process, nfe=budget)
                x = sample(m, COUNT, plan=table, **common)
                error = ((x - fine).flatten(1).norm(dim=1) / fine.flatten(1).norm(dim=1)).median().item()
                found.trials[guided, solver, budget] = Trial(solver, table.nfe or 0, error, x[:10])
                spend("error curves" + (", guided" if guided else ""), cost * budget)
    train, held = digits("train"), digits("heldout")
    found.real = judge.accuracy(*held)
    reference = judge.features(train[0])
    found.frechet_real = frechet_distance(reference, judge.features(held[0]))
    labels = torch.arange(samples) % 10
    for solver in ("ddim", "dpmpp-2m"):
        for budget in (*SHOWN, LONG) if solver == "dpmpp-2m" else SHOWN:
            tell(f"{samples} samples, {solver}, {budget} calls", done / whole)
            x = sample(
                model,
                samples,
                solver=solver,
                nfe=budget,
                cond={"class_labels": labels},
                seed=seed + 1,
                batch=min(samples, 250),
            )
            features = judge.features(x)
            found.quality.append(
                Quality(solver, budget, judge.accuracy(x, labels), frechet_distance(reference, features))
            )
            spend(f"{samples} samples, {solver}, {budget} calls", samples * budget)
    for name, options in _ORDERS:
        tell(f"order of {name}", done / whole)
        check = check_order(name, vp(), **options)
        found.orders.append((", as released" if options else "", check))
        spend(f"order of {name}", whole * 0.15 / 1.15 / len(_ORDERS))
    return found
