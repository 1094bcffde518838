"""The Fréchet distance between two sets of features, each taken for a Gaussian.

    d^2 = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^(1/2) C_b C_a^(1/2))^(1/2))

The square root of the symmetric product has the trace of its eigenvalues' roots, so nothing but two symmetric
eigenproblems is needed, and covariances of less than full rank are no special case.

Source: Dowson & Landau 1982; Heusel et al. 2017 (1706.08500), who call d^2 in Inception's features the FID.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.base import ArgumentError, NonFiniteError, ShapeError

__all__ = ["frechet_distance"]


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """The squared Fréchet distance d^2 between two sets of features (what the field reports as FID), in float64.

    It is biased upwards by few samples: compare distances at equal sample sizes only.

    Args:
        features_a, features_b: `(N, D)` and `(M, D)`, with N and M at least 2.

    Raises:
        ShapeError: not two matrices of equally many columns. ArgumentError: fewer than two samples. NonFiniteError: NaN
            or infinity.

    >>> a = torch.tensor([[0.0], [2.0]])
    >>> frechet_distance(a, a + 3)
    9.0
    """
    for name, f in (("features_a", features_a), ("features_b", features_b)):
        if f.ndim != 2 or f.shape[1] != features_a.shape[-1]:
            columns = features_a.shape[-1] if features_a.ndim == 2 else "features"
            raise ShapeError(f"{name} must be (samples, {columns}), got {tuple(f.shape)}")
        if len(f) < 2:
            raise ArgumentError(f"{name} holds {len(f)} sample; a covariance needs at least 2")
        if not bool(f.isfinite().all()):
            raise NonFiniteError(f"{name} holds NaN or infinity; look for the sample that has it before measuring")
    a, b = features_a.double(), features_b.double()
    root = _root(_covariance(a))
    cross = torch.linalg.eigvalsh(root @ _covariance(b) @ root).clamp(min=0).sqrt().sum()
    spread = a.var(0).sum() + b.var(0).sum() - 2 * cross
    return ((a.mean(0) - b.mean(0)).square().sum() + spread.clamp(min=0)).item()


def _covariance(f: Tensor) -> Tensor:
    f = f - f.mean(0)
    return f.T @ f / (len(f) - 1)


def _root(c: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(c)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T
