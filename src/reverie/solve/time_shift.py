"""Time shift: the network is told the time whose noise its state has.

During sampling a state is not distributed as the network saw states at the scheduled time t. Near pure noise the variance of its entries tells its
true noise level. Before an evaluation at t (not the first, and above a cutoff) the time

    k = argmin over |k - t| <= window / 2 of (v - sigma_k^2)^2,      v the unbiased variance of all entries of one sample,

is found for every sample, and the model is asked at k. The schedule itself does not move, so shifts do not add up. On processes of labels k is a
whole number of labels away from t, elsewhere one of 129 even times.

    mode "both"    the source's coefficients are those of k too: x0 = (x - sigma_k e) / alpha_k. Then the state goes to time t along its own
                   prediction, x <- alpha_t x0 + sigma_t e, and the solver's row is used as it stands. For DDIM that is the paper's step.
    mode "label"   only what the network is told changes; its answer is read as if given at t.

v also holds the data's variance within a sample, E[v] = sigma^2 + alpha^2 var: hence a shift towards noise, by var / beta_k labels (beta_k the
variance that label k adds), and the cutoff. `data` is that variance, if known, and takes it out. v itself scatters: k has a standard deviation of
about

    sigma_k^2 sqrt(2 / (d - 1)) / (alpha_k^2 beta_k)      labels, d the entries of a sample,

at d = 3072 some 6 labels at label 300 of DDPM's linear schedule, 19 at 450. With few entries k is a coin flip between the window's edges.

Source: Li et al. 2024 (2305.15583, algorithm 2). Its three released programs differ in what they shift; "label" is that for DEIS.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reverie.base import ArgumentError, ShapeError, implements, unknown
from reverie.model import as_target
from reverie.process import DDPM, Process
from reverie.solve.line import Line, prediction, state
from reverie.solve.plan import Plan, Stage, dynamic, serving

if TYPE_CHECKING:
    from reverie.solve.context import Run

__all__ = ["fitted_time", "state_variance", "time_shift"]

MODES = ("both", "label")
_PARTS = 64


def state_variance(x: Tensor) -> Tensor:
    """The unbiased variance of all entries of each sample, mean removed: `(B,)`, float64. Raises `ShapeError` for samples of one entry.

    >>> state_variance(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 6.0]])).tolist()
    [1.0, 12.0]
    """
    if x.ndim < 2 or x[0].numel() < 2:
        raise ShapeError(f"a variance needs samples of at least 2 entries, got states of shape {tuple(x.shape)}")
    return x.detach().double().flatten(1).var(1)


def fitted_time(p: Process, v: Tensor, t: float, window: float, data: float = 0.0) -> Tensor:
    """The times nearest to t in noise variance, `(B,)`, float64 on the CPU.

    Args:
        p: the process. v: `(B,)`, the states' variances. t: the scheduled time.
        window: width of the search, in the process's time (labels on ddpm); half of it lies on either side, inside t_min and t_max.
        data: variance of the data within a sample.

    >>> import reverie as rv
    >>> p = rv.process.vp()
    >>> fitted_time(p, torch.tensor([p.sigma(0.5) ** 2, 9.0]), 0.48, 0.08).tolist()
    [0.5, 0.52]
    """
    if isinstance(p, DDPM):
        parts = math.floor(window / 2)
        away = torch.arange(-parts, parts + 1, dtype=torch.float64)
    else:
        away = torch.arange(-_PARTS, _PARTS + 1, dtype=torch.float64) * (window / 2 / _PARTS)
    times = (t + away).clamp(p.t_min, p.t_max)
    variances = p.sigma(times) ** 2 + data * p.alpha(times) ** 2
    return times[(v.double().cpu()[:, None] - variances).square().argmin(1)]


@implements("time-shift-sampler")
def time_shift(plan: Plan, window: float, cutoff: float, mode: str = "both", data: float = 0.0) -> Plan:
    """The plan with its model asked, for every sample, at the time whose noise variance the state has; itself where nothing is searched.

    Args:
        plan: static, of one head, with states of many entries (pixels, thousands).
        window: >= 0, in the process's time (labels on ddpm); 0 is the plan itself, 2 to 80 labels in the paper, wider for fewer steps.
        cutoff: evaluations at this time and below it are not shifted; 200 to 900 of 1000 labels in the paper.
        mode: "both" (default; the paper's algorithm) or "label". data: >= 0, the variance of the data within a sample; the paper has 0.

    Raises:
        ArgumentError: a plan that decides its steps, has several heads, labels of its own, or a process with a degraded input; numbers out of range.

    >>> import reverie as rv
    >>> shifted = time_shift(rv.solve.plan("ddim", rv.process.vp(), steps=10), window=0.04, cutoff=0.3)
    >>> shifted.nfe
    10
    """
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    for name, value in (("window", window), ("data", data)):
        if not 0 <= value < math.inf:
            raise ArgumentError(f"{name} must be finite and at least 0, got {value!r}")
    if not math.isfinite(cutoff):
        raise ArgumentError(f"cutoff must be a time of {plan.process}, got {cutoff!r}")
    if plan.rule is not None or len(plan.kinds) != 1:
        raise ArgumentError(
            f"{plan.solver!r} decides its steps during the run, or has several heads; a static plan of one head can be shifted"
        )
    if any(s.label is not None for s in plan.table):
        raise ArgumentError(
            f"the grid of this {plan.solver!r} plan has labels of its own; give the grid by name or by times"
        )
    if float(plan.process.gamma(plan.process.t_max)) != 0:
        raise ArgumentError(
            f"{plan.process} mixes a degraded input into its states; their variance says nothing about the noise"
        )
    searched = window >= 2 if isinstance(plan.process, DDPM) else window > 0
    if not searched or not any(isinstance(s.t, float | int) and s.t > cutoff for s in plan.table[1:]):
        return plan
    rule = {"window": float(window), "cutoff": float(cutoff), "mode": mode, "data": float(data)}
    return plan.replace(
        rule=("time-shift", rule), bound=plan.nfe, papers=tuple(dict.fromkeys((*plan.papers, "time-shift-sampler")))
    )


@dynamic("time-shift")
def stages(run: Run, plan: Plan, *, window: float, cutoff: float, mode: str, data: float) -> Iterator[Stage]:
    """The plan's stages, asked at shifted times; see the module."""
    p, instead = plan.process, dict[tuple[str, int], Line]()
    shape = (len(run.x), *[1] * (run.x.ndim - 1))
    for k, stage in enumerate(plan.table):
        asked: float | Tensor | None = stage.t
        if k and isinstance(stage.t, float | int) and stage.t > cutoff:
            told = fitted_time(p, state_variance(run.x), stage.t, window, data).reshape(shape)
            if bool((told != stage.t).any()):
                asked = told
                if mode == "both":
                    instead["x", k] = _carried(plan, k, told)
                else:
                    instead["p", k] = _reread(run, plan, k, told)
        row = Line()
        for key, c in stage.row.terms.items():
            row = row + instead.get(key[:2], Line({key: 1.0})) * c
        yield dataclasses.replace(stage, t=asked, row=row if instead else stage.row)
        if run.rows is not None:
            raise ArgumentError(
                "a time-shifted plan cannot follow a hook that selects samples; take the plan without time_shift"
            )


def _carried(plan: Plan, k: int, told: Tensor) -> Line:
    """State k, asked at the times `told`, brought to its scheduled time along its own prediction: alpha x0 + sigma eps."""
    p, own, t = plan.process, as_target(plan.kinds[0]), plan.table[k].t
    assert t is not None
    assert not isinstance(t, Tensor)
    alpha, sigma = p.alpha(t), p.sigma(t)
    x0, eps = own.to("x0", p, told), own.to("eps", p, told)
    same = told == t
    x = torch.where(same, 1.0, alpha * x0.x + sigma * eps.x)
    raw = torch.where(same, 0.0, alpha * x0.raw + sigma * eps.raw)
    return x * state(k) + raw * prediction(k)


def _reread(run: Run, plan: Plan, k: int, told: Tensor) -> Line:
    """Prediction k, the answer given at the times `told`, read as one at the scheduled time."""
    stage, p, kind = plan.table[k], plan.process, plan.kinds[0]
    assert stage.t is not None
    assert not isinstance(stage.t, Tensor)
    target = next(t for t in serving(run.model, stage.net).targets if t is not None)
    there, here = target.to(kind, p, told), target.to(kind, p, stage.t)
    factor = here.raw / there.raw
    return factor * prediction(k) + (here.x - factor * there.x) * state(k)
