"""A plan, one evaluation at a time: for loops that ask the network themselves, such as diffusers' pipelines.

The caller evaluates the network at `labels[i]` and hands over what it said; the rows up to the next evaluation then make the state for it.
What `solve.run` folds is computed here as it stands: predictions in the plan's kind are made once and kept as long as a later row reads them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from reverie.base import ArgumentError
from reverie.model import Target, as_target
from reverie.solve import Plan
from reverie.solve.line import Coef, Key
from reverie.solve.plan import Stage

__all__ = ["Stepper"]


class Stepper:
    """A static plan whose evaluations are made by somebody else.

    Args:
        plan: static, of one head, without inputs, rules, several nets or arguments of the network; it asks before it does anything else.
        target: what the network predicts. label: what the network is told at a time.

    Attributes:
        asks: the stages that ask. labels: what the network is told at each of them. steps: of the grid, the one that each belongs to.

    Raises `ArgumentError` for a plan that needs more than that.

    >>> import reverie as rv
    >>> o = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=rv.process.vp())
    >>> plan, x = rv.solve.plan("unipc-3", o.process, steps=5), torch.ones(1, 2, dtype=torch.float64)
    >>> stepper, y = Stepper(plan, as_target("x0"), lambda t: t), x
    >>> for i, t in enumerate(stepper.labels):
    ...     y = stepper.take(i, o(y, t).x0, y)[0]
    >>> bool((y - rv.run(plan, o, x)).abs().max() < 1e-12)
    True
    """

    def __init__(self, plan: Plan, target: Target, label: Callable[[float], float]) -> None:
        self.plan, self.target = plan, target
        table = plan.table
        if plan.rule is not None or len(plan.kinds) != 1 or plan.inputs:
            raise ArgumentError(
                f"{plan.solver!r} decides its stages during the run, or has inputs or several heads, so it cannot be a scheduler; "
                "rv.sample and rv.run take it"
            )
        if table[0].t is None or any(s.rule is not None or s.net is not None or s.args for s in table):
            raise ArgumentError(
                f"{plan.solver!r} changes the state before it asks, or has stages with rules, nets or arguments of their own, so it cannot be a "
                "scheduler; rv.sample and rv.run take it"
            )
        self.asks = [k for k, s in enumerate(table) if s.t is not None]
        self.times = [_time(table[k]) for k in self.asks]
        self.labels = [
            float(stage.label) if (stage := table[k]).label is not None else label(t)
            for k, t in zip(self.asks, self.times, strict=True)
        ]
        self.steps = [table[k].step for k in self.asks]
        last: dict[Key, int] = {}
        for k, s in enumerate(table):
            last |= dict.fromkeys(s.row.terms, k)
        self._last = last
        self._kept: dict[Key, Tensor] = {}
        self._maps: dict[tuple[str | None, str, float], tuple[float, float]] = {}

    def begins(self, i: int) -> bool:
        """Whether evaluation i and what follows read nothing from before it, so that a run may begin there."""
        first = self.asks[i]
        return all(
            key[0] not in "xpn" or key[1] >= first or (key[0] == "n" and not self._drawn_before(key, first))
            for s in self.plan.table[first:]
            for key in s.row.terms
        )

    def _drawn_before(self, key: Key, first: int) -> bool:
        return any(key in s.row.terms for s in self.plan.table[:first])

    def forget(self) -> None:
        """Begin anew."""
        self._kept = {}

    def take(
        self,
        i: int,
        raw: Tensor,
        x: Tensor,
        draw: Callable[[], Tensor] | None = None,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The state for the next evaluation, and what evaluation i says x0 is.

        Args:
            raw: what the network said at `labels[i]`, `(B, *shape)`. x: the state that it was shown, which may differ from the one that was made.
            draw: makes a standard normal tensor like x; needed where the plan draws noise. change: applied to x0 before anything uses it.

        Raises `ArgumentError` where an earlier evaluation is missing.
        """
        k, plan = self.asks[i], self.plan
        t = self.times[i]
        x0: Tensor | None = None
        if change is not None:
            x0 = change(self._as(self.target, "x0", t, x, raw))
            said = self._as(as_target("x0"), plan.kinds[0], t, x, x0)
        else:
            said = self._as(self.target, plan.kinds[0], t, x, raw)
        self._kept["x", k] = x
        self._kept["p", k, 0] = said
        end = self.asks[i + 1] if i + 1 < len(self.asks) else len(plan.table)
        for j in range(k, end):
            self._kept["x", j + 1] = self._row(j, draw)
            for key in [key for key in self._kept if self._last.get(key, -1) <= j and key != ("x", j + 1)]:
                del self._kept[key]
        made = self._kept["x", end]
        if x0 is None:
            x0 = said if plan.kinds[0] == "x0" else self._as(self.target, "x0", t, x, raw)
        return made, x0

    def _as(self, of: Target, kind: str, t: float, x: Tensor, raw: Tensor) -> Tensor:
        """A prediction as one of another kind."""
        if kind == of.name:
            return raw
        if (of.name, kind, t) not in self._maps:
            a = of.to(kind, self.plan.process, t)
            self._maps[of.name, kind, t] = float(a.x), float(a.raw)
        c_x, c_raw = self._maps[of.name, kind, t]
        return c_x * x + c_raw * raw if c_x else c_raw * raw

    def _row(self, k: int, draw: Callable[[], Tensor] | None) -> Tensor:
        made: Tensor | None = None
        for key, c in self.plan.table[k].row.terms.items():
            if key[0] == "n" and key not in self._kept:
                if draw is None:
                    raise ArgumentError(f"{self.plan.solver!r} draws noise, and nothing to draw it from was given")
                self._kept[key] = draw()
            if key[0] != "1" and key not in self._kept:
                raise ArgumentError(
                    f"stage {k} of {self.plan.solver!r} reads what an earlier evaluation made, which is missing: begin with the first one"
                )
            term = torch.ones_like(self._kept["x", k]) if key[0] == "1" else self._kept[key]
            made = _times(term, c) if made is None else made + _times(term, c)
        assert made is not None  # a plan's rows are not empty
        return made


def _time(stage: Stage) -> float:
    assert isinstance(stage.t, float | int)  # static plans
    return float(stage.t)


def _times(x: Tensor, c: Coef) -> Tensor:
    return x * (c.to(x) if isinstance(c, Tensor) else c)
