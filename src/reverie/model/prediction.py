"""A prediction: one network output, readable as any quantity of the field."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from reverie.base import ArgumentError, ShapeError
from reverie.model.target import Affine, Target, as_target
from reverie.process import Process, per_sample

__all__ = ["Prediction"]


class Prediction:
    """What a model says of a state: `.x0`, `.eps`, `.v`, `.flow`, `.score`, each derived when first read.

    x = alpha x0 + gamma y + sigma eps;  v = alpha eps - sigma x0;  flow = eps - x0;  score = -eps / sigma.

    Attributes:
        x: the state `(B, *shape)`.
        t: the time, float, `(B,)`, or broadcastable to the state.
        raw: the network's output in its own type, `(B, *shape)`.
        heads: predictions of all heads (the first is this one); `variance` is the raw variance head, if there is one.

    Reading raises `ArgumentError` where the quantity cannot be derived (x0 from eps at alpha = 0, eps from x0 at
    sigma = 0).

    >>> import torch, reverie as rv
    >>> m = rv.Model(lambda x, t: torch.zeros_like(x), rv.process.flow(), predicts="flow")
    >>> m(torch.ones(1, 2), 0.5).x0
    tensor([[1., 1.]])
    """

    __slots__ = ("_cache", "_further", "process", "raw", "t", "target", "variance", "x", "y")

    def __init__(
        self,
        x: Tensor,
        t: float | Tensor,
        raw: Tensor,
        target: Target,
        process: Process,
        y: Tensor | None = None,
        heads: tuple[Prediction, ...] = (),
        variance: Tensor | None = None,
    ) -> None:
        self.x, self.t, self.raw, self.target, self.process, self.y = x, t, raw, target, process, y
        self._further = tuple(heads)  # without itself: a cycle would keep the graph until the collector comes
        self.variance = variance
        self._cache: dict[Target, Tensor] = {}

    @property
    def heads(self) -> tuple[Prediction, ...]:
        """Predictions of all heads, this one first."""
        return (self, *self._further)

    def as_(self, kind: str | Target) -> Tensor:
        """The quantity `kind` (a name or a Target), `(B, *shape)`."""
        want = as_target(kind)
        if want not in self._cache:
            a = self._affine(want)
            same = _zero(a.x) and _one(a.raw)
            value = self.raw if same else _times(self.x, a.x) + _times(self.raw, a.raw)
            self._cache[want] = value if self.y is None or _zero(a.y) else value + _times(self.y, a.y)
        return self._cache[want]

    def _affine(self, want: Target) -> Affine:
        a = self.target.to(want, self.process, self.t)
        if self.y is None and not _zero(a.y):
            raise ArgumentError(f"{want.name} needs the degraded input: call the model with y=...")
        return a

    @property
    def x0(self) -> Tensor:
        """Clean data, E[x0 | x_t] for a perfect network."""
        return self.as_("x0")

    @property
    def eps(self) -> Tensor:
        """The noise."""
        return self.as_("eps")

    @property
    def v(self) -> Tensor:
        """alpha eps - sigma x0."""
        return self.as_("v")

    @property
    def flow(self) -> Tensor:
        """eps - x0, the velocity of the straight path."""
        return self.as_("flow")

    @property
    def score(self) -> Tensor:
        """-eps / sigma, the gradient of the log density of x_t."""
        return self.as_("score")

    def replace(self, **quantity: Tensor) -> Prediction:
        """A prediction of the same state that says `x0=...` (or eps, v, flow, score) instead; head 0 only.

        The quantity is kept as given, bit for bit. Raises `ArgumentError` unless exactly one is given and it
        determines the raw output, `ShapeError` when it has another shape than the state.
        """
        if len(quantity) != 1:
            raise ArgumentError(f"replace() takes one quantity, got {sorted(quantity) or 'none'}")
        ((kind, value),) = quantity.items()
        want = as_target(kind)
        if value.shape != self.x.shape:
            raise ShapeError(f"{kind} of shape {tuple(value.shape)} for a state of shape {tuple(self.x.shape)}")
        a = self._affine(want)
        if _any_zero(a.raw):
            raise ArgumentError(f"at t = {self.t} the state alone determines {kind}; it cannot be replaced")
        raw = value - _times(self.x, a.x) if not _zero(a.x) else value
        if self.y is not None:
            raw = raw - _times(self.y, a.y)
        raw = raw if _one(a.raw) else raw / _as(a.raw, raw)
        replaced = Prediction(
            self.x, self.t, raw, self.target, self.process, self.y, heads=self._further, variance=self.variance
        )
        replaced._cache[want] = value
        return replaced

    def coefficients(self, kinds: tuple[str, ...] = ("x0", "eps")) -> Mapping[str, Affine]:
        """The affine maps behind the quantities, for those who fold them into something else."""
        return {kind: self.target.to(kind, self.process, self.t) for kind in kinds}


def _as(c: float | Tensor, like: Tensor) -> float | Tensor:
    return per_sample(c, like) if isinstance(c, Tensor) else c


def _times(x: Tensor, c: float | Tensor) -> Tensor:
    return x * _as(c, x)


def _zero(c: float | Tensor) -> bool:
    return bool((c == 0).all()) if isinstance(c, Tensor) else c == 0


def _one(c: float | Tensor) -> bool:
    return bool((c == 1).all()) if isinstance(c, Tensor) else c == 1


def _any_zero(c: float | Tensor) -> bool:
    return bool((c == 0).any()) if isinstance(c, Tensor) else c == 0
