"""Where a linear multistep solver is stable.

On even steps of rho = sigma / alpha, y = x / alpha, a multistep solver is a recurrence with constant coefficients for dy / drho = eps,

    y_{n+1} = sum_j a_j y_{n-j} + d sum_j b_j e_{n-j},

d the step. On the test equation e = l y, with z = d l, its solutions are powers of the roots of

    P(w) - z S(w) = 0,        P(w) = w^m - sum_j a_j w^{m-1-j},        S(w) = sum_j b_j w^{m-1-j}.

The region of absolute stability is the set of z for which no root lies outside the unit circle. Its boundary lies on the curve P(w) / S(w),
|w| = 1. Where a step times the slope of the network's answer, in some direction, lies beyond the region, errors in that direction grow from step to
step: the burnt pictures of strong guidance in few steps. A solver with momentum remembers every prediction, with weights that fade by a constant
factor q; multiplied by w - q its recurrence is finite again.

Sources: Wizadwongsa et al. 2023 (2307.11118); Hairer & Wanner, Solving Ordinary Differential Equations II, section V.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, implements
from reverie.process import edm
from reverie.solve.solver import SOLVERS, plan

__all__ = ["Multistep", "linear_multistep"]

_STEPS = 24
_START = 6
"""The oldest terms, which hold what a start of up to five steps left there."""
_TAIL = 6
"""Terms after which only a fading memory is left."""
_ROUNDING = 1e-11


@dataclass(frozen=True)
class Multistep:
    """A linear multistep method: `a` and `b`, the coefficients of y_n, y_{n-1}, ... and of d e_n, d e_{n-1}, ... in y_{n+1}."""

    a: tuple[float, ...]
    b: tuple[float, ...]

    @property
    def steps(self) -> int:
        """How many nodes back it looks, m."""
        return max(len(self.a), len(self.b))

    def polynomial(self, z: complex | Tensor) -> Tensor:
        """The coefficients of P(w) - z S(w), `(*z.shape, m + 1)` complex, the highest power first."""
        z, m = torch.as_tensor(z, dtype=torch.complex128), self.steps
        a, b = (torch.tensor([*c, *[0.0] * (m - len(c))], dtype=torch.complex128) for c in (self.a, self.b))
        return torch.cat([torch.ones_like(z)[..., None], -a - z[..., None] * b], -1)

    def roots(self, z: complex | Tensor) -> Tensor:
        """The m roots w of P(w) = z S(w), `(*z.shape, m)`."""
        c = self.polynomial(z)
        matrix = torch.diag_embed(torch.ones(self.steps - 1, dtype=c.dtype), -1).expand(*c.shape[:-1], -1, -1).clone()
        matrix[..., 0, :] = -c[..., 1:]
        return torch.linalg.eigvals(matrix)

    def stable(self, z: complex | Tensor, slack: float = 1e-9) -> Tensor:
        """Whether z lies in the region of absolute stability: bool, of z's shape.

        >>> linear_multistep("ddim").stable(torch.tensor([-1.9, -2.1])).tolist()  # Euler: the disc about -1
        [True, False]
        """
        return self.roots(z).abs().amax(-1) <= 1 + slack

    def boundary(self, n: int = 361) -> Tensor:
        """The curve P(w) / S(w) on n points of the unit circle, `(n,)` complex: the region's boundary is part of it."""
        w = torch.polar(torch.ones(n, dtype=torch.float64), torch.linspace(0, 2 * math.pi, n, dtype=torch.float64))
        powers = w[:, None] ** torch.arange(self.steps, -1, -1)
        none = self.polynomial(0.0)
        return (powers * none).sum(-1) / (powers * (none - self.polynomial(1.0))).sum(-1)

    def interval(self) -> float:
        """The largest c such that z is stable on the real axis from -c to 0, to 1e-6; steps of -c / l are the longest that damp.

        >>> round(linear_multistep("ipndm", order=2).interval(), 4)
        1.0
        """
        z = -torch.linspace(0, 8, 1601, dtype=torch.float64)[1:]
        wrong = (~self.stable(z)).nonzero()
        if not len(wrong):
            return math.inf
        high = -float(z[wrong[0]])
        low = high - 0.005
        while high - low > 1e-7:
            middle = (low + high) / 2
            low, high = (middle, high) if bool(self.stable(-middle)) else (low, middle)
        return low


@implements("ghvb")
def linear_multistep(solver: str, **options: Any) -> Multistep:
    """The recurrence of a registered solver on even steps of sigma / alpha, read from its table.

    Args:
        solver: one that takes one evaluation a step and is a multistep method in these coordinates (ipndm, lms, ghvb, ddim; deis with
            variable "rho"). options: its own.

    Raises:
        UnknownNameError: the solver. ArgumentError: one that draws noise, asks more than once a step, or whose coefficients change from step to step.

    >>> linear_multistep("ipndm", order=2).b
    (1.5, -0.5)
    """
    p, n = edm(0.5, 100.0), _STEPS
    if solver in SOLVERS and "lower_final" in SOLVERS[solver].options:
        options = {"lower_final": False, **options}
    made = plan(solver, p, grid=[2.0 * n - k for k in range(n + 1)], **options)
    if made.rule is not None or made.noises or len(made.table) != n or any(s.rule or s.t is None for s in made.table):
        raise ArgumentError(
            f"{solver!r} under these options is no multistep method: it draws noise or takes more than one evaluation a step"
        )
    target = made.kinds[0]
    if target not in ("eps", "x0"):
        raise ArgumentError(f"{solver!r} is written in {target}; a method in eps or x0 is needed")
    a, b = _row(made, n - 1)
    if any(
        abs(c - d) > _ROUNDING
        for one, two in zip((a, b), _row(made, n - 2), strict=True)
        for c, d in zip(one, two, strict=False)
    ):
        raise ArgumentError(
            f"{solver!r} has other coefficients at every step of even sigma / alpha: it is no linear multistep method there"
        )
    return _finite(a, b, solver)


def _row(made: Any, k: int) -> tuple[list[float], list[float]]:
    """Coefficients of states and of d eps in stage k, the latest first."""
    a, b, d = [0.0] * (k + 1), [0.0] * (k + 1), made.table[k].to - made.table[k].t
    for (j,), c in made.table[k].row.part("x"):
        a[k - j] += float(c)
    for (j, _), c in made.table[k].row.part("p"):
        if made.kinds[0] == "eps":
            b[k - j] += float(c) / d
        else:  # x0 = y - sigma eps
            a[k - j] += float(c)
            b[k - j] -= float(c) * made.table[j].t / d
    return a[: k - _START], b[: k - _START]


def _finite(a: list[float], b: list[float], solver: str) -> Multistep:
    """The method without its fading tail, if it has one, and without zeros at the end."""
    if len(_cut(b)) > _TAIL:
        q = b[_TAIL] / b[_TAIL - 1]
        a = [c - q * before for c, before in zip([*a, 0.0], [-1.0, *a], strict=True)]
        b = [c - q * before for c, before in zip(b, [0.0, *b[:-1]], strict=True)]
    short = Multistep(tuple(_cut(a)), tuple(_cut(b)))
    if short.steps > 8:
        raise ArgumentError(
            f"{solver!r} looks back over {short.steps} nodes or more: no recurrence of a few terms was found"
        )
    return short


def _cut(c: list[float]) -> list[float]:
    top = max(1.0, *(abs(v) for v in c))
    last = max((j for j, v in enumerate(c) if abs(v) > _ROUNDING * top), default=0)
    return c[: last + 1]
