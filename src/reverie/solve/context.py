"""The run context: what hooks, rules and stateful guides see of a run, and the row that makes the next state."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from reverie.base import PLAN, ArgumentError, Noise, ShapeError
from reverie.model import Model, Prediction, select
from reverie.process import Process
from reverie.process.process import fits
from reverie.solve.fold import FoldedStage
from reverie.solve.line import Key
from reverie.solve.plan import Plan, Stage

__all__ = ["Run", "seeded"]

_CHUNK = 1 << 22
"""Numbers of pre-drawn noise held at a time."""


@functools.lru_cache(maxsize=64)
def seeded(seed: int) -> Noise:
    """The noise of a seed, made once."""
    return Noise(seed)


class Run:
    """A run in progress.

    Attributes:
        plan, model: what runs. x: the current state `(B, *shape)`; a hook may set it in `start`, `before` and `after`.
        states, raws: past states and raw outputs by index; None where no later row needs them.
        stage, k: the current stage and its number. t: its time (of the evaluation, or of the state it makes).
        pred: the prediction of the current stage, from `predicted` to `after`; a hook on `predicted` may set it.
        index: sample ids `(B,)`, which key the noise. noise: where noise comes from. cond: prepared conditions.
        inputs: named tensors. rows: after `select`, which row of the initial batch each row comes from; None before.
        memory: a dict for whoever needs state in this run, keyed by its owner; tensors in it whose first dimension is the
            batch follow `select`.
        spent: calls of the model and network forwards a sample so far.
    """

    def __init__(self, plan: Plan, model: Model | Mapping[str, Model], x: Tensor) -> None:
        self.plan, self.model = plan, model
        self.states: list[Tensor | None] = [x]
        self.raws: list[tuple[Tensor, ...] | None] = []
        self.stage: Stage | None = None
        self.folded: FoldedStage | None = None
        self.serving: Model | None = None
        """The model that serves the current stage."""
        self.k = 0
        self._index: Tensor | None = None
        self.noise: Noise | Tensor | Callable[[int], Tensor] = seeded(0)
        self.cond: dict[str, Any] = {}
        self.inputs: dict[str, Tensor] = {}
        self.memory: dict[Any, Any] = {}
        self.spent = {"calls": 0, "forwards": 0}
        self._batch = x.shape[0]
        self.rows: Tensor | None = None
        self._drawn: dict[int, Tensor] = {}
        self._noises = 0
        self._pred: Prediction | None = None
        self.recompute = False
        """Whether evaluations are made again for the gradient."""
        self.made: dict[tuple[int, int], Tensor] = {}
        """Predictions in the plan's kind that the fold has made once, by (stage, head)."""

    @property
    def x(self) -> Tensor:
        """The current state, `(B, *shape)`."""
        x = self.states[-1]
        assert x is not None
        return x

    @x.setter
    def x(self, value: Tensor) -> None:
        if value.shape != self.x.shape:
            raise ShapeError(f"a hook set a state of shape {tuple(value.shape)} in place of {tuple(self.x.shape)}")
        self.states[-1] = value.to(self.x)
        self._pred = None

    @property
    def t(self) -> float | Tensor:
        """The time of this stage's evaluation, a tensor `(B, 1, ..., 1)` where each sample has its own; that of the state it makes if it has none."""
        assert self.stage is not None
        return self.stage.to if self.stage.t is None else self.stage.t

    @property
    def pred(self) -> Prediction:
        """The prediction of the current stage. Raises `ArgumentError` where there is none (yet)."""
        if self._pred is None:
            state = self.states[self.k]
            assert state is not None
            self._pred = self._serving().predict(state, self.t, self._raw(), self.inputs.get("y"))
        return self._pred

    @pred.setter
    def pred(self, value: Prediction) -> None:
        self.raws[self.k], self._pred = self._said(value), None

    def _raw(self) -> tuple[Tensor, ...]:
        raws = self.raws[self.k] if self.k < len(self.raws) else None
        if raws is None:
            raise ArgumentError(f"stage {self.k} has no prediction: it does not ask the model, or has not yet")
        return raws

    def _serving(self) -> Model:
        self._raw()
        assert self.serving is not None
        return self.serving

    def _said(self, pred: Prediction) -> tuple[Tensor, ...]:
        """The raw heads with which the model would have said `pred`, which may be of another type."""
        old, heads = self._raw(), iter(pred.heads)
        new = []
        for target, raw in zip(self._serving().targets, old, strict=True):
            said = pred.variance if target is None else head.as_(target) if (head := next(heads, None)) else None
            value = raw if said is None else said
            if value.shape != raw.shape:
                raise ShapeError(
                    f"a hook set a prediction of shape {tuple(value.shape)} in place of {tuple(raw.shape)}"
                )
            new.append(value.to(raw))
        return tuple(new)

    @property
    def index(self) -> Tensor:
        """Sample ids `(B,)`."""
        if self._index is None:
            self._index = torch.arange(self._batch)
        return self._index

    @index.setter
    def index(self, value: Tensor) -> None:
        self._index = value

    def draw(self, j: int) -> Tensor:
        """The j-th elementary noise of the plan, `(B, *shape)`: a function of seed, j and sample id alone."""
        if j not in self._drawn:
            x, noise = self.x, self.noise
            if isinstance(noise, Noise):
                self._drawn = self._block(noise, j)
            else:
                z = noise[j : j + 1].reshape(-1, *noise.shape[2:]) if isinstance(noise, Tensor) else noise(j)
                if z.shape != (self._batch, *x.shape[1:]):
                    given = (
                        f"tensor (draws, B, *shape) has {tuple(noise.shape)}"
                        if isinstance(noise, Tensor)
                        else f"function gave {tuple(z.shape)}"
                    )
                    raise ShapeError(f"noise {j} of shape {(self._batch, *x.shape[1:])} is needed; the given {given}")
                self._drawn = {j: z[: len(x)].to(x)}
        return self._drawn[j]

    def _block(self, noise: Noise, j: int) -> dict[int, Tensor]:
        """Draw j, and as many after it as the plan still needs and a chunk holds."""
        x, p = self.x, self.plan.process
        size = max(1, min(_CHUNK // max(1, x.numel()), self._noises - j))
        if type(p).draw is not Process.draw or size == 1:
            return {j: p.draw(noise, x.shape[1:], self.index, stage=j, stream=PLAN, device=x.device, dtype=x.dtype)}
        stages = range(j, j + size)
        block = noise.normals(x.shape[1:], self.index, stages, stream=PLAN, device=x.device, dtype=x.dtype)
        return dict(enumerate(block, j))

    def step(self, pred: Prediction) -> Tensor:
        """What the current row would make if the model had said `pred`; the run itself is unchanged."""
        said, old, cached, made = self._said(pred), self._raw(), self._pred, dict(self.made)
        self.raws[self.k] = said
        try:
            return self.row()
        finally:
            self.raws[self.k], self._pred, self.made = old, cached, made

    def row(self) -> Tensor:
        """The next state by the current row: one multiply-add a term."""
        f, states, raws = self.folded, self.states, self.raws
        assert f is not None
        if f.keep is not None:
            return states[f.keep]  # type: ignore[return-value]
        acc: Tensor | None = None
        for j, c in f.states:
            acc = self._times(states[j], c) if acc is None else acc.add_(states[j], alpha=c)  # type: ignore[arg-type]
        for j, h, c in f.raws:
            acc = self._times(raws[j][h], c) if acc is None else acc.add_(raws[j][h], alpha=c)  # type: ignore[index]
        if f.simple:
            return acc  # type: ignore[return-value]
        if f.makes:
            self._make(f)
        for j, h, c in f.made:
            value = self.made[j, h]
            acc = self._times(value, c) if acc is None else acc.add_(value, alpha=c)
        for j, c in f.noises:
            acc = self._times(self.draw(j), c) if acc is None else acc.add_(self.draw(j), alpha=c)
        for name, c in f.inputs:
            acc = self._times(self.inputs[name], c) if acc is None else acc.add_(self.inputs[name], alpha=c)
        for key, wide in f.wide:
            term = self._symbol(key) * self._coefficient(wide)
            acc = term if acc is None else acc + term
        if f.constant:
            acc = torch.full_like(self.x, f.constant) if acc is None else acc.add_(f.constant)
        return torch.zeros_like(self.x) if acc is None else acc

    def _make(self, f: FoldedStage) -> None:
        """The predictions P state + R raw of the current stage that later rows read."""
        k, raws = self.k, self.raws[self.k]
        for h, p, r in f.makes:
            self.made[k, h] = self._times(self.states[k], p).add_(raws[h], alpha=r)  # type: ignore[index, arg-type]

    def _times(self, x: Tensor, c: float) -> Tensor:
        """c x; a product with a tensor made once takes half the time of one with a number."""
        leads = self.folded.leads  # type: ignore[union-attr]
        lead = leads.get((x.dtype, c))
        if lead is None:
            with torch.inference_mode(False):  # the plan keeps it, and a later run may want gradients
                lead = leads[x.dtype, c] = torch.tensor(c, dtype=x.dtype)
        return torch.mul(x, lead)

    def _symbol(self, key: Key) -> Tensor:
        match key:
            case ("x", j):
                return self.states[j]  # type: ignore[return-value]
            case ("p", j, head):
                return self.raws[j][head]  # type: ignore[index]
            case ("n", j):
                return self.draw(j)
            case ("1",):
                return torch.ones_like(self.x)
        return self.inputs[key[1]]

    def _coefficient(self, c: Tensor) -> Tensor:
        """A tensor coefficient beside the state; one with a batch axis follows `select`."""
        x = self.x
        c = c.to(x)
        if c.ndim == x.ndim and c.shape[0] == self._batch and self.rows is not None:
            c = c[self.rows.to(c.device)]
        if not fits(c.shape, x.shape):
            raise ShapeError(
                f"stage {self.k} has coefficients of shape {tuple(c.shape)} for a state of shape {tuple(x.shape)}"
            )
        return c

    def select(self, rows: Tensor) -> None:
        """Keep, drop or repeat samples: states, raw outputs, memory, conditions and inputs are reindexed together.

        Args:
            rows: `(B',)` positions in the batch. Noise stays with the slot, so copies diverge; with B' < B the first
                slots remain.

        Raises `ArgumentError` for rows outside the batch or more rows than slots.
        """
        batch = len(self.x)
        rows = torch.as_tensor(rows, device=self.x.device)
        whole = rows.ndim == 1 and not rows.is_floating_point() and rows.dtype != torch.bool
        if not whole or not 1 <= len(rows) <= batch or int(rows.min()) < 0 or int(rows.max()) >= batch:
            raise ArgumentError(f"rows must be 1 to {batch} positions in 0 .. {batch - 1}, got {rows.tolist()!r:.200}")
        self.states = [None if s is None else s[rows] for s in self.states]
        self.raws = [None if r is None else tuple(h[rows] for h in r) for r in self.raws]
        self.made = {key: v[rows] for key, v in self.made.items()}
        self.cond = select(self.cond, rows, batch)
        self.inputs = select(self.inputs, rows, batch)
        self.memory = {owner: _reindex(value, rows, batch) for owner, value in self.memory.items()}
        self.rows = rows if self.rows is None else self.rows[rows]
        self._pred = None
        if len(rows) != batch:
            self.index, self._drawn = self.index[: len(rows)], {}


def _reindex(value: Any, rows: Tensor, batch: int) -> Any:
    if isinstance(value, Tensor):
        return value[rows] if value.ndim and len(value) == batch else value
    if isinstance(value, dict):
        return {k: _reindex(v, rows, batch) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_reindex(v, rows, batch) for v in value)
    return value
