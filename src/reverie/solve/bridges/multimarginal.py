"""A process through several snapshots, its reference dynamics refined on the way.

Unpaired samples S_0 .. S_n of a population at times t_0 < .. < t_n, and a family of dynamics dX = f_theta(X) dt + sigma dW with sigma known. Starting
from f = 0, Brownian motion (or from theta), each round makes two projections:

    1. bridge every pair of neighbouring snapshots under the current reference
    2. from every snapshot walk forwards through the later bridges and backwards through the earlier ones: paths over [t_0, t_n]. Pool the paths of
       all snapshots and fit theta to their increments (`families`)

Then the bridges are made once more. Without a round they are the plain Schrödinger bridges with a Brownian reference. As theta is shared, what other
intervals show bends the bridge in each, which would otherwise cut the corner. Bridges are exact where the reference is linear in x, else learned.

sigma cannot be found in this way: the bridges have the noise they are given, and a wrong one biases theta. If it is too large, families that can
contract do, to hold together what the noise would spread.

Source: Shen, Berlinghieri & Broderick 2024 (2408.06277, algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from reverie.base import ArgumentError, NonFiniteError, ShapeError, TimeError, implements, unknown
from reverie.solve.bridges.families import Family
from reverie.solve.bridges.learned import LearnedBridge, Regressor, ipfp
from reverie.solve.bridges.linear import Draws, ExactBridge, LinearSDE, check_sigma, couple

__all__ = ["MultiBridge", "multimarginal_bridge"]

SOLVERS = ("auto", "ipfp")


@dataclass(frozen=True, eq=False)
class MultiBridge:
    """Bridges through snapshots, with the reference they were made under; made by `multimarginal_bridge`.

    Attributes:
        snapshots: n + 1 clouds (N_i, D), float64. times: theirs. family: of references. sigma: of the noise. steps: of an interval.
        theta: (K,), the last fit, or None for Brownian motion. history: theta after each round. bridges: n, one an interval.
    """

    snapshots: tuple[Tensor, ...]
    times: tuple[float, ...]
    family: Family
    sigma: float
    steps: int
    theta: Tensor | None
    history: tuple[Tensor, ...]
    bridges: tuple[ExactBridge | LearnedBridge, ...]

    @property
    def grid(self) -> Tensor:
        """The times of `paths`, (n steps + 1,)."""
        parts = [t + self._clock(i)[:-1] for i, t in enumerate(self.times[:-1])]
        return torch.cat([*parts, parts[0].new_tensor(self.times[-1:])])

    def drift(self, x: Tensor) -> Tensor:
        """The reference's drift at states (B, D)."""
        return torch.zeros_like(x) if self.theta is None else self.family.drift(self.theta, x)

    @torch.no_grad()
    def paths(self, seed: int = 0) -> Tensor:
        """Paths over all of the time, (N_0 + .. + N_n, n steps + 1, D): one through every point of every snapshot, in their order."""
        return self._paths(Draws(seed, self.snapshots[0].device))

    @torch.no_grad()
    def sample(self, t: float, n: int | None = None, seed: int = 0) -> Tensor:
        """Points at any time t in [t_0, t_n], (n, D): half of them walk there from the snapshot before, half from the one after.

        Args:
            n: >= 1, by default half of the two snapshots. Starts are drawn without repetition as long as they last.

        Raises `TimeError` for a time outside the snapshots, and `ArgumentError` for n.
        """
        if not self.times[0] <= t <= self.times[-1]:
            raise TimeError(f"t must lie between the snapshots, in [{self.times[0]:g}, {self.times[-1]:g}], got {t!r}")
        i = max(k for k, s in enumerate(self.times[:-1]) if s <= t)
        x, y, draws = self.snapshots[i], self.snapshots[i + 1], Draws(seed, self.snapshots[0].device)
        n = (len(x) + len(y)) // 2 if n is None else n
        if n < 1:
            raise ArgumentError(f"n must be at least 1, got {n!r}")
        if t in self.times:
            at = self.snapshots[self.times.index(t)]
            return _some(at, n, draws)
        clock, s = self._clock(i), t - self.times[i]
        if float((clock - s).abs().min()) > 1e-9 * (self.times[i + 1] - self.times[i]):
            clock = torch.cat([clock, clock.new_tensor([s])]).sort().values
        k = int((clock - s).abs().argmin())
        ahead = self.bridges[i].forward(_some(x, n - n // 2, draws), clock, draws)[:, k]
        back = self.bridges[i].backward(_some(y, n // 2, draws), clock, draws)[:, k]
        return torch.cat([ahead, back])

    def _clock(self, i: int) -> Tensor:
        span = self.times[i + 1] - self.times[i]
        return torch.linspace(0, span, self.steps + 1, dtype=torch.float64, device=self.snapshots[0].device)

    def _paths(self, draws: Draws) -> Tensor:
        pooled = []
        for i, start in enumerate(self.snapshots):
            whole = start[:, None]
            for k in range(i, len(self.bridges)):
                whole = torch.cat([whole, self.bridges[k].forward(whole[:, -1], self._clock(k), draws)[:, 1:]], 1)
            for k in reversed(range(i)):
                whole = torch.cat([self.bridges[k].backward(whole[:, 0], self._clock(k), draws)[:, :-1], whole], 1)
            pooled.append(whole)
        return torch.cat(pooled)


@implements("sb-irr")
@torch.no_grad()
def multimarginal_bridge(
    snapshots: Sequence[Tensor],
    times: Sequence[float],
    family: Family,
    sigma: float,
    *,
    rounds: int = 10,
    steps: int = 20,
    solver: str = "auto",
    ipfp_rounds: int = 10,
    regressor: Regressor | None = None,
    tolerance: float = 1e-3,
    theta: Tensor | None = None,
    seed: int = 0,
) -> MultiBridge:
    """Schrödinger bridges through snapshots, the reference refined `rounds` times.

    Args:
        snapshots: n + 1 >= 2 clouds (N_i, D); sizes may differ, points are not paired. times: theirs, rising.
        family: `Affine`, `Features`, `Parametric` or what has their methods. sigma: > 0, known, per square root of time.
        rounds: fits of theta; 0 gives the plain bridges. steps: of an interval, >= 2, in simulations and fits.
        solver: "auto": exact where the reference is linear in x (and so before the first fit), else IPFP; "ipfp" always.
        ipfp_rounds, regressor: as `ipfp`. tolerance: as `sinkhorn`. seed: of all draws.
        theta: (K,), of the first reference; by default that is Brownian motion.

    Raises:
        ShapeError: clouds of different dimension. TimeError: times that do not rise. ArgumentError: numbers out of range, or a fit that is not
        determined. NonFiniteError: snapshots, theta or simulations that are not finite.

    >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> cloud = torch.tensor([[1.0, 0.0], [1.1, 0.2], [0.9, -0.2]])
    >>> seen = [cloud @ torch.linalg.matrix_exp(0.5 * k * turn).mT for k in range(4)]
    >>> from reverie.solve.bridges import Affine
    >>> found = multimarginal_bridge(seen, [0.0, 0.5, 1.0, 1.5], Affine(turn[None]), 0.1, rounds=3)
    >>> bool((found.theta - 1).abs() < 0.1), found.sample(0.25).shape
    (True, torch.Size([3, 2]))
    """
    clouds, at = _checked(snapshots, times)
    check_sigma(sigma)
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
        raise ArgumentError(f"rounds must be a whole number of at least 0, got {rounds!r}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise ArgumentError(f"steps must be a whole number of at least 2, got {steps!r}")
    if solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    draws, history = Draws(seed, clouds[0].device), list[Tensor]()
    for k in range(rounds + 1):
        bridges = list[ExactBridge | LearnedBridge]()
        for i, (x, y) in enumerate(pairwise(clouds)):
            span, linear = at[i + 1] - at[i], _linear(family, theta, sigma, x)
            if linear is not None and solver == "auto":
                bridges.append(couple(linear, x, y, span, tolerance))
                continue
            drift = _drift(family, theta)
            options = {"rounds": ipfp_rounds, "steps": steps}
            bridges.append(ipfp(drift, sigma, x, y, span, **options, regressor=regressor, draws=draws))
        made = MultiBridge(clouds, at, family, float(sigma), steps, theta, tuple(history), tuple(bridges))
        if k < rounds:
            theta = _refit(made, draws)
            history.append(theta)
    return made


def _refit(made: MultiBridge, draws: Draws) -> Tensor:
    paths, dt = made._paths(draws), made.grid.diff()
    rate = (paths.diff(dim=1) / dt[:, None]).flatten(0, 1)
    theta = made.family.fit(paths[:, :-1].flatten(0, 1), rate, dt.repeat(len(paths)), made.theta)
    if not theta.isfinite().all():
        raise NonFiniteError(f"the fit of the reference gave {theta.tolist()}; take a family that the paths determine")
    return theta


def _linear(family: Family, theta: Tensor | None, sigma: float, x: Tensor) -> LinearSDE | None:
    if theta is None:
        return LinearSDE(x.new_zeros(x.shape[1], x.shape[1]), None, sigma)
    return family.sde(theta.to(x), sigma)


def _drift(family: Family, theta: Tensor | None) -> Callable[[Tensor], Tensor]:
    return torch.zeros_like if theta is None else lambda x: family.drift(theta, x)


def _some(points: Tensor, n: int, draws: Draws) -> Tensor:
    """n points in random order, each as often as any other."""
    return points[draws.uniform(len(points)).argsort()][torch.arange(n, device=points.device) % len(points)]


def _checked(snapshots: Sequence[Tensor], times: Sequence[float]) -> tuple[tuple[Tensor, ...], tuple[float, ...]]:
    clouds, at = tuple(s.detach().double() for s in snapshots), tuple(float(t) for t in times)
    if len(clouds) < 2 or len(clouds) != len(at):
        raise ArgumentError(
            f"at least two snapshots with a time each are needed, got {len(clouds)} and {len(at)} times"
        )
    for i, c in enumerate(clouds):
        if c.ndim != 2 or not len(c) or c.shape[1] != clouds[0].shape[-1]:
            raise ShapeError(
                f"snapshots are points (N, D) of one dimension D; 0 has shape {tuple(clouds[0].shape)}, {i} {tuple(c.shape)}"
            )
        if not c.isfinite().all():
            raise NonFiniteError(f"snapshot {i} has numbers that are not finite")
    if not all(s < t for s, t in pairwise(at)) or not all(map(math.isfinite, at)):
        raise TimeError(f"times must rise and be finite, got {list(at)}")
    return clouds, at
