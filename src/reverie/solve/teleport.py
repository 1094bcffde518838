"""Teleport: the first steps of a run by the closed form of one Gaussian, without a call of the model.

At high noise a learned denoiser is close to that of a single Gaussian N(m, C) with the data's mean and covariance, C = sum_k v_k u_k u_k^T. Its
probability flow has a closed form: with c_k = u_k^T (x_T - alpha_T m) the state of time T goes to

    x_t = alpha_t m + (sigma_t / sigma_T) rest + sum_k c_k psi_k u_k,        psi_k = sqrt((sigma_t^2 + v_k alpha_t^2) / (sigma_T^2 + v_k alpha_T^2)),

the rest being what no u_k spans, where the data have no variance. So a run may begin at a lower time t* with the state to which its own noise
would have gone, and spend all its calls below t*.

How low t* may lie is a matter of sigma / alpha in units of the data's largest standard deviation, sqrt(v_1): `Law.time` takes a multiple of it,
2 to 4. On the mixture of the tests the error of the state is 0.1 % at 4 sqrt(v_1), 0.2 % at 3, 0.7 % at 2, 4 % at 1. `inspect.painters` finds the
time at which a network first deviates. On the house's `digits`, asked for classes, the state at 3.5 sqrt(v_1) is off by 0.2 (in |x| / alpha) by the
laws of the classes, by 2.7 by one law for all, and by 5.8 where the run would start from plain noise there. Under guidance the model's law is not the
data's: fit it to guided samples.

Source: Wang & Vastola 2023 (2303.02490); skipping steps is only hinted at there. The rules for t* are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from reverie.base import ArgumentError, ShapeError, TimeError, implements
from reverie.process import Process
from reverie.solve.starts import classes, elementary

if TYPE_CHECKING:
    from reverie.solve.context import Run

__all__ = ["Law", "Teleport"]


@dataclass(frozen=True, eq=False)
class Law:
    """A Gaussian known by its mean and principal components, in float64; its answers are exact, as those of `oracle.Gaussian`.

    Args:
        mean: `shape`. basis: `(r, *shape)`, orthonormal, r from 0 to the entries of a sample. variances: `(r,)`, at least 0; elsewhere 0.

    Raises:
        ShapeError: sizes that do not fit. ArgumentError: numbers that are not finite, a basis that is not orthonormal, a negative variance.

    >>> import torch, reverie as rv
    >>> law = Law([0.0, 0.0], [[1.0, 0.0]], [3.0])
    >>> law.flow(rv.process.ve(1.0, 3.0), torch.tensor([[6.0, 6.0]], dtype=torch.float64), 3.0, 1.0).round(decimals=6)
    tensor([[3.4641, 2.0000]], dtype=torch.float64)
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor

    def __post_init__(self) -> None:
        for name in ("mean", "basis", "variances"):
            value = torch.as_tensor(getattr(self, name), dtype=torch.float64).detach().cpu()
            if not bool(value.isfinite().all()):
                raise ArgumentError(f"the {name} of a law must be finite")
            object.__setattr__(self, name, value)
        m, u, v = self.mean, self.basis, self.variances
        if u.shape[1:] != m.shape or v.shape != u.shape[:1] or len(v) > m.numel():
            raise ShapeError(
                f"mean {tuple(m.shape)}, basis {tuple(u.shape)} and variances {tuple(v.shape)} do not fit; "
                f"shape, (r, *shape) and (r,) are needed, r at most the entries of a sample"
            )
        rows = u.reshape(len(v), m.numel())
        off = float((rows @ rows.mT - torch.eye(len(v), dtype=torch.float64)).abs().max()) if len(v) else 0.0
        if off > 1e-6:
            raise ArgumentError(f"the basis is not orthonormal (by {off:.3g}); take it from torch.linalg.svd or eigh")
        if len(v) and float(v.min()) < 0:
            raise ArgumentError(f"a variance is at least 0, got {float(v.min()):g}")

    @classmethod
    def fit(cls, data: Tensor, rank: int | None = None) -> Law:
        """Mean and largest principal components of states `(N, *shape)`, variances falling; by default all that rounding can tell from 0.

        With few samples for their size give a rank: the last components of a small sample have variances far too small.

        >>> law = Law.fit(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
        >>> law.mean.tolist(), law.variances.round(decimals=6).tolist()
        ([2.0, 2.0], [2.0])
        """
        if data.ndim < 2 or len(data) < 2:
            raise ShapeError(f"data are (N, *shape) with N >= 2, got {tuple(data.shape)}")
        flat = data.detach().cpu().double().flatten(1)
        most = min(len(flat) - 1, flat.shape[1])
        if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= most):
            raise ArgumentError(f"rank is a whole number from 1 to {most} for data {tuple(data.shape)}, got {rank!r}")
        mean = flat.mean(0)
        _, s, u = torch.linalg.svd(flat - mean, full_matrices=False)
        told = int((s > s[0] * max(flat.shape) * torch.finfo(torch.float64).eps).sum())
        r = min(told, most if rank is None else rank)
        return cls(mean.reshape(data.shape[1:]), u[:r].reshape(r, *data.shape[1:]), s[:r].square() / (len(flat) - 1))

    def split(self, p: Process, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """The coefficients c `(B, r)` of x - alpha m in the basis, and the rest `(B, D)`; in x's dtype and on its device."""
        if x.shape[1:] != self.mean.shape:
            raise ShapeError(f"states {tuple(x.shape)} for a law of samples {tuple(self.mean.shape)}")
        mean, basis = self._on(x)
        away = x.flatten(1) - p.alpha(t) * mean
        c = away @ basis.mT
        return c, away - c @ basis

    def flow(self, p: Process, x: Tensor, t: float, to: float) -> Tensor:
        """States `(B, *shape)` of time t at time `to`, either direction, by the closed form. Raises `TimeError` for a start at sigma = 0."""
        if t == to:
            return x
        if p.sigma(t) == 0:
            raise TimeError(f"t = {t:g} has sigma = 0, where the rest of the space has no scale; start at a later time")
        c, rest = self.split(p, x, t)
        mean, basis = self._on(x)
        psi = (self.spread(p, to) / self.spread(p, t)).to(x)
        return (p.alpha(to) * mean + p.sigma(to) / p.sigma(t) * rest + (c * psi) @ basis).reshape(x.shape)

    def x0(self, p: Process, x: Tensor, t: float) -> Tensor:
        """E[x0 | x_t] of states `(B, *shape)`: m + sum_k alpha v_k / (alpha^2 v_k + sigma^2) c_k u_k."""
        c, _ = self.split(p, x, t)
        mean, basis = self._on(x)
        gain = torch.where(self.variances > 0, p.alpha(t) * self.variances / self.spread(p, t).square(), 0.0)
        return (mean + (c * gain.to(x)) @ basis).reshape(x.shape)

    def spread(self, p: Process, t: float) -> Tensor:
        """The standard deviation of the noised law along each component, sqrt(sigma^2 + v_k alpha^2), `(r,)`."""
        return (p.sigma(t) ** 2 + p.alpha(t) ** 2 * self.variances).sqrt()

    def time(self, p: Process, factor: float = 3.0) -> float:
        """The time at which sigma / alpha is `factor` times the largest standard deviation. Raises `ArgumentError` where it is out of range.

        >>> import reverie as rv
        >>> Law([0.0, 0.0], [[1.0, 0.0]], [4.0]).time(rv.process.edm(), 3.0)
        6.0
        """
        if not 0 < factor < math.inf or not len(self.variances) or not float(self.variances.max()) > 0:
            raise ArgumentError(f"a positive factor and a law with some variance are needed, got factor={factor!r}")
        ratio = factor * math.sqrt(float(self.variances.max()))
        t = p.t_of_ratio(ratio)
        if not p.t_min < t < p.t_max:
            raise ArgumentError(
                f"sigma / alpha = {ratio:.4g} is not inside {p}, times {p.t_max:g} to {p.t_min:g}; take another factor"
            )
        return t

    def _on(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean.reshape(-1).to(x), self.basis.reshape(len(self.basis), self.mean.numel()).to(x)


@implements("painters")
class Teleport:
    """A hook that takes the run's draw from the noise end to the plan's start by the closed form of a Gaussian.

    Args:
        mean, basis, variances: of the law, see `Law`; with `key` a sequence of each, one entry a class. `Teleport.fit(data)` estimates them.
        key: the condition's key whose number, 0 to K - 1, says the class of a sample; None: one law for all.

    A model that is told classes wants a law a class. The plan starts at t*: give its grid by times that begin there, or a `span`. The run has no
    `init`.

    Raises as `Law`; in a run: `ShapeError` for states of another shape, `ArgumentError` for another kind of noise and for classes without a law.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Gaussian([1.0, -1.0], [[2.0, 0.5], [0.5, 1.0]], process=rv.process.edm())
    >>> jump = Teleport.fit(o.sample(1000))
    >>> t = jump.time(o.process, 3.0)
    >>> x = rv.sample(o, 4, plan=rv.solve.plan("heun", o.process, grid=[t, 1.0, 0.2, 0.0]), hooks=jump)
    """

    begins: ClassVar[bool] = True

    def __init__(self, mean: Any, basis: Any, variances: Any, key: str | None = None) -> None:
        one = [(mean, basis, variances)]
        each: Iterable[tuple[Any, Any, Any]] = one if key is None else zip(mean, basis, variances, strict=True)
        self.laws, self.key = tuple(Law(*law) for law in each), key

    @classmethod
    def fit(
        cls, data: Tensor, rank: int | None = None, labels: Tensor | None = None, key: str = "class_labels"
    ) -> Teleport:
        """The hook for the law of these states `(N, *shape)`, or of each class of them.

        Args:
            data, rank: see `Law.fit`. labels: `(N,)` in 0 to K - 1. key: under which the condition of a run says the class.
        """
        if labels is None:
            law = Law.fit(data, rank)
            return cls(law.mean, law.basis, law.variances)
        if labels.shape != data.shape[:1]:
            raise ShapeError(f"labels of shape {tuple(labels.shape)} for {len(data)} samples")
        laws = [Law.fit(data[labels == k], rank) for k in range(int(labels.max()) + 1)]
        return cls([w.mean for w in laws], [w.basis for w in laws], [w.variances for w in laws], key)

    def time(self, p: Process, factor: float = 3.0) -> float:
        """`Law.time`, of the class that varies most: the t* at which a plan may start."""
        return max(law.time(p, factor) for law in self.laws)

    def start(self, ctx: Run) -> None:
        """Set the state."""
        p, t = ctx.plan.process, ctx.plan.start
        x = noise = elementary(ctx, "Teleport") * p.prior_std(p.t_max)
        if self.key is None:
            ctx.x = self.laws[0].flow(p, noise, p.t_max, t)
            return
        of = classes(ctx, self.key, len(self.laws), "Teleport").to(x.device).reshape(-1, *[1] * (x.ndim - 1))
        # All rows for each class: a product of fewer rows would round differently.
        for k in sorted(set(of.flatten().tolist())):
            x = torch.where(of == k, self.laws[k].flow(p, noise, p.t_max, t), x)
        ctx.x = x
