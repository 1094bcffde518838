"""Families of reference dynamics dX = f_theta(X) dt + sigma dW, and how theta is fitted to paths.

The likelihood of increments dX_k over dt_k, with sigma known, is greatest where

    sum_k dt_k |dX_k / dt_k - f_theta(X_k)|^2    is least.

    Affine      f = sum_k theta_k (A_k x + b_k): closed form; its bridges are exact
    Features    f = sum_k theta_k phi_k(x): closed form
    Parametric  any f, by Adam; theta may be kept positive

Source: Shen, Berlinghieri & Broderick 2024 (2408.06277, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from reverie.base import ArgumentError, ShapeError
from reverie.solve.bridges.linear import LinearSDE

__all__ = ["Affine", "Family", "Features", "Parametric"]


class Family(Protocol):
    """What a family of references must do."""

    def drift(self, theta: Tensor, x: Tensor) -> Tensor:
        """f_theta at states (B, D)."""
        ...

    def fit(self, x: Tensor, rate: Tensor, weight: Tensor, theta: Tensor | None) -> Tensor:
        """The theta of least sum_i weight_i |rate_i - f(x_i)|^2; x, rate (M, D), weight (M,); theta: the last one, None the first time."""
        ...

    def sde(self, theta: Tensor, sigma: float) -> LinearSDE | None:
        """The reference where it is linear in x, else None."""
        ...


class Features:
    """f_theta(x) = sum_k theta_k phi_k(x).

    Args:
        function: states (B, D) -> phi, (B, K, D).

    >>> swing = Features(lambda x: torch.stack([x.flip(1), -x.sin()], 1))
    >>> swing.drift(torch.tensor([1.0, 0.0]), torch.tensor([[1.0, 2.0]])).tolist()
    [[2.0, 1.0]]
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def drift(self, theta: Tensor, x: Tensor) -> Tensor:
        """f_theta at states (B, D). Raises `ShapeError` for features that are not (B, K, D)."""
        return torch.einsum("k,bkd->bd", theta.to(x), self._features(x))

    def _features(self, x: Tensor) -> Tensor:
        phi = self.function(x)
        if phi.ndim != 3 or (phi.shape[0], phi.shape[2]) != tuple(x.shape):
            raise ShapeError(f"features of states {tuple(x.shape)} must be (B, K, D), got {tuple(phi.shape)}")
        return phi

    def fit(self, x: Tensor, rate: Tensor, weight: Tensor, theta: Tensor | None = None) -> Tensor:
        """theta (K,) by the normal equations. Raises `ArgumentError` for features that depend linearly on one another on these states."""
        phi = self._features(x)
        gram = torch.einsum("b,bkd,bld->kl", weight.to(x), phi, phi)
        values = torch.linalg.eigvalsh(gram)
        if not values[0] > 1e-12 * values[-1]:
            raise ArgumentError(
                f"the {len(gram)} features of the family are linearly dependent on these paths; leave out what others say already"
            )
        return torch.linalg.solve(gram, torch.einsum("b,bkd,bd->k", weight.to(x), phi, rate))

    def sde(self, theta: Tensor, sigma: float) -> LinearSDE | None:
        """None: not known to be linear in x."""
        return None


class Affine(Features):
    """f_theta(x) = sum_k theta_k (A_k x + b_k): linear in theta and in x, so that every bridge is exact.

    Args:
        matrices: (K, D, D). offsets: (K, D), zeros by default.

    Raises `ShapeError` for shapes that do not fit.

    >>> turn = Affine(torch.tensor([[[0.0, -1.0], [1.0, 0.0]]]))
    >>> turn.sde(torch.tensor([2.0]), 0.1).A.tolist()
    [[0.0, -2.0], [2.0, 0.0]]
    """

    def __init__(self, matrices: Tensor, offsets: Tensor | None = None) -> None:
        if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2]:
            raise ShapeError(f"matrices must be (K, D, D), got {tuple(matrices.shape)}")
        offsets = matrices.new_zeros(matrices.shape[:2]) if offsets is None else offsets
        if offsets.shape != matrices.shape[:2]:
            raise ShapeError(f"offsets must be {tuple(matrices.shape[:2])}, got {tuple(offsets.shape)}")
        self.matrices, self.offsets = matrices.double(), offsets.double()
        super().__init__(lambda x: torch.einsum("kde,be->bkd", self.matrices.to(x), x) + self.offsets.to(x))

    @classmethod
    def whole(cls, d: int) -> Affine:
        """All f(x) = A x + b in d dimensions, d (d + 1) parameters: the entries of A row by row, then b."""
        each = torch.eye(d * (d + 1), dtype=torch.float64)
        return cls(each[:, : d * d].reshape(-1, d, d), each[:, d * d :])

    def sde(self, theta: Tensor, sigma: float) -> LinearSDE:
        """The linear SDE with this theta."""
        theta = theta.double()
        to = theta.device
        return LinearSDE(torch.einsum("k,kde->de", theta, self.matrices.to(to)), theta @ self.offsets.to(to), sigma)


class Parametric:
    """Any differentiable f_theta, fitted by Adam on all pairs at once, from the last theta.

    Args:
        function: (theta (K,), states (B, D)) -> f, (B, D). start: (K,), theta before the first fit.
        positive: theta is the absolute value of what Adam moves. lr, epochs: of Adam; theta moves by at most about lr x epochs in a fit.

    Raises `ArgumentError` for numbers out of range.

    >>> decay = Parametric(lambda theta, x: -theta * x, torch.ones(1), positive=True, epochs=150)
    >>> x = torch.linspace(-1, 1, 9).double()[:, None]
    >>> round(decay.fit(x, -2 * x, torch.ones(9), None).item(), 2)
    2.0
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        start: Tensor,
        *,
        positive: bool = False,
        lr: float = 0.05,
        epochs: int = 200,
    ) -> None:
        if start.ndim != 1 or not start.isfinite().all() or (positive and bool((start < 0).any())):
            kind = "non-negative " if positive else ""
            raise ArgumentError(f"start must be a vector of finite {kind}numbers, got {start.tolist()}")
        if not 0 < lr < math.inf or epochs < 1:
            raise ArgumentError(f"lr must be positive and epochs at least 1, got {lr!r} and {epochs!r}")
        self.function, self.start, self.positive, self.lr, self.epochs = function, start, positive, lr, epochs

    def drift(self, theta: Tensor, x: Tensor) -> Tensor:
        """f_theta at states (B, D)."""
        return self.function(theta.to(x), x)

    @torch.enable_grad()
    def fit(self, x: Tensor, rate: Tensor, weight: Tensor, theta: Tensor | None = None) -> Tensor:
        """theta (K,) after `epochs` steps of Adam."""
        moved = (self.start if theta is None else theta).detach().to(x).clone().requires_grad_()
        adam = torch.optim.Adam([moved], lr=self.lr)
        weight = (weight / weight.sum()).to(x)
        for _ in range(self.epochs):
            adam.zero_grad()
            said = self.function(moved.abs() if self.positive else moved, x)
            (weight @ (rate - said).square().sum(1)).backward()
            adam.step()
        return moved.detach().abs() if self.positive else moved.detach()

    def sde(self, theta: Tensor, sigma: float) -> LinearSDE | None:
        """None: not known to be linear in x."""
        return None
