"""EVODiff: second-order data prediction with two coefficients that stored predictions decide, for every sample and channel.

A step from s to a cleaner t, p the node before s; m_p, m_s, m_t predictions of x0, H = alpha_t / sigma_t - alpha_s / sigma_s, h = lam_t - lam_s,
r = (lam_s - lam_p) / h, S the sigmoid, c2 = clamp to [-2, 2], <a, b> the sum over the places of one channel of one sample:

    E = (sigma_t / sigma_s) x_s + sigma_t H m_s                                       the first-order step
    D1 = m_s - share(m_s, m_p) m_p,      R = clamp(S(|share| / 4) r, r / 4, 3 r / 2)
    X = E + (sigma_t H / 2) D1 / R                                                    the probe: m_t is asked here
    D2 = m_t - share(m_t, m_s) m_s
    G = -(a / r) D1 + r (1 - a) D2,      a = S(|c2(<Q + P, Q - P> / <Q - P, Q - P>)| / 2) / 2,   P = D1 / r,  Q = r D2
    x_t = E + (sigma_t H / 2) G / Z,     Z = S(|z| - 1/2),   z = c2(<X - E - (sigma_t H / 2) G / R, D1> / <D1, D1>) / (sigma_t H)

    share(m, n) = (1 - w) sqrt(q_0 / q_1) + w c2(<m, n> / <n, n>),   q_0 = sigma_t / sigma_s,  q_1 = sigma_s / sigma_p,  w = (1 - u^2) / 2,
    u = (t + t_end) / (t_start + t_end)

With more than 20 steps Z = S(-(|z| - 1/2) S(c2(<m_s, D> / <D, D>) (2 - q_0^2))), D = (m_s - m_p) / H. A quotient by zero is zero. The history
keeps m_t, which was asked at the probe, although the state is corrected after: one evaluation a step. With share = 1, R = r and G / Z = D1 / r the
step is DPM-Solver++(2M). The decisions are heuristic: the method is of first order at best, and is meant for few steps.

The first step and the step to sigma = 0 are DDIM. So is the last step to a sigma above 0 where no evaluation follows it; last="released" has the
formula of the released code for it,

    x_t = (1 - sqrt(sigma_t sigma_s)) E + (sigma_t H / 2)(m_s - (1 - sqrt(q) / 2) m_p),   q = q_0 below 1/2, else q_0 - 1/2,

which shrinks the state, and means something only where both sigmas are small.

Source: Li, Chen & Zeng 2025 (2509.26096) and its released code, which is for EDM on CIFAR-10; on other processes the constants are the same, but
nobody has chosen them there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reverie.base import implements, unknown
from reverie.process import Process
from reverie.solve.exponential import Step
from reverie.solve.grids import Node
from reverie.solve.line import prediction, state
from reverie.solve.multistep import dpmpp_2m
from reverie.solve.plan import rule
from reverie.solve.solver import Table, solver

if TYPE_CHECKING:
    from reverie.solve.context import Run

__all__ = ["evodiff"]

OVER = ("channel", "sample")
LASTS = ("ddim", "released")
_MEMORY = "evodiff"


def _inner(a: Tensor, b: Tensor, over: str) -> Tensor:
    """<a, b> in float64, with the state's number of dimensions: a number for each channel of each sample, or for each sample."""
    first = 2 if over == "channel" and a.ndim > 2 else 1
    product = a.double() * b.double()
    return product.sum(tuple(range(first, a.ndim)), keepdim=True) if a.ndim > 1 else product


def _quotient(a: Tensor, b: Tensor, over: str) -> Tensor:
    """<a, b> / <b, b> in [-2, 2]; zero where b is."""
    down = _inner(b, b, over)
    return torch.where(down > 0, _inner(a, b, over) / down, 0.0).clamp(-2, 2)


def _share(m: Tensor, n: Tensor, w: float, base: float, over: str) -> Tensor:
    """How much of n is taken off m."""
    return (1 - w) * base + w * _quotient(m, n, over)


def _reach(share: Tensor, r: float) -> Tensor:
    """R: how far apart the probe takes the two predictions to be."""
    return ((share.abs() / 4).sigmoid() * r).clamp(r / 4, 1.5 * r)


def _direction(
    d1: Tensor, d2: Tensor, reach: Tensor, ahead: Tensor, old: tuple[Tensor, Tensor], at: dict[str, Any]
) -> Tensor:
    """G / Z. ahead: X - E. old: m_s and m_p."""
    r, over, half = at["r"], at["over"], at["weight"] / 2
    p, q = d1 / r, r * d2
    a = (_quotient(q + p, q - p, over) / 2).abs().sigmoid() / 2
    g = -(a / r) * d1 + r * (1 - a) * d2
    z = _quotient(ahead - half * g / reach, d1, over) / at["weight"]
    shift = z.abs() - 0.5
    if at["many"]:
        d = (old[0] - old[1]) / at["H"]
        shift = -shift * (_quotient(old[0], d, over) * (2 - at["q"] ** 2)).sigmoid()
    return g / shift.sigmoid()


@rule("evodiff-keep")
def keep(run: Run, x: Tensor, *, first: bool = False) -> Tensor:
    """Remember the prediction of this stage; `first`: and forget all others."""
    said = [] if first else run.memory[_MEMORY]["said"]
    run.memory[_MEMORY] = {"said": [*said[-1:], run.pred.x0]}
    return x


@rule("evodiff-probe")
def probe(run: Run, x: Tensor, *, asks: bool, **at: Any) -> Tensor:
    """The probe X beside E = x."""
    if asks:
        keep(run, x)
    memory = run.memory[_MEMORY]
    m_p, m_s = (m.double() for m in memory["said"])
    share = _share(m_s, m_p, at["w"], at["base"], at["over"])
    d1, reach = m_s - share * m_p, _reach(share, at["r"])
    memory |= {"d1": d1, "reach": reach}
    return x + (at["weight"] / 2 * d1 / reach).to(x)


@rule("evodiff-correct")
def correct(run: Run, x: Tensor, **at: Any) -> Tensor:
    """The state beside E = x, once the probe's prediction is known."""
    memory = run.memory[_MEMORY]
    d1, reach = memory["d1"], memory["reach"]
    m_p, m_s = (m.double() for m in memory["said"])
    m_t = run.pred.x0.double()
    d2 = m_t - _share(m_t, m_s, at["w"], at["base"], at["over"]) * m_s
    tried = run.states[run.k]
    assert tried is not None
    move = _direction(d1, d2, reach, tried.double() - x.double(), (m_s, m_p), at)
    keep(run, x)
    return x + (at["weight"] / 2 * move).to(x)


def _numbers(p: Node, s: Node, t: Node, ends: tuple[float, float], many: bool, over: str) -> dict[str, Any]:
    """What the rules of a step know of the grid."""
    step, (start, end) = Step(s, t, "x0"), ends
    q0, q1 = t.sigma / s.sigma, s.sigma / p.sigma
    u = (t.t + end) / (start + end)
    return {
        "weight": step.weight(0), "H": math.exp(t.lam) - math.exp(s.lam), "r": (s.lam - p.lam) / step.h, "q": q0, "base": math.sqrt(q0 / q1),
        "w": (1 - u**2) / 2, "many": many, "over": over,
    }  # fmt: skip


@implements("evodiff")
@solver("evodiff", order=lambda adapt=True, **_: 1 if adapt else 2)
def evodiff(
    process: Process, at: Sequence[Node], *, adapt: bool = True, over: str = "channel", last: str = "ddim"
) -> Table:
    """EVODiff: DPM-Solver++(2M) whose differences are weighed at run time, for every sample and channel; one evaluation a step, for few steps.

    Args:
        adapt: False takes nothing from the predictions: dpmpp-2m with lower_final=False.
        over: what decides together, a "channel" of a sample (default; dimension 1 of three or more) or a whole "sample".
        last: the last step to a sigma above 0: "ddim" (default; with a step to sigma = 0 after it, a step like the others) or "released".
    """
    for name, value, known in (("over", over, OVER), ("last", last, LASTS)):
        if value not in known:
            raise unknown(name, value, known)
    if not adapt:
        return dpmpp_2m(process, at, lower_final=False)
    n, clean = len(at) - 1, at[-1].sigma == 0
    ends = at[0].t, process.t_min if clean else at[-1].t
    final = n - 2 if clean else n - 1
    table, asked, tried = Table(kinds=("x0",)), list[int](), None
    for i, (s, t) in enumerate(pairwise(at)):
        step = Step(s, t, "x0")
        second = i > 0 and step.finite and math.isfinite(at[i - 1].lam)
        if tried is not None:  # the state is a probe: ask there, and correct it
            base, numbers, before = tried
            row = before.first(state(base), prediction(asked[-1]))
            asked.append(table.ask(s, row, s, i, inner=True, rule=("evodiff-correct", numbers)))
            now, after = table.k, {"asks": False}
        else:
            now, after = table.k, {"asks": True}
            asked.append(table.k)
        row, ending = step.first(state(now), prediction(asked[-1])), False
        tried = None
        done: tuple[str, dict[str, Any]] | None = ("evodiff-keep", {"first": i == 0})
        if second and i == final and last == "released":
            q = t.sigma / s.sigma
            take, ending = 1 - math.sqrt(q if q < 0.5 else q - 0.5) / 2, True
            row = (1 - math.sqrt(t.sigma * s.sigma)) * row
            row = row + step.weight(0) / 2 * (prediction(asked[-1]) - take * prediction(asked[-2]))
        if second and not ending and i != n - 1:
            numbers = _numbers(at[i - 1], s, t, ends, n > 20, over)
            tried = now, numbers, step
            row = row + 0.0 * prediction(asked[-2])  # the rule reads it: so `repeat` knows
            done = ("evodiff-probe", {**after, **numbers})
        if after["asks"]:
            table.ask(s, row, t, i, rule=done)
        else:
            table.move(row, t, i, rule=done if tried is not None else None)
    return table
