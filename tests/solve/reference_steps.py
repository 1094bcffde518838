"""Plain loops of the one-step solvers, written from their papers in float64; nothing here uses `reverie.solve`.

Notation as in `reference` and `reference_multistep`: one step goes s -> t, `ratio` is sigma / alpha, y = x / alpha.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .reference import ABAR, Data
from .reference_multistep import eps_of, ratio

# Butcher tableaus: rows of a, then b.
TABLEAUS: dict[str, tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]] = {
    "heun": (((), (1.0,)), (1 / 2, 1 / 2)),
    "midpoint": (((), (1 / 2,)), (0.0, 1.0)),
    "kutta": (((), (1 / 2,), (-1.0, 2.0)), (1 / 6, 4 / 6, 1 / 6)),
    "rk4": (((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 2 / 6, 2 / 6, 1 / 6)),
}


def slope(p: Any, data: Data, y: Tensor, level: float, t: float | None = None) -> Tensor:
    """dy / dratio = eps at the ratio `level` (whose time is t, if known exactly)."""
    t = p.t_of_ratio(level) if t is None else t
    return (y - data(p.alpha(t) * y, t)) / level


def rk_deis(p: Any, data: Data, times: Sequence[float], x: Tensor, method: str = "heun") -> Tensor:
    """rhoRK-DEIS (2204.13902): an explicit Runge-Kutta method on dy / dratio = eps."""
    rows, b = TABLEAUS[method]
    y = x / p.alpha(times[0])
    for s, t in itertools.pairwise(times):
        if p.sigma(t) == 0:
            y = data(p.alpha(s) * y, s)
            continue
        h, k = ratio(p, t) - ratio(p, s), []
        for a in rows:
            c = sum(a)
            at = s if c == 0 else t if c == 1 else None
            point = y + h * sum((w * v for w, v in zip(a, k, strict=True)), torch.zeros_like(y))
            k.append(slope(p, data, point, ratio(p, s) + c * h, at))
        y = y + h * sum(w * v for w, v in zip(b, k, strict=True))
    return y * p.alpha(times[-1])


def ancestral(s: float, t: float, eta: float) -> tuple[float, float]:
    """(down, up) of k-diffusion, down^2 + up^2 = t^2: go down to `down`, add `up` of noise, arrive at ratio t.

    down^2 = t^2 (1 - eta^2 (1 - t^2 / s^2)), written without its cancellation.
    """
    up = eta * math.sqrt(t**2 * (s**2 - t**2) / s**2)
    return t * math.sqrt(1 - eta**2 + (eta * t / s) ** 2), up


def euler_a(p: Any, data: Data, times: Sequence[float], x: Tensor, z: Sequence[Tensor], eta: float = 1.0) -> Tensor:
    """k-diffusion's sample_euler_ancestral on y = x / alpha."""
    draws, y = iter(z), x / p.alpha(times[0])
    for s, t in itertools.pairwise(times):
        down, up = ancestral(ratio(p, s), ratio(p, t), eta)
        y = y + (down - ratio(p, s)) * slope(p, data, y, ratio(p, s), s)
        if up:
            y = y + up * next(draws)
    return y * p.alpha(times[-1])


def kdpm_2(p: Any, data: Data, times: Sequence[float], x: Tensor, z: Sequence[Tensor] = (), eta: float = 0.0) -> Tensor:
    """k-diffusion's sample_dpm_2 (eta = 0) and sample_dpm_2_ancestral: the slope at the geometric mean serves the whole step."""
    draws, y = iter(z), x / p.alpha(times[0])
    for s, t in itertools.pairwise(times):
        here = ratio(p, s)
        d = slope(p, data, y, here, s)
        down, up = ancestral(here, ratio(p, t), eta)
        if down == 0:
            y = y - here * d
            continue
        middle = math.sqrt(here * down)
        y = y + (down - here) * slope(p, data, y + (middle - here) * d, middle)
        if up:
            y = y + up * next(draws)
    return y * p.alpha(times[-1])


def dpmpp_2s_sde(
    p: Any, data: Data, times: Sequence[float], x: Tensor, z: Sequence[Tensor], eta: float = 1.0, r: float = 0.5
) -> Tensor:
    """Two-stage SDE-DPM-Solver++ (k-diffusion's sample_dpmpp_sde at eta = 1), both noises cut from one Brownian path.

    In u = x / sigma * e^{eta lam} the noise of dx is an Ito integral with variance e^{2 eta lam}: increments over [s, s1] and
    [s1, t] are independent, and the row to t sees their sum.
    """
    draws = iter(z)
    for s, t in itertools.pairwise(times):
        x0 = data(x, s)
        if p.sigma(t) == 0:
            x = p.alpha(t) * x0
            continue
        lam, end = p.lam(s), p.lam(t)
        middle = lam + r * (end - lam)
        s1 = p.t_of_lam(middle)
        first = second = torch.zeros_like(x)
        if eta:
            first = math.sqrt(math.exp(2 * eta * middle) - math.exp(2 * eta * lam)) * next(draws)
            second = math.sqrt(math.exp(2 * eta * end) - math.exp(2 * eta * middle)) * next(draws)

        def row(d: Tensor, path: Tensor, to: float, x: Tensor = x, s: float = s) -> Tensor:
            h = p.lam(to) - p.lam(s)
            out = p.sigma(to) / p.sigma(s) * math.exp(-eta * h) * x - p.alpha(to) * math.expm1(-(1 + eta) * h) * d
            return out + p.sigma(to) * math.exp(-eta * p.lam(to)) * path

        inner = data(row(x0, first, s1), s1)
        x = row((1 - 1 / (2 * r)) * x0 + inner / (2 * r), first + second, t)
    return x


def grid_singlestep(p: Any, data: Data, times: Sequence[float], x: Tensor, noise: bool) -> Tensor:
    """Second-order DPM-Solver (noise) or DPM-Solver++ whose inner node is the next node of the grid (diffusers' singlestep)."""
    n, i = len(times) - 1, 0

    def first(x: Tensor, d: Tensor, s: float, t: float) -> Tensor:
        h = p.lam(t) - p.lam(s)
        if noise:
            return p.alpha(t) / p.alpha(s) * x - p.sigma(t) * math.expm1(h) * d
        return p.sigma(t) / p.sigma(s) * x - p.alpha(t) * math.expm1(-h) * d

    def evaluate(x: Tensor, t: float) -> Tensor:
        return eps_of(p, data, x, t) if noise else data(x, t)

    while i < n:
        s, t = times[i], times[i + 1]
        d0 = evaluate(x, s)
        if p.sigma(t) == 0:
            return p.alpha(t) * ((x - p.sigma(s) * d0) / p.alpha(s) if noise else d0)
        if i + 1 == n or p.sigma(times[i + 2]) == 0:
            x, i = first(x, d0, s, t), i + 1
            continue
        end = times[i + 2]
        d1 = evaluate(first(x, d0, s, t), t)
        r = (p.lam(t) - p.lam(s)) / (p.lam(end) - p.lam(s))
        x, i = first(x, d0 + (d1 - d0) / (2 * r), s, end), i + 2
    return x


def sde(p: Any, t: float) -> tuple[float, float]:
    """f(t) and g(t)^2 of dx = f x dt + g dw, by hand, of the processes under test."""
    if p.name == "vp-linear":  # beta = b0 + t (b1 - b0)
        beta = p.beta_min + t * (p.beta_max - p.beta_min)
        return -beta / 2, beta
    if p.name == "ve":
        return 0.0, 2 * t
    if p.name == "ddpm":  # log alpha is linear between labels; variance preserving, so g^2 = -2 f
        knots = [0.0, *(ABAR.log() / 2).tolist()]
        n = min(math.floor(t) + 1, len(knots) - 2)
        f = knots[n + 1] - knots[n]
        return f, -2 * f
    # flow, shifted by k: sigma = k t / (1 + (k - 1) t), alpha = 1 - sigma
    k = p.shift
    sigma, rate = k * t / (1 + (k - 1) * t), k / (1 + (k - 1) * t) ** 2
    return -rate / (1 - sigma), 2 * sigma * rate / (1 - sigma)


def predict(p: Any, predictor: str, x: Tensor, score: Tensor, s: float, t: float) -> tuple[Tensor, float]:
    """Mean and standard deviation of Song et al.'s predictors (2011.13456, appendices E, F, G)."""
    if predictor == "euler-maruyama":
        f, g2 = sde(p, s)
        return x + (f * x - g2 * score) * (t - s), math.sqrt(g2 * (s - t))
    a = p.alpha(s) / p.alpha(t)
    g2 = p.sigma(s) ** 2 - a**2 * p.sigma(t) ** 2  # VE: sigma_i^2 - sigma_{i-1}^2; VP: beta_i
    if predictor == "reverse-diffusion":  # eq. 46: x - f + G^2 score with the forward f = (a - 1) x
        return (2 - a) * x + g2 * score, math.sqrt(g2)
    # ancestral: eq. 47 for VE (the posterior's noise), eq. 4 for VP (noise beta_i), and so wherever the signal shrinks
    return (x + g2 * score) / a, math.sqrt(g2) * (p.sigma(t) / p.sigma(s) if p.name == "ve" else 1.0)


def pc(
    p: Any,
    data: Data,
    times: Sequence[float],
    x: Tensor,
    z: Sequence[Tensor],
    predictor: str = "reverse-diffusion",
    corrections: int = 1,
    snr: float = 0.16,
) -> Tensor:
    """Predictor-corrector sampling (algorithms 1 to 5 of 2011.13456): corrections at s, then the predictor; the mean at the end."""
    draws, n = iter(z), len(times) - 1
    for i, (s, t) in enumerate(itertools.pairwise(times)):

        def score(x: Tensor, s: float = s) -> Tensor:
            return -eps_of(p, data, x, s) / p.sigma(s)

        for _ in range(corrections):
            g, noise = score(x), next(draws)
            size = 2 * (p.alpha(s) / p.alpha(t)) ** 2 * (snr * noise.norm(dim=1) / g.norm(dim=1)) ** 2
            x = x + size[:, None] * g + (2 * size[:, None]).sqrt() * noise
        mean, std = predict(p, predictor, x, score(x), s, t)
        x = mean if i + 1 == n or p.sigma(t) == 0 else mean + std * next(draws)
    return x


def euler_maruyama(p: Any, data: Data, times: Sequence[float], x: Tensor, z: Sequence[Tensor]) -> Tensor:
    return pc(p, data, times, x, z, "euler-maruyama", 0)


def restart(
    p: Any,
    data: Data,
    times: Sequence[float],
    x: Tensor,
    z: Sequence[Tensor],
    intervals: Sequence[tuple[float, float, int, int]],
    straight: bool = False,
) -> Tensor:
    """Restart sampling (2306.14878) over EDM's Heun, on y = x / alpha, or over Heun on a straight path's velocity."""
    draws = iter(z)
    levels = [ratio(p, t) if p.sigma(t) > 0 else 0.0 for t in times]
    y = x / p.alpha(times[0])
    back: dict[int, tuple[float, float, int, int]] = {}
    for interval in intervals:
        back[min(range(len(levels)), key=lambda i: abs(levels[i] - interval[0]))] = interval

    def heun(y: Tensor, s: float, t: float) -> Tensor:
        if straight:  # sigma = r / (1 + r), x = alpha y
            a, b = s / (1 + s), t / (1 + t)
            x = (1 - a) * y
            v = (x - data(x, p.t_of_ratio(s))) / a
            ahead = x + (b - a) * v
            if t > 0:
                ahead = x + (b - a) / 2 * (v + (ahead - data(ahead, p.t_of_ratio(t))) / b)
            return ahead / (1 - b)
        d = slope(p, data, y, s)
        ahead = y + (t - s) * d
        return ahead if t == 0 else y + (t - s) / 2 * (d + slope(p, data, ahead, t))

    for i in range(len(levels) - 1):
        y = heun(y, levels[i], levels[i + 1])
        if i + 1 not in back:
            continue
        _, high, count, times_back = back[i + 1]
        low = levels[i + 1]
        for _ in range(times_back):
            y = y + math.sqrt(high**2 - low**2) * next(draws)
            big, small = high ** (1 / 7), low ** (1 / 7)
            inner = [(big + k / (count - 1) * (small - big)) ** 7 for k in range(count)]
            for s, t in itertools.pairwise(inner):
                y = heun(y, s, t)
    return y * p.alpha(times[-1])


def lcm(p: Any, data: Data, times: Sequence[float], x: Tensor, z: Sequence[Tensor]) -> Tensor:
    """Multistep consistency sampling (2303.01469, algorithm 1): to the data and back to t; no noise at sigma = 0 alone."""
    draws = iter(z)
    for s, t in itertools.pairwise(times):
        x = p.alpha(t) * data(x, s)
        if p.sigma(t) > 0:
            x = x + p.sigma(t) * next(draws)
    return x
