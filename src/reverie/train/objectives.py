"""Objectives: what a training minimises, as plain functions of a model and a batch; and the laws of training times.

Denoising. With x_t = alpha x0 + sigma eps, and y(x0, eps, t) what a perfect network of this model's type would answer,

    loss = mean over the batch of  w_i |net(x_t, label(t), cond) - y|^2 / dimension.

For the type v, y = alpha eps - sigma x0, and this is the x0-error weighted by 1 + (alpha / sigma)^2 (Salimans & Ho
2022, 2202.00512).

Times are quantiles of a law at u in (0, 1), so that stratified u, one in each of B equal slices, cover the law in every
batch (Kingma et al. 2021, 2107.00630, appendix I.1): "uniform" in t, and "normal-lam",  lam ~ N(mean, std^2) cut to the
process's range (Karras et al. 2022, 2206.00364, have lam = -log sigma ~ N(1.2, 1.2^2)).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.base import ArgumentError, ShapeError, unknown
from reverie.model import Model
from reverie.process import Process

__all__ = ["LAWS", "classification", "denoising", "stratified", "times"]

LAWS = ("uniform", "normal-lam")


def denoising(
    model: Model,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    cond: Mapping[str, Any] | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """The mean squared error of a model in its network's own type, a scalar.

    Args:
        model: its network is called once with the whole batch.
        x0: clean states `(B, *shape)`. t: times `(B,)`. noise: elementary noise of x0's shape.
        cond: the condition. weight: of each sample, `(B,)`; all 1 by default.

    Raises:
        ShapeError: noise, times or weights that do not fit x0.

    >>> import reverie as rv
    >>> m = Model(lambda x, t: torch.zeros_like(x), rv.process.vp(), predicts="eps")
    >>> denoising(m, torch.zeros(4, 2), torch.full((4,), 0.5), torch.ones(4, 2)).item()
    1.0
    """
    if t.shape != x0.shape[:1] or (weight is not None and weight.shape != x0.shape[:1]):
        raise ShapeError(
            f"times and weights must be ({len(x0)},) for states of shape {tuple(x0.shape)}, got {tuple(t.shape)}"
        )
    x = model.process.perturb(x0, t, noise)
    raw = model(x, t, **(cond or {})).raw
    error = (raw - model.target.of(model.process, t, x0, noise)).square().flatten(1).mean(1)
    return (error if weight is None else error * weight).mean()


def classification(net: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """The cross entropy of a classifier's logits `(B, classes)` at samples x with labels `(B,)`, a scalar.

    >>> round(classification(lambda x: torch.zeros(2, 4), torch.zeros(2, 1), torch.tensor([0, 3])).item(), 4)
    1.3863
    """
    return F.cross_entropy(net(x), labels)


def stratified(u: Tensor) -> Tensor:
    """Independent uniform numbers `(B,)` moved to (i + u_i) / B: each still uniform over the batch, together evenly
    spread.

    >>> stratified(torch.tensor([0.5, 0.5])).tolist()
    [0.25, 0.75]
    """
    return (torch.arange(len(u), dtype=torch.float64) + u.double()) / len(u)


def times(process: Process, u: Tensor, law: str = "uniform", mean: float = 0.8, std: float = 1.7) -> Tensor:
    """Training times at the quantiles u of a law.

    Args:
        u: `(B,)` in (0, 1).
        law: "uniform" in t, or "normal-lam" with `mean` and `std` of lam = log(alpha / sigma) before the cut.

    Returns:
        t `(B,)`, float64, between `process.t_min` and `process.t_max`.

    Raises:
        UnknownNameError: another law. ArgumentError: std <= 0, or a law that lies outside the process's range.

    >>> import reverie as rv
    >>> times(rv.process.flow(), torch.tensor([0.25, 0.5])).tolist() == [0.25, 0.5]
    True
    """
    u = u.double()
    if law not in LAWS:
        raise unknown("law of times", law, LAWS)
    if law == "uniform":
        return process.t_min + (process.t_max - process.t_min) * u
    if not std > 0:
        raise ArgumentError(f"the standard deviation of lam must be positive, got {std}")
    lo, hi = process.lam_range
    a, b = (torch.special.ndtr(torch.tensor((end - mean) / std, dtype=torch.float64)) for end in (lo, hi))
    if not b > a:
        raise ArgumentError(
            f"lam ~ N({mean}, {std}^2) has no mass in the process's range {lo:.3g} to {hi:.3g}; move its mean"
        )
    lam = (mean + std * torch.special.ndtri(a + (b - a) * u)).clamp(lo, hi)
    return process.t_of_lam(lam).clamp(process.t_min, process.t_max)
