"""DPM-OT: a run's early part is one optimal-transport map from white noise to data that are noised to where the plan starts.

For n latents y_i = alpha x_i + sigma eps_i (data x_i, noise of the plan's start, drawn once) of mass 1 / n each, and z standard normal, the map of
least E|z - T(z)|^2 that gives each latent its mass is the gradient of a convex piecewise linear function (Brenier):

    u(z) = max_i <z, y_i> + h_i,        T(z) = y_i of the largest term.

The heights h minimise the convex E(h) = E[u(z)] - (1 / n) sum_i h_i, whose gradient is w_i - 1 / n, with w_i the mass of cell i: the share of
draws z of which i is the largest term. Inner products are taken of y_i less their mean, in units of their root mean square, which changes no cell;
then with every iteration, for g = w - 1 / n counted on N draws,

    m <- 0.9 m + 0.1 g,    v <- 0.999 v + 0.001 g^2,    h <- h - lr m' / (sqrt(v') + 1e-8),    h <- h - mean(h),

Adam, with m' and v' free of their start at zero (the released code leaves that out, and its first steps are several times as long). Where |g|
improves no more (its floor is the counting's own 1 / sqrt(N)), N doubles and lr falls, for some rounds and until no cell is empty; the heights are
the mean of the last round's. They start as the cells of nearest neighbours, with the targets on the scale of z.

T jumps between modes where a few solver steps from noise would blend them. But it returns what it was given: there are n starts. What makes the
samples new are the steps that follow, so take a stochastic plan for them; a deterministic one gives the n samples that the latents flow to. How near
to the data samples come to lie falls with the noise of the start: publish `measure.nearest_distance` and `measure.memorised` beside any quality.

Source: Li et al. 2023 (2307.11308; the released code draws z even in [0, 1]^d, here it is what the run starts from).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from reverie.base import DATA, ArgumentError, Noise, NonFiniteError, ShapeError, implements
from reverie.base.checks import at_least
from reverie.solve.plan import Plan
from reverie.solve.starts import elementary

if TYPE_CHECKING:
    from reverie.solve.context import Run

__all__ = ["SemiDiscrete", "TransportStart"]

_STREAM = 0xD07
_ROWS, _TARGETS = 4000, 1000
"""Draws and targets whose inner products are taken at a time."""


@implements("dpm-ot")
@dataclass(frozen=True, eq=False)
class SemiDiscrete:
    """The optimal transport of standard normal noise to n points of equal mass; called with z `(B, *shape)` it gives their points.

    Attributes:
        targets: `(n, *shape)` float32. heights: `(n,)` float64, h for the inner products of the targets themselves; a constant is free.
        error: root mean square of n w_i - 1, measured on `draws` draws, whose counting alone makes about sqrt(n / draws) of it.
        iterations: of the minimisation.

    >>> ot = SemiDiscrete.fit(torch.tensor([[-1.0], [0.0], [1.0]]), seed=1)
    >>> ot(torch.tensor([[-2.0], [0.1], [0.6]])).flatten().tolist()
    [-1.0, 0.0, 1.0]
    """

    targets: Tensor
    heights: Tensor
    error: float = math.nan
    draws: int = 0
    iterations: int = 0

    def __post_init__(self) -> None:
        if self.targets.ndim < 2 or len(self.targets) < 2 or self.heights.shape != (len(self.targets),):
            raise ShapeError(
                f"targets are (n, *shape) with n >= 2 and heights (n,), got {tuple(self.targets.shape)} and {tuple(self.heights.shape)}"
            )

    @classmethod
    def fit(
        cls,
        targets: Tensor,
        *,
        seed: int = 0,
        draws: int = 10,
        tol: float = 0.0,
        rounds: int = 3,
        patience: int = 50,
        lr: float = 0.1,
        decay: float = 0.5,
        iterations: int = 10_000,
    ) -> SemiDiscrete:
        """Find the heights.

        Args:
            targets: `(n, *shape)`, n >= 2, not all equal. seed: of the draws z.
            draws: N / n in the first round. rounds: how often N doubles and lr is multiplied by `decay`, each time after `patience` iterations
                that did not better the error; the released code has 3, 50 and 0.8. lr: the first, in units of the standardised inner product.
            tol: the error at which to stop early (`error`, which holds the counting's part), 0 for all rounds. iterations: at most.

        Raises:
            ShapeError: no n points. NonFiniteError: NaN or infinity. ArgumentError: equal targets, numbers out of range, cells that
            are empty at the end.
        """
        rows, scale = _standard(targets)
        n, d = rows.shape
        at_least(draws=(draws, 1), patience=(patience, 1), iterations=(iterations, 1))
        if not (tol >= 0 and rounds >= 0 and 0 < lr < math.inf and 0 < decay <= 1):
            raise ArgumentError(
                f"tol >= 0, rounds >= 0, lr > 0 and 0 < decay <= 1 are needed, got {tol}, {rounds}, {lr} and {decay}"
            )
        noise, count = Noise(seed), draws * n
        h = -math.sqrt(d) / 2 * rows.double().square().sum(1).cpu()
        h -= h.mean()
        m, v, mean, seen = torch.zeros_like(h), torch.zeros_like(h), torch.zeros_like(h), 0
        best, since, done = math.inf, 0, 0
        for k in range(iterations):
            hits = _hits(rows, h, _normal(noise, count, d, k, rows))
            g = hits / count - 1 / n
            error = float(g.norm()) * math.sqrt(n)
            if error <= tol and bool((hits > 0).all()):
                return cls(targets.detach().float(), scale * h, error, count, k)
            mean, seen = mean + h, seen + 1
            since = 0 if error < best else since + 1
            best = min(best, error)
            full = bool((hits > 0).all())
            if since > (patience if full else 4 * patience):  # a far target's height has a long way to go
                if done >= rounds and full:
                    fresh = _normal(noise, count, d, k + 1, rows)
                    if bool((_hits(rows, mean / seen, fresh) > 0).all()):  # or a pair of near targets asks for more
                        break
                done, lr, best, since = done + 1, lr * decay, math.inf, 0
                count = 2 * count if done <= rounds else count
                mean, seen = torch.zeros_like(h), 0
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            h = h - lr * m / (1 - 0.9 ** (k + 1)) / ((v / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8)
            h = h - h.mean()
        h = mean / seen if seen else h
        hits = _hits(rows, h, _normal(noise, count, d, k + 1, rows))
        if empty := int((hits == 0).sum()):
            raise ArgumentError(
                f"{empty} of {n} cells are empty after {k + 1} iterations; raise iterations or draws (two equal targets share a cell)"
            )
        return cls(
            targets.detach().float(), scale * h, float((hits / count - 1 / n).norm()) * math.sqrt(n), count, k + 1
        )

    @functools.cached_property
    def _rows(self) -> tuple[Tensor, Tensor]:
        """Standardised targets and heights."""
        rows, scale = _standard(self.targets)
        return rows, self.heights.double().cpu() / scale

    def cell(self, z: Tensor) -> Tensor:
        """Which target each z `(B, *shape)` goes to, `(B,)` int64. Raises `ShapeError` for another shape."""
        if z.shape[1:] != self.targets.shape[1:]:
            raise ShapeError(f"the targets have shape {tuple(self.targets.shape[1:])}, the noise {tuple(z.shape[1:])}")
        rows, h = self._rows
        return _cells(rows.to(z.device), h, z.flatten(1).float())

    def __call__(self, z: Tensor) -> Tensor:
        """T(z), `(B, *shape)`, of z's type."""
        return self.targets.to(z.device)[self.cell(z)].to(z)

    def masses(self, draws: int, seed: int = 1) -> Tensor:
        """The masses of the cells, `(n,)` float64, counted on fresh draws: standard error sqrt(w (1 - w) / draws) each."""
        rows, h = self._rows
        return _hits(rows, h, _normal(Noise(seed), draws, rows.shape[1], (1 << 32) - 1, rows)) / draws

    def tensors(self) -> dict[str, Tensor]:
        """What is to be kept, for a safetensors file; `SemiDiscrete(**tensors)` is the map again."""
        return {"targets": self.targets, "heights": self.heights}


@implements("dpm-ot")
class TransportStart:
    """A hook that starts a run from T(z) in place of its draw z.

    Args:
        ot: the map, its targets noised to `t`. t: where the plan must start.

    The run's own draw is z, so that a sample keeps its bits in any job.

    Raises `ArgumentError` in a run whose plan starts elsewhere, and for noise that is not Gaussian or a degraded input.

    >>> import reverie as rv
    >>> o = rv.oracle.Mixture([[-3.0, 0.0], [3.0, 0.0]], 0.2, process=rv.process.vp())
    >>> plan = rv.solve.plan("dpmpp-2m-sde", o.process, 5, span=(0.4, 0))
    >>> begin = TransportStart.fit(o.sample(32), plan)
    >>> x = rv.sample(o, 8, plan=plan, hooks=begin)
    >>> bool((x[:, 0].abs() - 3).abs().max() < 1)
    True
    """

    begins: ClassVar[bool] = True

    def __init__(self, ot: SemiDiscrete, t: float) -> None:
        self.ot, self.t = ot, float(t)

    @classmethod
    def fit(cls, data: Tensor, plan: Plan, *, seed: int = 0, **options: Any) -> TransportStart:
        """The start of a plan: the data noised to where it starts, and the map to them.

        Args:
            data: `(n, *shape)` states (encode first where there is a codec). seed: of their noise, and of the fit. options: see `SemiDiscrete.fit`.
        """
        p = plan.process
        z = p.draw(
            Noise(seed), data.shape[1:], torch.arange(len(data)), 0, DATA, device=data.device, dtype=torch.float32
        )
        return cls(SemiDiscrete.fit(p.perturb(data.float(), plan.start, z), seed=seed, **options), plan.start)

    def start(self, ctx: Run) -> None:
        """Put the latents in place of the noise."""
        if not math.isclose(ctx.plan.start, self.t, rel_tol=1e-9, abs_tol=1e-12):
            raise ArgumentError(
                f"the latents are noised to t = {self.t:.6g}, the plan starts at {ctx.plan.start:.6g}; give it the span with which it was fitted"
            )
        ctx.x = self.ot(elementary(ctx, "TransportStart"))


def _standard(targets: Tensor) -> tuple[Tensor, float]:
    """The targets `(n, D)` less their mean, in units of their root mean square norm, and that unit."""
    if not isinstance(targets, Tensor) or targets.ndim < 2 or len(targets) < 2 or not targets.is_floating_point():
        got = f"{targets.dtype} {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        raise ShapeError(f"targets are a floating tensor (n, *shape) with n >= 2, got {got}")
    flat = targets.detach().flatten(1).double()
    if not bool(flat.isfinite().all()):
        raise NonFiniteError("the targets hold NaN or infinity; look for the one that has it")
    flat = flat - flat.mean(0)
    scale = float(flat.square().sum(1).mean().sqrt())
    if not scale > 0:
        raise ArgumentError(f"all {len(targets)} targets are equal; transport needs at least two different ones")
    return (flat / scale).float(), scale


def _normal(noise: Noise, count: int, d: int, stage: int, like: Tensor) -> Iterator[Tensor]:
    """Draws z `(<= _ROWS, D)`, `count` in all."""
    for first in range(0, count, _ROWS):
        index = torch.arange(first, min(first + _ROWS, count))
        yield noise.normal((d,), index, stage, _STREAM, like.device)


def _cells(rows: Tensor, h: Tensor, z: Tensor) -> Tensor:
    best = torch.full((len(z),), -math.inf, device=z.device)
    cell = torch.zeros(len(z), dtype=torch.long, device=z.device)
    for first in range(0, len(rows), _TARGETS):
        part = slice(first, first + _TARGETS)
        top, at = (z @ rows[part].T + h[part].to(z)).max(1)
        cell, best = torch.where(top > best, at + first, cell), torch.maximum(top, best)
    return cell


def _hits(rows: Tensor, h: Tensor, parts: Iterator[Tensor]) -> Tensor:
    """How many draws fall into each cell, `(n,)` float64 on the CPU."""
    hits = torch.zeros(len(rows), dtype=torch.long)
    for z in parts:
        hits += _cells(rows, h, z).bincount(minlength=len(rows)).cpu()
    return hits.double()
