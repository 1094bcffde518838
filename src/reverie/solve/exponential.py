"""One exponential step, in noise or data prediction: the common ground of the DPM-Solver family, UniPC and SA-Solver.

From s to a cleaner t, h = lam_t - lam_s. The probability-flow ODE is semilinear; its exact solution is

    noise:  x_t = (alpha_t / alpha_s) x_s - sigma_t int_0^h exp(h - u) eps(lam_s + u) du
    data:   x_t = (sigma_t / sigma_s) x_s + alpha_t int_0^h exp(u - h) x0(lam_s + u) du

and that of the reverse SDE with eta times its noise, which has the same marginals for every eta >= 0 (c = 1 + eta),

    data:   x_t = (sigma_t / sigma_s) exp(-eta h) x_s + alpha_t c int_0^h exp(c (u - h)) x0(lam_s + u) du + sigma_t sqrt(1 - exp(-2 eta h)) z.

With the prediction expanded about s, the k-th derivative in lam is weighted by

    noise:  w_k = -sigma_t h^(k+1) phi_{k+1}(h),      data:  w_k = alpha_t c h^(k+1) phi_{k+1}(-c h),

    phi_1(z) = expm1(z) / z,    phi_{k+1}(z) = (phi_k(z) - 1/k!) / z.

w_0 is finite also where sigma_t = 0 (h infinite) and, for data prediction, where alpha_s = 0: there only first order makes sense.
`Step.through` gives the derivatives of the polynomial through predictions at any nodes, so that a multistep method is one line.

Sources: Lu et al. 2022 (2206.00927, eq. 3.4 and 3.6; 2211.01095, eq. 8 and 9, and its section 5 for eta = 1), Xue et al. 2023 (2309.05019,
proposition 4.2: any eta = tau^2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reverie.base import ArgumentError
from reverie.process import Process
from reverie.solve.grids import Node
from reverie.solve.line import Line

__all__ = ["Step", "between", "derivatives", "phi"]


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


def derivatives(at: Sequence[float], values: Sequence[Line]) -> list[Line]:
    """The derivatives at 0, from the zeroth on, of the polynomial through `values` at the places `at`.

    >>> from reverie.solve.line import prediction
    >>> derivatives([0.0, -0.5], [prediction(1), prediction(0)])[1].terms
    {('p', 1, 0): 2.0, ('p', 0, 0): -2.0}
    """
    out = [Line() for _ in at]
    for j, (a, value) in enumerate(zip(at, values, strict=True)):
        basis = [1.0]  # coefficients of the Lagrange polynomial, the constant first
        for k, b in enumerate(at):
            if k != j:
                padded = [0.0, *basis], [*basis, 0.0]
                basis = [(up - b * down) / (a - b) for up, down in zip(*padded, strict=True)]
        for k, c in enumerate(basis):
            out[k] = out[k] + math.factorial(k) * c * value
    return out


@dataclass(frozen=True)
class Step:
    """The exponential step s -> t: `kind` is "eps" or "x0"; eta times the noise of the reverse SDE, in data prediction."""

    s: Node
    t: Node
    kind: str
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta < math.inf:
            raise ArgumentError(f"eta (tau^2 of sa-solver) must be finite and at least 0, got {self.eta}")
        if self.eta and self.kind != "x0":
            raise ArgumentError(f"steps with noise (eta = {self.eta}) are written in data prediction")

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
            return self.t.sigma / self.s.sigma * (math.exp(-self.eta * self.h) if self.eta else 1.0)
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
            c = 1 + self.eta
            return self.t.alpha * c * self.h ** (k + 1) * phi(k + 1, -c * self.h)
        return -self.t.sigma * self.h ** (k + 1) * phi(k + 1, self.h)

    @property
    def std(self) -> float:
        """Standard deviation of the noise; none at the end."""
        return self.t.sigma * math.sqrt(-math.expm1(-2 * self.eta * self.h)) if self.eta and self.t.sigma else 0.0

    def first(self, x: Line, p: Line) -> Line:
        """The first-order step without its noise; for eta = 0 it is DDIM in either form."""
        return self.carry * x + self.weight(0) * p

    def through(self, x: Line, at: Sequence[Node], values: Sequence[Line]) -> Line:
        """The step without its noise, exact for predictions that are a polynomial in lam through `values` at the nodes `at`."""
        if len(at) == 1:
            return self.first(x, values[0])
        slopes = derivatives([n.lam - self.s.lam for n in at], values)
        row = self.carry * x
        for k, d in enumerate(slopes):
            row = row + self.weight(k) * d
        return row


def between(process: Process, s: Node, t: Node, r: float) -> Node:
    """The node at lam_s + r (lam_t - lam_s)."""
    return Node.at(process, process.t_of_lam(s.lam + r * (t.lam - s.lam)))
