"""The ratios of DC-Solver for a model, found step by step.

Ten noises are followed to where the model's own fine solution goes. At step i, with the ratios before it fixed, r_i minimises

    mean |x_{i+1}(r_i) - x*(t_{i+1})|^2        over the ten and over coordinates, r_i in [0.3, 1.7],

x_{i+1} being the state at the next node after predictor and corrector (at the last node, and without a corrector, after the predictor), x* the fine
solution from the same noise. Later ratios have no part in it. A trial costs one evaluation. The mean square may have more than one minimum, so nine
ratios are tried first; between neighbours what misses the target is close to a parabola in r, coordinate by coordinate, so that two or three more
trials find the least. Nothing is differentiated.

Source: Zhao et al. 2024 (2409.03755, section 3.3), who take 40 steps of AdamW through the network instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from reverie.base import PRIOR, ArgumentError, Noise, NonFiniteError, implements
from reverie.base.checks import at_least
from reverie.model import Model, conditions, in_turn, select
from reverie.oracle import solve_ode
from reverie.process import Process
from reverie.solve.origin import origin
from reverie.solve.plan import Plan, Stage
from reverie.solve.run import run
from reverie.solve.sample import plan_for
from reverie.solve.solver import plan as compile_plan
from reverie.solve.tuning.cascade import BOUNDS, FIRST
from reverie.solve.tuning.common import state_shape

__all__ = ["compensate", "least"]

_STREAM = PRIOR + 0xDC  # of noise: no sample begins with a noise for which ratios were found
_TRIALS, _CLOSE = 15, 0.004


@implements("dc-solver")
@torch.no_grad()
def compensate(
    m: Model,
    steps: int,
    *,
    grid: str | Sequence[Any] | None = None,
    end: str | None = None,
    shape: Sequence[int] | None = None,
    cond: Mapping[str, Any] | None = None,
    samples: int = 10,
    seed: int = 0,
    batch: int = 64,
    reference: float | int = 200,
    tell: Callable[[str, float], None] = lambda what, share: None,
    **options: Any,
) -> Plan:
    """DC-Solver with the ratios that suit a model, its grid and its guidance.

    Args:
        m: the model, with its guide: `compensate(m | rv.guide.CFG(7.5), 6)`. steps: N, from 3 (before, there is nothing to compensate).
        grid, end, options (order, variant, corrector, lower_final): of the plan, as for `solve.plan`; the grid is even in time by default.
        shape: of one state; the model's by default. cond: conditions that samples take in turn: of a tensor with K rows sample i gets row
            i mod K; the rest is shared.
        samples: trajectories, 10 in the paper; on a trained network under strong guidance so few are overfitted. seed: of their noises, with which
            no sample of any seed begins. batch: rows of a call at most.
        reference: of the fine solution: a number of calls (200; of dpmpp-3m through the same nodes), or a tolerance of `solve_ode` (1e-4).
        tell: called with what is done and the share, in [0, 1], that is finished.

    Returns:
        A plan like any other. `plan.options["ratios"]` are N numbers; `plan.provenance` holds the model's name and fingerprint, each step's
        mean squares with ratio 1 and with the one found, those of the whole before (UniPC) and after, and the calls that each part took.

    Raises:
        ArgumentError: numbers out of range, options as for `solve.plan`. ShapeError: no shape. NonFiniteError: the model's answers are not finite.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Mixture(torch.tensor([[-1.0, 0.5], [1.0, 0.0]]), 0.5, labels=[0, 1], process=rv.process.vp())
    >>> plan = compensate(o | rv.guide.CFG(4.0), 5, cond={"class_labels": torch.tensor([0, 1])})
    >>> plan.nfe, len(plan.options["ratios"]), plan.provenance["after"] < plan.provenance["before"]
    (5, 5, True)
    """
    at_least(steps=(steps, 3), samples=(samples, 1), batch=(batch, 1))
    if "ratios" in options:
        raise ArgumentError("compensate finds the ratios; leave out ratios=")
    state = state_shape(m, shape)

    def compiled(ratios: Sequence[float]) -> Plan:
        own: dict[str, Any] = {"ratios": tuple(ratios)} if ratios else {}
        named = steps if grid is None or isinstance(grid, str) else None
        return plan_for(m, "dc-solver", steps=named, grid=grid, end=end, **own, **options)

    plain, began = compiled(()), m.calls
    if plain.steps != steps:
        raise ArgumentError(f"the grid has {plain.steps} steps, not {steps}")
    ends = {s.step: s.to for s in plain.table}  # the last stage of a step ends it
    times = (plain.start, *(ends[i] for i in range(steps)))
    z = m.process.draw(Noise(seed), state, range(samples), stage=0, stream=_STREAM, device=m.device)
    x = m.process.prior(z, plain.start).double()
    asked = _Asked(m, conditions(in_turn(cond, range(samples)), samples, m.null, m.device), samples, batch)
    tell("fine solutions", 0.0)
    targets = asked.fine(x, times, reference)
    spent, ratios, found = m.calls - began, [1.0] * steps, [(1.0, 0.0)] * steps
    states, said, plan = [x], dict[int, Tensor](), plain

    def tries(i: int) -> tuple[dict[float, float], dict[float, Any]]:
        """The mean squares of step i by its ratio, and the run so far with each."""
        first, made = len(states) - 1, dict[float, Any]()
        if plain.table[first].t is not None and first not in said:
            said[first] = asked(states[first], plain.table[first])

        def miss(r: float) -> Tensor:
            table = compiled([*ratios[:i], r, *ratios[i + 1 :]])
            made[r] = table, *asked.on(table, states, said, times[i + 1])
            return (made[r][1][-1] - targets[i]).flatten()

        return (least(miss) if i >= FIRST else {1.0: _square(miss(1.0))}), made

    for i in range(steps):
        losses, made = tries(i)
        if not math.isfinite(losses[1.0]):
            raise NonFiniteError(
                f"the model's answers are not finite at step {i}, which ends at t = {times[i + 1]:.6g}"
            )
        ratios[i] = min(losses, key=lambda r: (losses[r], abs(r - 1)))
        if losses[ratios[i]] >= (1 - 1e-6) * losses[1.0] or losses[1.0] <= 1e-24 * _square(targets[i]):
            ratios[i] = 1.0  # nothing is gained
        plan, states, said = made[ratios[i]]
        found[i] = losses[1.0], losses[ratios[i]]
        tell(f"step {i + 1}: ratio {ratios[i]:g}", (i + 1) / steps)
    searched = m.calls - began - spent
    whole, here = [x], dict[int, Tensor]()
    for t in times[1:]:
        whole, here = asked.on(plain, whole, here, t)
    provenance = {
        **origin(m), "samples": samples, "seed": seed, "reference": reference,
        "squares": [list(pair) for pair in found],
        "before": _square(whole[-1] - targets[-1]), "after": found[-1][1],
        "calls": {"reference": spent, "search": searched},
    }  # fmt: skip
    return plan.replace(provenance=provenance)


def least(
    miss: Callable[[float], Tensor], low: float = BOUNDS[0], high: float = BOUNDS[1], trials: int = _TRIALS
) -> dict[float, float]:
    """Trials of a number r and their mean squares: nine places from low to high, then around the best until it stays within 0.004.

    Around the best of all, the miss R(r) is taken for the parabola sum_j L_j(r) R_j through it and its neighbours, whose square needs only their
    inner products, L(r)^T G L(r); where that is least between them is tried next.

    Args:
        miss: r -> R(r), a vector; one that is not finite counts as infinitely bad. low, high: as far below 1 as above. trials: at most.

    >>> found = least(lambda r: torch.tensor([r * r - 0.7, 0.1 * r]))
    >>> min(found, key=found.get), len(found)
    (0.834, 10)
    """
    known: dict[float, Tensor] = {}
    losses: dict[float, float] = {}
    scan = [1.0] + [round(low + k * (high - low) / 8, 3) for k in range(9) if k != 4]
    for trial in range(trials):
        if trial < len(scan):
            r = scan[trial]
        elif len(known) < 3:
            break
        else:
            order = sorted(known)
            first = order.index(min(known, key=losses.__getitem__)) - 1
            near = order[max(0, min(first, len(order) - 3)) :][:3]
            grid = torch.arange(round(1000 * near[0]), round(1000 * near[2]) + 1, dtype=torch.float64) / 1000
            basis, rows = _lagrange(near, grid), torch.stack([known[other] for other in near])
            r = float(grid[((basis @ (rows @ rows.T)) * basis).sum(1).argmin()])
            if min(abs(r - other) for other in losses) < _CLOSE:
                break
        value = miss(r).double()
        losses[r] = _square(value)
        if math.isfinite(losses[r]):
            known[r] = value
        elif not known:
            break
    return losses


def _lagrange(places: Sequence[float], at: Tensor) -> Tensor:
    """The Lagrange polynomials of n places at points `(m,)`: `(m, n)`."""
    out = torch.ones(len(at), len(places), dtype=torch.float64)
    for j in range(len(places)):
        for k in range(len(places)):
            if k != j:
                out[:, j] *= (at - places[k]) / (places[j] - places[k])
    return out


def _square(miss: Tensor) -> float:
    value = float(miss.double().square().mean())
    return value if math.isfinite(value) else math.inf


class _Asked:
    """A model that is asked about all samples at once, in blocks of `batch` rows."""

    def __init__(self, m: Model, cond: dict[str, Any], n: int, batch: int) -> None:
        self.m, self.cond, self.n = m, cond, n
        self.blocks = torch.arange(n, device=m.device).split(batch)

    def _told(self, rows: Tensor) -> dict[str, Any]:
        return select(self.cond, rows, self.n) if self.n > 1 else self.cond

    def __call__(self, x: Tensor, stage: Stage) -> Tensor:
        """The x0-predictions at the states `(n, *shape)` at which a stage asks."""
        assert isinstance(stage.t, float)
        m, t = self.m, stage.t
        label = float(m.label(t)) if stage.label is None else stage.label
        out = []
        for rows in self.blocks:
            told = torch.full((len(rows),), label, dtype=torch.float64, device=x.device)
            raws = m.raw(x[rows], t, told, self._told(rows), c_in=m.target.input_scale(m.process, t))
            out.append(m.predict(x[rows], t, raws).x0)
        return torch.cat(out)

    def on(
        self, plan: Plan, states: Sequence[Tensor], said: Mapping[int, Tensor], until: float
    ) -> tuple[list[Tensor], dict[int, Tensor]]:
        """A run's states and predictions so far, and those of the stages that lead to a time."""
        states, said = list(states), dict(said)
        while len(states) <= len(plan.table) and plan.table[len(states) - 1].to == until:
            k = len(states) - 1
            stage = plan.table[k]
            if stage.t is not None and k not in said:
                said[k] = self(states[k], stage)
            parts = [c * (states[key[1]] if key[0] == "x" else said[key[1]]) for key, c in stage.row.terms.items()]
            states.append(torch.stack(parts).sum(0))
        return states, said

    def fine(self, x: Tensor, times: Sequence[float], reference: float | int) -> list[Tensor]:
        """The fine solutions from x at the times after the first."""
        if isinstance(reference, bool) or not isinstance(reference, int | float) or not 0 < reference < math.inf:
            raise ArgumentError(f"reference is a number of calls (200) or a tolerance (1e-4), got {reference!r}")
        parts = [
            self._solved(x[rows], times, reference, self._told(rows))
            if isinstance(reference, float)
            else self._planned(x[rows], times, reference, self._told(rows))
            for rows in self.blocks
        ]
        return [torch.cat(block).double() for block in zip(*parts, strict=True)]

    def _solved(self, x: Tensor, times: Sequence[float], rtol: float, told: dict[str, Any]) -> list[Tensor]:
        out, p = [], self.m.process
        for s, t in pairwise(times):
            x = solve_ode(self.m, x, s, max(t, p.t_min), cond=told, rtol=rtol)
            out.append(x if t >= p.t_min else self.m(x, p.t_min, **told).x0)
        return out

    def _planned(self, x: Tensor, times: Sequence[float], calls: int, told: dict[str, Any]) -> list[Tensor]:
        within, places = _between(self.m.process, times, max(1, round(calls / (len(times) - 1))))
        last, kept = run(compile_plan("dpmpp-3m", self.m.process, grid=within), self.m, x, cond=told, record=("x",))
        return [*(kept["x"][k] for k in places), last]


def _between(p: Process, times: Sequence[float], parts: int) -> tuple[list[float], list[int]]:
    """Times with each interval cut into equal parts, in lam where that is finite, and where the inner ones of `times` are among them."""
    out, places = [times[0]], []
    for s, t in pairwise(times):
        stop = max(t, p.t_min)
        ends = torch.tensor([p.lam(s), p.lam(stop)], dtype=torch.float64)
        share = torch.linspace(0, 1, parts + 1, dtype=torch.float64)[1:-1]
        inner = (
            p.t_of_lam(ends[0] + share * (ends[1] - ends[0])) if bool(ends.isfinite().all()) else s + share * (stop - s)
        )
        out += [*inner.tolist(), stop]
        places.append(len(out) - 1)
    return (out, places[:-1]) if times[-1] >= p.t_min else ([*out, times[-1]], places[:-1])
