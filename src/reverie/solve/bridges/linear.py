"""The Schrödinger bridge of a linear stochastic differential equation between two clouds of points, exactly.

    dX = (A X + b) dt + sigma dW:    X_t given X_0 = x is N(Phi x + m, Q),    Phi = exp(A t),
    m = int_0^t exp(A u) b du,       Q = sigma^2 int_0^t exp(A u) exp(A u)^T du,

from exponentials of two block matrices (Van Loan). Of all processes with the clouds x_1 .. x_n and y_1 .. y_m as laws at 0 and T, the bridge is the
one nearest to this SDE in Kullback-Leibler divergence. It is a coupling of the clouds, and between coupled points the SDE conditioned on both:

    P_ij = exp(f_i + g_j) N(y_j; Phi x_i + m, Q),    sums over j 1/n, sums over i 1/m                               (Sinkhorn, temperature 1)
    X_s given x, y:    mean mu + K (y - Phi'' mu - m''),    covariance Q' - K Phi'' Q',    K = Q' Phi''^T Q^-1,    mu = Phi' x + m',

' for the transition from 0 to s, '' for that from s to T. Seen forwards the bridge is a diffusion with the drift

    A x + b + sigma^2 Phi''^T Q''^-1 sum_j w_j (y_j - Phi'' x - m''),    w_j ~ exp(g_j) N(y_j; Phi'' x + m'', Q'').

Sources: Van Loan 1978; Cuturi 2013 (1306.0895, Sinkhorn's iteration); Shen, Berlinghieri & Broderick 2024 (2408.06277).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from reverie.base import ArgumentError, Noise, NonFiniteError, ShapeError, TimeError, implements

__all__ = ["Draws", "ExactBridge", "LinearSDE", "couple", "sinkhorn"]

STREAM = 51
"""The stream of the bridges' draws."""

BLOCK = 20
"""Sweeps of Sinkhorn's iteration as products with the matrix, a tenth of the cost, for one in logarithms."""


class Draws:
    """Noise in the order in which it is asked for: draw k is stage k of (seed, STREAM), float64."""

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.noise, self.device, self.stage = Noise(seed), device, 0

    def normal(self, n: int, *shape: int) -> Tensor:
        """Standard normal, (n, *shape)."""
        self.stage += 1
        return self.noise.normal(shape, range(n), self.stage, STREAM, self.device, torch.float64)

    def uniform(self, n: int) -> Tensor:
        """Uniform in (0, 1), (n,)."""
        self.stage += 1
        return self.noise.uniform((1,), range(n), self.stage, STREAM, self.device, torch.float64)[:, 0]


@dataclass(frozen=True, eq=False)
class LinearSDE:
    """dX = (A X + b) dt + sigma dW in D dimensions.

    Args:
        A: (D, D), per unit of time. b: (D,), or None for 0. sigma: > 0 and finite, per square root of time.

    Raises:
        ShapeError: A or b. ArgumentError: sigma.

    >>> phi, m, q = LinearSDE(torch.zeros(1, 1), torch.ones(1), 0.5).transition(2.0)
    >>> phi.item(), m.item(), q.item()
    (1.0, 2.0, 0.5)
    """

    A: Tensor
    b: Tensor | None
    sigma: float
    _known: dict[float, tuple[Tensor, Tensor, Tensor]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.A.ndim != 2 or self.A.shape[0] != self.A.shape[1]:
            raise ShapeError(f"A must be a square matrix (D, D), got {tuple(self.A.shape)}")
        b = torch.zeros(len(self.A)) if self.b is None else self.b
        if b.shape != self.A.shape[:1]:
            raise ShapeError(f"b must be ({len(self.A)},) as A has it, got {tuple(b.shape)}")
        check_sigma(self.sigma)
        object.__setattr__(self, "A", self.A.detach().double())
        object.__setattr__(self, "b", b.detach().to(self.A))
        object.__setattr__(self, "_known", {})

    def drift(self, x: Tensor) -> Tensor:
        """A x + b of states (B, D)."""
        assert self.b is not None
        return x @ self.A.mT + self.b

    def transition(self, time: float) -> tuple[Tensor, Tensor, Tensor]:
        """Phi (D, D), m (D,) and Q (D, D) after `time` >= 0, float64."""
        assert self.b is not None
        if time in self._known:
            return self._known[time]
        d = len(self.A)
        noise = self.sigma**2 * torch.eye(d, dtype=torch.float64, device=self.A.device)
        van_loan = torch.cat([torch.cat([-self.A, noise], 1), torch.cat([0 * self.A, self.A.mT], 1)])
        e = torch.linalg.matrix_exp(time * van_loan)
        shift = torch.zeros(d + 1, d + 1, dtype=torch.float64, device=self.A.device)
        shift[:d, :d], shift[:d, d] = self.A, self.b
        phi = e[d:, d:].mT
        q = phi @ e[:d, d:]
        self._known[time] = phi, torch.linalg.matrix_exp(time * shift)[:d, d], (q + q.mT) / 2
        return self._known[time]

    def log_density(self, x: Tensor, y: Tensor, time: float) -> Tensor:
        """log N(y_j; Phi x_i + m, Q), (n, m), for x (n, D), y (m, D) and time > 0."""
        phi, m, q = self.transition(time)
        chol = torch.linalg.cholesky(q)
        to = torch.linalg.solve_triangular(chol, (x @ phi.mT + m).mT, upper=False).mT
        at = torch.linalg.solve_triangular(chol, y.mT, upper=False).mT
        square = (to[:, None] - at[None]).square().sum(2)
        return -square / 2 - chol.diagonal().log().sum() - len(q) / 2 * math.log(2 * math.pi)

    def between(self, x: Tensor, y: Tensor, s: float, time: float) -> tuple[Tensor, Tensor]:
        """Mean (B, D) and covariance (D, D) of X_s, 0 <= s < time, given X_0 = x and X_time = y, each (B, D)."""
        (phi0, m0, q0), (phi1, m1, q1) = self.transition(s), self.transition(time - s)
        gain = torch.linalg.solve(phi1 @ q0 @ phi1.mT + q1, phi1 @ q0).mT
        mean = x @ phi0.mT + m0
        mean = mean + (y - mean @ phi1.mT - m1) @ gain.mT
        rest = torch.eye(len(q0), dtype=q0.dtype, device=q0.device) - gain @ phi1
        return (
            mean,
            rest @ q0 @ rest.mT + gain @ q1 @ gain.mT,
        )  # Joseph's form of Q' - K Phi'' Q', symmetric by construction

    def walk(self, x: Tensor, y: Tensor, clock: Tensor, draws: Draws) -> Tensor:
        """Paths of the SDE given both ends, (B, K + 1, D), at the times clock[0] = 0 < ... < clock[K]; x and y are their ends."""
        path, times = [x], clock.tolist()
        z = draws.normal(len(x), len(times) - 2, x.shape[1])
        for k, (s, t) in enumerate(pairwise(times[:-1])):
            mean, cov = self.between(path[-1], y, t - s, times[-1] - s)
            path.append(mean + z[:, k] @ torch.linalg.cholesky(cov).mT)
        return torch.stack([*path, y], 1)


def sinkhorn(log_kernel: Tensor, tolerance: float = 1e-3, limit: int = 100_000) -> tuple[Tensor, Tensor]:
    """Potentials f (n,) and g (m,) such that exp(f_i + g_j + log_kernel_ij) has uniform marginals: 1/n, and within the tolerance 1/m.

    Args:
        log_kernel: (n, m), float64, finite. tolerance: largest relative error of a sum over i, > 0; those over j are exact. limit: sweeps at most.

    Raises:
        NonFiniteError: a kernel that is not finite. ArgumentError: `limit` sweeps did not reach the tolerance.

    Source: Cuturi 2013 (1306.0895), in logarithms.

    >>> f, g = sinkhorn(torch.tensor([[0.0, -1.0], [-3.0, 0.0]]).double())
    >>> (f[:, None] + g + torch.tensor([[0.0, -1.0], [-3.0, 0.0]])).exp().sum(0).round(decimals=5).tolist()
    [0.5, 0.5]
    """
    if not log_kernel.isfinite().all():
        raise NonFiniteError("the logarithms of the transition density are not finite; look for NaN in the snapshots")
    n, m = log_kernel.shape
    g = log_kernel.new_zeros(m)
    for sweep in range(0, limit, 1 + BLOCK):
        f = -math.log(n) - (g + log_kernel).logsumexp(1)
        sums = (f[:, None] + log_kernel).logsumexp(0)
        if sweep and float(((sums + g).exp() * m - 1).abs().max()) <= tolerance:
            return f, g
        g = -math.log(m) - sums
        plan, v = (f[:, None] + g + log_kernel).exp(), torch.ones_like(g)
        for _ in range(BLOCK):
            v = 1 / (m * (plan.mT @ (1 / (n * (plan @ v)))))
        g = torch.where((v > 0) & v.isfinite(), g + v.log(), g)  # what underflows is left to the sweeps in logarithms
    raise ArgumentError(
        f"Sinkhorn's iteration did not reach {tolerance:g} in {limit} sweeps: sigma is small beside the distance of the snapshots; "
        "take a larger sigma, tolerance or limit"
    )


@dataclass(frozen=True, eq=False)
class ExactBridge:
    """The bridge of a linear SDE between two clouds; made by `couple`.

    Attributes:
        sde: the reference. x: (n, D) at 0. y: (m, D) at `time`. f, g: (n,), (m,), the potentials of the coupling.
    """

    sde: LinearSDE
    x: Tensor
    y: Tensor
    time: float
    f: Tensor
    g: Tensor

    @property
    def coupling(self) -> Tensor:
        """P (n, m)."""
        return (self.f[:, None] + self.g + self.sde.log_density(self.x, self.y, self.time)).exp()

    def forward(self, x: Tensor, clock: Tensor, draws: Draws) -> Tensor:
        """Paths (B, K + 1, D) that start at x (B, D), at times from clock[0] = 0 to clock[K] = `time`; they end in points of y."""
        weights = (self.g + self.sde.log_density(x, self.y, self.time)).softmax(1)
        return self.sde.walk(x, self.y[_pick(weights, draws)], clock, draws)

    def backward(self, y: Tensor, clock: Tensor, draws: Draws) -> Tensor:
        """Paths (B, K + 1, D) that end at y (B, D), in the same order of time; they start in points of x."""
        weights = (self.f[:, None] + self.sde.log_density(self.x, y, self.time)).softmax(0).mT
        return self.sde.walk(self.x[_pick(weights, draws)], y, clock, draws)

    def drift(self, x: Tensor, s: float) -> Tensor:
        """The bridge's forward drift at states (B, D) and time 0 <= s < `time`. Raises `TimeError` elsewhere."""
        if not 0 <= s < self.time:
            raise TimeError(f"the drift of this bridge is defined for 0 <= s < {self.time:g}, got {s!r}")
        phi, m, q = self.sde.transition(self.time - s)
        weights = (self.g + self.sde.log_density(x, self.y, self.time - s)).softmax(1)
        pull = torch.linalg.solve(q, (weights @ self.y - x @ phi.mT - m).mT).mT
        return self.sde.drift(x) + self.sde.sigma**2 * pull @ phi


@implements("sb-irr")
def couple(
    sde: LinearSDE, x: Tensor, y: Tensor, time: float, tolerance: float = 1e-3, limit: int = 100_000
) -> ExactBridge:
    """The Schrödinger bridge of `sde` from the cloud x to the cloud y.

    Args:
        x, y: (n, D), (m, D), points of equal weight. time: > 0, what lies between them. tolerance, limit: as `sinkhorn`.

    Raises:
        ShapeError: clouds that do not fit. TimeError: time. NonFiniteError, ArgumentError: as `sinkhorn`.

    >>> sde = LinearSDE(torch.zeros(1, 1), None, 1.0)
    >>> bridge = couple(sde, torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [5.0]]), 1.0, tolerance=1e-9)
    >>> bridge.coupling.round(decimals=3).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    x, y = (c.detach().to(sde.A) for c in (x, y))
    for name, c in (("x", x), ("y", y)):
        if c.ndim != 2 or c.shape[1] != len(sde.A) or not len(c):
            raise ShapeError(f"{name} must be points (n, {len(sde.A)}), got {tuple(c.shape)}")
    if not 0 < time < math.inf:
        raise TimeError(f"time between the clouds must be positive and finite, got {time!r}")
    return ExactBridge(sde, x, y, float(time), *sinkhorn(sde.log_density(x, y, time), tolerance, limit))


def check_sigma(sigma: float) -> None:
    """Raises `ArgumentError` unless sigma is positive and finite."""
    if not 0 < sigma < math.inf:
        raise ArgumentError(f"sigma must be positive and finite, got {sigma!r}; without noise there is no bridge")


def _pick(weights: Tensor, draws: Draws) -> Tensor:
    """A column of each row (B, m), with the row's probabilities."""
    u = draws.uniform(len(weights))[:, None]
    return torch.searchsorted(weights.cumsum(1), u)[:, 0].clamp(max=weights.shape[1] - 1)
