"""The reverse SDE by Euler-Maruyama, and predictor-corrector sampling.

    dx = [f x - g^2 score] dt + g dw   backwards in time,      score = (alpha D - x) / sigma^2,   D the prediction of x0.

Predictors, s -> t, a = alpha_s / alpha_t, G^2 = sigma_s^2 - a^2 sigma_t^2 (so that x_s = a x_t + G z is the forward step):

    euler-maruyama       x_t = x + [f x - g^2 score] (t - s) + g sqrt(s - t) z
    reverse-diffusion    x_t = (2 - a) x + G^2 score + G z
    ancestral            the mean of q(x_t | x_s, D); noise of its standard deviation where alpha is constant (VE), else G ("large" of `ddpm`)

The corrector, before each predictor, makes Langevin steps at the same time, of a size that follows from a signal-to-noise ratio:

    x <- x + e score + sqrt(2 e) z,      e = 2 a^2 (snr |z| / |score|)^2

with the norms of each sample (the released code takes their mean over the batch, so that a sample depends on its neighbours; here it does
not). In few dimensions these norms vary so much that the law suffers: there take norms="expected", the limit of many dimensions and small
data, |z| / |score| = sigma, with which the rows are linear. Langevin steps are not exact either: on Gaussian data norms of samples leave the
variance larger by snr^2 (2.6 % at 0.16), however many steps. The last row, whatever the end, adds no noise.

Source: Song et al. 2021 (2011.13456, equations 4, 6, 46 and 47, algorithms 2 to 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reverie.base import ArgumentError, implements, unknown
from reverie.process import Process
from reverie.solve.ddim import posterior_std, transfer
from reverie.solve.grids import Node
from reverie.solve.line import Line, noise, prediction
from reverie.solve.plan import rule
from reverie.solve.solver import Table, solver

if TYPE_CHECKING:
    from reverie.solve.context import Run

__all__ = ["PREDICTORS", "euler_maruyama", "langevin", "pc"]

Rows = tuple[Line, float]
"""The mean of the next state, and the standard deviation of its noise."""


def _score(s: Node, x: Line, data: Line) -> Line:
    return (s.alpha * data - x) / s.sigma**2


def _maruyama(p: Process, s: Node, t: Node, x: Line, data: Line) -> Rows:
    f, g, dt = p.drift(s.t), p.diffusion(s.t), t.t - s.t
    if not (math.isfinite(f) and math.isfinite(g)):
        raise ArgumentError(
            f"the reverse SDE is singular at t = {s.t}, where alpha = 0; start the grid later (grid='logsnr' does)"
        )
    return (1 + f * dt) * x - g**2 * dt * _score(s, x, data), g * math.sqrt(-dt)


def _reverse_diffusion(p: Process, s: Node, t: Node, x: Line, data: Line) -> Rows:
    a = s.alpha / t.alpha
    squared = max(0.0, s.sigma**2 - a**2 * t.sigma**2)
    return (2 - a) * x + squared * _score(s, x, data), math.sqrt(squared)


def _ancestral(p: Process, s: Node, t: Node, x: Line, data: Line) -> Rows:
    small, large = posterior_std(s, t), math.sqrt(max(0.0, s.sigma**2 - (s.alpha / t.alpha) ** 2 * t.sigma**2))
    return transfer(s, t, x, data, small), small if s.alpha == t.alpha else large


PREDICTORS: dict[str, Callable[[Process, Node, Node, Line, Line], Rows]] = {
    "euler-maruyama": _maruyama,
    "reverse-diffusion": _reverse_diffusion,
    "ancestral": _ancestral,
}


@rule("langevin")
def langevin(run: Run, x: Tensor, *, snr: float, scale: float, noise: int) -> Tensor:
    """x + e score + sqrt(2 e) z with e = 2 scale (snr |z| / |score|)^2, norms over one sample; no step where the score is zero."""
    score, z = run.pred.score, run.draw(noise)
    dims = tuple(range(1, x.ndim))

    def squared(v: Tensor) -> Tensor:
        return (v * v).sum(dims, keepdim=True) if dims else v * v

    down = squared(score)
    step = torch.where(down > 0, 2 * scale * snr**2 * squared(z) / down, 0.0)
    return x + step * score + (2 * step).sqrt() * z


@implements("score-sde")
@solver("euler-maruyama", order=1, stochastic=True)
def euler_maruyama(process: Process, at: Sequence[Node]) -> Table:
    """The reverse SDE by Euler-Maruyama in the process's own time (the paper's grid is "time"); first order in distribution."""
    return _pc(process, at, "euler-maruyama", 0, 0.0)


@implements("score-sde")
@solver("pc", order=1, stochastic=True)
def pc(
    process: Process,
    at: Sequence[Node],
    *,
    predictor: str = "reverse-diffusion",
    corrections: int = 1,
    snr: float = 0.16,
    norms: str = "sample",
) -> Table:
    """Predictor-corrector sampling: Langevin steps at each time before the step to the next; for a hundred calls and more.

    Args:
        predictor: "reverse-diffusion" (default), "euler-maruyama" or "ancestral". corrections: Langevin steps before each predictor, >= 0, an
            evaluation each. snr: > 0, signal-to-noise ratio of a Langevin step (the paper: 0.16 on CIFAR-10, 0.075 on larger pictures).
        norms: "sample" (default), or "expected" for data of few dimensions.
    """
    if predictor not in PREDICTORS:
        raise unknown("predictor", predictor, PREDICTORS)
    if isinstance(corrections, bool) or not isinstance(corrections, int) or corrections < 0:
        raise ArgumentError(f"corrections must be a whole number of at least 0, got {corrections!r}")
    if corrections and not 0 < snr < math.inf:
        raise ArgumentError(f"snr must be positive and finite, got {snr!r}")
    if norms not in ("sample", "expected"):
        raise unknown("norms", norms, ["sample", "expected"])
    return _pc(process, at, predictor, corrections, snr, norms)


def _pc(
    process: Process, at: Sequence[Node], predictor: str, corrections: int, snr: float, norms: str = "sample"
) -> Table:
    table = Table()
    for i, (s, t) in enumerate(pairwise(at)):
        for _ in range(corrections):
            x, scale, z = table.x, (s.alpha / t.alpha) ** 2, table.draw()
            if norms == "sample":
                table.ask(s, x, s, i, inner=True, rule=("langevin", {"snr": snr, "scale": scale, "noise": z}))
            else:
                e = 2 * scale * (snr * s.sigma) ** 2
                row = x + e * _score(s, x, prediction(table.k)) + math.sqrt(2 * e) * noise(z)
                table.ask(s, row, s, i, inner=True)
        mean, std = PREDICTORS[predictor](process, s, t, table.x, prediction(table.k))
        last = i == len(at) - 2
        table.ask(s, mean if last else mean + std * noise(table.draw()), t, i)
    return table
