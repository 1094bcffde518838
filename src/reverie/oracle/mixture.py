"""A mixture of Gaussians as a Model whose every answer is exact.

    p(x0 | c) = sum_k w_k N(m_k, C_k) / sum_k w_k,    k over the components of class c (all of them for c = -1),
    x_t ~ sum_k w_k N(alpha m_k, alpha^2 C_k + sigma^2 I) / sum_k w_k.

Whatever a sampler, a guide or an estimator does on it can be held against the truth: x0, eps and score, densities at
all times, and the solution of the probability-flow ODE.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor

from reverie.base import DATA, ArgumentError, Noise, ShapeError, TimeError
from reverie.model import Model
from reverie.oracle.components import Components, as_float64, spectrum
from reverie.oracle.ode import EDGE, angle, check_time, tolerance, transport
from reverie.oracle.posterior import condition
from reverie.process import Process

__all__ = ["Mixture"]


def _exact(t: float | Tensor) -> Tensor:
    """The label is the time, as a float64 tensor: a float would reach the network of a float64 state rounded to float32."""
    return torch.as_tensor(t, dtype=torch.float64)


class Mixture(Model):
    """An exact mixture of K Gaussians.

    As a Model it predicts "x0" and is told `class_labels` ((B,) integers; -1: no label), so conditional and
    unconditional scores, hence guided ones, are exact. Arithmetic is float64, the answer has the state's dtype, and its
    bits for one sample do not depend on the rest of the batch.

    Args:
        means: (K, *shape).
        stds: standard deviation of each isotropic component, >= 0: a number or (K,); 0 is a point, without density at
            sigma = 0.
        weights: (K,), > 0, normalised here; equal by default.
        labels: (K,) integers >= 0, the class of each component; 0 .. K-1 by default.
        process: what the data are noised by.
        covs: (K, D, D) full covariances, D the product of shape, instead of `stds`.
        name: how it calls itself.

    Raises:
        ShapeError: lengths or sizes that do not fit. ArgumentError: a weight not positive, a negative std, a covariance
            that is not symmetric or not positive semi-definite, a label that is not an integer >= 0, a process whose
            noise is not Gaussian or which has an input y.

    >>> import torch, reverie as rv
    >>> o = Mixture([[-1.0], [1.0]], 0.5, process=rv.process.vp())
    >>> o(torch.zeros(1, 1), 0.5).x0.item(), round(o.log_prob(torch.ones(1, 1), class_labels=1).item(), 4)
    (0.0, -0.2258)
    """

    _heavy: ClassVar[bool] = False
    """Whether it knows other laws of noise than the Gaussian."""

    def __init__(
        self,
        means: Any,
        stds: Any = None,
        weights: Any = None,
        labels: Any = None,
        *,
        process: Process,
        covs: Any = None,
        name: str = "mixture",
    ) -> None:
        if isinstance(process, Process) and type(process).gamma is not Process.gamma:
            raise ArgumentError(
                f"{process} has a second input y, of which this oracle knows nothing; its answers would be wrong"
            )
        if isinstance(process, Process) and type(process).draw is not Process.draw and not self._heavy:
            raise ArgumentError(f"the noise of {process} is not Gaussian; rv.oracle.Points is exact there")
        means = as_float64(means, "means")
        if means.ndim == 0 or means.numel() == 0:
            raise ShapeError(f"means have shape {tuple(means.shape)}; (K, *shape) with at least one entry is needed")
        k, shape = means.shape[0], means.shape[1:]
        d = shape.numel()
        basis = None
        if (stds is None) == (covs is None):
            raise ArgumentError("give stds (isotropic components) or covs (full covariances), one of the two")
        if covs is not None:
            covs = as_float64(covs, "covs")
            if covs.shape != (k, d, d):
                raise ShapeError(f"covs have shape {tuple(covs.shape)}; {k} components of size {d} need {(k, d, d)}")
            var, basis = spectrum(covs)
        else:
            stds = as_float64(stds, "stds")
            if stds.shape not in ((), (k,)):
                raise ShapeError(f"stds have shape {tuple(stds.shape)}; {k} components need a number or ({k},)")
            if bool((stds < 0).any()):
                raise ArgumentError(f"stds must not be negative, got {float(stds.min()):g}")
            var = stds.expand(k).square()[:, None]
        weights = torch.ones(k, dtype=torch.float64) if weights is None else as_float64(weights, "weights")
        if weights.shape != (k,):
            raise ShapeError(f"weights have shape {tuple(weights.shape)}; {k} components need ({k},)")
        if bool((weights <= 0).any()):
            j = int(weights.argmin())
            raise ArgumentError(f"weights must be positive, weight {j} is {float(weights[j]):g}; leave it out")
        classes = torch.arange(k).double() if labels is None else as_float64(labels, "labels")
        if classes.shape != (k,):
            raise ShapeError(f"labels have shape {tuple(classes.shape)}; {k} components need ({k},)")
        if bool(((classes < 0) | (classes != classes.round())).any()):
            raise ArgumentError(f"labels must be integers >= 0 (in a condition, -1 means no label), got {labels!r:.80}")
        self.components = Components(means.reshape(k, d), var, basis, (weights / weights.sum()).log(), classes.long())
        super().__init__(self._net, process, "x0", _exact, null={"class_labels": -1}, shape=shape, name=name)

    # -- what the methods share

    def _flat(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or x.ndim == 0 or tuple(x.shape[1:]) != self.shape:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ShapeError(f"a state of {self.name} has shape (B, *{tuple(self.shape or ())}), got {got}")
        return x.reshape(x.shape[0], self.components.means.shape[1]).double()

    def _levels(self, t: float | Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """alpha and sigma, each (batch,), at one time or one a sample."""
        time = torch.as_tensor(t, dtype=torch.float64)
        if time.numel() == 1 or not any(time.stride()):  # one time, possibly expanded
            time = time.reshape(-1)[:1]
        elif time.numel() != batch:
            raise ShapeError(f"times of shape {tuple(time.shape)} for a batch of {batch}; give one, or one a sample")
        p = self.process
        lo, hi = min(p.t_clean, p.t_min), p.t_max
        slack = 1e-6 * max(abs(lo), abs(hi))  # a float32 label may round a bound outwards
        outside = ~((time >= lo - slack) & (time <= hi + slack))
        if bool(outside.any()):
            bad = float(time.reshape(-1)[outside.reshape(-1)][0])
            raise TimeError(f"t = {bad:g} is outside {p}, whose times are {lo:g} (clean) to {hi:g}")
        time = time.reshape(-1).clamp(lo, hi)
        return p.alpha(time).expand(batch), p.sigma(time).expand(batch)

    def _points(self) -> bool:
        return bool((self.components.var == 0).any())

    def _net(self, x: Tensor, t: Tensor, class_labels: Any = None) -> Tensor:
        """E[x0 | x_t, class], in the state's shape and dtype."""
        c, flat = self.components.to(x.device), self._flat(x)
        alpha, sigma = (level.to(x.device) for level in self._levels(t, len(x)))
        log_weights = c.weights_of(class_labels, len(x))
        one = torch.ones_like(alpha)
        return c.expect(flat, alpha, sigma, log_weights, one, 0 * one).reshape(x.shape).to(x.dtype)

    # -- what only an oracle has

    def sample(
        self,
        n: int,
        seed: int = 0,
        start: int = 0,
        class_labels: Any = None,
        return_labels: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> Any:
        """Clean data (n, *shape); sample i is a pure function of (seed, start + i, its label).

        Args:
            n: how many, >= 0. seed, start: the samples are number start .. start + n - 1 of this seed.
            class_labels: a class, or (n,) of them; -1 or None for all.
            return_labels: also give the class of the component each came from, (n,).

        Raises:
            ArgumentError: a negative n, an unknown label.

        >>> import reverie as rv
        >>> o = Mixture([[-1.0], [1.0]], 0.1, process=rv.process.flow())
        >>> bool(torch.equal(o.sample(5, seed=3)[2:], o.sample(3, seed=3, start=2)))
        True
        """
        if n < 0:
            raise ArgumentError(f"n must not be negative, got {n}")
        c, noise, index = self.components, Noise(seed), range(start, start + n)
        u = noise.uniform((1,), index=index, stage=0, stream=DATA, dtype=torch.float64)
        log_weights = c.weights_of(class_labels, n)
        cumulative = (log_weights - log_weights.amax(1, keepdim=True)).exp().cumsum(1)
        which = (u * cumulative[:, -1:] > cumulative).sum(1).clamp_max(len(c.labels) - 1)
        z = noise.normal((c.means.shape[1],), index=index, stage=1, stream=DATA, dtype=torch.float64)
        x = c.draw(which, z).reshape(n, *(self.shape or ())).to(dtype)
        return (x, c.labels[which]) if return_labels else x

    def log_prob(self, x: Tensor, t: float | Tensor | None = None, class_labels: Any = None) -> Tensor:
        """log p(x_t) in nats, summed over the coordinates, (B,) float64; differentiable in x.

        Args:
            x: (B, *shape). t: float or (B,); None for the data themselves.
            class_labels: a class, or (B,); -1 or None for all.

        Raises:
            ShapeError, TimeError. ArgumentError: an unknown label, or components without density (std 0) at sigma = 0.
        """
        flat, c, batch = self._flat(x), self.components.to(x.device), len(x)
        alpha, sigma = self._levels(self.process.t_clean if t is None else t, batch)
        if self._points() and bool((sigma == 0).any()):
            raise ArgumentError(f"{self.name} is flat in some direction: no density at sigma = 0; ask at a later t")
        log_weights = c.weights_of(class_labels, batch)
        log_weights = log_weights - log_weights.logsumexp(1, keepdim=True)
        return c.log_prob(flat, alpha.to(x.device), sigma.to(x.device), log_weights)

    @torch.no_grad()
    def solve(
        self,
        x: Tensor,
        t: float | None = None,
        t_end: float | None = None,
        class_labels: Any = None,
        rtol: float = 1e-8,
    ) -> Tensor:
        """The exact solution of the probability-flow ODE from time t to t_end, (B, *shape) float64.

        dy/dtheta = E[cos(theta) eps - sin(theta) x0 | y], y = x / sqrt(alpha^2 + sigma^2), theta = atan2(sigma, alpha);
        see `solve_ode`.

        Args:
            x: states (B, *shape) at time t. t, t_end: t_max to t_min by default; either direction; t_clean is allowed.
            class_labels: a class, or (B,); -1 or None for all. rtol: wanted error relative to 1 + max |x|.

        Raises:
            ShapeError, TimeError. ArgumentError: an unknown label, or a start at sigma = 0 where a component is a
            point.

        >>> import reverie as rv
        >>> o = Mixture([[-1.0], [1.0]], 0.1, process=rv.process.flow())
        >>> o.solve(torch.tensor([[-0.5], [0.5]])).sign().flatten().tolist()
        [-1.0, 1.0]
        """
        flat, c, batch = self._flat(x), self.components.to(x.device), len(x)
        log_weights = c.weights_of(class_labels, batch)
        t, t_end = self._ends(t, t_end)
        points = self._points()
        if points and t_end != t and angle(self.process, t)[0] == 0:
            raise ArgumentError(f"{self.name} is flat in some direction: no flow starts at sigma = 0 (t = {t:g})")

        def velocity(y: Tensor, theta: Tensor, rows: Tensor) -> Tensor:
            cos, sin = theta.cos(), theta.sin()
            return c.expect(y, cos, sin, log_weights[rows], -sin, cos)

        def clean(y: Tensor) -> Tensor:
            theta = torch.full((batch,), EDGE, dtype=torch.float64, device=x.device)
            one = torch.ones_like(theta)
            return c.expect(y, theta.cos(), theta.sin(), log_weights, one, 0 * one)

        end = transport(self.process, velocity, flat, t, t_end, tolerance(rtol), clean if points else None)
        return end.reshape(x.shape)

    def _ends(self, t: float | None, t_end: float | None) -> tuple[float, float]:
        p = self.process
        return p.t_max if t is None else check_time(p, t), p.t_min if t_end is None else check_time(p, t_end)

    def posterior(self, A: Any, y: Any, std: float) -> Mixture:
        """The exact posterior given a measurement y = A x0 + std n, n standard normal: a mixture with full covariances.

            S_k = A C_k A^T + std^2 I,    G_k = C_k A^T S_k^-1,    w_k' ~ w_k N(y; A m_k, S_k),
            m_k' = m_k + G_k (y - A m_k),    C_k' = (I - G_k A) C_k (I - G_k A)^T + std^2 G_k G_k^T.

        Args:
            A: (M, D), D the product of the shape. y: (M,). std: >= 0; 0 only where A C_k A^T is regular.

        Raises:
            ShapeError: sizes that do not fit. ArgumentError: a negative std, a singular S_k.

        Source: Bishop 2006, "Pattern Recognition and Machine Learning", eqs. 2.113 to 2.117.

        >>> import reverie as rv
        >>> o = Mixture([[-1.0, 0.0], [1.0, 0.0]], 0.5, process=rv.process.flow())
        >>> q = o.posterior(torch.tensor([[1.0, 0.0]]), torch.tensor([1.0]), 0.1)
        >>> q.weights.round(decimals=3).tolist()
        [0.0, 1.0]
        """
        means, covs, log_weights = condition(self.components, A, y, std)
        shaped = means.reshape(-1, *(self.shape or ()))
        name = f"posterior of {self.name}"
        q = Mixture(shaped, labels=self.components.labels, covs=covs, process=self.process, name=name)
        # Set as logarithms: a weight may be smaller than float64 can hold.
        q.components = dataclasses.replace(q.components, log_weights=log_weights)
        return q

    @property
    def weights(self) -> Tensor:
        """(K,) normalised weights."""
        return self.components.log_weights.exp()

    @property
    def means(self) -> Tensor:
        """(K, *shape) means."""
        return self.components.means.reshape(-1, *(self.shape or ()))

    @property
    def labels(self) -> Tensor:
        """(K,) the class of each component."""
        return self.components.labels
