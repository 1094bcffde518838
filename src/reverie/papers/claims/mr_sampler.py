"""MR-Sampler (2502.07856): ten evaluations of the second-order ODE step do what a hundred of posterior sampling do.

A restoration whose every answer is exact: real digits as one Gaussian, blurred and noised; given the blurred picture the posterior is Gaussian, and
so is the law of a sampler's results, which is computed without sampling. Seeds differ in the prior, the blur, the noise and the picture.

On the grid even in lam 10 evaluations are nearer in law than 100 of posterior sampling on its own labels, and level with 100 of Euler and
Maruyama, than which 20 are twice as near. On the paper's own grid, even in labels, with its Taylor step, 10 are not there yet (0.05 against 0.04)
and 20 are; 5 are far from it on both grids, so ten times less is what we see, not twenty. Posterior sampling errs in one thing, the variance: 7 %
too low at 100 evaluations; the second-order SDE step is within 0.3 % there. Orders are as they should be, from the true law at the start; from the
prior, which leaves out 0.005 of x0 - y, no deterministic step comes nearer than about 0.006.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.base import DATA, Noise
from reverie.data import digits as real
from reverie.inspect.entries import entry
from reverie.model import Model
from reverie.papers.claim import Budget, Case, Claim, Figures
from reverie.process import MeanReverting, mean_reverting
from reverie.solve import Plan
from reverie.solve import run as follow

SLOW = 100
"""The evaluations of the samplers that the paper replaces."""
ORDERS = (40, 160)
"""Steps between which an order is measured."""
PRIOR = 400
"""The digits that a prior is made of."""


@dataclass(frozen=True)
class Restoration:
    """A blurred picture and the exact posterior given it, in the coordinates in which the posterior's covariance is diagonal: all are `(64,)`."""

    p: MeanReverting
    y: Tensor
    mean: Tensor
    var: Tensor

    def model(self) -> Model:
        """The exact denoiser."""

        def net(x: Tensor, t: Tensor) -> Tensor:
            at = t[:1].double()
            a, s, shift = self.p.alpha(at), self.p.sigma(at), self.mean - self.y
            return self.mean + a * self.var / (a * a * self.var + s * s) * (x - self.y - a * shift)

        return Model(net, self.p, "x0")

    def law(self, plan: Plan, true_start: bool = False) -> tuple[Tensor, Tensor]:
        """The mean and standard deviations of the plan's results; from the true law at its start instead of the prior, if asked.

        Every step is affine and mixes no coordinates: a run without noise gives the mean, one with each noise alone its part of the deviation.
        """
        p, runs = self.p, 2 + plan.noises
        a, s = p.alpha(plan.start), p.sigma(plan.start)
        middle = self.y + a * (self.mean - self.y) if true_start else self.y
        x = middle.repeat(runs, 1)
        x[1] += (a * a * self.var + s * s).sqrt() if true_start else p.sigma_inf

        def alone(k: int) -> Tensor:
            noise = torch.zeros_like(x)
            noise[2 + k] = 1.0
            return noise

        out = follow(plan, self.model(), x, noise=alone, inputs={"y": self.y})
        return out[0], (out[1:] - out[0]).square().sum(0).sqrt()

    def distance(self, plan: Plan, true_start: bool = False) -> float:
        """The Wasserstein distance of the results' law to the posterior, over the posterior's own spread."""
        (mean, deviation), last = self.law(plan, true_start), plan.times[-1]
        a, s = self.p.alpha(last), self.p.sigma(last)
        goal = self.y + a * (self.mean - self.y) if true_start else self.mean
        wide = (a * a * self.var + s * s).sqrt() if true_start else self.var.sqrt()
        square = (mean - goal).square().sum() + (deviation - wide).square().sum()
        return math.sqrt(float(square / self.var.sum()))


def restoration(seed: int) -> Restoration:
    """Another prior, blur, noise level and picture every seed; pixels lie in [0, 1]."""
    noise = Noise(seed)
    chances = noise.uniform((3,), [1], stream=DATA)[0].tolist()
    pictures = (real("train")[0].double().flatten(1) + 1) / 2
    drawn = pictures[noise.uniform((len(pictures),), [0], stream=DATA)[0].argsort(stable=True)[:PRIOR]]
    m0, c0 = drawn.mean(0), torch.cov(drawn.mT) + 1e-4 * torch.eye(64, dtype=torch.float64)
    width, std = 0.7 + 0.6 * chances[0], 0.03 * (0.2 / 0.03) ** chances[1]
    at = torch.arange(8, dtype=torch.float64)
    row = (-((at[:, None] - at) ** 2) / (2 * width**2)).exp()
    blur = torch.kron(row / row.sum(1, keepdim=True), row / row.sum(1, keepdim=True))
    held = (real("heldout")[0].double().flatten(1) + 1) / 2
    picture = held[int(chances[2] * len(held))]
    y = blur @ picture + std * noise.normal((64,), [2], stream=DATA)[0].double()
    gain = torch.linalg.solve(blur @ c0 @ blur.mT + std**2 * torch.eye(64, dtype=torch.float64), blur @ c0).mT
    mean, cov = m0 + gain @ (y - blur @ m0), c0 - gain @ blur @ c0
    var, basis = torch.linalg.eigh((cov + cov.mT) / 2)
    return Restoration(mean_reverting(), basis.mT @ y, basis.mT @ mean, var)


def run(arms: Mapping[str, Any], seed: int, budget: Budget) -> Figures:
    """Distances to the posterior at 5, 10 and 20 evaluations; evaluations; orders; the variance that 100 evaluations leave."""
    problem = restoration(seed)

    def made(solver: str, nfe: int, **options: Any) -> Plan:
        return entry(solver).compile(problem.model(), nfe=nfe, **options)

    figures: dict[str, dict[str, float]] = {}
    for nfe in budget.pick((10,), (5, 10, 20), (5, 10, 20)):
        plans = {arm: made(solver, SLOW if arm in ("baseline", "euler") else nfe) for arm, solver in arms.items()}
        figures[f"law/{nfe}"] = {arm: problem.distance(plan) for arm, plan in plans.items()}
        figures[f"law, cost/{nfe}"] = {arm: float(plan.nfe or 0) for arm, plan in plans.items()}
    if budget.name != "tiny":
        figures["order"] = {arm: _order(problem, arms[arm], made) for arm in ("method", "first", "baseline", "null")}
        figures["variance"] = {arm: _spread(problem, made(arms[arm], SLOW)) for arm in ("sde", "baseline")}
    return figures


def _order(problem: Restoration, solver: str, made: Any) -> float:
    """How fast the distance falls, in powers of the step, begun at the true law and stopped at the last label: nothing but the steps errs."""
    few, many = (problem.distance(made(solver, n, end="sigma_min"), true_start=True) for n in ORDERS)
    return math.log(few / many) / math.log(ORDERS[1] / ORDERS[0])


def _spread(problem: Restoration, plan: Plan) -> float:
    """The relative error of the whole variance, or that of the mean where it is larger."""
    mean, deviation = problem.law(plan)
    whole = problem.var.sum()
    off = (mean - problem.mean).square().sum() / whole
    return max(abs(float(deviation.square().sum() / whole) - 1), math.sqrt(float(off)))


CLAIM = Claim(
    slug="mr-sampler",
    kind="saving",
    statement="On Gaussian restorations with exact scores, the second-order ODE sampler ends nearer to the posterior with 10 evaluations than "
    "posterior sampling with 100, and with 20 nearer than Euler-Maruyama with 100, its error falls with the step to the power of 1.8 at least, and "
    "the second-order SDE sampler with 100 matches mean and variance within 3 %.",
    arms={
        "method": "dpmpp-2m@logsnr",
        "baseline": "ddpm@time",
        "euler": "euler-maruyama@time",
        "first": "ddim@logsnr",
        "labels": "dpmpp-2m@time:variant=taylor",
        "sde": "dpmpp-2m-sde@logsnr",
    },
    null="ddpm@time",
    names={
        "method": "MRS 2",
        "baseline": "posterior, 100 calls",
        "euler": "Euler-M., 100 calls",
        "first": "MRS 1",
        "labels": "MRS 2, even labels",
        "sde": "MRS SDE 2",
        "null": "posterior, as cheap",
    },
    run=run,
    cases=(
        Case("law/10", factor=1.0),
        Case("law/20", factor=1.0, against="euler"),
        Case("order", at_least=1.8),
        Case("variance", at_most=0.03, arm="sde"),
        Case("law, cost/10", factor=10.0, cost=True),
        Case("law, cost/20", factor=5.0, against="euler", cost=True),
    ),
    axis="evaluations",
    units={
        "law": "Wasserstein distance to the posterior, over its spread",
        "law, cost": "evaluations",
        "order": "slope of the distance between 40 and 160 steps",
        "variance": "relative error of mean and variance, 100 evaluations",
    },
    use="""\
p, y = rv.process.mean_reverting(), rv.data.digits("heldout")[0][:16]
m = rv.Model(lambda x, t: 0.9 * y, p, "x0", shape=(1, 8, 8))  # a restoring network goes here
plan = rv.solve.plan("dpmpp-2m", p, nfe=10)
x = rv.sample(m, 16, plan=plan, inputs={"y": y})""",
)
