"""Plain loops, written from the papers in float64, to hold the compiled tables against; and problems to run them on.

`data(x, t)` is E[x0 | x_t] at one time t; `times` are the nodes. Nothing here uses `reverie.solve`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import reverie as rv

Data = Callable[[Tensor, float], Tensor]
KINDS = ("x0", "eps", "v", "flow", "score", "edm")
ABAR = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
PROCESSES = {
    "vp": rv.process.vp("linear"),
    "cosine": rv.process.vp("cosine"),
    "edm": rv.process.edm(),
    "flow": rv.process.flow(),
    "flow3": rv.process.flow(3.0),
    "ddpm": rv.process.ddpm(ABAR),
}


def mixture(d: int = 16, modes: int = 5, seed: int = 0) -> tuple[Tensor, float]:
    """Means `(modes, d)` and the common standard deviation of an overlapping mixture."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(modes, d, generator=g, dtype=torch.float64), 1.0


def data_of(p: Any, means: Tensor, std: float) -> Data:
    """E[x0 | x_t] of the mixture by Bayes' rule."""

    def data(x: Tensor, t: float) -> Tensor:
        a, s = p.alpha(float(t)), p.sigma(float(t))
        v = a * a * std**2 + s * s
        weight = torch.softmax(-((x[:, None] - a * means) ** 2).sum(-1) / (2 * v), 1)
        mean = weight @ means
        return mean + a * std**2 / v * (x - a * mean)

    return data


def raw_of(p: Any, kind: str, x: Tensor, x0: Tensor, t: float) -> Tensor:
    """What a network of this type returns, from the definitions."""
    a, s = p.alpha(float(t)), p.sigma(float(t))
    if kind == "x0":
        return x0
    if kind == "edm":  # D = c_skip x / a + c_out F with Karras' table 1 in the ratio r = s / a
        r, sd = s / a, 0.5
        return (x0 - sd**2 / (r**2 + sd**2) * x / a) / (r * sd / math.sqrt(r**2 + sd**2))
    eps = (x - a * x0) / s
    return {"eps": eps, "v": a * eps - s * x0, "flow": eps - x0, "score": -eps / s}[kind]


def model_of(p: Any, kind: str, data: Data) -> Any:
    """The mixture as a network of one prediction type; it is told the time."""

    def net(x: Tensor, t: Tensor) -> Tensor:
        time = float(t[0])
        if kind == "edm":  # the network sees c_in x
            x = x * math.sqrt(p.sigma(time) ** 2 + 0.25 * p.alpha(time) ** 2)
        return raw_of(p, kind, x, data(x, time), time)

    return rv.Model(net, p, predicts=kind, label="t")


def ddim(p: Any, data: Data, times: Sequence[float], x: Tensor, z: Sequence[Tensor], eta: float = 0.0) -> Tensor:
    """Song et al. 2021, eq. 12 and 16, with abar = alpha^2 for VP; in general sigma^2 for 1 - abar and so on."""
    draws = iter(z)
    for s, t in itertools.pairwise(times):
        a_s, s_s, a_t, s_t = p.alpha(s), p.sigma(s), p.alpha(t), p.sigma(t)
        x0 = data(x, s)
        eps = (x - a_s * x0) / s_s
        c = eta * s_t / s_s * math.sqrt(max(0.0, s_s**2 - (a_s / a_t) ** 2 * s_t**2))
        x = a_t * x0 + math.sqrt(max(0.0, s_t**2 - c**2)) * eps
        if c:
            x = x + c * next(draws)
    return x


def ddpm(abar: Tensor, data: Data, labels: Sequence[int], x: Tensor, z: Sequence[Tensor], variance: Any) -> Tensor:
    """Ho et al. 2020, eq. 7 (posterior mean) on respaced betas; variance: "small", "large" or a head v(x, t) in [-1, 1]."""
    draws = iter(z)
    for i, n in enumerate(labels):
        now = float(abar[n])
        before = float(abar[labels[i + 1]]) if i + 1 < len(labels) else 1.0
        beta = 1 - now / before
        x0 = data(x, n)
        mean = math.sqrt(before) * beta / (1 - now) * x0 + math.sqrt(now / before) * (1 - before) / (1 - now) * x
        if i + 1 == len(labels):
            return mean
        small = (1 - before) / (1 - now) * beta
        if variance == "small":
            std: Any = math.sqrt(small)
        elif variance == "large":
            std = math.sqrt(beta)
        else:  # Nichol & Dhariwal 2021, eq. 15
            f = (variance(x, n) + 1) / 2
            std = torch.exp(0.5 * (f * math.log(beta) + (1 - f) * math.log(small)))
        x = mean + std * next(draws)
    return x


def edm(
    p: Any,
    data: Data,
    times: Sequence[float],
    x: Tensor,
    z: Sequence[Tensor],
    second: bool,
    churn: Sequence[float] = (0, 0, 0, 1),
) -> Tensor:
    """Karras et al. 2022, algorithm 2, on y = x / alpha and r = sigma / alpha (churn never beyond the first node)."""
    amount, low, high, extra = churn
    draws = iter(z)
    n = len(times) - 1
    r = [p.sigma(t) / p.alpha(t) for t in times]
    at = dict(zip(r, times, strict=True))
    y = x / p.alpha(times[0])

    def slope(y: Tensor, level: float) -> Tensor:
        t = at.get(level, p.t_of_ratio(level))
        return (y - data(p.alpha(t) * y, t)) / level

    for i in range(n):
        hat = r[i]
        if low <= r[i] <= high:
            hat = min(r[i] * (1 + min(amount / n, math.sqrt(2) - 1)), r[0])
        if hat > r[i]:
            y = y + math.sqrt(hat**2 - r[i] ** 2) * extra * next(draws)
        d = slope(y, hat)
        ahead = y + (r[i + 1] - hat) * d
        if second and r[i + 1] > 0:
            ahead = y + (r[i + 1] - hat) * 0.5 * (d + slope(ahead, r[i + 1]))
        y = ahead
    return y * p.alpha(times[-1])


def straight(p: Any, data: Data, times: Sequence[float], x: Tensor, second: bool) -> Tensor:
    """Euler and Heun on dx/ds = eps - x0 of the straight path x = (1 - s) x0 + s eps."""
    for t, u in itertools.pairwise(times):
        h = p.sigma(u) - p.sigma(t)

        def velocity(x: Tensor, t: float) -> Tensor:
            return (x - data(x, t)) / p.sigma(t)

        d = velocity(x, t)
        ahead = x + h * d
        if second and p.sigma(u) > 0:
            ahead = x + h / 2 * (d + velocity(ahead, u))
        x = ahead
    return x


def dpm_single(
    p: Any,
    data: Data,
    times: Sequence[float],
    x: Tensor,
    orders: Sequence[int],
    r1: float | None = None,
    r2: float = 2 / 3,
) -> Tensor:
    """DPM-Solver algorithms 1 and 2 and their third-order one (2206.00927), noise prediction."""

    def eps(x: Tensor, t: float) -> Tensor:
        return (x - p.alpha(t) * data(x, t)) / p.sigma(t)

    for s, t, order in zip(times, times[1:], orders, strict=False):
        if p.sigma(t) == 0:
            x = p.alpha(t) * data(x, s)
            continue
        lam, h, e0 = p.lam(s), p.lam(t) - p.lam(s), eps(x, s)
        a = {1: 0.5, 2: r1 or 1 / 2, 3: r1 or 1 / 3}[order]
        t1 = p.t_of_lam(lam + a * h)
        base = p.alpha(t) / p.alpha(s) * x - p.sigma(t) * math.expm1(h) * e0
        if order == 1:
            x = base
            continue
        e1 = eps(p.alpha(t1) / p.alpha(s) * x - p.sigma(t1) * math.expm1(a * h) * e0, t1)
        if order == 2:
            x = base - p.sigma(t) / (2 * a) * math.expm1(h) * (e1 - e0)
            continue
        t2 = p.t_of_lam(lam + r2 * h)
        u = p.alpha(t2) / p.alpha(s) * x - p.sigma(t2) * math.expm1(r2 * h) * e0
        u = u - p.sigma(t2) * r2 / a * (math.expm1(r2 * h) / (r2 * h) - 1) * (e1 - e0)
        x = base - p.sigma(t) / r2 * (math.expm1(h) / h - 1) * (eps(u, t2) - e0)
    return x


def dpmpp_2s(p: Any, data: Data, times: Sequence[float], x: Tensor, r: float = 0.5) -> Tensor:
    """DPM-Solver++(2S), algorithm 1 of 2211.01095."""
    for s, t in itertools.pairwise(times):
        x0 = data(x, s)
        if p.sigma(t) == 0:
            x = p.alpha(t) * x0
            continue
        h = p.lam(t) - p.lam(s)
        s1 = p.t_of_lam(p.lam(s) + r * h)
        u = p.sigma(s1) / p.sigma(s) * x - p.alpha(s1) * math.expm1(-r * h) * x0
        d = (1 - 1 / (2 * r)) * x0 + data(u, s1) / (2 * r)
        x = p.sigma(t) / p.sigma(s) * x - p.alpha(t) * math.expm1(-h) * d
    return x


def multistep(
    p: Any,
    data: Data,
    times: Sequence[float],
    x: Tensor,
    top: int,
    noise: bool = False,
    taylor: bool = False,
    released: bool = False,
    lower: bool | None = None,
) -> Tensor:
    """DPM-Solver++(2M), (3M) (algorithm 2 and appendix B of 2211.01095), or 2M in noise prediction (appendix B of 2206.00927)."""
    n, old = len(times) - 1, []
    lower = n < 10 if lower is None else lower
    for i in range(n):
        s, t = times[i], times[i + 1]
        x0 = data(x, s)
        old.append((x - p.alpha(s) * x0) / p.sigma(s) if noise else x0)
        order = min(top, i + 1, n - i if lower else top)
        if p.sigma(t) == 0:
            x = p.alpha(t) * x0
            continue
        h = p.lam(t) - p.lam(s)
        if noise:
            carry, f1, f2 = p.alpha(t) / p.alpha(s), -p.sigma(t) * math.expm1(h), -p.sigma(t) * (math.expm1(h) / h - 1)
            f3 = -p.sigma(t) * ((math.expm1(h) / h - 1) / h - 0.5)
        else:
            p1 = math.expm1(-h)
            p2 = p1 / h + 1
            p3 = p2 / h - 0.5
            carry, f1, f2, f3 = p.sigma(t) / p.sigma(s), -p.alpha(t) * p1, p.alpha(t) * p2, -p.alpha(t) * p3
        x = carry * x + f1 * old[i]
        if order >= 2:
            r0 = (p.lam(s) - p.lam(times[i - 1])) / h
            d0 = (old[i] - old[i - 1]) / r0
            if order == 2:
                x = x + (f2 * d0 if taylor else f1 * d0 / 2)
            else:
                r1 = (p.lam(times[i - 1]) - p.lam(times[i - 2])) / h
                d1 = (old[i - 1] - old[i - 2]) / r1
                x = x + f2 * (d0 + r0 / (r0 + r1) * (d0 - d1))
                x = x + f3 * (1 if released else 2) / (r0 + r1) * (d0 - d1)
    return x
