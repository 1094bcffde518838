"""Classifier-free guidance.

    raw = null + w (base - null),        w = scale,        within an interval of time only,

which in terms of x0, eps, v or the score is the same formula. `rescale` = phi pulls the standard deviation of each sample back to that of the
conditional output: raw <- (phi std(base) / std(raw) + 1 - phi) raw.

Sources: Ho & Salimans 2022 (2207.12598; their w is our scale - 1), Kynkaanniemi et al. 2024 (2404.07724, interval), Lin et al. 2024
(2305.08891, section 3.4, rescale).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from reverie.base import ArgumentError, ShapeError, cites
from reverie.guide.branches import Branches, Guided
from reverie.model import Model
from reverie.process import per_sample

__all__ = ["CFG"]


@cites("cfg", "cfg-interval", "cfg-rescale")
@dataclass(frozen=True)
class CFG:
    """Classifier-free guidance: two forwards a call, one where it does nothing (scale 1, or outside its interval).

    Args:
        scale: w; 1 is no guidance, 0 the null model. A float, a tensor `(B,)`, or a function of the time.
        interval: (lowest, highest) time in the process's own units between which it acts.
        rescale: phi in [0, 1]; about 0.7 against over-exposure at high scales.

    Raises `ArgumentError` for a scale that is not finite, an empty interval, or rescale outside [0, 1]; at the call, for a model without
    a null condition or a condition that lacks its keys.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Mixture(torch.tensor([[-1.0], [1.0]]), 0.3, labels=[0, 1], process=rv.process.vp())
    >>> g = o | CFG(3.0)
    >>> g.cost(0.5), (o | CFG(1.0)).cost(0.5)
    (2, 1)
    """

    scale: float | Tensor | Callable[[float], float] = 4.0
    interval: tuple[float, float] = (-math.inf, math.inf)
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.scale, int | float) and not math.isfinite(self.scale):
            raise ArgumentError(f"the guidance scale must be finite, got {self.scale}")
        if len(self.interval) != 2 or not self.interval[0] <= self.interval[1]:
            raise ArgumentError(f"interval goes from a lower to a higher time, got {self.interval}")
        if not 0 <= self.rescale <= 1:
            raise ArgumentError(f"rescale lies in [0, 1], got {self.rescale}")

    def __repr__(self) -> str:
        scale = f"{self.scale:g}" if isinstance(self.scale, int | float) else "..."
        return f"CFG({scale})"

    @property
    def all_branches(self) -> tuple[str, ...]:
        """Every branch that some time needs."""
        return () if isinstance(self.scale, int | float) and self.scale == 1 else ("null",)

    def at(self, t: float | Tensor, rows: Tensor | None = None) -> float | Tensor:
        """The scale at time t: 1 outside the interval. `rows`: which entries of a tensor scale the batch holds."""
        scale = self.scale
        if isinstance(scale, Tensor) and scale.ndim and rows is not None:
            scale = scale[rows.to(scale.device)]
        low, high = self.interval
        if isinstance(t, Tensor):
            if callable(scale):
                raise ArgumentError("a scale that is a function goes with one time for all samples")
            return 1.0 + (scale - 1.0) * ((low <= t) & (t <= high)).double()
        if not low <= t <= high:
            return 1.0
        return float(scale(float(t))) if callable(scale) else scale

    def needs(self, t: float | Tensor) -> tuple[str, ...]:
        """The null branch, where the scale is not 1."""
        w = self.at(t)
        idle = bool((w == 1).all()) if isinstance(w, Tensor) else w == 1
        return () if idle else ("null",)

    def combine(
        self, current: Tensor, branches: Branches, x: Tensor, t: float | Tensor, model: Model, run: Any
    ) -> Tensor:
        """current + (w - 1) (base - null), rescaled if asked."""
        base, null = branches["base"][0], branches["null"][0]
        w = self.at(t, None if run is None else run.rows)
        if isinstance(w, Tensor) and w.ndim == 1 and len(w) not in (1, len(x)):
            raise ShapeError(
                f"a guidance scale of shape {tuple(w.shape)} for a batch of {len(x)}; give one, or one a sample"
            )
        more = per_sample(w, x) - 1 if isinstance(w, Tensor) else w - 1
        guided = current + more * (base - null)
        if self.rescale == 0:
            return guided
        dims = tuple(range(1, x.ndim))
        ratio = base.std(dims, keepdim=True) / guided.std(dims, keepdim=True)
        return (self.rescale * ratio + (1 - self.rescale)) * guided

    def __call__(self, model: Model) -> Model:
        """`model | CFG(...)`."""
        if isinstance(model, Guided):
            return Guided(model.base, (*model.guides, self))
        return Guided(model, (self,))
