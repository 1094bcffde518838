"""PFGM++: data as charges in N + D dimensions, with a noise of heavy tails.

A state lies at distance r = sigma sqrt(D) from the data in D extra dimensions. By symmetry only r matters, and the field of the charges
leads to the perturbation kernel

    p_r(x | x0) ~ (|x - x0|^2 + r^2)^(-(N + D) / 2),        that is        x = x0 + sigma z / sqrt(c / D),

z standard normal in N dimensions and c a chi-square number of D degrees of freedom, one a sample: Student's t, and |x - x0|^2 / r^2 is
beta-prime(N / 2, D / 2). So alpha = 1, time is sigma, and only the elementary noise differs from EDM. The field lines are the ODE

    dx / dsigma = (x - E[x0 | x]) / sigma,

the probability flow of EDM with another posterior mean: every deterministic solver runs unchanged. D = 1 is PFGM, D to infinity EDM.

What does not carry over is fresh noise in a run (churn, ancestral steps, the SDE): it is exact for Gaussian kernels, which are closed under
convolution, and these are not. `draw` refuses it. `Prediction.score` is (E[x0 | x] - x) / sigma^2, the field, not the score of the marginal.

Source: Xu et al. 2023 (2302.04265, theorem 1, equations 4 to 6, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from reverie.base import PLAN, PRIOR, ArgumentError, Noise, implements
from reverie.process.process import Time, register
from reverie.process.ve import VE, edm

__all__ = ["PFGMpp", "chi_square", "pfgmpp"]

_GAMMA = 1 << 13
"""Added to a stream: where the chi-square numbers of its samples come from."""
_TRIES = 16


@implements("pfgmpp")
@register
@dataclass(frozen=True)
class PFGMpp(VE):
    """x_t = x0 + t eps with eps of Student's t law of D degrees of freedom, for t in [t_min, t_max]."""

    name: ClassVar[str] = "pfgmpp"
    D: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.D, bool) or not isinstance(self.D, int) or not 1 <= self.D <= 10**8:
            raise ArgumentError(
                f"D, the number of extra dimensions, is a whole number from 1 to 1e8, got {self.D!r}; D = inf is edm()"
            )

    def r(self, t: Time) -> Time:
        """The distance in the extra dimensions, sigma(t) sqrt(D). Networks are told sigma, not r."""
        return self.sigma(t) * math.sqrt(self.D)

    def diffusion(self, t: Time) -> Time:
        """Raises `ArgumentError`: no equation dx = f x dt + g dw has these marginals."""
        raise ArgumentError(f"{self} has no SDE: its noise is not Gaussian; take a deterministic solver")

    def draw(
        self,
        noise: Noise,
        shape: Sequence[int],
        index: Sequence[int] | Tensor,
        stage: int = 0,
        stream: int = PRIOR,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Elementary noise `(B, *shape)`: normal numbers over sqrt(c / D), with one chi-square number c a sample.

        The normal numbers are those of the Gaussian processes at the same address. Raises `ArgumentError` for the noise of a plan's rows,
        which is not exact here.
        """
        if stream == PLAN:
            raise ArgumentError(
                f"the plan adds noise during the run, which is not exact on {self}; take a deterministic solver (heun, dpmpp-2m, ...; "
                f"churn=0, eta=0), or rv.process.edm()"
            )
        z = noise.normal(shape, index=index, stage=stage, stream=stream, device=device)
        c = chi_square(noise, self.D, index, stage, stream)
        scale = torch.tensor([math.sqrt(self.D / v) for v in c], dtype=torch.float64, device="cpu")
        if z.device.type == "mps":
            scale = scale.float()
        return (z * scale.to(z.device).reshape(-1, *[1] * len(shape))).float().to(dtype)

    def clip(self, noise: Tensor, edge: float = 1e-3) -> Tensor:
        """Noise whose radius is kept between two quantiles' places, for training as released; sampling does without.

        With b = |eps|^2 / (|eps|^2 + D), which is Beta(N / 2, D / 2), b is clipped to [edge, 1 - edge].

        Args:
            noise: `(B, *shape)`, from `draw`. edge: in [0, 1/2).

        >>> p = pfgmpp(4)
        >>> p.clip(torch.tensor([[1e6, 0.0]]), 0.2)  # |eps|^2 = D b / (1 - b) = 4 * 0.8 / 0.2
        tensor([[4., 0.]])
        """
        if not 0 <= edge < 0.5:
            raise ArgumentError(f"edge must lie in [0, 1/2), got {edge!r}")
        square = noise.double().flatten(1).square().sum(1)
        b = (square / (square + self.D)).clamp(edge, 1 - edge)
        factor = torch.where(square > 0, (self.D * b / (1 - b) / square.clamp_min(1e-300)).sqrt(), 1.0)
        return noise * factor.to(noise).reshape(-1, *[1] * (noise.ndim - 1))

    def log_density(self, noise: Tensor) -> Tensor:
        """The log-density of elementary noise `(B, *shape)`, (B,) nats, float64.

        For `log_likelihood(..., prior=)`: that of a state z of the prior is `p.log_density(z / s) - N log s` with s = sigma(t_max).

        >>> round(pfgmpp(1).log_density(torch.zeros(1, 1)).item(), 6)  # Cauchy's 1 / pi
        -1.14473
        """
        flat = noise.double().flatten(1)
        n, d = flat.shape[1], self.D
        peak = math.lgamma((n + d) / 2) - math.lgamma(d / 2) - n / 2 * math.log(d * math.pi)
        return peak - (n + d) / 2 * (flat.square().sum(1) / d).log1p()


def chi_square(noise: Noise, D: int, index: Sequence[int] | Tensor, stage: int, stream: int) -> list[float]:
    """One chi-square number of D >= 1 degrees of freedom a sample: a function of seed, stream, stage and sample alone.

    Twice a gamma number of shape a = D / 2 by rejection: with d = a - 1/3 and v = (1 + x / sqrt(9 d))^3, d v is accepted when
    log u < x^2 / 2 + d (1 - v + log v); for D = 1 that of a + 1 times u^(1 / a). Each sample has its own candidates, of which one in
    twenty is rejected; numbers are Python's, so that their bits do not depend on the place in a batch, nor on the device.

    Source: Marsaglia & Tsang 2000, "A simple method for generating gamma variables".
    """
    a = D / 2 if D > 1 else D / 2 + 1
    d = a - 1 / 3
    xs = noise.normal((_TRIES,), index=index, stage=stage, stream=stream + _GAMMA).tolist()
    us = noise.uniform((_TRIES + 1,), index=index, stage=stage, stream=stream + _GAMMA).tolist()
    out = []
    for x_row, (boost, *u_row) in zip(xs, us, strict=True):
        for x, u in zip(x_row, u_row, strict=True):
            v = (1 + x / math.sqrt(9 * d)) ** 3
            if v > 0 and math.log(u) < x * x / 2 + d * (1 - v + math.log(v)):
                break
        else:  # once in 1e20 samples
            raise ArgumentError(f"sample rejected {_TRIES} times in a row; take another seed than {noise.seed}")
        out.append(2 * d * v * (1.0 if D > 1 else boost * boost))
    return out


def pfgmpp(D: float = 2048, sigma_min: float = 0.002, sigma_max: float = 80.0) -> VE:
    """PFGM++ with D extra dimensions, in EDM's clock: t = sigma = r / sqrt(D).

    Whatever holds for EDM's settings (grid, preconditioning, label) holds with any D: train with `p.draw` for the noise and `predicts="edm"`.

    Args:
        D: a whole number of at least 1 (1 is PFGM; the paper trains 64, 128, 2048, 3072000), or inf, for which the answer is `edm`.
            The smaller, the heavier the tails and the more tolerant of a network's errors. sigma_min, sigma_max: the range.

    >>> pfgmpp(64).sigma(3.0), pfgmpp(64).r(3.0), pfgmpp(math.inf) == edm()
    (3.0, 24.0, True)
    """
    if isinstance(D, float) and math.isinf(D) and D > 0:
        return edm(sigma_min, sigma_max)
    whole = isinstance(D, int | float) and not isinstance(D, bool) and float(D).is_integer()
    return PFGMpp(t_min=sigma_min, t_max=sigma_max, D=int(D) if whole else D)  # type: ignore[arg-type]
