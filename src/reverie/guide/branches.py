"""Guides: model -> model, by branches.

A guide declares, for a time, which branches it needs ("base": the model under the given condition; "null": under the null condition; later
ones are perturbed networks or other networks) and how their raw outputs combine:

    current <- guide.combine(current, branches, ...),      current starts as "base".

`m | CFG(5) | PAG(3)` merges what both need into one batched evaluation and chains the combinations, each adding its own correction. Raw outputs
may be combined in any prediction type, because every type is affine in x0 at a fixed state and the weights of a correction add up to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from reverie.base import ArgumentError, ShapeError
from reverie.model import Cond, Model, merge

__all__ = ["Branches", "Guide", "Guided"]

Branches = Mapping[str, tuple[Tensor, ...]]
"""Raw heads by branch name, each `(B, *shape)`."""


class Guide(Protocol):
    """What a guide by branches offers."""

    @property
    def all_branches(self) -> tuple[str, ...]:
        """Names of the branches that some time needs, without "base"."""
        ...

    def needs(self, t: float | Tensor) -> tuple[str, ...]:
        """Those it combines at time t; empty where it does nothing."""
        ...

    def combine(
        self, current: Tensor, branches: Branches, x: Tensor, t: float | Tensor, model: Model, run: Any
    ) -> Tensor:
        """The new raw output, given the current one and all branches."""
        ...

    def __call__(self, model: Model) -> Model:
        """The guided model."""
        ...


class Guided(Model):
    """A model under guides by branches. It has the attributes of its base; `cost(t)` says how many forwards a call takes."""

    def __init__(self, base: Model, guides: tuple[Guide, ...]) -> None:
        self.__dict__.update(base.__dict__)
        self.base, self.guides = base, guides
        self.calls = self.forwards = 0
        self.name = " | ".join([base.name, *(repr(g) for g in guides)])

    def with_net(self, net: Callable[..., Any], dtype: torch.dtype | None = None) -> Guided:
        """The same guides on the base model around another network; see `Model.with_net`."""
        return Guided(self.base.with_net(net, dtype), self.guides)

    def branches(self, t: float | Tensor) -> tuple[str, ...]:
        """Names of the branches evaluated at time t."""
        return tuple(dict.fromkeys(("base", *(name for g in self.guides for name in g.needs(t)))))

    def cost(self, t: float | None = None) -> int:
        """Network forwards a sample at time t; None: the most that any time takes."""
        if t is None:
            return self.base.cost(None) * (1 + len({name for g in self.guides for name in g.all_branches}))
        return self.base.cost(t) * len(self.branches(t))

    def raw(
        self,
        x: Tensor,
        t: float | Tensor,
        label: Tensor,
        cond: Cond,
        args: Mapping[str, Any] | None = None,
        c_in: float | Tensor = 1.0,
        copies: int = 1,
        run: Any = None,
    ) -> tuple[Tensor, ...]:
        """All branches in one network call where their conditions can be merged, then the combinations in order."""
        names = self.branches(t)
        before = self.base.forwards
        out = self._evaluate(names, x, t, label, cond, args, c_in, copies, run)
        self.calls += 1
        self.forwards += self.base.forwards - before
        heads = out[names[0]]
        current = heads[0]
        for guide in self.guides:
            if guide.needs(t):
                current = guide.combine(current, out, x, t, self, run)
        return (current, *heads[1:])

    def _evaluate(
        self,
        names: tuple[str, ...],
        x: Tensor,
        t: float | Tensor,
        label: Tensor,
        cond: Cond,
        args: Mapping[str, Any] | None,
        c_in: float | Tensor,
        copies: int,
        run: Any,
    ) -> dict[str, tuple[Tensor, ...]]:
        conds = [self.condition(name, cond, x.shape[0]) for name in names]
        if len(names) == 1:
            return {names[0]: self.base.raw(x, t, label, conds[0], args, c_in, copies, run)}
        merged = merge(conds, x.shape[0])
        if merged is None:
            return {
                n: self.base.raw(x, t, label, c, args, c_in, copies, run) for n, c in zip(names, conds, strict=True)
            }
        k = len(names)
        wide = [_repeat(v, k, x.shape[0]) for v in (t, c_in)]
        heads = self.base.raw(
            torch.cat([x] * k), wide[0], _repeat(label, k, x.shape[0]), merged, args, wide[1], copies * k, run
        )
        parts = [h.chunk(k) for h in heads]
        return {n: tuple(p[i] for p in parts) for i, n in enumerate(names)}

    def condition(self, branch: str, cond: Cond, batch: int) -> Cond:
        """The condition of a branch: the given one, or for "null" the model's null condition in its place."""
        if branch != "null":
            return cond
        if self.base.null is None:
            raise ArgumentError(
                f"{self.base.name} has no null condition; give Model(..., null={{...}}) with the keys of cond"
            )
        if missing := set(self.base.null) - set(cond):
            raise ArgumentError(f"guidance compares a condition with the null condition; cond lacks {sorted(missing)}")
        return {k: _null_value(self.base.null[k], v, batch) if k in self.base.null else v for k, v in cond.items()}


def _repeat(value: Any, k: int, batch: int) -> Any:
    """A time, label or factor for k copies of the batch: repeated where it has one entry a sample."""
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == batch:
        return value.repeat(k, *[1] * (value.ndim - 1))
    return value


def _null_value(null: Any, given: Any, batch: int) -> Any:
    """The null value in the form of the given one: per sample where that is."""
    if not isinstance(given, Tensor):
        return null
    value = torch.as_tensor(null, device=given.device, dtype=given.dtype)
    if given.ndim == 0:
        return value
    lacking = given.ndim - value.ndim
    if lacking > 0:  # one null value for every sample, and for every entry where it has fewer dimensions
        value = value.expand(1, *given.shape[1:lacking], *value.shape)
    if value.shape[0] not in (1, batch):
        raise ShapeError(f"the null condition has {value.shape[0]} rows for a batch of {batch}; give one row")
    return value.expand(batch, *value.shape[1:])
