"""What a network predicts, as an affine relation, and the only conversion between prediction types.

With x = alpha x0 + gamma y + sigma eps, a network's raw output is told by four functions of time:

    scale * raw = k_x0 x0 + k_eps eps + k_y y.

Those are two linear equations in (x0, eps). With D = alpha k_eps - sigma k_x0, x' = x - gamma y, r = scale raw - k_y y:

    x0 = (k_eps x' - sigma r) / D,        eps = (alpha r - k_x0 x') / D,

so any wanted quantity w_x0 x0 + w_eps eps is P x + R raw + Q y with

    P = (w_x0 k_eps - w_eps k_x0) / D,    R = scale (w_eps alpha - w_x0 sigma) / D,    Q = -P gamma - R k_y / scale.

A type converted to itself gives P = 0 and R = 1 without rounding. Where D = 0 the two equations coincide: at sigma = 0
the state still gives x0 = x' / alpha and at alpha = 0 it gives eps = x' / sigma; everything else cannot be derived
there and raises.

    x0     (1, 0)            score  sigma raw = -eps
    eps    (0, 1)            v      (-sigma, alpha)                  Salimans & Ho 2022 (2202.00512)
    flow   (-1, 1)           edm    (sigma / sd, -alpha sd) / sqrt(sigma^2 + (alpha sd)^2)

edm is table 1 of Karras et al. 2022 (2206.00364), c_out raw = x0 - c_skip x / alpha for data of standard deviation sd,
with the division by sigma done: v, flow and edm have D != 0 at every time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from reverie.base import ArgumentError, unknown
from reverie.process import Process, float64, per_sample

__all__ = ["KINDS", "Affine", "Target", "as_target"]

Coefficient = Callable[[Process, Tensor], Tensor]


class Affine(NamedTuple):
    """quantity = x * state + raw * raw_output + y * degraded_input; floats for one time, float64 tensors for many."""

    x: float | Tensor
    raw: float | Tensor
    y: float | Tensor


def _const(value: float) -> Coefficient:
    return lambda p, t: torch.full_like(t, value)


@dataclass(frozen=True)
class Target:
    """An affine target: scale * raw = x0 * x_0 + eps * eps + y * y, each factor a function `(process, t) -> tensor`.

    Args:
        x0, eps, y: the factors of clean data, noise and degraded input (float64 tensors in, float64 tensors out).
        scale: the factor of the raw output (default 1); keeps targets such as the score finite at sigma = 0.
        c_in: what the state is multiplied by before the network sees it (default 1).
        name: what it is called in messages and saved files.

    A residual-noise network, for example, that is trained on eps - y:

    >>> import reverie as rv
    >>> from torch import zeros_like, ones_like
    >>> one = lambda p, t: ones_like(t)
    >>> t = rv.Target(lambda p, t: zeros_like(t), one, y=lambda p, t: -ones_like(t), name="residual")
    >>> t.to("eps", rv.process.vp(), 0.5)
    Affine(x=0.0, raw=1.0, y=1.0)
    """

    x0: Coefficient
    eps: Coefficient
    y: Coefficient | None = None
    scale: Coefficient | None = None
    c_in: Coefficient | None = None
    name: str = "custom"

    @classmethod
    def edm(cls, sigma_data: float = 0.5) -> Target:
        """Karras et al.'s preconditioning for data of standard deviation `sigma_data`: D = c_skip x + c_out F(c_in x).

        Raises `ArgumentError` unless sigma_data is positive and finite.

        >>> import reverie as rv
        >>> Target.edm(0.5).to("x0", rv.process.edm(), 0.5)  # c_skip, c_out
        Affine(x=0.5, raw=0.3535533905932738, y=0.0)
        """
        if not 0 < sigma_data < math.inf:
            raise ArgumentError(f"sigma_data must be positive and finite, got {sigma_data}")
        return _edm(float(sigma_data))

    def _factors(self, p: Process, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        zero, one = torch.zeros_like(t), torch.ones_like(t)
        return (
            self.x0(p, t),
            self.eps(p, t),
            zero if self.y is None else self.y(p, t),
            one if self.scale is None else self.scale(p, t),
        )

    def to(self, kind: str | Target, p: Process, t: float | Tensor) -> Affine:
        """The affine map from (state, raw output, y) to a quantity at time t.

        Args:
            kind: "x0", "eps", "v", "flow", "score", "edm", or another Target (its raw output is what is wanted).
            t: float (the answer has floats) or a tensor (float64 tensors of its shape).

        Raises:
            ArgumentError: the quantity cannot be derived at this time (eps at sigma = 0 from x0, say).
            UnknownNameError: an unknown kind.
        """
        want = as_target(kind)
        time = _time(t)
        if want is self or want == self:
            same = Affine(torch.zeros_like(time), torch.ones_like(time), torch.zeros_like(time))
            return _floats(same) if not isinstance(t, Tensor) else same
        alpha, sigma, gamma = p.alpha(time), p.sigma(time), p.gamma(time)
        k_x0, k_eps, k_y, scale = self._factors(p, time)
        w_x0, w_eps, w_y, w_scale = want._factors(p, time)
        _check_scale(want, time, w_scale)
        det = alpha * k_eps - sigma * k_x0
        singular = det == 0
        safe = torch.where(singular, torch.ones_like(det), det)
        px = (w_x0 * k_eps - w_eps * k_x0) / safe
        pr = (w_eps * alpha - w_x0 * sigma) / safe
        if bool(singular.any()):
            clean = singular & (w_eps == 0) & (sigma == 0)  # the state is alpha x0
            noise = singular & (w_x0 == 0) & (alpha == 0)  # the state is sigma eps
            hopeless = singular & ~clean & ~noise
            if bool(hopeless.any()):
                raise ArgumentError(
                    f"{want.name} cannot be derived from a prediction of {self.name} at t = {_where(time, hopeless)}, "
                    f"where alpha = {_where(alpha, hopeless)} and sigma = {_where(sigma, hopeless)}; "
                    f"start or stop the grid short of that end"
                )
            px = torch.where(clean, w_x0 / alpha, torch.where(noise, w_eps / sigma, px))
            pr = torch.where(singular, torch.zeros_like(pr), pr)
        result = Affine(px / w_scale, pr * scale / w_scale, (w_y - px * gamma - pr * k_y) / w_scale)
        return result if isinstance(t, Tensor) else _floats(result)

    def of(self, p: Process, t: float | Tensor, x0: Tensor, eps: Tensor, y: Tensor | None = None) -> Tensor:
        """The raw output of a perfect network, given clean data and noise: what training regresses to. Shapes as x0.

        Raises `ArgumentError` where the target is infinite (the score at sigma = 0), and when it has a factor of y but
        y is missing.
        """
        if self.y is not None and y is None:
            raise ArgumentError(f"{self.name} is a function of the degraded input: give y=...")
        time = _time(t)
        factors = self._factors(p, time)
        _check_scale(self, time, factors[3])
        k_x0, k_eps, k_y, scale = (per_sample(k, x0) for k in factors)
        raw = k_x0 * x0 + k_eps * eps
        return (raw if y is None or self.y is None else raw + k_y * y) / scale

    def input_scale(self, p: Process, t: float | Tensor) -> float | Tensor:
        """c_in(t): the factor by which the state is multiplied before the network sees it."""
        if self.c_in is None:
            return 1.0
        value = self.c_in(p, _time(t))
        return value if isinstance(t, Tensor) else value.item()


def _time(t: float | Tensor) -> Tensor:
    return float64(t) if isinstance(t, Tensor) else torch.tensor(float(t), dtype=torch.float64)


def _floats(a: Affine) -> Affine:
    return Affine(*(float(v) for v in a))


def _where(t: Tensor, mask: Tensor) -> float:
    return float(t.expand(mask.shape)[mask][0])


def _check_scale(target: Target, time: Tensor, scale: Tensor) -> None:
    if target.scale is not None and bool((scale == 0).any()):
        raise ArgumentError(
            f"{target.name} cannot be derived at t = {_where(time, scale == 0)}: its scale vanishes there"
        )


@functools.lru_cache(maxsize=256)  # one object a sigma_data, so that "edm:0.7" is recognised as itself
def _edm(sd: float) -> Target:
    def total(p: Process, t: Tensor) -> Tensor:  # std of x_t for data of std sd
        return (p.sigma(t) ** 2 + (p.alpha(t) * sd) ** 2).sqrt()

    return Target(
        x0=lambda p, t: p.sigma(t) / (sd * total(p, t)),
        eps=lambda p, t: -p.alpha(t) * sd / total(p, t),
        c_in=lambda p, t: 1 / total(p, t),
        name="edm" if sd == 0.5 else f"edm:{sd!r}",
    )


KINDS: dict[str, Target] = {
    "x0": Target(_const(1.0), _const(0.0), name="x0"),
    "eps": Target(_const(0.0), _const(1.0), name="eps"),
    "v": Target(lambda p, t: -p.sigma(t), lambda p, t: p.alpha(t), name="v"),
    "flow": Target(_const(-1.0), _const(1.0), name="flow"),
    "score": Target(_const(0.0), _const(-1.0), scale=lambda p, t: p.sigma(t), name="score"),
    "edm": Target.edm(),
}
OWN: dict[str, Target] = {}
"""Types that belong to one process only, by name: known to `as_target`, not asked of other processes."""


def as_target(kind: str | Target) -> Target:
    """The Target of a name; "edm:0.7" sets sigma_data. Raises `UnknownNameError` or `ArgumentError`.

    >>> as_target("v").name
    'v'
    """
    if isinstance(kind, Target):
        return kind
    if isinstance(kind, str):
        if kind in KINDS or kind in OWN:
            return KINDS[kind] if kind in KINDS else OWN[kind]
        if kind.startswith("edm:"):
            try:
                return Target.edm(float(kind[4:]))
            except ValueError:
                raise ArgumentError(
                    f"{kind!r}: after 'edm:' comes the data's standard deviation, e.g. 'edm:0.5'"
                ) from None
    raise unknown("prediction type", kind, [*KINDS, "edm:<sigma_data>"])
