"""Gradients through a run in flat memory: by going back over the run itself, or by the adjoint of its differential equation.

    full          every operation of the run is kept: exact, memory grows with the steps
    checkpoint    states are kept and every evaluation is made again: exact, memory grows by a state a step, one more forward an evaluation
    reversible    the last states are kept, and the earlier ones found by the plan's own algebra (`Plan.inverse`): exact up to rounding, flat memory,
                  for plans that can be inverted (bdia)
    adjoint       the last state is kept, and the probability-flow ODE solved back together with its adjoint: any deterministic plan, flat memory,
                  and the gradient of the *equation*, from which that of the plan differs by the order of both

The adjoint. Where dy / dv = f(y, v), the gradient a = dL / dy obeys da / dv = -(df / dy)^T a, and that by a parameter q is the integral of
(df / dq)^T a over v, from the start to the end. Three forms of the same equation:

    eps    y = x / alpha,   v = sigma / alpha,   f = eps           the paper's: no linear part; v is infinite where alpha = 0
    x0     y = x / sigma,   v = alpha / sigma,   f = x0            its twin
    time   y = x,           v = t,               f = alpha' x0 + sigma' eps

Nodes are the plan's, upwards; a last step to sigma = 0 is DDIM's, and its gradient is taken as it stands. The method is Adams and Bashforth's on
uneven nodes, of order 1 at first. The forms without a linear part are stiff at an end: a falls as 1 / v, in eps at high noise, in x0 at low. On a
Gaussian the gradient of 20 steps is off by 1 % in the form time, by half in x0, and by a factor of 10 (order 2) to 10^7 (order 4) in eps; of 320
steps by 3e-5, 7e-3 and 1e-2. So the change of variables that the paper is named for does not pay here, and the plain form is the default.

Sources: Pan et al. 2023 (2307.10711) for the adjoint; Chen et al. 2018 (1806.07366); Zhang et al. 2023 (2307.10829) for a reversible plan.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, implements, unknown
from reverie.model import Model, Shared
from reverie.process import Process
from reverie.solve.context import Run
from reverie.solve.fold import affine
from reverie.solve.inverse import window
from reverie.solve.plan import Plan, Stage

__all__ = ["Adjoint", "through"]

FORMS = ("eps", "x0", "time")

Forward = Callable[[Tensor, Any], Tensor]
"""`(x, hook) -> x`, the run without gradients, seen by a hook."""


@implements("adjoint-dpm")
@dataclass(frozen=True)
class Adjoint:
    """How `run(..., grad=Adjoint(...))` solves the adjoint equation.

    Args:
        form: "time", "eps" or "x0", see above. order: of the Adams-Bashforth method, 1 to 5; with less than some 50 steps 2 is safer than 4.

    Raises `UnknownNameError` and `ArgumentError`.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Gaussian([0.0], [[0.5]], process=rv.process.vp())
    >>> plan, z = rv.solve.plan("dpmpp-2m", o.process, steps=40), torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    >>> exact, near = (torch.autograd.grad(rv.run(plan, o, z, grad=g).sum(), z)[0] for g in ("full", Adjoint()))
    >>> bool((near / exact - 1).abs() < 1e-2)
    True
    """

    form: str = "time"
    order: int = 2

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise unknown("form of the adjoint", self.form, FORMS)
        if isinstance(self.order, bool) or not isinstance(self.order, int) or not 1 <= self.order <= 5:
            raise ArgumentError(f"the order of the adjoint is a whole number from 1 to 5, got {self.order!r}")


def through(
    plan: Plan,
    model: Model,
    x: Tensor,
    cond: dict[str, Any],
    inputs: dict[str, Tensor],
    grad: str | Adjoint,
    forward: Forward,
) -> Tensor:
    """The final state `(B, *shape)` of a run, with its gradient by the mode "reversible" or "adjoint"; see `run`."""
    if not isinstance(model, Model):
        raise ArgumentError(
            f"grad={grad!r} is for one model; a plan that asks several has grad='full' and 'checkpoint'"
        )
    leaves = [*_tensors(cond.values()), *(v for v in inputs.values() if v.requires_grad)]
    if isinstance(grad, Adjoint) or grad == "adjoint":
        how = grad if isinstance(grad, Adjoint) else Adjoint()
        _check_ode(plan, how.form)
        back: _Back = _AdjointBack(plan, model, cond, inputs, how)
    else:
        back = _ReversibleBack(plan, model, cond, inputs, window(plan))
    leaves += _parameters(back, x, leaves)
    made: Tensor = _Through.apply(back, forward, x, *leaves)
    return made


class _Through(torch.autograd.Function):
    """The run as one operation of autograd."""

    @staticmethod
    def forward(ctx: Any, back: _Back, forward: Forward, x: Tensor, *leaves: Tensor) -> Tensor:
        kept = _Last(back.keeps, x, outer=back.outer)
        made = forward(x.detach(), kept).clone()
        ctx.back, ctx.count = back, len(kept.states)
        ctx.save_for_backward(*kept.states, *leaves)
        return made

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        saved = ctx.saved_tensors
        first, grads = ctx.back.run(saved[: ctx.count], g, saved[ctx.count :])
        return None, None, first, *grads


class _Last:
    """A hook that keeps the last states, of steps or of stages."""

    def __init__(self, count: int, x: Tensor, outer: bool) -> None:
        self.states: deque[Tensor] = deque([x.detach()], maxlen=count)
        self.outer = outer

    def after(self, ctx: Run) -> None:
        assert ctx.stage is not None
        if not (self.outer and ctx.stage.inner):
            self.states.append(ctx.x.detach())


@dataclass
class _Back:
    """What goes back over a run. `keeps`: how many states it needs; `outer`: whether those at nodes of the grid only."""

    plan: Plan
    model: Model
    cond: dict[str, Any]
    inputs: dict[str, Tensor]

    @property
    def keeps(self) -> int:
        return 1

    @property
    def outer(self) -> bool:
        return False

    def ask(self, x: Tensor, stage: Stage) -> tuple[Tensor, ...]:
        """The model's raw heads at a stage."""
        m, t = self.model, stage.t
        assert isinstance(t, float | int)
        told = float(m.label(t)) if stage.label is None else stage.label
        label = torch.full(
            (len(x),), told, device=x.device, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32
        )
        return m.raw(x, t, label, self.cond, stage.args, m.target.input_scale(m.process, t))

    def run(
        self, states: tuple[Tensor, ...], g: Tensor, leaves: tuple[Tensor, ...]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The gradients by the initial state and by the leaves."""
        raise NotImplementedError


@dataclass
class _ReversibleBack(_Back):
    w: int = 2

    @property
    def keeps(self) -> int:
        return self.w

    def run(
        self, states: tuple[Tensor, ...], g: Tensor, leaves: tuple[Tensor, ...]
    ) -> tuple[Tensor, list[Tensor | None]]:
        n, w, table = len(self.plan.table), self.w, self.plan.table
        x = dict(zip(range(n - len(states) + 1, n + 1), states, strict=True))
        said: dict[int, tuple[Tensor, tuple[Tensor, ...]]] = {}
        of_x, of_raw = {n: g}, dict[tuple[int, int], Tensor]()
        total: list[Tensor | None] = [None] * len(leaves)

        def answer(j: int) -> tuple[Tensor, ...]:
            if j not in said:
                with torch.enable_grad():
                    at = x[j].detach().requires_grad_()
                    said[j] = at, self.ask(at, table[j])
            return said[j][1]

        for k in range(n - 1, -1, -1):
            row = self._row(k)
            o = k - w + 1
            if o >= 0 and o not in x:
                rest = x[k + 1] - row.constant
                for name, c in row.inputs.items():
                    rest = rest - c * self.inputs[name]
                for j, c in row.states.items():
                    rest = rest if j == o else rest - c * x[j]
                for (j, head), c in row.raws.items():
                    rest = rest - c * answer(j)[head].detach()
                x[o] = rest / row.states[o]
            here = of_x.pop(k + 1)
            for j, c in row.states.items():
                of_x[j] = of_x[j] + c * here if j in of_x else c * here
            for key, c in row.raws.items():
                of_raw[key] = of_raw[key] + c * here if key in of_raw else c * here
            for name, c in row.inputs.items():
                _add(total, leaves, self.inputs[name], c * here)
            mine = {head: value for (j, head), value in of_raw.items() if j == k}
            if mine:
                outs = answer(k)
                at, _ = said.pop(k)
                found = torch.autograd.grad(
                    [outs[h] for h in mine], [at, *leaves], list(mine.values()), allow_unused=True
                )
                of_x[k] = of_x[k] + found[0] if k in of_x else found[0]
                for i, value in enumerate(found[1:]):
                    if value is not None:
                        held = total[i]
                        total[i] = value if held is None else held + value
                for head in mine:
                    del of_raw[k, head]
            del x[k + 1]
        return of_x[0], total

    def _row(self, k: int) -> _Row:
        return _row(self.plan, self.model, k)


@dataclass(frozen=True)
class _Row:
    """A row in terms of states and of what the network says: coefficients by index."""

    states: dict[int, float]
    raws: dict[tuple[int, int], float]
    inputs: dict[str, float]
    constant: float | Tensor


def _row(plan: Plan, model: Model, k: int) -> _Row:
    states, raws, inputs = dict[int, float](), dict[tuple[int, int], float](), dict[str, float]()
    constant: float | Tensor = 0.0
    for key, value in plan.table[k].row.terms.items():
        c: Any = value
        if key[0] == "x":
            states[key[1]] = states.get(key[1], 0.0) + c
        elif key[0] == "i":
            inputs[key[1]] = inputs.get(key[1], 0.0) + c
        elif key[0] == "1":
            constant = constant + c
        else:
            j, head = key[1], key[2]
            a: Any = affine(plan, j, head, plan.table[j], model)
            states[j] = states.get(j, 0.0) + c * float(a.x)
            raws[j, head] = raws.get((j, head), 0.0) + c * float(a.raw)
            if float(a.y):
                inputs["y"] = inputs.get("y", 0.0) + c * float(a.y)
    return _Row({j: c for j, c in states.items() if not isinstance(c, float) or c}, raws, inputs, constant)


@dataclass
class _AdjointBack(_Back):
    how: Adjoint = Adjoint()

    @property
    def keeps(self) -> int:
        return 2

    @property
    def outer(self) -> bool:
        return True

    def run(
        self, states: tuple[Tensor, ...], g: Tensor, leaves: tuple[Tensor, ...]
    ) -> tuple[Tensor, list[Tensor | None]]:
        p, nodes = self.plan.process, _nodes(self.plan)
        total: list[Tensor | None] = [None] * len(leaves)
        x, i = states[-1], len(nodes) - 1
        if float(p.sigma(nodes[i])) == 0:
            x, i = states[-2], i - 1
            alpha = float(p.alpha(nodes[-1]))
            _, g = self._vjp(x, nodes[i], lambda x0, eps: x0, alpha * g, leaves, total, 1.0)
        scales, v = zip(*(_coordinates(p, t, self.how.form) for t in nodes[: i + 1]), strict=True)
        steps = _adams(v, self.how.order)
        weight = [sum(s[j] for s in steps.values() if j in s) for j in range(i + 1)]
        y, a = x / scales[i], g * scales[i]
        f, back = dict[int, Tensor](), dict[int, Tensor]()
        for k in range(i, 0, -1):
            value, by_x = self._vjp(
                y * scales[k], nodes[k], _right(p, nodes[k], self.how.form), a, leaves, total, -weight[k]
            )
            f[k], back[k] = value, by_x * scales[k]
            y = y + sum(c * f[j] for j, c in steps[k].items())
            a = a - sum(c * back[j] for j, c in steps[k].items())
            for j in [j for j in f if j > k + self.how.order - 2]:
                del f[j], back[j]
        return a / scales[0], total

    def _vjp(
        self,
        x: Tensor,
        t: float,
        f: Callable[[Tensor, Tensor], Tensor],
        a: Tensor,
        leaves: tuple[Tensor, ...],
        total: list[Tensor | None],
        share: float,
    ) -> tuple[Tensor, Tensor]:
        """f at (x, t), and a^T df / dx; `share` times a^T df / dq is added to the leaves' totals."""
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            said = self.model.predict(at, t, self.ask(at, Stage(self.plan.table[0].row, t, t)))
            value = f(said.x0, said.eps)
        found = torch.autograd.grad(value, [at, *leaves], a, allow_unused=True)
        for i, part in enumerate(found[1:]):
            if part is not None:
                held = total[i]
                total[i] = share * part if held is None else held + share * part
        return value.detach(), found[0] if found[0] is not None else torch.zeros_like(x)


def _coordinates(p: Process, t: float, form: str) -> tuple[float, float]:
    """(x over y, v) at a time."""
    alpha, sigma = float(p.alpha(t)), float(p.sigma(t))
    if form == "eps" and alpha == 0:
        raise ArgumentError(
            f"the adjoint's form 'eps' has v = sigma / alpha, which is infinite at t = {t:g}, where {p} has no signal; take form='x0' or 'time'"
        )
    return {
        "eps": (alpha, sigma / alpha if alpha else 0.0),
        "x0": (sigma, alpha / sigma if sigma else 0.0),
        "time": (1.0, t),
    }[form]


def _right(p: Process, t: float, form: str) -> Callable[[Tensor, Tensor], Tensor]:
    """f(x0, eps)."""
    if form == "time":
        d_alpha, d_sigma = (_derivative(of, t) for of in (p.alpha, p.sigma))
        return lambda x0, eps: d_alpha * x0 + d_sigma * eps
    return (lambda x0, eps: eps) if form == "eps" else (lambda x0, eps: x0)


def _derivative(of: Callable[[Any], Any], t: float) -> float:
    at = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        value = of(at)
        found = torch.autograd.grad(value, at, allow_unused=True)[0] if value.requires_grad else None
    return 0.0 if found is None else float(found)


def _adams(v: tuple[float, ...], order: int) -> dict[int, dict[int, float]]:
    """By the number k of a node: the weights of f at nodes k, k + 1, ... in the step from v_k to v_{k-1}."""
    out = {}
    for k in range(len(v) - 1, 0, -1):
        used = range(k, min(k + order, len(v)))
        h = v[k - 1] - v[k]
        places = torch.tensor([(v[j] - v[k]) / h for j in used], dtype=torch.float64)
        powers = torch.arange(len(used), dtype=torch.float64)
        matrix = places[None, :] ** powers[:, None]
        out[k] = dict(zip(used, (h * torch.linalg.solve(matrix, 1 / (powers + 1))).tolist(), strict=True))
    return out


def _nodes(plan: Plan) -> list[float]:
    """The times of the grid, falling."""
    return [plan.start, *(s.to for s in plan.table if not s.inner)]


def _check_ode(plan: Plan, form: str) -> None:
    if plan.rule is not None or any(s.rule is not None for s in plan.table) or plan.noises or plan.inputs:
        raise ArgumentError(
            f"{plan.solver!r} draws noise, reads inputs or decides its steps during the run; the adjoint is of a deterministic plan. "
            "grad='checkpoint' takes any"
        )
    nodes = _nodes(plan)
    _coordinates(plan.process, nodes[0], form)
    if any(b >= a for a, b in pairwise(nodes)):
        raise ArgumentError(
            f"the times of {plan.solver!r} do not fall, as the adjoint's must; grad='checkpoint' takes any"
        )


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among conditions that want a gradient."""
    every = (v.value if isinstance(v, Shared) else v for v in values)
    return [v for v in every if isinstance(v, Tensor) and v.requires_grad]


def _add(total: list[Tensor | None], leaves: tuple[Tensor, ...], of: Tensor, value: Tensor) -> None:
    for i, leaf in enumerate(leaves):
        if leaf is of:
            held = total[i]
            total[i] = value if held is None else held + value


def _parameters(back: _Back, x: Tensor, given: list[Tensor]) -> list[Tensor]:
    """The leaves of the model's graph that want a gradient: weights, a guide's scale; found by one evaluation."""
    stage = next(s for s in back.plan.table if s.t is not None)
    with torch.enable_grad():
        outs = back.ask(x.detach(), stage)
    found: dict[int, Tensor] = {}
    known, seen = {id(v) for v in given}, set()
    todo = [out.grad_fn for out in outs if out.grad_fn is not None]
    stop = {v.grad_fn for v in given if v.grad_fn is not None}
    while todo:
        node: Any = todo.pop()
        if node is None or node in seen or node in stop:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            found[id(leaf)] = leaf
        todo += [parent for parent, _ in node.next_functions]
    return list(found.values())
