"""What the tests of this room share: every process, and small problems with a known answer."""

from __future__ import annotations

import torch
from torch import Tensor

import reverie as rv

PROCESSES = {
    "vp-linear": rv.process.vp("linear"),
    "vp-cosine": rv.process.vp("cosine"),
    "vp-scaled-linear": rv.process.vp("scaled_linear"),
    "subvp": rv.process.subvp(),
    "ve": rv.process.ve(),
    "edm": rv.process.edm(),
    "flow": rv.process.flow(),
    "flow-3": rv.process.flow(3.0),
    "ddpm": rv.process.ddpm((1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Reproducible float64 normals."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(d: int, seed: int = 0) -> Tensor:
    """A random covariance with standard deviations between 0.2 and 2."""
    basis, _ = torch.linalg.qr(normal(d, d, seed=seed))
    return basis * torch.linspace(0.2, 2.0, d, dtype=torch.float64) ** 2 @ basis.T


def middle(p: rv.process.Process, u: float = 0.6) -> float:
    """A time inside the process, with noise and signal both present."""
    return p.t_of_lam(1.0 - 2.0 * u)


def start(p: rv.process.Process, n: int, d: int, seed: int = 1) -> Tensor:
    """States at t_max."""
    return normal(n, d, seed=seed) * p.sigma(p.t_max)
