"""The sliced Wasserstein distance between two sets of samples.

    SW_p = (mean over directions u of W_p(u . x, u . y)^p)^(1/p),   W_p^p = integral over q in (0, 1) of |F_x^-1(q) - F_y^-1(q)|^p

On a line the optimal transport keeps the order, so each W_p is exact: both quantile functions are steps, with breaks at i / N and j / M,
and the integral is a sum over the union of the breaks. In the data's own unit; 0 only for equal distributions.

Source: Bonneel et al. 2015, "Sliced and Radon Wasserstein Barycenters of Measures"; Rabin et al. 2012.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.base import ArgumentError, Noise, NonFiniteError, ShapeError

__all__ = ["Sliced", "sliced_wasserstein"]

_STREAM = 0x11C
_CHUNK = 1 << 24
"""Most float64 entries of directions, or of one converted part of the samples, at a time (128 MiB)."""


class Sliced:
    """The sliced Wasserstein distance to one reference, projected and sorted once.

    Args:
        reference: samples `(M, ...)`. projections: number of directions, drawn from `seed` alone; 1 dimension needs only one.
        p: 1 or 2.

    Raises:
        ArgumentError: p, projections, or an empty set. NonFiniteError: NaN or infinity.

    >>> Sliced(torch.tensor([[0.0], [1.0]]))(torch.tensor([[3.0], [4.0]]))
    3.0
    """

    def __init__(self, reference: Tensor, projections: int = 128, p: int = 1, seed: int = 0) -> None:
        if p not in (1, 2):
            raise ArgumentError(f"p must be 1 or 2, got {p!r}")
        if isinstance(projections, bool) or not isinstance(projections, int) or projections < 1:
            raise ArgumentError(f"projections must be a whole number of at least 1, got {projections!r}")
        self.shape, self.p, self.seed = tuple(reference.shape[1:]), p, seed
        self.size = torch.Size(self.shape).numel()
        self.projections = 1 if self.size == 1 else projections
        self.reference = self.project(reference).sort(1).values

    def directions(self, start: int, count: int) -> Tensor:
        """Unit vectors number start .. start + count - 1 as columns, `(D, count)`, float64."""
        z = Noise(self.seed).normal((self.size,), index=range(start, start + count), stream=_STREAM).double()
        return (z / z.norm(dim=1, keepdim=True)).T

    def project(self, x: Tensor) -> Tensor:
        """The projections of samples `(N, ...)` on the K directions, `(K, N)` in float64 on the CPU."""
        if not isinstance(x, Tensor) or x.ndim == 0 or tuple(x.shape[1:]) != self.shape:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ShapeError(f"samples of shape (N, {', '.join(map(str, self.shape))}) are needed, got {got}")
        if not len(x):
            raise ArgumentError("a distance needs at least one sample on either side, got none")
        if not bool(x.isfinite().all()):
            raise NonFiniteError("the samples hold NaN or infinity; look for the one that has it before measuring")
        rows, columns = max(1, _CHUNK // self.size), max(1, _CHUNK // self.size)
        out = torch.empty(self.projections, len(x), dtype=torch.float64)
        for first in range(0, self.projections, columns):
            u = self.directions(first, min(columns, self.projections - first))
            for top in range(0, len(x), rows):
                part = x[top : top + rows].detach().to("cpu", torch.float64).reshape(-1, self.size)
                out[first : first + columns, top : top + rows] = (part @ u).T
        return out

    def between(self, projected: Tensor) -> float:
        """The distance of samples given by their projections `(K, N)`, in any order."""
        a, b = projected.sort(1).values, self.reference
        n, m = a.shape[1], b.shape[1]
        if n == m:
            return _root((a - b).abs().pow(self.p).mean(), self.p)
        breaks = torch.cat(
            [torch.arange(n + 1) * m, torch.arange(m + 1) * n]
        ).unique()  # in units of 1 / (N M), so exact
        weights, at = breaks.diff().double() / (n * m), breaks[:-1]
        gap = a.index_select(1, at // m).sub_(b.index_select(1, at // n)).abs_()
        return _root(((gap if self.p == 1 else gap.square_()) @ weights).mean(), self.p)

    def __call__(self, x: Tensor) -> float:
        """The distance of samples `(N, ...)`; N need not be the reference's number."""
        return self.between(self.project(x))


def sliced_wasserstein(x: Tensor, y: Tensor, projections: int = 128, p: int = 1, seed: int = 0) -> float:
    """The sliced Wasserstein distance SW_p between two sets of samples, in float64.

    Like every distance between samples it is biased upwards by few of them: compare distances at equal sample sizes only.

    Args:
        x, y: `(N, ...)` and `(M, ...)`, of the same shape each; N and M may differ.
        projections: number of directions, which `seed` alone determines. p: 1 (default) or 2.

    Raises:
        ShapeError: shapes that differ. ArgumentError: an empty set, p, projections. NonFiniteError: NaN or infinity.

    >>> x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    >>> sliced_wasserstein(x, x), sliced_wasserstein(x, x + 1) > 0.8
    (0.0, True)
    """
    return Sliced(y, projections, p, seed)(x)


def _root(mean: Tensor, p: int) -> float:
    return (mean if p == 1 else mean.sqrt()).item()
