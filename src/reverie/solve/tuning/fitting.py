"""Fitting a method of N evaluations to a model's own exact solutions.

    s_0 = x_T,   P_k = x0-prediction at (s_k, lam_k),   s_{k+1} = a_k x_T + sum_{j<=k} b_kj P_j,   the answer being s_N     (`solve.unroll`)

Everything in it is free: N times lam, N factors a, N (N + 1) / 2 factors b. The aim is the endpoint alone,

    loss = mean over samples of sqrt(r^2 + delta^2) + prior median(r) |theta - theta_start|^2 / 2,    r = |s_N - x*| / |x*|,    delta = 0.3 median r,

which weighs the typical sample, not the worst. It is minimised by Levenberg-Marquardt on reweighted squares,

    (A + mu diag A + prior) step = -(g + prior (theta - theta_start)),     A = sum w J J^T,   g = sum w J (s_N - x*),
    w = 1 / (|x*|^2 sqrt(r^2 + delta^2)),

with J the derivative of the endpoint by every parameter, carried forward through the run: a tangent T of the state s_k needs the network's
derivative along it, which is one more evaluation, (f(s + h T, lam) - f(s, lam)) / h, and that by lam_k another. So nothing but evaluations is
asked of the model: it may be guided, compiled, or a black box; no graph is kept. Parameters are ordered by stage: at stage k only those before it
have tangents.

Sources: Shaul et al. 2024 (2403.01329) for the family; Levenberg 1944, Marquardt 1963; Huber 1964 for the reweighting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError
from reverie.model import Model, conditions, select
from reverie.solve.unroll import Unrolled

__all__ = ["Bounds", "Cases", "Enough", "Method", "fit", "middle_of"]

_STEP = {torch.float64: 1e-6, torch.float32: 3e-3}
"""Relative size of the differences by the precision of the network; coarser ones take `_COARSE`."""
_COARSE = 3e-2
_STEEP = 10.0
"""Change of the predictions by lam, relative to them, that is no derivative but a jump."""
_STATES = 1 << 27
"""Numbers that the tangents of a block hold at most."""


class Enough(Exception):
    """Raised by a caller's `tell`: end here, with the best so far."""


@dataclass(frozen=True)
class Method:
    """A method of N evaluations: `lams` `(N,)`, and `rows` `(N, N + 1)`: row k makes s_{k+1} from x_T (column 0) and P_j (column j + 1)."""

    lams: Tensor
    rows: Tensor

    @classmethod
    def of(cls, u: Unrolled) -> Method:
        """An unrolled plan whose first evaluation is of x_T. Raises `ArgumentError` for other ones."""
        first = torch.zeros_like(u.rows[0])
        first[0] = 1.0
        if u.kind != "x0" or not torch.equal(u.rows[0], first) or any(label is not None for label in u.labels):
            raise ArgumentError("a method begins with an evaluation of x_T, predicts x0, and has no labels of its own")
        lams = [float(u.process.lam(t)) for t in u.times]
        return cls(torch.tensor(lams, dtype=torch.float64), u.rows[1:].clone())

    def unrolled(self, like: Unrolled) -> Unrolled:
        """As an unrolled plan of the same process."""
        first = torch.zeros(1, self.rows.shape[1], dtype=torch.float64)
        first[0, 0] = 1.0
        times = tuple(float(like.process.t_of_lam(lam)) for lam in self.lams.tolist())
        return replace(like, times=times, labels=(None,) * len(times), rows=torch.cat([first, self.rows]))

    @property
    def n(self) -> int:
        """Evaluations."""
        return len(self.lams)

    def pack(self) -> Tensor:
        """All parameters `(N (N + 5) / 2,)` in the order in which a run meets them: lam_0, row 0, lam_1, row 1, ..."""
        return torch.cat([torch.cat([self.lams[k : k + 1], self.rows[k, : k + 2]]) for k in range(self.n)])

    @classmethod
    def unpack(cls, theta: Tensor, n: int) -> Method:
        """The inverse of `pack`."""
        lams, rows, i = theta.new_zeros(n), theta.new_zeros(n, n + 1), 0
        for k in range(n):
            lams[k], rows[k, : k + 2] = theta[i], theta[i + 1 : i + k + 3]
            i += k + 3
        return cls(lams, rows)


def _places(n: int) -> list[int]:
    """Where in the parameters each lam is."""
    return [k * (k + 5) // 2 for k in range(n)]


@dataclass(frozen=True)
class Bounds:
    """What a fitted method keeps to: lam within [low, high] and each at least `gap` after the one before; |coefficients| at most `most`."""

    low: float
    high: float
    gap: float = 0.02
    most: float = 20.0

    def keep(self, theta: Tensor, n: int) -> Tensor:
        """The nearest parameters, one after the other, that do."""
        out, at = theta.clamp(-self.most, self.most), _places(n)
        before = self.low - self.gap
        for k, i in enumerate(at):
            room = self.high - self.gap * (n - 1 - k)
            before = min(max(float(theta[i]), before + self.gap), room)
            out[i] = before
        return out


class Cases:
    """Samples on which methods are tried: initial states, where they should end, and conditions.

    Args:
        m: the model, guided or not. x: `(n, *shape)` initial states. star: `(n, *shape)` exact answers. cond: of the n samples.
        batch: rows of a network call at most.

    Attributes:
        spent: rows that the model was asked about.
    """

    def __init__(
        self, m: Model, x: Tensor, star: Tensor, cond: Mapping[str, Any] | None = None, batch: int = 256
    ) -> None:
        self.m, self.batch, self.spent = m, batch, 0
        exact = m.dtype == torch.float64 or (m.dtype is None and type(m).__module__.startswith("reverie.oracle"))
        exact = exact or (m.dtype is None and type(getattr(m, "base", None)).__module__.startswith("reverie.oracle"))
        self.dtype = torch.float64 if exact else torch.float32
        self.x, self.star = x.to(m.device, self.dtype), star.to(m.device, self.dtype)
        self.cond = conditions(cond, len(x), m.null, m.device)
        self.size = self.star.flatten(1).norm(dim=1).double().clamp_min(1e-12)
        self.step = _STEP.get(m.dtype or self.dtype, _COARSE)

    def __len__(self) -> int:
        return len(self.x)

    def first(self, n: int) -> Cases:
        """The first n of them."""
        rows = torch.arange(min(n, len(self)), device=self.x.device)
        told = select(self.cond, rows, len(self)) if len(self) > 1 else self.cond
        return Cases(self.m, self.x[rows], self.star[rows], told, self.batch)

    @torch.no_grad()
    def _ask(self, s: Tensor, lam: float, rows: Tensor) -> Tensor:
        """The x0-predictions of states s `(b, *shape)` of samples `rows` `(b,)`."""
        p, out = self.m.process, []
        t = min(max(float(p.t_of_lam(lam)), p.t_clean), p.t_max)
        for part in torch.arange(len(s), device=s.device).split(self.batch):
            told = select(self.cond, rows[part], len(self)) if len(self) > 1 else self._one(len(part))
            out.append(self.m(s[part], t, **told).x0.to(self.dtype))
        self.spent += len(s)
        return torch.cat(out)

    def _one(self, b: int) -> dict[str, Any]:
        """The single sample's conditions for b rows."""
        return {k: v.expand(b, *v.shape[1:]) if isinstance(v, Tensor) and v.ndim else v for k, v in self.cond.items()}

    def answer(self, method: Method) -> Tensor:
        """Where a method ends, `(n, *shape)`."""
        every, s, said = torch.arange(len(self), device=self.x.device), self.x, list[Tensor]()
        for k in range(method.n):
            said.append(self._ask(s, float(method.lams[k]), every))
            row = method.rows[k].tolist()
            s = row[0] * self.x + sum(row[j + 1] * said[j] for j in range(k + 1))
        return s

    def errors(self, method: Method) -> Tensor:
        """Each sample's relative distance to its exact answer `(n,)`, float64; infinite where the method went astray."""
        far = (self.answer(method) - self.star).flatten(1).norm(dim=1).double() / self.size
        return torch.nan_to_num(far, nan=math.inf, posinf=math.inf)

    def normal(self, method: Method, delta: float) -> tuple[Tensor, Tensor, Tensor]:
        """Of the weighted squares: A `(p, p)`, g `(p,)`, float64, means over samples, and the errors `(n,)` at which they were taken."""
        total_a: Any = 0.0
        total_g: Any = 0.0
        errors: list[Tensor] = []
        states = max(
            1, _STATES // max(1, self.x[0].numel() * method.n * (method.n + 5) // 2)
        )  # tangents are held at once
        for block in torch.arange(len(self), device=self.x.device).split(min(self.batch, states)):
            end, tangents = self._tangents(method, block)
            miss = (end - self.star[block]).flatten(1).double()
            far = miss.norm(dim=1) / self.size[block]
            weight = (self.size[block] * (far.square() + delta**2).sqrt().sqrt()).reciprocal()
            j = (tangents.flatten(2) * weight.to(tangents)[None, :, None]).flatten(1).double()
            total_a = total_a + j @ j.T
            total_g = total_g + j @ (miss * weight[:, None]).flatten()
            errors.append(far)
        return (total_a / len(self)).cpu(), (total_g / len(self)).cpu(), torch.cat(errors)

    def _by_lam(self, s: Tensor, lam: float, base: Tensor, block: Tensor) -> Tensor:
        """The derivative of the predictions `base` by lam. A guide that begins or ends between lam and the other point makes a jump of it: then the
        difference to the other side is taken."""
        ahead = (self._ask(s, lam + self.step, block) - base) / self.step
        if float(ahead.norm()) <= _STEEP * float(base.norm()):
            return ahead
        behind = (base - self._ask(s, lam - self.step, block)) / self.step
        return ahead if float(ahead.norm()) <= float(behind.norm()) else behind

    def _tangents(self, method: Method, block: Tensor) -> tuple[Tensor, Tensor]:
        """The answers of samples `block` `(b,)` and their derivatives `(p, b, *shape)` by the parameters in their order."""
        x = s = self.x[block]
        b, said, moved = len(x), list[Tensor](), list[Tensor]()
        tangents = x.new_zeros(0, *x.shape)
        for k in range(method.n):
            lam = float(method.lams[k])
            base = self._ask(s, lam, block)
            h = self.step * s.flatten(1).norm(dim=1).mean() / tangents.flatten(2).norm(dim=2).mean(1).clamp_min(1e-12)
            h = h.clamp_max(1e3).reshape(-1, *[1] * s.ndim)
            change = self._ask((s + h * tangents).flatten(0, 1), lam, block.repeat(len(tangents))) if k else base[:0]
            by_lam = self._by_lam(s, lam, base, block)
            change = (
                torch.cat([(change.unflatten(0, (len(tangents), b)) - base) / h, by_lam[None]]) if k else by_lam[None]
            )
            said.append(base)
            moved.append(change)
            row = method.rows[k].tolist()
            s = row[0] * x + sum(row[j + 1] * said[j] for j in range(k + 1))
            after = torch.zeros_like(change)
            for j in range(k + 1):
                after[: len(moved[j])] += row[j + 1] * moved[j]
            tangents = torch.cat([after, x[None], torch.stack(said)])
        return s, tangents


def middle_of(errors: Tensor) -> float:
    """The median; of an even number the mean of the two in the middle."""
    return float(errors.quantile(0.5)) if bool(errors.isfinite().all()) else float(errors.median())


def fit(
    cases: Cases,
    start: Method,
    bounds: Bounds,
    iterations: int = 30,
    held: Cases | None = None,
    prior: float = 1e-3,
    patience: int = 4,
    tell: Callable[[int, float], None] = lambda iteration, error: None,
) -> tuple[Method, float]:
    """The method that a start leads to, and its median error on `held` (on the cases themselves without).

    Args:
        iterations: at most. prior: weight of half the squared distance to the start, in median errors. patience: iterations without a gain
            of 0.1 % on the held-out cases after which it stops; the best of all is returned, the start included.
        tell: called after each iteration with its number and that median; `Enough` from it ends the fit.
    """
    n, judge = start.n, cases if held is None else held
    theta = begin = bounds.keep(start.pack(), n)
    at = torch.tensor(_places(n))

    def loss(errors: Tensor, delta: float, where: Tensor) -> float:
        robust = (errors.square() + delta**2).sqrt() - delta
        return float(robust.mean() + 0.5 * prior * middle * (where - begin).square().sum())

    best, least = start, middle_of(judge.errors(start))
    middle = max(middle_of(cases.errors(Method.unpack(theta, n))), 1e-12)
    if not math.isfinite(middle):
        return best, least
    delta, mu, idle = 0.3 * middle, 1e-2, 0
    for iteration in range(iterations):
        a, g, errors = cases.normal(Method.unpack(theta, n), delta)
        middle = max(middle_of(errors), 1e-12)
        delta = min(delta, 0.3 * middle)
        now = loss(errors, delta, theta)
        g = g + prior * middle * (theta - begin)
        a = a + prior * middle * torch.eye(len(a), dtype=a.dtype)
        scale = a.diagonal() + 1e-9 * a.diagonal().max()
        for _ in range(7):
            step = -torch.linalg.solve(a + mu * torch.diag(scale), g)
            step[at] = step[at].clamp(-0.5, 0.5)
            new = bounds.keep(theta + step, n)
            then = loss(cases.errors(Method.unpack(new, n)), delta, new)
            if then < now:
                break
            mu = min(mu * 5, 1e8)
        else:
            break
        theta, mu = new, max(mu / 4, 1e-10)
        found = Method.unpack(theta, n)
        error = middle_of(judge.errors(found))
        idle = 0 if error < 0.999 * least else idle + 1
        if error < least:
            best, least = found, error
        try:
            tell(iteration + 1, least)
        except Enough:
            break
        if idle >= patience:
            break
    return best, least
