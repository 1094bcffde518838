"""What one Gaussian explains of a model: outline first, details later.

Near noise a learned denoiser is that of one Gaussian N(m, C), C = sum_k v_k u_k u_k^T (`solve.teleport.Law`). Along its probability flow from x_T,
with c_k = u_k^T (x_T - alpha_T m) and S_k(t) = sqrt(sigma_t^2 + v_k alpha_t^2),

    endpoint       x0hat_t = m + sum_k c_k u_k alpha_t v_k / (S_k(t) S_k(T))
    emergence      component k of it has reached the fraction alpha_t sqrt(v_k) / S_k(t): 0.707 at sigma / alpha = sqrt(v_k), large v_k first
    amplification  a push of size d along u_k at time t is sqrt(v_k) / S_k(t) d at the end
    plane          x_t lies near the plane of x_T and x_0, which it crosses as a rotation

and of a network one measures how well the endpoint agrees, when each component emerges, and how much of a trajectory two directions hold.

Source: Wang & Vastola 2023 (2303.02490).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, ShapeError, implements
from reverie.model import Model
from reverie.process import Process
from reverie.solve import Run, plan, run
from reverie.solve.teleport import Law

__all__ = [
    "Agreement",
    "agreement",
    "amplification",
    "emergence",
    "endpoint",
    "half_way",
    "in_plane",
    "in_top_components",
]


def endpoint(law: Law, p: Process, x: Tensor, t: float, to: float) -> Tensor:
    """The denoiser's answer at time `to` on the Gaussian's flow from states x `(B, *shape)` of time t: `law.x0` of `law.flow`, in one formula.

    >>> import reverie as rv
    >>> law = Law([0.0], [[1.0]], [4.0])
    >>> round(endpoint(law, rv.process.ve(0.1, 1.5), torch.tensor([[5.0]]), 1.5, 0.0).item(), 4)  # 5 * 2 / 2.5
    4.0
    """
    if p.sigma(t) == 0:
        raise ArgumentError(f"t = {t:g} has sigma = 0: the state is its endpoint; start at a later time")
    c, _ = law.split(p, x, t)
    before, after = law.spread(p, t), law.spread(p, to)
    gain = torch.where(law.variances > 0, p.alpha(to) * law.variances / (after * before), 0.0).to(x)
    basis = law.basis.reshape(len(law.basis), law.mean.numel()).to(x)
    return (law.mean.reshape(-1).to(x) + (c * gain) @ basis).reshape(x.shape)


def emergence(law: Law, p: Process, t: float) -> Tensor:
    """Which fraction of its final value each component of the endpoint has reached at time t, `(r,)`; 0 where nothing varies.

    >>> import reverie as rv
    >>> round(emergence(Law([0.0], [[1.0]], [4.0]), rv.process.edm(), 2.0).item(), 4)
    0.7071
    """
    v = law.variances
    return torch.where(v > 0, p.alpha(t) * v.sqrt() / law.spread(p, t), 0.0)


def half_way(law: Law, p: Process) -> Tensor:
    """The time at which each component has reached 0.707 of its final value, sigma / alpha = sqrt(v_k), `(r,)`; NaN outside the process.

    >>> import reverie as rv
    >>> half_way(Law([0.0], [[1.0]], [4.0]), rv.process.edm()).tolist()
    [2.0]
    """
    t = p.t_of_ratio(law.variances.sqrt())
    return torch.where((law.variances > 0) & (t >= p.t_min) & (t <= p.t_max), t, torch.nan)


def amplification(law: Law, p: Process, t: float) -> Tensor:
    """How large a unit push along each component at time t is at the end, sqrt(v_k) / S_k(t), `(r,)`. Above 1 for a large v_k at late times.

    >>> import reverie as rv
    >>> amplification(Law([0.0], [[1.0]], [9.0]), rv.process.edm(), 4.0).tolist()
    [0.6]
    """
    return law.variances.sqrt() / law.spread(p, t)


def in_plane(states: Tensor) -> Tensor:
    """The share of each trajectory's square that lies in the plane of its first and last state, `(B,)`.

    Args:
        states: `(N, B, *shape)`, N >= 2, noise first, as `run(..., record="x")` gives them.

    >>> in_plane(torch.tensor([[[1.0, 0.0, 0.0]], [[1.0, 1.0, 0.0]], [[0.0, 1.0, 0.0]]])).tolist()
    [1.0]
    """
    x = _trajectories(states)
    q, r = torch.linalg.qr(x[:, [0, -1]].mT)
    held = r.diagonal(dim1=1, dim2=2).abs() > 1e-12 * x[:, 0].norm(
        dim=1, keepdim=True
    )  # first and last may be parallel
    share: Tensor = (x @ (q * held[:, None])).square().sum((1, 2)) / x.square().sum((1, 2))
    return share


def in_top_components(states: Tensor, k: int = 2) -> Tensor:
    """The share of each trajectory's variance, about its own mean, that its first k principal components explain, `(B,)`.

    Args:
        states: `(N, B, *shape)`, N >= 2.

    >>> in_top_components(torch.tensor([[[1.0, 0.0, 0.0]], [[1.0, 1.0, 0.0]], [[0.0, 1.0, 0.0]]])).round(decimals=6).tolist()
    [1.0]
    """
    x = _trajectories(states)
    s = torch.linalg.svdvals(x - x.mean(1, keepdim=True)).square()
    share: Tensor = s[:, :k].sum(1) / s.sum(1)
    return share


def _trajectories(states: Tensor) -> Tensor:
    """`(B, N, D)`, float64."""
    if states.ndim < 3 or len(states) < 2:
        raise ShapeError(f"trajectories are states (N, B, *shape) with N >= 2, got {tuple(states.shape)}")
    return states.double().flatten(2).transpose(0, 1)


@dataclass(frozen=True)
class Agreement:
    """How a network's endpoint compares with a Gaussian's along the network's own trajectories, time by time.

    Attributes:
        times: of the N evaluations, falling. ratios: sigma / alpha there.
        deviation: root mean square over samples of |x0 - x0 of the Gaussian|, in units of the data's spread sqrt(sum v_k), `(N,)`.
        explained: share of the variance of the network's x0 over samples that the Gaussian's explains, 1 - |x0 - x0_G|^2 / |x0 - mean x0|^2,
            `(N,)`; at pure noise, where all x0 are near the mean, it says little.
        reached: `(N, r)`, the mean of component k of the network's x0 in units of its final value, projected: sum c c_end / sum c_end^2 over samples.
        states: `(N + 1, B, *shape)`, the trajectories.
    """

    times: tuple[float, ...]
    ratios: tuple[float, ...]
    deviation: Tensor
    explained: Tensor
    reached: Tensor
    states: Tensor

    def leaves(self, tolerance: float = 0.1) -> float:
        """The last time before the network's x0 first deviates by more than the tolerance: a t* for `Teleport`.

        A small network is off by some hundredths of the data's spread even at pure noise (the house's `digits`: 0.07), hence 0.1.

        Raises `ArgumentError` where it deviates from the beginning.
        """
        over = (self.deviation > tolerance).nonzero().reshape(-1)
        first = int(over[0]) if len(over) else len(self.times)
        if first == 0:
            raise ArgumentError(
                f"x0 deviates by {float(self.deviation[0]):.3g} at the first evaluation; take a law that fits, or more than {tolerance:g}"
            )
        return self.times[first - 1]

    def emerged(self, fraction: float = 0.5**0.5) -> Tensor:
        """sigma / alpha at which each component first reaches the fraction of its final value, interpolated in log, `(r,)`; NaN if not in range."""
        logs, out = torch.tensor(self.ratios, dtype=torch.float64).log(), []
        for column in self.reached.T:
            k = next((j for j, (a, b) in enumerate(itertools.pairwise(column.tolist())) if a < fraction <= b), None)
            if k is None:
                out.append(torch.nan)
                continue
            part = (fraction - column[k]) / (column[k + 1] - column[k])
            out.append(float((logs[k] + part * (logs[k + 1] - logs[k])).exp()))
        return torch.tensor(out, dtype=torch.float64)


class _Listen:
    """Keeps what the model says of x0, and the states."""

    def __init__(self) -> None:
        self.x0: list[Tensor] = []
        self.x: list[Tensor] = []

    def predicted(self, ctx: Run) -> None:
        self.x0.append(ctx.pred.x0)
        self.x.append(ctx.x)


@implements("painters")
def agreement(
    m: Model,
    law: Law,
    x: Tensor,
    times: int | Sequence[float] = 30,
    solver: str = "ddim",
    cond: Mapping[str, Any] | None = None,
) -> Agreement:
    """Run a model and compare its endpoint estimate with that of a Gaussian at the same states.

    Args:
        m: any Model, guided or not. law: of the states, `Law.fit(data)`; under guidance of guided samples.
        x: states `(B, *shape)` of the first time (`m.process.prior(noise)`), B >= 2. times: how many evaluations (even in lam), or the times,
            the last one of which is not evaluated. solver: deterministic, one evaluation a step. cond: for B rows.

    Raises:
        ShapeError: fewer than two states. ArgumentError: as `solve.plan`; a solver with several evaluations a step.

    >>> import reverie as rv
    >>> o = rv.oracle.Gaussian([1.0, 0.0], [[2.0, 0.0], [0.0, 0.1]], process=rv.process.edm())
    >>> law = Law([1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [2.0, 0.1])
    >>> found = agreement(o, law, 80 * torch.randn(8, 2, dtype=torch.float64))
    >>> bool(found.deviation.max() < 1e-9)
    True
    """
    if len(x) < 2:
        raise ShapeError(f"a share of the variance needs at least 2 states, got {tuple(x.shape)}")
    p = m.process
    chosen = plan(solver, p, times) if isinstance(times, int) else plan(solver, p, grid=list(times))
    if chosen.nfe != chosen.steps or chosen.noises:
        raise ArgumentError(f"{solver!r} draws noise, or does not ask once a step; take ddim, dpmpp-2m, unipc-2")
    listen = _Listen()
    last = run(chosen, m, x, cond=cond, hooks=listen)
    asked = [float(stage.t) for stage in chosen.table if stage.t is not None]
    said = torch.stack([v.double().flatten(1).cpu() for v in listen.x0])
    gauss = [law.x0(p, s.double().cpu(), t).flatten(1) for s, t in zip(listen.x, asked, strict=True)]
    off = (said - torch.stack(gauss)).square().sum((1, 2))
    mean = law.mean.reshape(-1)
    c = (said - mean) @ law.basis.reshape(len(law.basis), mean.numel()).T  # (N, B, r)
    return Agreement(
        tuple(asked),
        tuple(p.sigma(t) / p.alpha(t) if p.alpha(t) else torch.inf for t in asked),
        (off / len(x) / law.variances.sum()).sqrt(),
        1 - off / (said - said.mean(1, keepdim=True)).square().sum((1, 2)),
        (c * c[-1]).sum(1) / c[-1].square().sum(0),
        torch.stack([*listen.x, last]).cpu(),
    )
