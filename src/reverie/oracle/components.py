"""K weighted Gaussians and what is exact about them once they are noised.

Component k has mean m_k and covariance C_k = U_k diag(s_k) U_k^T. At signal alpha and noise sigma it becomes
N(alpha m_k, V_k), with

    V_k = U_k diag(v_k) U_k^T,    v_k = alpha^2 s_k + sigma^2,    z_k = U_k^T (x - alpha m_k),

    log N_k = -1/2 sum_i (z_ki^2 / v_ki + log v_ki) - D/2 log 2 pi,        r_k = w_k N_k / sum_j w_j N_j,
    E[x0  | x, k] = m_k + U_k (alpha s_k / v_k) z_k,                        E[eps | x, k] = U_k (sigma / v_k) z_k.

So any quantity a x0 + b eps has the expectation sum_k r_k (a m_k + U_k (a alpha s_k + b sigma) / v_k z_k): nothing is
divided by alpha, and by sigma only where s_k = 0. Arithmetic is float64, differences are taken before squares (no
cancellation far away), and every sum is a tree of elementwise additions, not a library kernel: the bits of one row do
not depend on how many others there are, or where it stands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, ShapeError

__all__ = ["Components", "as_float64", "spectrum", "total"]

CHUNK = 2**22
"""Largest number of float64 entries in one intermediate tensor (32 MiB)."""


def total(x: Tensor, dim: int = -1) -> Tensor:
    """The sum along one dimension as a tree of elementwise additions: a row's bits are the same anywhere.

    >>> total(torch.arange(7.0)).item()
    21.0
    """
    x = x.movedim(dim, -1)
    while (n := x.shape[-1]) > 1:
        pairs = x[..., : n // 2] + x[..., n // 2 : n - n % 2]
        x = torch.cat([pairs, x[..., -1:]], -1) if n % 2 else pairs
    return x[..., 0]


def as_float64(value: Any, what: str) -> Tensor:
    """A finite float64 tensor of what was given, or `ArgumentError`."""
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"{what} must be numbers: {error}") from None
    if not bool(tensor.isfinite().all()):
        raise ArgumentError(f"{what} must be finite; entry {tuple((~tensor.isfinite()).nonzero()[0].tolist())} is not")
    return tensor


def spectrum(covs: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (K, D) and eigenvectors (K, D, D) of covariances.

    An eigenvalue that rounding cannot tell from zero is zero; one that is clearly negative raises `ArgumentError`.
    """
    scale = covs.abs().amax((1, 2)).clamp_min(1e-300)
    skew = (covs - covs.mT).abs().amax((1, 2)) / scale
    if bool((skew > 1e-8).any()):
        k = int(skew.argmax())
        raise ArgumentError(f"covariance {k} is not symmetric (by {float(skew[k]):.3g} of its largest entry)")
    var, basis = torch.linalg.eigh((covs + covs.mT) / 2)
    lowest = var[:, 0] / scale
    if bool((lowest < -1e-8).any()):
        k = int(lowest.argmin())
        raise ArgumentError(f"covariance {k} is not positive semi-definite: it has eigenvalue {float(var[k, 0]):.6g}")
    return torch.where(var > 1e-15 * scale[:, None], var, 0.0), basis


@dataclass(frozen=True)
class Components:
    """K Gaussians over vectors of length D, all tensors float64.

    Args:
        means: (K, D). log_weights: (K,), normalised. labels: (K,) integers.
        var: eigenvalues of the covariances, (K, D), or (K, 1) when isotropic.
        basis: (K, D, D) with eigenvectors in columns; None when isotropic.
    """

    means: Tensor
    var: Tensor
    basis: Tensor | None
    log_weights: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Components:
        """The same on another device."""
        if self.means.device == device:
            return self
        basis = None if self.basis is None else self.basis.to(device)
        means, var, log_weights, labels = (v.to(device) for v in (self.means, self.var, self.log_weights, self.labels))
        return Components(means, var, basis, log_weights, labels)

    @property
    def covs(self) -> Tensor:
        """(K, D, D) covariances."""
        eye = torch.eye(self.means.shape[1], dtype=torch.float64, device=self.means.device)
        basis = self.basis if self.basis is not None else eye
        return basis.mul(self.var[:, None, :]) @ basis.mT

    def weights_of(self, class_labels: Any, batch: int) -> Tensor:
        """log w_k, or -inf outside the wanted class, (batch, K); None and -1 mean all components.

        Raises as `Mixture` says.
        """
        if class_labels is None:
            return self.log_weights.expand(batch, -1)
        wanted = torch.as_tensor(class_labels, device=self.labels.device).reshape(-1)
        if len(wanted) not in (1, batch):
            raise ShapeError(f"{len(wanted)} class_labels for a batch of {batch}; give one, or one a sample")
        wanted = wanted.long()[:, None]
        chosen = (wanted < 0) | (wanted == self.labels)
        known = chosen.any(1)
        if not bool(known.all()):
            have = sorted(set(self.labels.tolist()))
            raise ArgumentError(f"no component has class label {int(wanted[~known][0])}; known: {have}, or -1 for all")
        return torch.where(chosen, self.log_weights, -torch.inf).expand(batch, -1)

    def rows(self) -> int:
        """How many states may be treated at once within `CHUNK`."""
        return max(1, CHUNK // (self.means.numel() * (1 if self.basis is None else self.means.shape[1])))

    def _into(self, d: Tensor) -> Tensor:  # U^T d, for d (B, K, D)
        return d if self.basis is None else total(self.basis.mT * d[:, :, None, :])

    def _out(self, z: Tensor) -> Tensor:  # U z
        return z if self.basis is None else total(self.basis * z[:, :, None, :])

    def _parts(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, K, D) and v (B, K, D or 1)."""
        a, s = alpha[:, None, None], sigma[:, None, None]
        return self._into(x[:, None, :] - a * self.means), a * a * self.var + s * s

    def _logits(self, z: Tensor, v: Tensor, log_weights: Tensor) -> Tensor:
        """log w_k N_k without the constant, (B, K)."""
        repeats = z.shape[2] // v.shape[2]
        return log_weights - (total(z * z / v) + repeats * total(v.log())) / 2

    def expect(self, x: Tensor, alpha: Tensor, sigma: Tensor, log_weights: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """E[a x0 + b eps | x] for states x (B, D); alpha, sigma, a, b are (B,), log_weights (B, K).

        Where sigma = 0 this is a x / alpha: the state is the answer, and eps, of mean 0 there, adds nothing.
        """
        n = self.rows()
        if len(x) > n:
            parts = zip(*(q.split(n) for q in (x, alpha, sigma, log_weights, a, b)), strict=True)
            return torch.cat([self.expect(*part) for part in parts])
        z, v = self._parts(x, alpha, sigma)
        v = torch.where(v > 0, v, 1.0)  # v = 0 only where sigma = 0, which is answered below
        logits = self._logits(z, v, log_weights)
        r = (logits - logits.detach().amax(1, keepdim=True)).exp()
        r = r / total(r)[:, None]
        gain = ((a * alpha)[:, None, None] * self.var + (b * sigma)[:, None, None]) / v
        answer = total(r[:, :, None] * (a[:, None, None] * self.means + self._out(gain * z)), 1)
        clean = (sigma == 0)[:, None]
        return torch.where(clean, (a / torch.where(alpha > 0, alpha, 1.0))[:, None] * x, answer)

    def log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor, log_weights: Tensor) -> Tensor:
        """log sum_k w_k N(x; alpha m_k, V_k) in nats, (B,); as for `expect`, with weights normalised in each row."""
        n = self.rows()
        if len(x) > n:
            parts = zip(*(q.split(n) for q in (x, alpha, sigma, log_weights)), strict=True)
            return torch.cat([self.log_prob(*part) for part in parts])
        logits = self._logits(*self._parts(x, alpha, sigma), log_weights)
        return logits.logsumexp(1) - x.shape[1] / 2 * math.log(2 * math.pi)

    def draw(self, which: Tensor, z: Tensor) -> Tensor:
        """m_k + U_k sqrt(s_k) z for components `which` (B,) and standard normal z (B, D)."""
        if self.basis is None:
            return self.means[which] + self.var[which].sqrt() * z
        n = max(1, CHUNK // self.basis[0].numel())
        parts = zip(which.split(n), z.split(n), strict=True)
        scaled = ((k, (self.var[k].sqrt() * u)[:, None, :]) for k, u in parts)
        return torch.cat([self.means[k] + total(self.basis[k] * u) for k, u in scaled])
