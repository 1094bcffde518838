"""Grids: at which times a plan asks the model.

A named grid is a curve u -> t from u = 1 (noise) to u = 0 (data); N steps take N + 1 equidistant values of u, and a span takes a part of
the curve. Then `end` says what happens at the data side:

    "denoise"    the last node becomes sigma = 0: N rows, N nodes at which the model is asked          (default)
    "sigma_min"  the last node is the curve's own end, t_min unless lam is infinite there; the result keeps that much noise
    "zero"       N nodes down to t_min and one more, sigma = 0 (EDM, k-diffusion)

The spacings of diffusers, "leading" and "linspace", place N nodes themselves: sigma = 0 follows them under "denoise" as under "zero"
(on flows it is the last of N + 1 placed nodes). "two-level" places its own end as well, and stays there under "sigma_min".

    name               the curve, or the nodes
    logsnr[:power]     even in lam; exponential is the field's other name of it (with "zero")
    time               even in t; sgm-uniform is the field's other name of it (with "denoise")
    quadratic          even in sqrt(t)
    karras[:rho]       even in (sigma / alpha)^(1 / rho), rho = 7
    beta[:a]           t at the quantiles of Beta(a, a), a = 0.6: dense at both ends
    trailing           even in t from t_max to where sigma = 0; whole labels on ddpm
    leading[:offset]   t_i = i / N of the way, i = N - 1 .. 0; on ddpm labels i floor(T / N) + offset
    linspace           N nodes, even in t, both ends included; whole labels on ddpm
    two-level[:m,e,r1,r2]  almost even in t, down to a noise level chosen by m, e and r1; see `solve.two_level`

Sources: Lu et al. 2022 (2206.00927, uniform log-SNR), Karras et al. 2022 (2206.00364, eq. 5), Zhang & Chen 2023 (2204.13902, quadratic), Lee et
al. 2024 (2407.12173, beta), Lin et al. 2024 (2305.08891, table 2: leading, linspace, trailing).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, TimeError, unknown
from reverie.process import DDPM, Process

__all__ = ["ENDS", "GRIDS", "Node", "nodes"]

ENDS = ("denoise", "sigma_min", "zero")


@dataclass(frozen=True)
class Node:
    """A time of the grid with its coefficients, float64; `label` overrides what the model would be told."""

    t: float
    alpha: float
    sigma: float
    lam: float
    label: float | None = None

    @property
    def ratio(self) -> float:
        """sigma / alpha."""
        return self.sigma / self.alpha if self.alpha else math.inf

    @classmethod
    def at(cls, p: Process, t: float, label: float | None = None) -> Node:
        """The node at time t."""
        return cls(float(t), p.alpha(float(t)), p.sigma(float(t)), p.lam(float(t)), label)


def _logsnr(p: Process, u: Tensor, power: float = 1.0) -> Tensor:
    """Uniform in lam = log(alpha / sigma); with a power below 1, denser at the noise end: lam falls as u^power."""
    lo, hi = p.lam_range
    t = p.t_of_lam(hi + u**power * (lo - hi))
    return t.clamp(p.t_min, p.t_max)


def _time(p: Process, u: Tensor) -> Tensor:
    """Uniform in the process's time."""
    return p.t_min + u * (p.t_max - p.t_min)


def _trailing(p: Process, u: Tensor) -> Tensor:
    """Uniform in time from t_max to where sigma = 0; rounded to labels where the network was trained on labels."""
    t = p.t_clean + u * (p.t_max - p.t_clean)
    if isinstance(p, DDPM):
        # diffusers rounds the count of labels, not the label: ties differ
        t = torch.where(u > 0, (t + 1).round() - 1, t)
    return torch.where(u > 0, t.clamp(min=p.t_min), t)


def _karras(p: Process, u: Tensor, rho: float = 7.0) -> Tensor:
    """Karras et al.: uniform in (sigma / alpha)^(1/rho), rho = 7."""
    lo, hi = p.lam_range
    if max(-lo, hi) / rho > 700:  # exp(709) is the largest float
        raise ArgumentError(f"karras:{rho:g} is too small a rho for {p}; the paper's is 7")
    big, small = math.exp(-lo / rho), math.exp(-hi / rho)
    t = p.t_of_ratio((small + u * (big - small)) ** rho)
    return t.clamp(p.t_min, p.t_max)


def _quadratic(p: Process, u: Tensor) -> Tensor:
    """Uniform in the root of time (from zero on, where the process's time starts below: ddpm's clean label is -1)."""
    low, high = math.sqrt(p.t_min - p.t_clean), math.sqrt(p.t_max - p.t_clean)
    return p.t_clean + (low + u * (high - low)) ** 2


def _beta(p: Process, u: Tensor, a: float = 0.6) -> Tensor:
    """Time at the quantiles of Beta(a, a)."""
    quantiles = torch.tensor([beta_quantile(v, a) for v in u.tolist()], dtype=torch.float64)
    return _time(p, quantiles)


def beta_quantile(q: float, a: float) -> float:
    """The q-quantile of Beta(a, a), to 1e-14, by bisection.

    >>> beta_quantile(0.5, 0.6), round(beta_quantile(0.25, 0.5), 12)  # the arcsine law: sin(pi q / 2)^2
    (0.5, 0.146446609407)
    """
    if q in (0.0, 0.5, 1.0):
        return q
    if q > 0.5:
        return 1 - beta_quantile(1 - q, a)
    low, high = 0.0, 0.5
    for _ in range(200):
        mid = (low + high) / 2
        if mid in (low, high):
            break
        low, high = (mid, high) if _beta_cdf(mid, a) < q else (low, mid)
    return (low + high) / 2


def _beta_cdf(x: float, a: float) -> float:
    """P(X <= x) of Beta(a, a) for 0 < x <= 1/2: x^a (1 - x)^a / (a B(a, a)) sum_n (2a)_n / (a + 1)_n x^n."""
    total = term = 1.0
    n = 0
    while term > 1e-17 * total:
        term *= (2 * a + n) / (a + 1 + n) * x
        total += term
        n += 1
    log_beta = 2 * math.lgamma(a) - math.lgamma(2 * a)
    return math.exp(a * (math.log(x) + math.log1p(-x)) - log_beta) / a * total


GRIDS: dict[str, Callable[..., Tensor]] = {
    "logsnr": _logsnr,
    "exponential": _logsnr,
    "time": _time,
    "sgm-uniform": _time,
    "quadratic": _quadratic,
    "karras": _karras,
    "beta": _beta,
    "trailing": _trailing,
}
"""Curves u -> t, u falling from 1 (noise) to 0 (data)."""


def _leading(p: Process, n: int, first: float, last: float, offset: float = 0.0) -> Tensor:
    """n nodes at the lower ends of n equal parts of the time, as far below t_max."""
    i = torch.arange(n - 1, -1, -1, dtype=torch.float64)
    if not isinstance(p, DDPM):
        if offset:
            raise ArgumentError(f"leading:{offset:g} counts in labels; {p} has none")
        return _time(p, last + i / n * (first - last))
    size, low = int(p.t_max - p.t_min + 1), p.t_min + round(last * (p.t_max - p.t_min))
    width = int(size * (first - last)) // n
    if width < 1 or not float(offset).is_integer() or low + offset + width * (n - 1) > p.t_max:
        raise TimeError(f"leading:{offset:g} with {n} nodes does not fit into the {size} labels of {p}")
    return low + offset + i * width


def _linspace(p: Process, n: int, first: float, last: float) -> Tensor:
    """n nodes, even in time, both ends included."""
    t = _time(p, torch.linspace(first, last, n, dtype=torch.float64))
    return t.round() if isinstance(p, DDPM) else t


PLACED: dict[str, Callable[..., Tensor]] = {"leading": _leading, "linspace": _linspace}
"""Spacings that place their n nodes themselves, after which sigma = 0 follows."""
OWN_END = {"two-level"}
"""Those of them that never reach sigma = 0 themselves, whatever the process."""
NUMBERED = {
    "logsnr": "its power",
    "exponential": "its power",
    "karras": "its rho",
    "beta": "its a",
    "leading": "its offset",
}
"""Grids that take a number after a colon."""
MANY = {"two-level": 4}
"""Those of them that take several, with commas: how many at most."""


def named(grid: str) -> tuple[str, Callable[..., Tensor], bool]:
    """Name, function and whether it places nodes itself; the number after a colon is the grid's parameter: "karras:5", "leading:1"."""
    name, colon, number = grid.partition(":")
    if name not in GRIDS and name not in PLACED:
        raise unknown("grid", name, [*GRIDS, *PLACED])
    placed = name in PLACED
    made = PLACED[name] if placed else GRIDS[name]
    if not colon:
        return name, made, placed
    if name not in NUMBERED:
        known = ", ".join(f"{n} ({what})" for n, what in NUMBERED.items())
        raise ArgumentError(f"grid {name!r} takes no number, got {grid!r}; these do: {known}")
    try:
        values = [float(v) for v in number.split(",")]
    except ValueError:
        values = [math.nan]
    if len(values) > (most := MANY.get(name, 1)) or not all(
        0 <= v < math.inf if placed else 0 < v < math.inf for v in values
    ):
        what = "a positive number" if most == 1 else f"at most {most} positive numbers"
        raise ArgumentError(f"grid {grid!r}: after the colon comes {NUMBERED[name]}, {what}")
    return name, lambda *args: made(*args, *values), placed


def papers_of(grid: str) -> tuple[str, ...]:
    """The papers of the index that a named grid is from."""
    name = grid.partition(":")[0]
    return tuple(getattr(PLACED.get(name, GRIDS.get(name)), "__papers__", ()))


def nodes(
    p: Process,
    grid: str | Sequence[Any] | Tensor,
    steps: int | None,
    end: str = "denoise",
    span: tuple[float, float] = (1.0, 0.0),
) -> tuple[Node, ...]:
    """The N + 1 nodes of a plan.

    Args:
        grid: a name, with its parameter after a colon if wanted ("karras:5" for rho, "logsnr:0.8" for the power, "two-level:8,6,5" for
            three constants); or N + 1 falling times, taken literally; or N + 1 pairs (sigma, label) in the convention of schedulers
            (sigma / alpha, for flows sigma itself), the last one usually `(0.0, None)`.
        steps: N >= 1; may be left out when the grid is given by values.
        end: "denoise", "sigma_min" or "zero"; values are taken literally and ignore it.
        span: the part of a named grid's curve to use, from u to u; ends at u = 0 only if its second number is 0.

    Raises:
        UnknownNameError, ArgumentError (steps, end, span), TimeError (times outside the process or not falling, more steps than the grid holds).

    >>> import reverie as rv
    >>> [round(n.t, 3) for n in nodes(rv.process.flow(), "time", 4)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise ArgumentError(f"steps must be a whole number of at least 1, got {steps!r}")
    if end not in ENDS:
        raise unknown("end", end, ENDS)
    if not isinstance(grid, str):
        if span not in ((1.0, 0.0), [1.0, 0.0]):
            raise ArgumentError(
                f"a grid given by its values begins and ends where they do; leave out span, got {span!r}"
            )
        return _literal(p, grid, steps)
    name, curve, placed = named(grid)
    if steps is None:
        raise ArgumentError("give steps=N (N + 1 nodes) or nfe= (a budget of model calls)")
    try:
        first, last = map(float, span)
    except (TypeError, ValueError):
        first = last = math.nan
    if not 1 >= first > last >= 0:
        raise ArgumentError(f"span goes from at most 1 (noise) down to at least 0 (data), got {span!r}")
    if placed:
        own_zero = last == 0 and end != "sigma_min" and (p.t_min != p.t_clean or name in OWN_END)
        times = curve(p, steps if own_zero else steps + 1, first, last).tolist()
        times += [p.t_clean] if own_zero else []
        _falling(p, times, f"grid {grid!r} with {steps} steps")
        return tuple(Node.at(p, t) for t in times)
    own_zero = last == 0 and end == "zero" and curve(p, torch.zeros(1, dtype=torch.float64)).item() != p.t_clean
    if own_zero and steps == 1:
        raise ArgumentError("end='zero' takes at least 2 steps: one node at t_max and one at t_min before sigma = 0")
    times = curve(p, torch.linspace(first, last, steps if own_zero else steps + 1, dtype=torch.float64)).tolist()
    for node, bound in ((0, p.t_max), (-1, p.t_min)):
        if abs(times[node] - bound) < 1e-9 * (p.t_max - p.t_min):  # rounding
            times[node] = bound
    if last == 0:
        if own_zero:
            times.append(p.t_clean)
        elif end != "sigma_min":
            times[-1] = p.t_clean
    _falling(p, times, f"grid {grid!r} with {steps} steps")
    return tuple(Node.at(p, t) for t in times)


def _literal(p: Process, grid: Sequence[Any] | Tensor, steps: int | None) -> tuple[Node, ...]:
    values: Any = grid.tolist() if isinstance(grid, Tensor) else grid
    try:
        values = list(values)
        if values and all(isinstance(v, list | tuple) for v in values):
            labels = [None if v[1] is None else float(v[1]) for v in values]
            times = [_of_scheduler(p, float(v[0])) for v in values]
            if any(len(v) != 2 for v in values):
                raise ValueError
        else:
            labels, times = [None] * len(values), [float(v) for v in values]
    except (TypeError, ValueError, IndexError):
        raise ArgumentError(
            f"a grid is a name, a list of times, or a list of (sigma, label) pairs, got {values!r:.120}"
        ) from None
    if len(times) < 2:
        raise ArgumentError(f"a grid needs at least 2 times, got {len(times)}")
    if steps is not None and steps != len(times) - 1:
        raise ArgumentError(f"the given grid has {len(times)} nodes, which is {len(times) - 1} steps, not {steps}")
    _falling(p, times, "the given grid")
    return tuple(Node.at(p, t, label) for t, label in zip(times, labels, strict=True))


def _of_scheduler(p: Process, sigma: float) -> float:
    """The time of a scheduler's sigma, which it rounded to float32: an end missed by that little is that end."""
    if sigma == 0:
        return p.t_clean
    if sigma == math.inf and p.alpha(p.t_max) == 0:
        return p.t_max
    t, slack = p.t_of_sigma(sigma), 1e-5 * (p.t_max - p.t_min)
    return min(max(t, p.t_min), p.t_max) if p.t_min - slack < t < p.t_max + slack else t


def _falling(p: Process, times: Sequence[float], what: str) -> None:
    for i, t in enumerate(times):
        if not (p.t_clean <= t <= p.t_max * (1 + 1e-12)):
            raise TimeError(
                f"{what}: time {t!r} (node {i}) lies outside the process, which runs from {p.t_max} to {p.t_clean}"
            )
        if t < p.t_min and t != p.t_clean:
            raise TimeError(
                f"{what}: time {t!r} (node {i}) lies below t_min = {p.t_min}; only the end itself ({p.t_clean}) may"
            )
        if i and not t < times[i - 1]:
            raise TimeError(
                f"{what}: node {i} ({t!r}) does not lie below node {i - 1} ({times[i - 1]!r}); take fewer steps, or another grid"
            )
