"""The kernel distance between two sets of features: a squared maximum mean discrepancy without bias.

    d^2 = mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{i, j} k(a_i, b_j),      k(x, y) = (x . y / D + 1)^3

Unlike the Fréchet distance its expectation is 0 between equal distributions, however few the samples (so single values may be negative): what is
measured on a hundred samples is the distance, not their number. The cubic kernel compares means, covariances and third moments.

Source: Gretton et al. 2012 (JMLR 13, equation 3); Binkowski et al. 2018 (1801.01401), who call it the KID in Inception's features.
"""

from __future__ import annotations

from torch import Tensor

from reverie.base import ArgumentError, NonFiniteError, ShapeError

__all__ = ["kernel_distance"]


def kernel_distance(features_a: Tensor, features_b: Tensor) -> float:
    """The unbiased squared kernel distance between two sets of features (what the field reports as KID), in float64; it may be negative.

    Args:
        features_a, features_b: `(N, D)` and `(M, D)`, with N and M at least 2.

    Raises:
        ShapeError: not two matrices of equally many columns. ArgumentError: fewer than two samples. NonFiniteError: NaN or infinity.

    >>> import torch
    >>> a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [1.0]])
    >>> kernel_distance(a, b)  # 1 + 8 - 2 (1 + 27) / 2
    -19.0
    """
    for name, f in (("features_a", features_a), ("features_b", features_b)):
        if f.ndim != 2 or f.shape[1] != features_a.shape[-1]:
            columns = features_a.shape[-1] if features_a.ndim == 2 else "features"
            raise ShapeError(f"{name} must be (samples, {columns}), got {tuple(f.shape)}")
        if len(f) < 2:
            raise ArgumentError(f"{name} holds {len(f)} sample; the distance needs at least 2")
        if not bool(f.isfinite().all()):
            raise NonFiniteError(f"{name} holds NaN or infinity; look for the sample that has it before measuring")
    a, b = features_a.double(), features_b.double()
    return (_within(a) + _within(b) - 2 * _kernel(a, b).mean()).item()


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _within(f: Tensor) -> Tensor:
    """The mean over pairs of two different samples."""
    k = _kernel(f, f)
    return (k.sum() - k.diagonal().sum()) / (len(f) * (len(f) - 1))
