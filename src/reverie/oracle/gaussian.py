"""One Gaussian: the case in which even the probability flow has a closed form.

With C = U diag(s) U^T and v(t) = alpha^2 s + sigma^2 the covariances of all times share their eigenvectors, so the flow
is the optimal (Monge) map between any two of them:

    x_t' = alpha' m + U sqrt(v(t') / v(t)) U^T (x_t - alpha m).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError
from reverie.oracle.components import as_float64
from reverie.oracle.mixture import Mixture
from reverie.oracle.posterior import condition
from reverie.process import Process

__all__ = ["Gaussian"]


class Gaussian(Mixture):
    """An exact Gaussian N(mean, cov): a `Mixture` of one component whose `solve` is a formula.

    Args:
        mean: of any shape `shape`, at least one entry.
        cov: (D, D), D the product of shape; symmetric, positive semi-definite.
        process: what the data are noised by.
        name: how it calls itself.

    Raises:
        ShapeError: cov does not fit the mean. ArgumentError: cov is not symmetric or not positive semi-definite.

    >>> import torch, reverie as rv
    >>> o = Gaussian(torch.zeros(2), [[2.0, 1.0], [1.0, 2.0]], process=rv.process.flow())
    >>> o.solve(torch.tensor([[1.0, 1.0]]))
    tensor([[1.7321, 1.7321]], dtype=torch.float64)
    """

    def __init__(self, mean: Any, cov: Any, *, process: Process, name: str = "gaussian") -> None:
        cov = as_float64(cov, "cov")
        super().__init__(as_float64(mean, "mean")[None], covs=cov[None], process=process, name=name)

    @property
    def mean(self) -> Tensor:
        """The mean, `shape`."""
        return self.means[0]

    @property
    def cov(self) -> Tensor:
        """The covariance, (D, D)."""
        return self.components.covs[0]

    @torch.no_grad()
    def solve(
        self,
        x: Tensor,
        t: float | None = None,
        t_end: float | None = None,
        class_labels: Any = None,
        rtol: float = 1e-8,
    ) -> Tensor:
        """The probability flow from time t to t_end by its closed form, (B, *shape) float64.

        Arguments and errors as for `Mixture.solve`; `rtol` is not needed.
        """
        flat, c = self._flat(x), self.components.to(x.device)
        c.weights_of(class_labels, len(x))
        t, t_end = self._ends(t, t_end)
        p, mean, var, basis = self.process, c.means[0], c.var[0], c.basis
        assert basis is not None
        before, after = (p.alpha(u) ** 2 * var + p.sigma(u) ** 2 for u in (t, t_end))
        if bool((before == 0).any()) and t != t_end:
            raise ArgumentError(f"{self.name} is flat in some direction: no flow starts at sigma = 0 (t = {t:g})")
        scale = torch.where(before > 0, after / before, 1.0).sqrt()
        moved = (flat - p.alpha(t) * mean) @ basis[0] * scale @ basis[0].mT
        return (p.alpha(t_end) * mean + moved).reshape(x.shape)

    def posterior(self, A: Any, y: Any, std: float) -> Gaussian:
        """The exact posterior given y = A x0 + std n, again a Gaussian; see `Mixture.posterior`.

        >>> import reverie as rv
        >>> o = Gaussian([0.0], [[1.0]], process=rv.process.flow())
        >>> q = o.posterior([[1.0]], [1.0], 1.0)
        >>> round(q.mean.item(), 9), round(q.cov.item(), 9)
        (0.5, 0.5)
        """
        means, covs, _ = condition(self.components, A, y, std)
        mean = means[0].reshape(self.shape or ())
        return Gaussian(mean, covs[0], process=self.process, name=f"posterior of {self.name}")
