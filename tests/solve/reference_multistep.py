"""Plain loops of the multistep solvers, written from their papers in float64; nothing here uses `reverie.solve`.

Notation as in `reference`: `data(x, t)` is E[x0 | x_t]; `times` are the nodes; one step goes s -> t. `ratio` is sigma / alpha, y = x / alpha,
so that the probability flow is dy / dratio = eps. `z` are the draws in the order in which they are used.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .reference import Data

Real = Callable[[np.ndarray], np.ndarray]
GAUSS = np.polynomial.legendre.leggauss(10)
CLASSICAL = {1: (1.0,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}


class Remembered:
    """A process whose coefficients at a float are computed once: the loops ask for them again and again."""

    def __init__(self, p: Any) -> None:
        self._p = p
        for name in ("alpha", "sigma", "lam", "t_of_lam", "t_of_ratio"):
            setattr(self, name, self._remember(getattr(p, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._p, name)

    @staticmethod
    def _remember(f: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[float, float] = {}

        def ask(t: Any) -> Any:
            if isinstance(t, Tensor):
                return f(t)
            if t not in known:
                known[t] = f(t)
            return known[t]

        return ask


def eps_of(p: Any, data: Data, x: Tensor, t: float) -> Tensor:
    return (x - p.alpha(t) * data(x, t)) / p.sigma(t)


def ratio(p: Any, t: float) -> float:
    return p.sigma(t) / p.alpha(t)


def integral(f: Real, a: float, b: float, kinks: Sequence[float] = (), panels: int = 16) -> float:
    """Composite Gauss-Legendre over [a, b] (either way round), on panels that break at `kinks`, or on equal ones."""
    low, high = min(a, b), max(a, b)
    inner = list(kinks[bisect.bisect_right(kinks, low) : bisect.bisect_left(kinks, high)])
    edges = np.array([low, *inner, high]) if len(kinks) else np.linspace(low, high, panels + 1)
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    at = middle[:, None] + half[:, None] * GAUSS[0]
    value = float((f(at) * GAUSS[1] * half[:, None]).sum())
    return value if b > a else -value


def lagrange(u: np.ndarray, nodes: Sequence[float], j: int) -> np.ndarray:
    out = np.ones_like(u)
    for k, node in enumerate(nodes):
        if k != j:
            out = out * (u - node) / (nodes[j] - node)
    return out


def lagrange_slope(u: np.ndarray, nodes: Sequence[float], j: int) -> np.ndarray:
    out = np.zeros_like(u)
    for m, other in enumerate(nodes):
        if m != j:
            term = np.full_like(u, 1 / (nodes[j] - other))
            for k, node in enumerate(nodes):
                if k not in (j, m):
                    term = term * (u - node) / (nodes[j] - node)
            out = out + term
    return out


def adams_weights(p: Any, variable: str, past: Sequence[float], t: float) -> list[float]:
    """w_j = integral of l_j over the ratio from past[0] to t, l_j the Lagrange polynomial of past[j] in `variable`.

    2204.13902, eq. 15. By parts where the polynomial is in t:  w = [l_j ratio] - int l_j'(tau) ratio(tau) dtau, so no schedule is differentiated.
    """
    s, out = past[0], []
    for j in range(len(past)):
        if variable == "rho":
            nodes = [ratio(p, u) for u in past]
            end = ratio(p, t) if p.sigma(t) > 0 else 0.0
            out.append(integral(lambda r, n=nodes, j=j: lagrange(r, n, j), nodes[0], end, panels=4))
        elif variable == "log-rho":
            nodes = [-p.lam(u) for u in past]
            out.append(integral(lambda u, n=nodes, j=j: lagrange(u, n, j) * np.exp(u), nodes[0], -p.lam(t)))
        else:
            at_t = lagrange(np.array(t), past, j) * ratio(p, t)
            at_s = ratio(p, s) if j == 0 else 0.0

            def inner(tau: np.ndarray, j: int = j) -> np.ndarray:
                u = torch.from_numpy(tau)
                return lagrange_slope(tau, past, j) * (p.sigma(u) / p.alpha(u)).numpy()

            if p.name == "ddpm":  # log alpha is linear between labels
                kinks: Any = range(int(p.t_max) + 1)
            else:  # sigma of VP starts as the root of t
                kinks = np.linspace(math.sqrt(min(s, t)), math.sqrt(max(s, t)), 24)[1:-1] ** 2
            out.append(float(at_t) - at_s - integral(inner, s, t, kinks))
    return out


def adams(
    p: Any, data: Data, times: Sequence[float], x: Tensor, top: int, variable: str, lower: bool, into_zero: bool
) -> Tensor:
    n, old = len(times) - 1, []
    for i in range(n):
        s, t = times[i], times[i + 1]
        x0 = data(x, s)
        old.insert(0, (x - p.alpha(s) * x0) / p.sigma(s))
        if p.sigma(t) == 0 and not into_zero:
            x = p.alpha(t) * x0
            continue
        k = min(top, i + 1, n - i if lower else top)
        w = adams_weights(p, variable, [times[i - j] for j in range(k)], t)
        y = x / p.alpha(s) + sum(a * e for a, e in zip(w, old[:k], strict=True))
        x = p.alpha(t) * y
    return x


def deis(
    p: Any, data: Data, times: Sequence[float], x: Tensor, order: int, variable: str = "t", lower: bool | None = None
) -> Tensor:
    """tAB-, rhoAB-DEIS (2204.13902) with `order` predictions, and diffusers' log-rho variant."""
    return adams(p, data, times, x, order, variable, len(times) <= 10 if lower is None else lower, False)


def lms(p: Any, data: Data, times: Sequence[float], x: Tensor, order: int = 4) -> Tensor:
    """Linear multistep in sigma / alpha (k-diffusion), at full order into sigma = 0."""
    return adams(p, data, times, x, order, "rho", False, True)


def transfer(p: Any, x: Tensor, s: float, t: float, e: Tensor) -> Tensor:
    """phi of PNDM (2202.09778, eq. 11): the DDIM map with any estimate e of the noise."""
    a = p.alpha(t) / p.alpha(s)
    return a * x + (p.sigma(t) - a * p.sigma(s)) * e


def pndm(p: Any, data: Data, times: Sequence[float], x: Tensor, order: int = 4, warmup: str = "runge-kutta") -> Tensor:
    """F-PNDM and S-PNDM (2202.09778, algorithm 2 and appendix), PLMS, iPNDM.

    There is no noise to predict at sigma = 0: a warm-up step that would go there combines what it has.
    """
    old: list[Tensor] = []

    def eps(x: Tensor, t: float) -> Tensor:
        return eps_of(p, data, x, t)

    for i, (s, t) in enumerate(itertools.pairwise(times)):
        e1 = eps(x, s)
        old.insert(0, e1)  # only the first evaluation of a step enters the history
        if warmup == "runge-kutta" and order == 4 and i < 3 and p.sigma(t) > 0:
            m = (s + t) / 2
            e2 = eps(transfer(p, x, s, m, e1), m)
            e3 = eps(transfer(p, x, s, m, e2), m)
            e4 = eps(transfer(p, x, s, t, e3), t)
            e = (e1 + 2 * e2 + 2 * e3 + e4) / 6
        elif i == 0 and warmup != "multistep" and p.sigma(t) > 0:
            e = (e1 + eps(transfer(p, x, s, t, e1), t)) / 2
        else:
            weights = CLASSICAL[min(order, len(old))]
            e = sum(w * o for w, o in zip(weights, old[: len(weights)], strict=True))
        x = transfer(p, x, s, t, e)
    return x


def unipc(
    p: Any,
    data: Data,
    times: Sequence[float],
    x: Tensor,
    top: int,
    variant: str = "bh2",
    kind: str = "x0",
    corrector: bool = True,
    lower: bool | None = None,
) -> Tensor:
    """UniP-p and UniC-p (2302.04867, theorem 3.1 and algorithms 1, 2), with the released simplification of one unknown.

    x_t = carry x_s + f1 m_s - scale B sum_k a_k (m_k - m_s) / r_k; the a_k solve sum_k r_k^{n-1} a_k = n! h^n phi_{n+1}(h) / (h^{n-1} B).
    """
    n, lower = len(times) - 1, len(times) <= 10 if lower is None else lower
    evaluate = data if kind == "x0" else lambda x, t: eps_of(p, data, x, t)
    model = [evaluate(x, times[0])]  # newest first
    for i in range(n):
        s, t = times[i], times[i + 1]
        if p.sigma(t) == 0:
            x0 = model[0] if kind == "x0" else (x - p.sigma(s) * model[0]) / p.alpha(s)
            x = p.alpha(t) * x0
            continue
        order = min(top, i + 1, n - i if lower else top)
        h = p.lam(t) - p.lam(s)
        hh = -h if kind == "x0" else h
        scale = p.alpha(t) if kind == "x0" else p.sigma(t)
        carry = p.sigma(t) / p.sigma(s) if kind == "x0" else p.alpha(t) / p.alpha(s)
        big = hh if variant == "bh1" else math.expm1(hh)
        r = [(p.lam(times[i - k]) - p.lam(s)) / h for k in range(1, order)]
        slopes = [(model[k] - model[0]) / r[k - 1] for k in range(1, order)]
        # n! phi_{n+1}(hh) hh with phi_1 = (e^z - 1) / z and phi_{n+1} = (phi_n - 1 / n!) / z
        b, phi = [], math.expm1(hh) / hh
        for m in range(1, order + 1):
            phi = (phi - 1 / math.factorial(m)) / hh
            b.append(math.factorial(m) * phi * hh / big)

        def weights(points: Sequence[float], b: Sequence[float] = tuple(b)) -> list[float]:
            if len(points) == 1:
                return [0.5]
            rows = torch.tensor([[q**m for q in points] for m in range(len(points))], dtype=torch.float64)
            right = torch.tensor(b[: len(points)], dtype=torch.float64)
            return torch.linalg.solve(rows, right).tolist()

        base = carry * x - scale * math.expm1(hh) * model[0]
        ahead = base
        if r:
            ahead = base - scale * big * sum(a * d for a, d in zip(weights(r), slopes, strict=True))
        if i + 1 == n:
            return ahead
        new = evaluate(ahead, t)
        if corrector:
            a = weights([*r, 1.0])
            ahead = base - scale * big * sum(c * d for c, d in zip(a, [*slopes, new - model[0]], strict=True))
        x = ahead
        model.insert(0, new)
    return x


def sa_solver(
    p: Any,
    data: Data,
    times: Sequence[float],
    x: Tensor,
    z: Sequence[Tensor] = (),
    predictor: int = 3,
    corrector: int = 3,
    tau: float = 1.0,
    tau_min: float = 0.0,
    tau_max: float = math.inf,
    simplified: bool = True,
    lower: bool | None = None,
) -> Tensor:
    """SA-Predictor and SA-Corrector (2309.05019, sections 5.1 and 5.2; eq. 15 and 18), data prediction.

    x_t = sigma_t / sigma_s e^{-tau^2 h} x_s + sum_j b_j D_j + sigma_t sqrt(1 - e^{-2 tau^2 h}) z,
    b_j = alpha_t (1 + tau^2) int_0^h e^{-(1 + tau^2) v} l_j(lam_t - v) dv.
    """
    n, lower = len(times) - 1, len(times) <= 10 if lower is None else lower
    draws = iter(z)
    known = [(p.lam(times[0]), data(x, times[0]))]  # newest first
    for i in range(n):
        s, t = times[i], times[i + 1]
        if p.sigma(t) == 0:
            x = p.alpha(t) * known[0][1]
            continue
        lam, h = p.lam(t), p.lam(t) - p.lam(s)
        c = tau if tau_min <= ratio(p, s) <= tau_max else 0.0
        w = 1 + c * c
        noise = next(draws) if c else torch.zeros_like(x)

        def step(x: Tensor, points: list[tuple[float, Tensor]], t: float = t, s: float = s, w: float = w) -> Tensor:
            c2, h = w - 1, p.lam(t) - p.lam(s)
            out = p.sigma(t) / p.sigma(s) * math.exp(-c2 * h) * x
            at = [q - p.lam(t) for q, _ in points]
            if simplified and len(points) == 2:
                slope = (points[0][1] - points[1][1]) / (at[0] - at[1])
                here = points[0][1] if at[0] == -h else points[1][1]  # D at s
                return out + p.alpha(t) * (-math.expm1(-w * h) * here + w * h * h / 2 * slope)
            for j, (_, d) in enumerate(points):
                b = integral(lambda v, at=at, j=j: np.exp(-w * v) * lagrange(-v, at, j), 0.0, h)
                out = out + p.alpha(t) * w * b * d
            return out

        stray = p.sigma(t) * math.sqrt(-math.expm1(-2 * c * c * h)) * noise
        ahead = step(x, known[: min(predictor, i + 1, n - i if lower else predictor)]) + stray
        if i + 1 == n:
            return ahead
        known.insert(0, (lam, data(ahead, t)))
        if corrector:
            k = min(corrector, i + 2, n - i + 1 if lower else corrector)
            ahead = step(x, known[:k]) + stray
        x = ahead
    return x


def multistep_sde(
    p: Any,
    data: Data,
    times: Sequence[float],
    x: Tensor,
    z: Sequence[Tensor],
    top: int,
    eta: float = 1.0,
    taylor: bool = False,
    released: bool = False,
    lower: bool | None = None,
) -> Tensor:
    """SDE-DPM-Solver++(2M) (2211.01095) with eta as in k-diffusion, and the 3M of k-diffusion.

    The Ornstein-Uhlenbeck weights act on the derivatives of the Newton polynomial through the last `order` predictions at lam_s.
    """
    n, lower = len(times) - 1, len(times) <= 10 if lower is None else lower
    draws, known = iter(z), []
    for i in range(n):
        s, t = times[i], times[i + 1]
        known.insert(0, (p.lam(s), data(x, s)))
        if p.sigma(t) == 0:
            x = p.alpha(t) * known[0][1]
            continue
        h, w = p.lam(t) - p.lam(s), 1 + eta
        order = min(top, i + 1, n - i if lower else top)

        def moment(k: int, w: float = w, h: float = h) -> float:
            return w * integral(lambda u: np.exp(-w * (h - u)) * u**k / math.factorial(k), 0.0, h)

        total = -math.expm1(-w * h)
        change = total * known[0][1]
        if order >= 2:
            first = (known[0][1] - known[1][1]) / (known[0][0] - known[1][0])
            if order == 2:
                change = change + (moment(1) if taylor else total * h / 2) * first
            else:
                before = (known[1][1] - known[2][1]) / (known[1][0] - known[2][0])
                second = (first - before) / (known[0][0] - known[2][0])  # half the second derivative
                change = change + moment(1) * (first + (known[0][0] - known[1][0]) * second)
                change = change + moment(2) * second * (1 if released else 2)
        x = p.sigma(t) / p.sigma(s) * math.exp(-eta * h) * x + p.alpha(t) * change
        if eta:
            x = x + p.sigma(t) * math.sqrt(-math.expm1(-2 * eta * h)) * next(draws)
    return x
