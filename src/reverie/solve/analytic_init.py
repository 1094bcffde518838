"""Analytic-Init: a run that starts below the noise end begins with the closest isotropic Gaussian.

At time t the data are x = alpha x0 + sigma eps, with mean alpha E[x0] and covariance alpha^2 Cov + sigma^2 I. Of all N(mu, s^2 I) the one with the
least KL(data at t || N(mu, s^2 I)) has

    mu = alpha E[x0],        s^2 = sigma^2 + alpha^2 tr(Cov) / d,        d the entries of a sample,

whatever the law of the data, and it holds for every process: alpha^2 = 1 - sigma^2 (VP), alpha = 1 (VE, EDM), alpha = 1 - sigma (flow). Both numbers
come from data, once: a mean for every entry, and one variance, the mean over all entries (of a video: frames too).

A network that may copy its condition at high noise (an image-to-video model) does so most at the first steps. Starting lower leaves them out, and
this start does not pay for that with the wrong brightness and contrast that N(0, I) would have there. It also serves schedules whose last
training time still holds some signal.

Source: Zhao et al. 2024 (2406.15735), who have it for VP and VE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from reverie.base import ArgumentError, ShapeError, implements
from reverie.process import Process
from reverie.solve.starts import classes, elementary

if TYPE_CHECKING:
    from reverie.solve.context import Run

__all__ = ["AnalyticInit"]


@implements("cond-image-leakage")
class AnalyticInit:
    """A hook that starts a run from N(alpha mean, (sigma^2 + alpha^2 variance) I), alpha and sigma at the plan's start.

    Args:
        mean: E[x0], of the states' shape; with `key` one a class, `(K, *shape)`.
        variance: tr(Cov) / d, at least 0; with `key` a number or `(K,)`.
        key: the condition's key whose number, 0 to K - 1, says the class of a sample; None: one Gaussian for all.

    The run's own draw is its noise, so that a sample keeps its bits in any job. Give it to runs whose plan starts below the noise end
    (`rv.solve.plan(..., span=(0.9, 0))`) and that have no `init`.

    Raises:
        ArgumentError: numbers that are not finite, a negative variance; in a run: a missing class, one without a mean, another kind of noise.
        ShapeError: a mean that does not fit the states.

    >>> import torch, reverie as rv
    >>> start = AnalyticInit(torch.tensor([2.0, -1.0]), 0.25)
    >>> [v.tolist() for v in start.at(rv.process.flow(), 0.5)]
    [[1.0, -0.5], 0.5590169943749475]
    """

    begins: ClassVar[bool] = True

    def __init__(self, mean: Any, variance: Any, key: str | None = None) -> None:
        self.mean = torch.as_tensor(mean, dtype=torch.float64).detach().cpu()
        self.variance = torch.as_tensor(variance, dtype=torch.float64).detach().cpu()
        self.key = key
        wanted = () if key is None else (len(self.mean) if self.mean.ndim else 0,)
        if self.variance.ndim and self.variance.shape != wanted:
            raise ShapeError(f"a variance of shape {tuple(self.variance.shape)}; one number is needed, or {wanted}")
        for name, value in (("mean", self.mean), ("variance", self.variance)):
            if not bool(value.isfinite().all()):
                raise ArgumentError(f"the {name} of the data must be finite")
        if bool((self.variance < 0).any()):
            raise ArgumentError(f"a variance is at least 0, got {float(self.variance.min()):g}")

    @classmethod
    def fit(cls, data: Tensor, labels: Tensor | None = None, key: str = "class_labels") -> AnalyticInit:
        """The start for these data.

        Args:
            data: states `(N, *shape)`, N >= 2 (of pictures for a model with a codec: `m.encode(pictures)`). labels: `(N,)` in 0 to K - 1, for a
                Gaussian a class. key: under which the condition of a run says the class.

        Raises:
            ShapeError: fewer than two samples, labels of another length. ArgumentError: a class with fewer than two.

        >>> import torch
        >>> start = AnalyticInit.fit(torch.tensor([[0.0, 4.0], [2.0, 4.0]]))
        >>> start.mean.tolist(), start.variance.item()
        ([1.0, 4.0], 1.0)
        """
        if data.ndim < 2 or len(data) < 2:
            raise ShapeError(f"data are (N, *shape) with N >= 2, got {tuple(data.shape)}")
        data = data.detach().cpu().double()
        if labels is None:
            return cls(data.mean(0), data.var(0).mean())
        if labels.shape != (len(data),):
            raise ShapeError(f"labels of shape {tuple(labels.shape)} for {len(data)} samples")
        of, counts = labels.cpu().long(), labels.cpu().long().bincount()
        if int(counts.min()) < 2:
            k = int(counts.argmin())
            raise ArgumentError(f"class {k} has {int(counts[k])} samples; a mean and a variance need at least 2")
        parts = [data[of == k] for k in range(len(counts))]
        return cls(torch.stack([x.mean(0) for x in parts]), torch.stack([x.var(0).mean() for x in parts]), key)

    def at(self, process: Process, t: float) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation at time t, of the shapes of `mean` and `variance`, float64."""
        alpha, sigma = process.alpha(t), process.sigma(t)
        return alpha * self.mean, (sigma**2 + alpha**2 * self.variance).sqrt()

    def start(self, ctx: Run) -> None:
        """Set the state."""
        z = elementary(ctx, "AnalyticInit")
        mean, std = (v.to(z) for v in self.at(ctx.plan.process, ctx.plan.start))
        if self.key is not None:
            rows = classes(ctx, self.key, len(self.mean), "AnalyticInit").to(z.device)
            mean = mean[rows]
            std = std if std.ndim == 0 else std[rows].reshape(-1, *[1] * (z.ndim - 1))
        if mean.shape[mean.ndim - z.ndim + 1 :] != z.shape[1:]:
            raise ShapeError(f"AnalyticInit has a mean of shape {tuple(self.mean.shape)} for states {tuple(z.shape)}")
        ctx.x = mean + std * z
