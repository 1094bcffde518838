"""Bayes' rule for Gaussians and a linear measurement.

For y = A x0 + std n and component N(m, C) of weight w, with S = A C A^T + std^2 I and the gain G = C A^T S^-1:

    m' = m + G (y - A m),    C' = (I - G A) C (I - G A)^T + std^2 G G^T,    w' ~ w N(y; A m, S).

The covariance is in the form of Joseph, a sum of squares: it stays positive where C - G A C would cancel.

Source: Bishop 2006, "Pattern Recognition and Machine Learning", eqs. 2.113 to 2.117.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, ShapeError
from reverie.oracle.components import Components, as_float64

__all__ = ["condition"]


def condition(c: Components, A: Any, y: Any, std: float) -> tuple[Tensor, Tensor, Tensor]:
    """Means (K, D), covariances (K, D, D) and normalised log weights (K,) after the measurement y = A x0 + std n.

    Args:
        A: (M, D). y: (M,) or any shape of M entries. std: >= 0.

    Raises:
        ShapeError: sizes that do not fit. ArgumentError: a negative std; std 0 where some A C A^T is singular.

    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> c = Components(0 * one, one, None, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.long))
    >>> [round(v.item(), 9) for v in condition(c, one, one[0], 1.0)[:2]]
    [0.5, 0.5]
    """
    A, y = as_float64(A, "A"), as_float64(y, "y").reshape(-1)
    d = c.means.shape[1]
    if A.ndim != 2 or A.shape[1] != d:
        raise ShapeError(f"A has shape {tuple(A.shape)}; states of size {d} need (M, {d})")
    if len(y) != len(A):
        raise ShapeError(f"y has {len(y)} entries; A of shape {tuple(A.shape)} gives {len(A)}")
    if not 0 <= float(std) < float("inf"):
        raise ArgumentError(f"the std of a measurement is a finite number >= 0, got {std!r}")
    covs, noise = c.covs, float(std) ** 2
    cross = covs @ A.mT  # (K, D, M)
    chol, info = torch.linalg.cholesky_ex(A @ cross + noise * torch.eye(len(A), dtype=torch.float64))
    if bool((info > 0).any()):
        raise ArgumentError(
            f"A C A^T + std^2 I is singular for component {int(info.argmax())} at std = {float(std):g}; "
            f"give a larger std, or leave out rows of A that the others determine"
        )
    miss = y - c.means @ A.mT  # (K, M)
    white = torch.linalg.solve_triangular(chol, miss[:, :, None], upper=False)[:, :, 0]
    gain = torch.cholesky_solve(cross.mT, chol).mT
    left = torch.eye(d, dtype=torch.float64) - gain @ A
    means = c.means + (gain @ miss[:, :, None])[:, :, 0]
    log_weights = c.log_weights - white.square().sum(1) / 2 - chol.diagonal(dim1=1, dim2=2).log().sum(1)
    return means, left @ covs @ left.mT + noise * gain @ gain.mT, log_weights - log_weights.logsumexp(0)
