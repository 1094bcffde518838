"""First order: Euler, DDIM and DDPM.

From s to t with D = x0 predicted at s and eps = (x_s - alpha_s D) / sigma_s,

    x_t = alpha_t D + sqrt(sigma_t^2 - c^2) eps + c z,        c = eta (sigma_t / sigma_s) sqrt(sigma_s^2 - (alpha_s / alpha_t)^2 sigma_t^2).

eta = 0 is DDIM, the exact solution of the probability-flow ODE for a constant prediction, on any Gaussian process. eta = 1 is ancestral
sampling: c is then the standard deviation of q(x_t | x_s, x0).

Sources: Ho et al. 2020 (2006.11239), Song et al. 2021 (2010.02502, eq. 12 and 16), Nichol & Dhariwal 2021 (2102.09672, learned variance).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reverie.base import ArgumentError, cites, unknown
from reverie.process import Process
from reverie.solve.grids import Node
from reverie.solve.line import Line, noise, prediction
from reverie.solve.plan import rule
from reverie.solve.solver import Table, solver

if TYPE_CHECKING:
    from reverie.solve.context import Run

__all__ = ["ddim", "ddpm", "euler_a", "posterior_std"]


def posterior_std(s: Node, t: Node) -> float:
    """Standard deviation of q(x_t | x_s, x0) for t cleaner than s."""
    if t.sigma == 0:
        return 0.0
    kept = s.alpha / t.alpha
    return t.sigma / s.sigma * math.sqrt(max(0.0, s.sigma**2 - kept**2 * t.sigma**2))


def transfer(s: Node, t: Node, x: Line, data: Line, std: float = 0.0) -> Line:
    """alpha_t D + sqrt(sigma_t^2 - std^2) eps, eps taken from x and D."""
    keep = math.sqrt(max(0.0, t.sigma**2 - std**2)) / s.sigma
    return keep * x + (t.alpha - keep * s.alpha) * data


@cites("ddim")
@solver("ddim", order=1, stochastic=True)
def ddim(process: Process, at: Sequence[Node], *, eta: float = 0.0) -> Table:
    """DDIM: first order; eta from 0 (deterministic) to 1 (ancestral).

    Args:
        eta: >= 0, share of the ancestral noise.
    """
    if not 0 <= eta < math.inf:
        raise ArgumentError(f"eta must be finite and at least 0, got {eta}")
    table = Table()
    for i, (s, t) in enumerate(pairwise(at)):
        std = eta * posterior_std(s, t)
        if std > t.sigma:
            raise ArgumentError(
                f"eta = {eta} asks for more noise ({std:.4g}) than the state at t = {t.t:.4g} holds ({t.sigma:.4g})"
            )
        row = transfer(s, t, table.x, prediction(table.k), std)
        table.ask(s, row + std * noise(table.draw()) if std else row, t, i)
    return table


@cites("ddim")
@solver("euler-a", order=1, grid="karras", stochastic=True)
def euler_a(process: Process, at: Sequence[Node], *, eta: float = 1.0) -> Table:
    """Euler ancestral (k-diffusion): Euler down to less noise than the next node has, and fresh noise up to it.

    With rho = sigma / alpha, up = eta rho_t sqrt(1 - rho_t^2 / rho_s^2) and down = sqrt(rho_t^2 - up^2): the same row as ddim with eta.

    Args:
        eta: >= 0, share of the ancestral noise.
    """
    return ddim(process, at, eta=eta)


@cites("ddpm")
@solver("ddpm", order=1, grid="trailing", stochastic=True)
def ddpm(process: Process, at: Sequence[Node], *, variance: str = "small") -> Table:
    """Ancestral sampling; first order in distribution.

    Args:
        variance: of the noise added from s to t: "small" (the posterior's, beta-tilde), "large" (beta), or "learned" (the network's
            variance head interpolates their logarithms; the model predicts e.g. ("eps", "variance")). The last row adds none.
    """
    if variance not in ("small", "large", "learned"):
        raise unknown("variance", variance, ["small", "large", "learned"])
    table = Table()
    for i, (s, t) in enumerate(pairwise(at)):
        small = posterior_std(s, t)
        row = transfer(s, t, table.x, prediction(table.k), small)
        if not small:
            table.ask(s, row, t, i)
            continue
        large = math.sqrt(s.sigma**2 - (s.alpha / t.alpha) ** 2 * t.sigma**2)
        j = table.draw()
        if variance == "learned":
            table.ask(s, row, t, i, rule=("learned-variance", {"small": small, "large": large, "noise": j}))
        else:
            table.ask(s, row + (small if variance == "small" else large) * noise(j), t, i)
    return table


@rule("learned-variance")
def learned_variance(run: Run, x: Tensor, *, small: float, large: float, noise: int) -> Tensor:
    """x + std z with log std = f log large + (1 - f) log small, f = (v + 1) / 2, v in [-1, 1] the network's variance head."""
    v = run.pred.variance
    if v is None:
        raise ArgumentError("variance='learned' needs a model with a variance head: predicts=('eps', 'variance')")
    log_std = math.log(small) + (v + 1) / 2 * (math.log(large) - math.log(small))
    return x + torch.exp(log_std) * run.draw(noise)
