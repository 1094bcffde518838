"""Stochastic interpolants: a path between any two densities.

    x_t = alpha(t) x0 + gamma(t) y + sigma(t) eps,        t from 1 (a sample y of one density) to 0 (a sample x0 of the other),

with alpha(0) = gamma(1) = 1, alpha(1) = gamma(0) = 0 and sigma = 0 at both ends. x0 and y may be coupled. In the paper's notation time runs the
other way, s = 1 - t: its x_0 is y, its x_1 is x0, its velocity is minus ours. Of the two unknowns a network learns conditional means,

    drift = E[alpha' x0 + gamma' y + sigma' eps | x_t],    velocity = E[alpha' x0 + gamma' y | x_t],    eta = E[eps | x_t],
    score = -eta / sigma,    drift = velocity + sigma' eta = velocity - (sigma^2)'/2 score,

each by a regression (`regression`). Then dx = drift dt has the law of x_t at every time, and so has, for any e(t) >= 0, dx = (drift -+ e score) dt
+ sqrt(2 e) dw run towards the data (-) or away from them (+): `solve.interpolant_plan`. y is no input that the run is told, as in restoration, but
where it starts.

    path            alpha                                gamma
    linear          1 - t                                t
    trig            sqrt(1 - sigma^2) cos(pi t / 2)      sqrt(1 - sigma^2) sin(pi t / 2)
    encode-decode   cos(pi t)^2 for t <= 1/2, else 0     cos(pi t)^2 for t > 1/2, else 0
    mirror          1                                    0, and the run starts from data

    latent          sigma
    root            sqrt(a t (1 - t)), of infinite slope at the ends
    parabola        t (1 - t)
    sine            sin(pi t)^2
    none            0: with y normal, the one-sided interpolant, that is flow matching

Source: Albergo, Boffi & Vanden-Eijnden 2023 (2303.08797, definition 2.1, theorem 2.8, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from reverie.base import ArgumentError, ShapeError, implements, unknown
from reverie.process.process import Process, Time, _degraded, _derivative, per_sample, register

__all__ = ["Interpolant", "interpolant", "regression"]

PATHS = ("linear", "trig", "encode-decode", "mirror")
LATENTS = ("root", "parabola", "sine", "none")


@implements("stochastic-interpolants")
@register
@dataclass(frozen=True)
class Interpolant(Process):
    """x_t = alpha x0 + gamma y + sigma eps between two densities, t in [0, 1]."""

    name: ClassVar[str] = "interpolant"
    t_min: float = 0.0
    t_max: float = 1.0
    path: str = "linear"
    latent: str = "root"
    a: float = 1.0

    def __post_init__(self) -> None:
        if self.path not in PATHS:
            raise unknown("path", self.path, PATHS)
        if self.latent not in LATENTS:
            raise unknown("latent", self.latent, LATENTS)
        if not 0 <= self.t_min < self.t_max <= 1:
            raise ArgumentError(f"0 <= t_min < t_max <= 1 is needed, got {self.t_min} and {self.t_max}")
        if not 0 < self.a < float("inf"):
            raise ArgumentError(f"a must be positive and finite, got {self.a!r}")
        if self.path == "trig" and (self.latent == "sine" or (self.latent == "root" and self.a >= 4)):
            raise ArgumentError(
                f"path 'trig' needs sigma < 1 at all times; latent {self.latent!r} reaches it (root: take a < 4)"
            )
        if self.path in ("encode-decode", "mirror") and self.latent == "none":
            raise ArgumentError(f"path {self.path!r} needs a latent: without one it does not mix")

    def _variance(self, t: Tensor) -> Tensor:
        if self.latent == "root":
            return self.a * t * (1 - t)
        if self.latent == "parabola":
            return (t * (1 - t)) ** 2
        return torch.sin(torch.pi * t) ** 4 if self.latent == "sine" else 0 * t

    def _sigma(self, t: Tensor) -> Tensor:
        if self.latent == "root":
            return (self.a * t * (1 - t)).sqrt()
        if self.latent == "parabola":
            return t * (1 - t)
        return torch.sin(torch.pi * t) ** 2 if self.latent == "sine" else 0 * t

    def _alpha(self, t: Tensor) -> Tensor:
        if self.path == "linear":
            return 1 - t
        if self.path == "trig":
            return (1 - self._variance(t)).sqrt() * torch.sin(torch.pi / 2 * (1 - t))
        if self.path == "encode-decode":
            return torch.where(t <= 0.5, torch.cos(torch.pi * t) ** 2, 0 * t)
        return 1 + 0 * t

    def _gamma(self, t: Tensor) -> Tensor:
        return 0 * t if self.path == "mirror" else self._alpha_at(1 - t)

    def _alpha_at(self, t: Tensor) -> Tensor:
        if self.path == "encode-decode":  # at 1/2 both vanish
            return torch.where(t < 0.5, torch.cos(torch.pi * t) ** 2, 0 * t)
        return self._alpha(t)

    def _log_alpha(self, t: Tensor) -> Tensor:
        return self._alpha(t).log()

    def _log_sigma(self, t: Tensor) -> Tensor:
        return self._sigma(t).log()

    def _lam(self, t: Tensor) -> Tensor:
        raise ArgumentError(
            f"log(alpha / sigma) is no clock of {self}: sigma is 0 at both ends; take rv.solve.interpolant_plan(process, steps=...)"
        )

    def _t_of_lam(self, lam: Tensor) -> Tensor:
        return self._lam(lam)

    def gamma(self, t: Time) -> Time:
        """The coefficient of y, the sample of the other density."""
        return self._lift(self._gamma, t)

    def rates(self, t: Time) -> tuple[Time, Time, Time]:
        """alpha', gamma' and (sigma^2)' / 2 = sigma sigma', derivatives in t; finite at the ends, where sigma' may not be."""
        return (
            self._lift(lambda u: _derivative(self._alpha, u), t),
            self._lift(lambda u: _derivative(self._gamma, u), t),
            self._lift(lambda u: _derivative(self._variance, u) / 2, t),
        )

    def slope(self, t: Time) -> Time:
        """sigma', infinite at the ends for latent "root"."""
        return self._lift(lambda u: _derivative(self._sigma, u), t)

    def drift(self, t: Time) -> Time:
        """Raises `ArgumentError`: the drift is not linear in x; a model predicts it."""
        raise ArgumentError(
            f"{self} has no linear drift; a model predicts it: Model(net, process, predicts=('drift', 'eps'))"
        )

    def diffusion(self, t: Time) -> Time:
        """Raises `ArgumentError`: the noise level of the SDE is chosen when sampling."""
        raise ArgumentError(f"{self} fixes no SDE; choose its noise level in rv.solve.interpolant_plan(..., noise=)")

    def prior(self, noise: Tensor, t: float | None = None, y: Tensor | None = None) -> Tensor:
        """The state from which a run starts: y. Raises `ArgumentError` without y, or for t other than 1.

        Args:
            noise: `(B, *shape)`, for its shape only. y: samples of the other density (path "mirror": of the data).
        """
        if y is None:
            raise ArgumentError(
                f"a run on {self} starts from a sample of the other density; give inputs={{'y': tensor}}"
            )
        if t is not None and t != 1:
            raise ArgumentError(f"only at t = 1 is the state known to be y; at t = {t} use perturb(x0, t, noise, y)")
        return _degraded(y, noise).to(noise).clone()

    def targets(self, x0: Tensor, t: Tensor, noise: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What a network of "drift" regresses to, alpha' x0 + gamma' y + sigma' eps, and one of the velocity, which lacks the last term.

        Args:
            x0, noise, y: `(B, *shape)`, the pair and the latent; with -noise also at `perturb(x0, t, -noise, y)`: averaging the loss of
                both keeps its variance finite at the ends (latent "root"). t: `(B,)`, inside (0, 1).

        >>> p, one = interpolant(latent="parabola"), torch.ones(1, 1)
        >>> p.targets(one, torch.tensor([0.25]), one, 3 * one)
        (tensor([[2.5000]]), tensor([[2.]]))
        """
        if not x0.shape == noise.shape == y.shape:
            raise ShapeError(
                f"x0, noise and y differ in shape: {tuple(x0.shape)}, {tuple(noise.shape)}, {tuple(y.shape)}"
            )
        a, g, _ = self.rates(t)
        velocity = per_sample(a, x0) * x0 + per_sample(g, x0) * y
        if self.latent == "none":
            return velocity, velocity
        return velocity + per_sample(self.slope(t), x0) * noise, velocity


@implements("stochastic-interpolants")
def regression(said: Tensor, target: Tensor, weight: float | Tensor = 1.0) -> Tensor:
    """mean over the batch of |said|^2 / 2 - weight target . said, a scalar: least where said is the conditional mean of weight x target.

    Args:
        said, target: `(B, *shape)`. For the drift and the velocity the target is `p.targets(...)`, for eta the noise; for the score the noise with
            weight -1 / sigma(t), `(B,)`.

    >>> regression(torch.ones(2, 3), torch.ones(2, 3)).item()
    -1.5
    """
    w = per_sample(weight, target) if isinstance(weight, Tensor) else weight
    return (said * (said / 2 - w * target)).flatten(1).sum(1).mean()


def interpolant(path: str = "linear", latent: str = "root", a: float = 1.0) -> Interpolant:
    """A stochastic interpolant between the data and any other density.

    Args:
        path: "linear", "trig", "encode-decode" or "mirror". latent: "root", "parabola", "sine" or "none". a: > 0, of "root".

    Raises:
        UnknownNameError: path or latent. ArgumentError: a out of range, or a pair that does not go together.

    >>> p = interpolant("trig", "parabola")
    >>> round(p.alpha(0.3) ** 2 + p.gamma(0.3) ** 2 + p.sigma(0.3) ** 2, 12)
    1.0
    """
    return Interpolant(path=path, latent=latent, a=float(a))
