"""DPM-Solver-v3: a multistep predictor-corrector whose linear part, scaling and bias are the model's own statistics.

With y = x / alpha and the functions l, s, b of lam (`statistics`), the probability flow is dy / dlam = -l y - f, f = (1 - l) y - x0hat, where
f' = s f + b nearly. Let L and S be the integrals of l and s from lam_p, and

    beta(lam) = int_p^lam exp(-S) b,      g = exp(-S) f - beta,      E = exp(L + S).

g is constant as far as f' = s f + b holds, and the step p -> q is exact in everything else:

    x_q = alpha_q exp(-L_q) [ x_p / alpha_p - sum_k W_k g^(k)(lam_p) - C ],      W_k = int_p^q E (lam - lam_p)^k / k!,      C = int_p^q E beta

with the derivatives g^(k) of the polynomial through the values at p and at earlier nodes (order k+1 needs k of these), all of them relative to
this p. The corrector restarts from p with q among the nodes, after the model was asked at the predicted x_q; the answer is kept as f, so that a
corrected x_q changes the noise it stands for. "Pseudo" takes for g^(k) only k! times the k-th divided difference of the first k + 1 nodes.
Between knots l, s, b are linear: L and S are exact, the other integrals Gauss-Legendre, in float64, from the step's own start.

l = 1, s = b = 0 is data prediction (dpmpp-3m and, with corrector, unipc's); l = 0, s = -1, b = 0 noise prediction. Where lam is infinite at one end
of the step it is DDIM's; `lower_final` lets the order fall towards the end.

Source: Zheng et al. 2023 (2310.13268, section 3, algorithms 1 and 2, appendices B and D for pseudo orders).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from reverie.base import ArgumentError, implements
from reverie.process import Process
from reverie.solve.exponential import Step, derivatives
from reverie.solve.grids import Node
from reverie.solve.line import Coef, Line, one, prediction
from reverie.solve.quadrature import legendre, partial
from reverie.solve.solver import Table, solver
from reverie.solve.tuning.statistics import Statistics

__all__ = ["Integrals", "dpm_v3", "integrals"]

_CELL = 0.25
"""Longest interval of lam, and _PLACES, its Gauss-Legendre places: exp(lam) over it is exact to 1e-15."""
_PLACES = 8


@dataclass(frozen=True)
class Integrals:
    """From lam_p to lam_q: L and S, the integrals of l and s; beta that of exp(-S) b; weights W_k; constant C."""

    linear: Coef
    scale: Coef
    beta: Coef
    weights: tuple[Coef, ...]
    constant: Coef


def integrals(of: Statistics, p: float, q: float, count: int = 1) -> Integrals:
    """The integrals of a step from lam = p to lam = q (either way), with `count` weights.

    >>> import math, reverie as rv
    >>> found = integrals(Statistics.constant(rv.process.vp(), l=1.0), 0.0, 2.0, 2)
    >>> abs(found.weights[1] - (math.exp(2.0) + 1)) < 1e-12      # int_0^2 exp(u) u du
    True
    """
    low, high = sorted((p, q))
    inner = of.lam[(of.lam > low) & (of.lam < high)]
    even = torch.linspace(low, high, 2 + int((high - low) / _CELL), dtype=torch.float64)
    edges = torch.cat([even, inner]).unique()
    edges = edges if p < q else edges.flip(0)
    flat = (-1, *[1] * (of.l.ndim - 1))
    places, parts = legendre(_PLACES)
    r, half = ((1 + places) / 2).reshape(1, *flat), (edges.diff() / 2).reshape(-1, 1, *flat[1:])
    lam = edges[:-1, None] + edges.diff()[:, None] * (1 + places) / 2  # (cells, places)
    (l0, l1), (s0, s1), (b0, b1) = ((c[:-1, None], c[1:, None]) for c in of.at(edges))

    def running(rate: Tensor) -> tuple[Tensor, Tensor]:
        """Of a rate at the places `(cells, places, *)`: its integral from p to each place, and to q."""
        inside = half * torch.einsum("ij,cj...->ci...", partial(_PLACES), rate)
        whole = half[:, 0] * torch.einsum("j,cj...->c...", parts, rate)
        return inside + (whole.cumsum(0) - whole)[:, None], whole.sum(0)

    linear, to_linear = running(l0 + (l1 - l0) * r)
    scale, to_scale = running(s0 + (s1 - s0) * r)
    beta, to_beta = running((-scale).exp() * (b0 + (b1 - b0) * r))
    weight = half * parts.reshape(1, *flat) * (linear + scale).exp()
    away = (lam - p).reshape(*lam.shape, *flat[1:])
    weights = [(weight * away**k).sum((0, 1)) / math.factorial(k) for k in range(count)]
    constant = (weight * beta).sum((0, 1))
    return Integrals(_coef(to_linear), _coef(to_scale), _coef(to_beta), tuple(map(_coef, weights)), _coef(constant))


def _coef(value: Tensor) -> Coef:
    return float(value) if value.ndim == 0 else value


def _exp(value: Coef) -> Coef:
    return value.exp() if isinstance(value, Tensor) else math.exp(value)


def _constant(value: Coef) -> Line:
    """A constant term, none where it is zero."""
    return value * one() if bool((torch.as_tensor(value) != 0).any()) else Line()


def _rest(of: Statistics, node: Node, x: Line) -> Line:
    """(1 - l) x / alpha: f without its prediction."""
    factor = _coef(1 - of.at(torch.tensor([node.lam], dtype=torch.float64))[0][0])
    if not bool((torch.as_tensor(factor) != 0).any()):
        return Line()
    return factor / node.alpha * x


def _step(of: Statistics, x: Line, at: Sequence[Node], values: Sequence[Line], q: Node, pseudo: bool) -> Line:
    """The step from at[0] to q through f at the nodes `at`."""
    p = at[0]
    g = [values[0]]
    for node, f in zip(at[1:], values[1:], strict=True):
        back = integrals(of, p.lam, node.lam)
        g.append(_exp(-back.scale) * f - _constant(back.beta))
    places = [node.lam - p.lam for node in at]
    if pseudo:  # the last derivative of the polynomial through the first k + 1 nodes
        slopes = [derivatives(places[: k + 1], g[: k + 1])[-1] for k in range(len(g))]
    else:
        slopes = derivatives(places, g)
    to = integrals(of, p.lam, q.lam, len(at))
    shrink = _exp(-to.linear) * q.alpha
    row = shrink / p.alpha * x - _constant(shrink * to.constant)
    for w, slope in zip(to.weights, slopes, strict=True):
        row = row - shrink * w * slope
    return row


def _order(
    order: int = 3, corrector: bool = True, pseudo: bool = False, pseudo_corrector: bool = False, **_: object
) -> int:
    if corrector and pseudo_corrector:
        return 2
    if corrector and order > 1:
        return order
    return min(order, 2) if pseudo else order


def _given(what: object, process: Process) -> Statistics:
    if what is None:
        return Statistics.constant(process)
    if isinstance(what, Mapping):
        raise ArgumentError("a loaded plan holds a description of its statistics, not them; give statistics= again")
    found = Statistics.load(what) if isinstance(what, str) else what
    if not isinstance(found, Statistics):
        raise ArgumentError(
            f"statistics of 'dpm-v3' are a Statistics (rv.solve.statistics(m)) or its file, got {what!r:.80}"
        )
    if found.process != process:
        raise ArgumentError(
            f"the statistics are of {found.process}, the plan is of {process}; estimate them on its model"
        )
    return found


@implements("dpm-solver-v3")
@solver("dpm-v3", order=_order)
def dpm_v3(
    process: Process,
    at: Sequence[Node],
    *,
    statistics: Statistics | str | None = None,
    order: int = 3,
    corrector: bool = True,
    pseudo: bool = False,
    pseudo_corrector: bool = False,
    lower_final: bool | None = None,
) -> Table:
    """DPM-Solver-v3: multistep predictor-corrector on the model's own statistics, one evaluation a step.

    Args:
        statistics: of the model, from `rv.solve.statistics(m)`, or their file; without them l = 1, s = b = 0, data prediction.
        order: nodes of predictor and corrector, 1 to 3. corrector: whether the predicted states are corrected (from order 2 on).
        pseudo: the predictor's derivatives are plain divided differences. pseudo_corrector: so are the corrector's, of one node more.
        lower_final: let the order fall towards the end (default: when N < 10).
    """
    if order not in (1, 2, 3):
        raise ArgumentError(f"order of 'dpm-v3' is 1, 2 or 3, got {order!r}")
    of, n = _given(statistics, process), len(at) - 1
    lower = n < 10 if lower_final is None else lower_final
    table, values, base, reach = Table(kinds=("x0",)), list[Line](), Line(), 0
    for i, (s, t) in enumerate(pairwise(at)):
        now = prediction(table.k)
        finite = math.isfinite(s.lam)
        values.append(_rest(of, s, table.x) - now if finite else Line())
        revise = reach + pseudo_corrector if corrector and reach else 0
        while revise > 1 and not math.isfinite(at[i - revise + 1].lam):
            revise -= 1
        asks = True
        if revise > 1:
            # from the node before, through this one and older ones; f is kept
            back = [i - 1, i, *range(i - 2, i - revise, -1)]
            row = _step(of, base, [at[j] for j in back], [values[j] for j in back], s, pseudo_corrector)
            table.ask(s, row, s, i, inner=True)
            asks = False
        base = table.x
        reach = min(order, i + 1, n - i if lower else order) if finite and math.isfinite(t.lam) else 0
        while reach > 1 and not math.isfinite(at[i - reach + 1].lam):
            reach -= 1
        if reach:
            back = list(range(i, i - reach, -1))
            row = _step(of, base, [at[j] for j in back], [values[j] for j in back], t, pseudo)
        else:
            row = Step(s, t, "x0").first(base, _rest(of, s, base) - values[i] if finite else now)
        if asks:
            table.ask(s, row, t, i)
        else:
            table.move(row, t, i)
    return table
