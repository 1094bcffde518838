"""What the demo measures: pictures and errors of solvers from the same noises, the quality of many samples, orders of accuracy.

    error = median over samples of |x - x*| / |x*|,   x* the model's own fine solution from the same noise

so an error is the solver's alone, not the model's. Quality is the judge's: the share of samples read as their class, and the Fréchet
distance to the training pictures in the judge's features.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError
from reverie.data import digits
from reverie.guide import CFG
from reverie.measure import Judge, frechet_distance
from reverie.model import Model
from reverie.process import vp
from reverie.solve import OrderCheck, Plan, check_order, plan, sample

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
COUNT = 20
"""Samples behind an error."""
LONG = 50
"""Evaluations that quality is compared with."""
BATCH = 200
"""Rows of a network call where there are many samples."""
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
        recommended: the model's own choice of grid and end, with which the quality of dpmpp-2m is sampled.
        real: the judge's accuracy on held-out digits. frechet_real: between training and held-out digits. orders: (options, check).
    """

    model: str
    samples: int
    seed: int
    trials: dict[tuple[bool, str, int], Trial] = field(default_factory=dict)
    fine: dict[bool, Tensor] = field(default_factory=dict)
    quality: list[Quality] = field(default_factory=list)
    orders: list[tuple[str, OrderCheck]] = field(default_factory=list)
    recommended: dict[str, str] = field(default_factory=dict)
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
    found = Findings(model.name, samples, seed, recommended=dict(model.sampling))
    train, held = digits("train"), digits("heldout")
    wanted = [("dpmpp-2m", LONG), *((s, b) for s in ("ddim", "dpmpp-2m") for b in SHOWN)]
    rows = COUNT * 3 * (len(SOLVERS) * sum(BUDGETS) + FINE) + samples * sum(calls for _, calls in wanted)
    check = rows * 0.15 / len(_ORDERS)  # what a check of order takes, about, in the same unit
    work = _Work(rows + check * len(_ORDERS), tell)
    with work:
        guides = {g: model | CFG(SCALE) if g else model for g in (False, True)}
        fine = {
            g: work.add(COUNT * (1 + g) * FINE, _few, m, plan("dpmpp-3m", model.process, nfe=FINE), seed)
            for g, m in guides.items()
        }
        many = {
            q: [work.add(len(ids) * q[1], _many, model, q, ids, seed + 1) for ids in torch.arange(samples).split(BATCH)]
            for q in wanted
        }
        tables = {(s, b): plan(s, model.process, nfe=b) for s in SOLVERS for b in BUDGETS}
        few = {
            (g, *key): work.add(COUNT * (1 + g) * key[1], _few, m, table, seed)
            for g, m in guides.items()
            for key, table in tables.items()
        }
        orders = [work.add(check, partial(check_order, name, vp(), **options)) for name, options in _ORDERS]
        for g in guides:
            found.fine[g] = fine[g].result()[:10]
        for (g, solver, budget), job in few.items():
            x, exact = job.result(), fine[g].result()
            error = ((x - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).median().item()
            found.trials[g, solver, budget] = Trial(solver, tables[solver, budget].nfe or 0, error, x[:10])
        found.real = judge.accuracy(*held)
        reference, labels = judge.features(train[0]), torch.arange(samples) % 10
        found.frechet_real = frechet_distance(reference, judge.features(held[0]))
        for solver, calls in sorted(wanted):
            x = torch.cat([job.result() for job in many[solver, calls]])
            distance = frechet_distance(reference, judge.features(x))
            found.quality.append(Quality(solver, calls, judge.accuracy(x, labels), distance))
        for (_, options), order in zip(_ORDERS, orders, strict=True):
            found.orders.append((", as released" if options else "", order.result()))
    return found


def _few(model: Model, table: Plan, seed: int) -> Tensor:
    return sample(model, COUNT, plan=table, cond={"class_labels": torch.arange(COUNT) % 10}, seed=seed, batch=COUNT)


def _many(model: Model, how: tuple[str, int], ids: Tensor, seed: int) -> Tensor:
    cond = {"class_labels": ids % 10}
    return sample(model, solver=how[0], nfe=how[1], cond=cond, seed=seed, index=ids.tolist(), batch=BATCH)


class _Work:
    """Jobs on all cores, one thread each: networks as small as these gain little from several threads a call.

    Leaving it after an error or Ctrl-C drops the jobs that have not begun.
    """

    def __init__(self, whole: float, tell: Callable[[str, float], None]) -> None:
        self.whole, self.tell, self.done, self.lock = whole, tell, 0.0, Lock()
        self.threads = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,))

    def add(self, amount: float, job: Callable[..., Any], *args: Any) -> Future[Any]:
        """A job and how much it is of the whole."""
        return self.pool.submit(self._run, amount, job, *args)

    def _run(self, amount: float, job: Callable[..., Any], *args: Any) -> Any:
        result = job(*args)
        with self.lock:
            self.done += amount
            self.tell("pictures, errors, quality, orders", min(1.0, self.done / self.whole))
        return result

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *exc: object) -> None:
        self.pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self.threads)
