"""One exponential step, in noise or data prediction: the common ground of the DPM-Solver family.

From s to a cleaner t, h = lam_t - lam_s. The probability-flow ODE is semilinear; its exact solution is

    noise:  x_t = (alpha_t / alpha_s) x_s - sigma_t int_0^h exp(h - u) eps(lam_s + u) du
    data:   x_t = (sigma_t / sigma_s) x_s + alpha_t int_0^h exp(u - h) x0(lam_s + u) du

With the prediction expanded about s, the k-th derivative in lam is weighted by

    noise:  w_k = -sigma_t h^(k+1) phi_{k+1}(h),      data:  w_k = alpha_t h^(k+1) phi_{k+1}(-h),

    phi_1(z) = expm1(z) / z,    phi_{k+1}(z) = (phi_k(z) - 1/k!) / z.

w_0 is finite also where sigma_t = 0 (h infinite) and, for data prediction, where alpha_s = 0: there only first order makes sense.

Source: Lu et al. 2022 (2206.00927, eq. 3.4 and 3.6; 2211.01095, eq. 8 and 9).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from reverie.base import ArgumentError
from reverie.process import Process
from reverie.solve.grids import Node
from reverie.solve.line import Line

__all__ = ["Step", "between", "phi"]


def phi(k: int, z: float) -> float:
    """phi_k(z), k >= 1, without cancellation near 0 (series for |z| < 1).

    >>> phi(1, 0.0), round(phi(3, 1e-9), 9)
    (1.0, 0.166666667)
    """
    if abs(z) < 1.0:
        total, term = 0.0, 1.0 / math.factorial(k)
        for j in range(1, 24):
            total += term
            term *= z / (k + j)
        return total
    value = math.expm1(z) / z
    for j in range(1, k):
        value = (value - 1 / math.factorial(j)) / z
    return value


@dataclass(frozen=True)
class Step:
    """The exponential step s -> t: `kind` is "eps" or "x0"."""

    s: Node
    t: Node
    kind: str

    @property
    def h(self) -> float:
        """lam_t - lam_s; infinite where one end has no noise or no signal."""
        return self.t.lam - self.s.lam

    @property
    def finite(self) -> bool:
        """Whether both ends have a finite lam, so that more than first order makes sense."""
        return math.isfinite(self.h)

    @property
    def carry(self) -> float:
        """The factor of x_s."""
        if self.kind == "x0":
            return self.t.sigma / self.s.sigma
        if self.s.alpha == 0:
            raise ArgumentError(
                f"noise prediction cannot step from t = {self.s.t}, where alpha = 0; use a data-prediction solver (dpmpp-*, ddim), "
                f"or start the grid later (grid='logsnr' does)"
            )
        return self.t.alpha / self.s.alpha

    def weight(self, k: int) -> float:
        """w_k, the weight of the k-th derivative in lam."""
        if k == 0:  # closed forms that hold at the ends too
            if self.kind == "x0":
                return self.t.alpha - self.s.alpha * self.carry
            return self.t.sigma - self.s.sigma * self.carry
        if self.kind == "x0":
            return self.t.alpha * self.h ** (k + 1) * phi(k + 1, -self.h)
        return -self.t.sigma * self.h ** (k + 1) * phi(k + 1, self.h)

    def first(self, x: Line, p: Line) -> Line:
        """The first-order step, which is DDIM in either form."""
        return self.carry * x + self.weight(0) * p


def between(process: Process, s: Node, t: Node, r: float) -> Node:
    """The node at lam_s + r (lam_t - lam_s)."""
    return Node.at(process, process.t_of_lam(s.lam + r * (t.lam - s.lam)))
