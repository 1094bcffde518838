"""Objectives: what a training minimises, as plain functions of a model and a batch; and the laws of training times.

Denoising. With x_t = alpha x0 + sigma eps, and y(x0, eps, t) what a perfect network of this model's type would answer,

    loss = mean over the batch of  w_i |net(x_t, label(t), cond) - y|^2 / dimension.

For the type v, y = alpha eps - sigma x0, and this is the x0-error weighted by 1 + (alpha / sigma)^2 (Salimans & Ho
2022, 2202.00512).

Weights are stated for the x0-error, with snr = (alpha / sigma)^2 = exp(2 lam):

    edm            1 / sd^2 + snr      (s^2 + sd^2) / (s sd)^2 at s = sigma / alpha   Karras et al. 2022 (2206.00364), table 1
    min-snr        min(snr, gamma)                                                    Hang et al. 2023 (2303.09556), section 3.4
    truncated-snr  min(max(snr, 1), gamma)                                            Salimans & Ho 2022, section 4, without gamma

and since x0 = P x + R raw, a network of any type is trained with them by w_i = weight R^2: for eps min-snr is min(snr, gamma) / snr, for v (where
alpha^2 + sigma^2 = 1) min(snr, gamma) / (snr + 1), and edm is 1 for the preconditioned type "edm" of the same sd. What a picture shows, and where, is
settled at snr of 0.01 to 0.3. There min-snr hardly weighs v; truncated-snr weighs it by 1 / (snr + 1).

Times are quantiles of a law at u in (0, 1), so that stratified u, one in each of B equal slices, cover the law in every
batch (Kingma et al. 2021, 2107.00630, appendix I.1): "uniform" in t; "normal-lam",  lam ~ N(mean, std^2) cut to the
process's range (Karras et al. 2022, 2206.00364, have lam = -log sigma ~ N(1.2, 1.2^2)); and "logit-normal",
log(t / (1 - t)) ~ N(mean, std^2) cut to [t_min, t_max], for flows (Esser et al. 2024, 2403.03206, section 3.1; they take N(0, 1)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.base import ArgumentError, ShapeError, unknown
from reverie.model import Model
from reverie.process import Process

__all__ = [
    "LAWS",
    "WEIGHTS",
    "classification",
    "denoising",
    "edm_weight",
    "min_snr_weight",
    "parse_weight",
    "stratified",
    "times",
    "truncated_snr_weight",
    "weights",
]

LAWS = ("uniform", "normal-lam", "logit-normal")


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
    return (error if weight is None else error * weight.to(error)).mean()


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


def edm_weight(process: Process, t: Tensor, data: float = 0.5) -> Tensor:
    """The weight of the x0-error in Karras et al. 2022, 1 / data^2 + snr, for data of standard deviation `data`; float64, of t's shape.

    >>> import reverie as rv
    >>> edm_weight(rv.process.edm(), torch.tensor([2.0])).tolist()
    [4.25]
    """
    return data**-2 + (2 * process.lam(t.double())).exp()


def min_snr_weight(process: Process, t: Tensor, gamma: float = 5.0) -> Tensor:
    """The weight of the x0-error in Hang et al. 2023, min(snr, gamma); float64, of t's shape.

    >>> import reverie as rv
    >>> min_snr_weight(rv.process.flow(), torch.tensor([0.25, 0.5])).tolist()
    [5.0, 1.0]
    """
    return (2 * process.lam(t.double())).exp().clamp(max=gamma)


def truncated_snr_weight(process: Process, t: Tensor, gamma: float = 5.0) -> Tensor:
    """The weight of the x0-error at times t, min(max(snr, 1), gamma), `(B,)`, float64; gamma from 1 on.

    >>> import reverie as rv
    >>> truncated_snr_weight(rv.process.flow(), torch.tensor([0.1, 0.4, 0.8])).float().tolist()  # snr 81, 2.25, 1 / 16
    [5.0, 2.25, 1.0]
    """
    return torch.exp(2 * process.lam(t.double())).clamp(min=1.0).clamp(max=gamma)


WEIGHTS: dict[str, tuple[Callable[[Process, Tensor, float], Tensor], float]] = {
    "edm": (edm_weight, 0.5),
    "min-snr": (min_snr_weight, 5.0),
    "truncated-snr": (truncated_snr_weight, 5.0),
}
"""Weights of the x0-error, and what their number is by default."""


def parse_weight(weight: str) -> tuple[str, float]:
    """Name and number of "none", "edm", "edm:0.5", "min-snr:5". Raises `UnknownNameError`, `ArgumentError`.

    >>> parse_weight("min-snr:5"), parse_weight("edm")
    (('min-snr', 5.0), ('edm', 0.5))
    """
    name, colon, number = weight.partition(":")
    if name not in ("none", *WEIGHTS):
        raise unknown("weight", weight, ["none", *WEIGHTS])
    if not colon:
        return name, WEIGHTS[name][1] if name in WEIGHTS else 1.0
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if name == "none" or not 0 < value < math.inf:
        raise ArgumentError(
            f"a weight is none, edm:DATA, min-snr:GAMMA or truncated-snr:GAMMA with a positive number, got {weight!r}"
        )
    return name, value


def weights(model: Model, t: Tensor, weight: str = "none") -> Tensor | None:
    """The weights `(B,)` of a model's own errors at times t, for `denoising`; None for "none".

    >>> import reverie as rv
    >>> m = Model(lambda x, t: x, rv.process.flow(), predicts="eps")
    >>> weights(m, torch.tensor([0.25, 0.5], dtype=torch.float64), "min-snr:5").tolist()  # 5 / 9, and 1
    [0.5555555555555556, 1.0]
    """
    name, number = parse_weight(weight)
    if name == "none":
        return None
    raw: Any = model.target.to("x0", model.process, t.double()).raw
    return WEIGHTS[name][0](model.process, t, number) * raw.square()


def times(process: Process, u: Tensor, law: str = "uniform", mean: float = 0.8, std: float = 1.7) -> Tensor:
    """Training times at the quantiles u of a law.

    Args:
        u: `(B,)` in (0, 1).
        law: "uniform" in t; "normal-lam" with `mean` and `std` of lam = log(alpha / sigma) before the cut; "logit-normal" with those of
            log(t / (1 - t)).

    Returns:
        t `(B,)`, float64, between `process.t_min` and `process.t_max`.

    Raises:
        UnknownNameError: another law. ArgumentError: std <= 0, a law that lies outside the process's range, or "logit-normal" for a process
            whose times are not between 0 and 1.

    >>> import reverie as rv
    >>> times(rv.process.flow(), torch.tensor([0.25, 0.5])).tolist() == [0.25, 0.5]
    True
    """
    u = u.double()
    if law not in LAWS:
        raise unknown("law of times", law, LAWS)
    if law == "uniform":
        return process.t_min + (process.t_max - process.t_min) * u
    if law == "normal-lam":
        return process.t_of_lam(_normal(u, "lam", mean, std, *process.lam_range)).clamp(process.t_min, process.t_max)
    if process.t_min < 0 or process.t_max > 1:
        raise ArgumentError(
            f"the law 'logit-normal' is for times between 0 and 1, this process has {process.t_min:g} to {process.t_max:g}; take 'normal-lam'"
        )
    lo, hi = torch.tensor([process.t_min, process.t_max], dtype=torch.float64).logit().tolist()
    return _normal(u, "logit(t)", mean, std, lo, hi).sigmoid().clamp(process.t_min, process.t_max)


def _normal(u: Tensor, what: str, mean: float, std: float, lo: float, hi: float) -> Tensor:
    """Quantiles u of N(mean, std^2) cut to [lo, hi]."""
    if not std > 0:
        raise ArgumentError(f"the standard deviation of {what} must be positive, got {std}")
    a, b = (torch.special.ndtr(torch.tensor((end - mean) / std, dtype=torch.float64)) for end in (lo, hi))
    if not b > a:
        raise ArgumentError(
            f"{what} ~ N({mean}, {std}^2) has no mass in the process's range {lo:.3g} to {hi:.3g}; move its mean"
        )
    return (mean + std * torch.special.ndtri(a + (b - a) * u)).clamp(lo, hi)
