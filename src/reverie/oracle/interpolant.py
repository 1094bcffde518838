"""Two mixtures of Gaussians joined by a stochastic interpolant, exactly.

For independent x0 = component j of one, y = component i of the other, x_t is Gaussian with

    m = alpha m_j + gamma m_i,    C = alpha^2 C_j + gamma^2 C_i + sigma^2 I,    and responsibilities r_ij(x); so

    drift = sum r_ij [alpha' m_j + gamma' m_i + (alpha alpha' C_j + gamma gamma' C_i + sigma sigma' I) C^-1 (x - m)]
    eta = -sigma score,        score = -sum r_ij C^-1 (x - m).

Source: Albergo, Boffi & Vanden-Eijnden 2023 (2303.08797, appendix A).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reverie.base import ArgumentError, ShapeError, implements
from reverie.model import Model
from reverie.oracle.mixture import Mixture
from reverie.process import Interpolant

__all__ = ["Joined"]


@implements("stochastic-interpolants")
class Joined(Model):
    """The exact model of an interpolant between two independent mixtures: predicts "drift" (or "velocity") and "eps".

    Args:
        data, other: mixtures of the same shape whose components have full rank; their own processes play no part. x0 is from `data` (t = 0), y from
            `other` (t = 1); for path "mirror" `other` is not used.
        process: the interpolant. head: "drift" or "velocity".

    Raises:
        ShapeError: shapes that differ. ArgumentError: another process, a component without width.

    >>> import reverie as rv
    >>> a, b = (rv.oracle.Mixture([[m]], 1.0, process=rv.process.flow()) for m in (3.0, 0.0))
    >>> o = Joined(a, b, process=rv.process.interpolant(latent="none"))
    >>> o(torch.zeros(1, 1, dtype=torch.float64), 1.0).raw.item()  # from N(0, 1) towards N(3, 1): -3 - 0
    -3.0
    """

    def __init__(self, data: Mixture, other: Mixture, *, process: Interpolant, head: str = "drift") -> None:
        if not isinstance(process, Interpolant):
            raise ArgumentError(f"process must be rv.process.interpolant(...), got {process!r:.100}")
        if head not in ("drift", "velocity"):
            raise ArgumentError(f"head must be 'drift' or 'velocity', got {head!r}")
        if data.shape != other.shape:
            raise ShapeError(f"the mixtures have shapes {data.shape} and {other.shape}")
        for m in (data, other):
            if m._points():
                raise ArgumentError(f"{m.name} is flat in some direction; give every component a width")
        self.data, self.other, self.head = data, other, head
        super().__init__(self._net, process, (head, "eps"), shape=data.shape, name="joined")

    def _net(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.flatten(1).double()
        drift, eta = torch.empty_like(flat), torch.empty_like(flat)
        for time in t.unique().tolist():
            rows = t == time
            drift[rows], eta[rows] = self._means(flat[rows], time)
        return drift.reshape(x.shape).to(x.dtype), eta.reshape(x.shape).to(x.dtype)

    def _pairs(self, x: Tensor, t: float) -> tuple[Tensor, ...]:
        """m_j and m_i (K, D), C_j and C_i (K, D, D), C^-1 (x - m) (B, K, D), log densities with weights (B, K), over all pairs."""
        p, a, b = self.process, self.data.components.to(x.device), self.other.components.to(x.device)
        j, i = (
            g.flatten() for g in torch.meshgrid(torch.arange(len(a.means)), torch.arange(len(b.means)), indexing="ij")
        )
        alpha, gamma, d = p.alpha(t), p.gamma(t), x.shape[1]
        eye = torch.eye(d, dtype=torch.float64, device=x.device)
        whole = alpha**2 * a.covs[j] + gamma**2 * b.covs[i] + p.sigma(t) ** 2 * eye
        chol = torch.linalg.cholesky(whole)
        off = x[:, None] - (alpha * a.means[j] + gamma * b.means[i])
        white = torch.linalg.solve_triangular(chol, off.permute(1, 2, 0), upper=False)  # (K, D, B)
        logs = (
            -white.square().sum(1) / 2
            - chol.diagonal(dim1=1, dim2=2).log().sum(1)[:, None]
            - d / 2 * math.log(2 * math.pi)
        )
        pull = torch.linalg.solve_triangular(chol.mT, white, upper=True).permute(2, 0, 1)
        return a.means[j], b.means[i], a.covs[j], b.covs[i], pull, logs.mT + a.log_weights[j] + b.log_weights[i]

    def _means(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        p = self.process
        assert isinstance(p, Interpolant)
        m_j, m_i, c_j, c_i, pull, logs = self._pairs(x, t)
        r = logs.softmax(1)[:, :, None]
        da, dg, ds = p.rates(t)
        ds = ds if self.head == "drift" else 0.0
        turned = torch.einsum("kde,bke->bkd", p.alpha(t) * da * c_j + p.gamma(t) * dg * c_i, pull) + ds * pull
        return (r * (da * m_j + dg * m_i + turned)).sum(1), p.sigma(t) * (r * pull).sum(1)

    def log_prob(self, x: Tensor, t: float) -> Tensor:
        """log p(x_t) in nats, (B,) float64; differentiable in x."""
        return self._pairs(x.flatten(1).double(), t)[-1].logsumexp(1)
