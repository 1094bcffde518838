"""The Schrödinger bridge of any reference dX = f(X) dt + sigma dW between two clouds, by iterative proportional fitting with learned drifts.

A process is kept as the drift of its simulation, forwards from x or backwards from y. Each half round turns one into the other: simulate, turn the
states round in time, and learn the drift of what is seen, E[(X_k+1 - X_k) / dt | X_k, t_k]. Starting from the reference,

    forward paths from x  ->  backward drift;    its paths from y  ->  forward drift;    its paths from x  ->  backward drift ...

goes, with exact regressions, to the bridge: every half round replaces one end by its cloud and leaves the conditional law of the rest. Each drift
runs on a clock of its own, from 0 where its simulation starts; only states are turned round.

What is learned is the difference from f (forwards) or -f (backwards). The regressor may be anything; `exponential` is a straight line and a Gaussian
process on what it leaves. The line matters: a target's noise, sigma^2 / dt, is far above the drift, and what a process alone shrinks away in each
half round adds up to a bridge that ends beside its cloud.

Sources: Vargas et al. 2021 (2106.02081, Schrödinger bridges by maximum likelihood); Shen, Berlinghieri & Broderick 2024 (2408.06277, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.base import ArgumentError, Noise, NonFiniteError, implements
from reverie.solve.bridges.linear import STREAM, Draws, check_sigma

__all__ = ["LearnedBridge", "Regressor", "exponential", "ipfp"]

Drift = Callable[[Tensor, float], Tensor]
"""(states (B, D), time since the simulation's start) -> (B, D)."""

FLOOR = 0.01
"""Least variance of the Gaussian process, in units of the noise of one target."""

Regressor = Callable[[Tensor, Tensor, float], Callable[[Tensor], Tensor]]
"""(inputs (M, 1 + D): time and state, targets (M, D), variance of a target's noise) -> the conditional mean as a function of inputs."""


def exponential(length: float = 1.0, inducing: int = 200) -> Regressor:
    """Least squares on (1, t) x (1, x), then Gaussian-process regression of the rest y with the kernel a exp(-|u - v| / length).

    u and v are inputs in units of their standard deviations. With `inducing` points U of the M inputs the process's mean is
    k(., U) (K_UM K_MU + s K_UU)^-1 K_UM y, s = noise / a: that of the whole process for inducing >= M. a is the mean square of y less the noise,
    at least noise / 100.

    Args:
        length: > 0. inducing: >= 1; cost M inducing^2.

    Raises `ArgumentError` for numbers out of range.

    >>> u = torch.rand(400, 2, generator=torch.Generator().manual_seed(0)).double()  # time and one coordinate
    >>> said = exponential()(u, (5 * u[:, 1:]).sin(), 1e-4)
    >>> bool((said(u) - (5 * u[:, 1:]).sin()).abs().mean() < 0.02)
    True
    """
    if not length > 0 or inducing < 1:
        raise ArgumentError(f"length must be positive and inducing at least 1, got {length!r} and {inducing!r}")

    def trend(u: Tensor) -> Tensor:
        one = torch.cat([torch.ones_like(u[:, :1]), u[:, 1:]], 1)
        return torch.cat([one, u[:, :1] * one], 1)

    def fit(inputs: Tensor, targets: Tensor, noise: float) -> Callable[[Tensor], Tensor]:
        scale = inputs.std(0).clamp(min=1e-12)
        inputs = inputs / scale
        line = torch.linalg.lstsq(trend(inputs), targets).solution
        targets = targets - trend(inputs) @ line
        some = Noise(0).uniform((len(inputs),), [0], 0, STREAM)[0].argsort()[:inducing].to(inputs.device)
        nodes = inputs[some]

        def kernel(u: Tensor) -> Tensor:
            return (-torch.cdist(u, nodes) / length).exp()

        ratio = noise / max(float(targets.square().mean()) - noise, FLOOR * noise)
        cross = kernel(inputs)
        matrix = cross.mT @ cross + ratio * cross[some]
        matrix.diagonal().add_(1e-10 * matrix.diagonal().mean())  # points that coincide
        weights = torch.cholesky_solve(cross.mT @ targets, torch.linalg.cholesky(matrix))
        return lambda u: trend(u / scale) @ line + kernel(u / scale) @ weights

    return fit


@dataclass(frozen=True, eq=False)
class LearnedBridge:
    """A bridge as two drifts; made by `ipfp`.

    Attributes:
        ahead, back: the drifts of the simulations from 0 and from `time`, each on a clock of its own. sigma: of the noise.
    """

    ahead: Drift
    back: Drift
    sigma: float
    time: float

    def forward(self, x: Tensor, clock: Tensor, draws: Draws) -> Tensor:
        """Paths (B, K + 1, D) from x (B, D) by steps of Euler and Maruyama, at times from clock[0] = 0 to clock[K] = `time`."""
        return simulate(self.ahead, x, clock, self.sigma, draws)

    def backward(self, y: Tensor, clock: Tensor, draws: Draws) -> Tensor:
        """Paths (B, K + 1, D) that end at y (B, D), in the same order of time."""
        return simulate(self.back, y, self.time - clock.flip(0), self.sigma, draws).flip(1)


def simulate(drift: Drift, x: Tensor, clock: Tensor, sigma: float, draws: Draws) -> Tensor:
    """Paths (B, K + 1, D) of dX = drift dt + sigma dW. Raises `NonFiniteError` where they leave finite numbers."""
    path, z = [x], draws.normal(len(x), len(clock) - 1, x.shape[1])
    for k, (t, dt) in enumerate(zip(clock.tolist(), clock.diff().tolist(), strict=False)):
        path.append(path[-1] + dt * drift(path[-1], t) + sigma * dt**0.5 * z[:, k])
    paths = torch.stack(path, 1)
    if not paths.isfinite().all():
        raise NonFiniteError(
            "simulated paths left finite numbers: take more steps, or a reference that does not explode"
        )
    return paths


def _learn(paths: Tensor, clock: Tensor, base: Callable[[Tensor], Tensor], sigma: float, regressor: Regressor) -> Drift:
    """The drift of paths (B, K + 1, D), even steps: base plus what the regressor makes of the rest."""
    states, dt = paths[:, :-1].flatten(0, 1), float(clock[1] - clock[0])
    inputs = torch.cat([clock[:-1].repeat(len(paths))[:, None], states], 1)
    rest = (paths.diff(dim=1) / dt).flatten(0, 1) - base(states)
    said = regressor(inputs, rest, sigma**2 / dt)
    return lambda x, t: base(x) + said(torch.cat([torch.full_like(x[:, :1], t), x], 1))


@implements("sb-irr")
@torch.no_grad()
def ipfp(
    drift: Callable[[Tensor], Tensor],
    sigma: float,
    x: Tensor,
    y: Tensor,
    time: float,
    *,
    rounds: int = 10,
    steps: int = 20,
    regressor: Regressor | None = None,
    draws: Draws | None = None,
) -> LearnedBridge:
    """The Schrödinger bridge of dX = drift dt + sigma dW from the cloud x to the cloud y, with learned drifts.

    Args:
        drift: states (B, D) -> (B, D). sigma: > 0. x, y: (n, D), (m, D), float64. time: > 0, what lies between them.
        rounds: >= 1. steps: even, of the simulation, >= 2. regressor: `exponential()` by default. draws: by default those of seed 0.

    Raises:
        ArgumentError: numbers out of range. NonFiniteError: a simulation that explodes.
    """
    check_sigma(sigma)
    if rounds < 1 or steps < 2 or not time > 0:
        raise ArgumentError(
            f"rounds >= 1, steps >= 2 and time > 0 are needed, got rounds={rounds!r}, steps={steps!r}, time={time!r}"
        )
    regressor, draws = regressor or exponential(), draws or Draws(0, x.device)
    clock = torch.linspace(0, time, steps + 1, dtype=torch.float64, device=x.device)
    paths = simulate(lambda x, t: drift(x), x, clock, sigma, draws)
    for _ in range(rounds):
        back = _learn(paths.flip(1), clock, lambda x: -drift(x), sigma, regressor)
        ahead = _learn(simulate(back, y, clock, sigma, draws).flip(1), clock, drift, sigma, regressor)
        paths = simulate(ahead, x, clock, sigma, draws)
    back = _learn(paths.flip(1), clock, lambda x: -drift(x), sigma, regressor)
    return LearnedBridge(ahead, back, sigma, float(time))
