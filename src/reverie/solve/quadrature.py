"""Gauss-Legendre quadrature in float64: integrals over an interval, and from its left end to each place."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = ["legendre", "partial"]


@functools.cache
def legendre(n: int) -> tuple[Tensor, Tensor]:
    """Places and weights on [-1, 1], exact for polynomials of degree 2 n - 1 (Golub & Welsch 1969)."""
    k = torch.arange(1, n, dtype=torch.float64)
    beta = k / (4 * k**2 - 1).sqrt()
    places, vectors = torch.linalg.eigh(torch.diag(beta, 1) + torch.diag(beta, -1))
    return places, 2 * vectors[0] ** 2


@functools.cache
def partial(n: int) -> Tensor:
    """The matrix `(n, n)` that takes values at the places to integrals from -1 to each place, exact for polynomials of degree n - 1.

    >>> bool(torch.allclose(partial(4) @ torch.ones(4, dtype=torch.float64), legendre(4)[0] + 1))
    True
    """
    places, weights = legendre(n)
    # the interpolating polynomial in Legendre polynomials P_k, whose integral is (P_{k+1} - P_{k-1}) / (2 k + 1)
    p = [torch.ones_like(places), places]
    for k in range(1, n):
        p.append(((2 * k + 1) * places * p[k] - k * p[k - 1]) / (k + 1))
    out = torch.zeros(n, n, dtype=torch.float64)
    for k in range(n):
        integral = places + 1 if k == 0 else (p[k + 1] - p[k - 1]) / (2 * k + 1)
        out += integral[:, None] * ((2 * k + 1) / 2 * weights * p[k])
    return out
