"""What every forward process offers.

A process says how clean becomes noisy,

    x_t = alpha(t) x0 + gamma(t) y + sigma(t) eps,        eps ~ the process's elementary noise,

with `t` running from `t_max` (noise) down to `t_min` (data) and `t_clean` the time at which sigma = 0 and alpha = 1.
Equivalently, for gamma = 0, the forward equation dx = f(t) x dt + g(t) dw with

    f = d log alpha / dt,    g^2 = d sigma^2 / dt - 2 f sigma^2 = -2 sigma^2 dlam / dt,    lam = log(alpha / sigma).

A family implements three functions of float64 tensors: `_log_alpha`, `_log_sigma`, `_t_of_lam`. Everything else is
derived here, the SDE coefficients by automatic differentiation, so they cannot drift from the schedule. A process with
another law of noise overrides `draw`; one with a degraded input `y` overrides `gamma`; `perturb` and `prior` keep
their signatures.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from reverie.base import PRIOR, ArgumentError, Noise, ShapeError, TimeError, unknown

__all__ = ["Process", "Time", "float64", "from_spec", "per_sample", "register"]

Time = TypeVar("Time", float, Tensor)
"""A time is a float, a tensor `(B,)` (one a sample), or a tensor that broadcasts to the state."""

FAMILIES: dict[str, type[Process]] = {}


def register(cls: type[Process]) -> type[Process]:
    """Make a family known by its `name`, so that a saved plan or model can rebuild it."""
    FAMILIES[cls.name] = cls
    return cls


def from_spec(spec: dict[str, Any]) -> Process:
    """The process that `spec()` described. Raises `UnknownNameError`, or `ArgumentError` for a malformed spec.

    >>> import reverie as rv
    >>> rv.process.from_spec(rv.process.edm().spec()) == rv.process.edm()
    True
    """
    if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
        raise ArgumentError(f"a process spec is a dict with a 'name', got {spec!r:.200}")
    args: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.items() if k != "name"}
    if spec["name"] not in FAMILIES:
        raise unknown("process", spec["name"], FAMILIES)
    try:
        return FAMILIES[spec["name"]](**args)
    except ArgumentError:
        raise
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"malformed spec of process {spec['name']!r}: {error}") from None


def fits(shape: Sequence[int], whole: Sequence[int]) -> bool:
    """Whether a tensor of `shape` broadcasts to `whole` without enlarging it (torch.broadcast_shapes imports sympy for that).

    >>> fits((3, 1), (2, 3, 4)), fits((2, 1), (2, 3, 4)), fits((1, 2, 3), (2, 3))
    (True, False, False)
    """
    pairs = zip(reversed(shape), reversed(whole), strict=False)
    return len(shape) <= len(whole) and all(a in (1, b) for a, b in pairs)


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """A coefficient shaped to multiply the state `like`: `(B,)` becomes `(B, 1, ...)`, anything else must broadcast.

    Raises `ShapeError` when it fits neither way.
    """
    value = value.to(device=like.device, dtype=like.dtype)
    if value.ndim == 0 or like.ndim == 0:
        return value
    if value.ndim == 1:
        if value.shape[0] not in (1, like.shape[0]):
            raise ShapeError(f"{value.shape[0]} times for a batch of {like.shape[0]}; give one, or one a sample")
        return value.reshape(-1, *[1] * (like.ndim - 1))
    if not fits(value.shape, like.shape):
        raise ShapeError(
            f"times of shape {tuple(value.shape)} do not broadcast to a state of shape {tuple(like.shape)}"
        )
    return value


def float64(t: Tensor) -> Tensor:
    """t in float64: on the CPU where its device has none (Apple's MPS)."""
    return (t.cpu() if t.device.type == "mps" else t).double()


@dataclasses.dataclass(frozen=True)
class Process:
    """A forward process: immutable, compared by value, serialised by `spec()`.

    Every method of a time takes a float (and returns a float) or a tensor (and returns a float64 tensor of its shape).
    """

    name: ClassVar[str] = ""
    t_clean: ClassVar[float] = 0.0
    """The time at which sigma = 0."""
    t_min: float
    """The last time at which a network is asked."""
    t_max: float
    """The first."""

    # -- what a family defines, on float64 tensors

    def _log_alpha(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def _log_sigma(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def _t_of_lam(self, lam: Tensor) -> Tensor:
        raise NotImplementedError

    # -- what follows from it

    def _lift(self, f: Callable[[Tensor], Tensor], t: Time) -> Time:
        if isinstance(t, Tensor):
            return f(float64(t))
        return f(torch.tensor(float(t), dtype=torch.float64)).item()

    def _alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def _sigma(self, t: Tensor) -> Tensor:
        return self._log_sigma(t).exp()

    def _variance(self, t: Tensor) -> Tensor:
        return self._sigma(t) ** 2

    def _lam(self, t: Tensor) -> Tensor:
        return self._log_alpha(t) - self._log_sigma(t)

    def alpha(self, t: Time) -> Time:
        """The signal's coefficient, in [0, 1]."""
        return self._lift(self._alpha, t)

    def sigma(self, t: Time) -> Time:
        """The noise's coefficient, >= 0."""
        return self._lift(self._sigma, t)

    def gamma(self, t: Time) -> Time:
        """The coefficient of a degraded input y; 0 unless the family has one."""
        return self._lift(torch.zeros_like, t)

    def log_alpha(self, t: Time) -> Time:
        """log alpha(t), accurate where alpha is near 0 or 1."""
        return self._lift(self._log_alpha, t)

    def log_sigma(self, t: Time) -> Time:
        """log sigma(t), accurate where sigma is near 0."""
        return self._lift(self._log_sigma, t)

    def lam(self, t: Time) -> Time:
        """Half the log signal-to-noise ratio, log(alpha / sigma); grows towards the data."""
        return self._lift(self._lam, t)

    def t_of_lam(self, lam: Time) -> Time:
        """The time at which log(alpha / sigma) is `lam`: `t_of_lam(lam(t)) == t` to 1e-9 on the open interval."""
        return self._lift(self._t_of_lam, lam)

    def t_of_ratio(self, ratio: Time) -> Time:
        """The time at which sigma / alpha is `ratio`: EDM's and k-diffusion's "sigma" of any process."""
        return self._lift(lambda r: self._t_of_lam(-r.log()), ratio)

    def t_of_sigma(self, sigma: Time) -> Time:
        """The time of a *scheduler's* sigma, as the family's schedulers (diffusers, k-diffusion) mean it: sigma /
        alpha.
        """
        return self.t_of_ratio(sigma)

    def drift(self, t: Time) -> Time:
        """f(t) = d log alpha / dt of dx = f x dt + g dw."""
        return self._lift(lambda u: _derivative(self._log_alpha, u), t)

    def diffusion(self, t: Time) -> Time:
        """g(t) of dx = f x dt + g dw: g^2 = d sigma^2 / dt - 2 f sigma^2; infinite where alpha = 0."""

        def g(u: Tensor) -> Tensor:
            f = _derivative(self._log_alpha, u)
            squared = _derivative(self._variance, u) - 2 * f * self._variance(u)
            return torch.where(f.isinf(), math.inf, squared).sqrt()

        return self._lift(g, t)

    @property
    def lam_range(self) -> tuple[float, float]:
        """(lowest, highest) finite lam between `t_max` and `t_min`: what solvers that step in lam may use.

        Where alpha or sigma reaches 0 at an end, the family says where to stop before it.
        """
        return self._finite(self.t_max, self.t_min)

    def _finite(self, start: float, end: float) -> tuple[float, float]:
        lo, hi = self.lam(start), self.lam(end)
        if not (math.isfinite(lo) and math.isfinite(hi)):
            at, zero = (start, "alpha") if not math.isfinite(lo) else (end, "sigma")
            raise TimeError(f"{zero} = 0 at t = {at} of {self}: lam is infinite there; set t_min or t_max short of it")
        return lo, hi

    def prior_std(self, t: float | None = None) -> float:
        """Standard deviation of the state from which a run starts at `t` (default: t_max)."""
        return self.sigma(self.t_max if t is None else t)

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
        """Elementary noise `(B, *shape)` of this process (standard normal unless a family has its own law)."""
        return noise.normal(shape, index=index, stage=stage, stream=stream, device=device, dtype=dtype)

    def prior(self, noise: Tensor, t: float | None = None, y: Tensor | None = None) -> Tensor:
        """The state from which a run starts: gamma(t) y + prior_std(t) noise, `noise` being elementary.

        Args:
            noise: `(B, *shape)`, from `draw`.
            t: where the run starts; `t_max` by default.
            y: the degraded input, for processes that have one.
        """
        x = noise * self.prior_std(t)
        return x if y is None else x + self.gamma(self.t_max if t is None else t) * _degraded(y, x)

    def perturb(self, x0: Tensor, t: float | Tensor, noise: Tensor, y: Tensor | None = None) -> Tensor:
        """x_t = alpha(t) x0 + gamma(t) y + sigma(t) noise.

        Args:
            x0: clean data `(B, *shape)`.
            t: float, `(B,)`, or broadcastable to x0.
            noise: elementary noise of x0's shape.
            y: the degraded input, for processes that have one, of x0's shape or broadcastable to it.

        Raises:
            ShapeError: noise, t or y does not fit x0. ArgumentError: x0 is not floating (scale pictures first).

        >>> import torch, reverie as rv
        >>> p = rv.process.flow()
        >>> p.perturb(torch.ones(2, 3), 0.25, torch.zeros(2, 3))[0, 0].item()
        0.75
        """
        if x0.shape != noise.shape:
            raise ShapeError(f"noise of shape {tuple(noise.shape)} for data of shape {tuple(x0.shape)}")
        if not x0.is_floating_point():
            raise ArgumentError(f"x0 must be floating, got {x0.dtype}: scale it first, e.g. x0.float() / 127.5 - 1")
        time = t if isinstance(t, Tensor) else torch.tensor(float(t), dtype=torch.float64)
        x = per_sample(self.alpha(time), x0) * x0 + per_sample(self.sigma(time), x0) * noise
        return x if y is None else x + per_sample(self.gamma(time), x0) * _degraded(y, x0)

    def spec(self) -> dict[str, Any]:
        """A JSON-able description; `process.from_spec` rebuilds an equal process."""
        return {"name": self.name} | {
            f.name: list(v) if isinstance(v := getattr(self, f.name), tuple) else v for f in dataclasses.fields(self)
        }


def _degraded(y: Tensor, like: Tensor) -> Tensor:
    try:
        return y.expand(like.shape)
    except RuntimeError:
        raise ShapeError(f"y of shape {tuple(y.shape)} for data of shape {tuple(like.shape)}") from None


def _derivative(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        u = t.detach().clone().requires_grad_()
        (grad,) = torch.autograd.grad(f(u).sum(), u)
    return grad
