"""The gradient of a run whose plan can be inverted: its states are found again from the last ones, and every row is gone back over.

Row k, x_{k+1} = sum_j a_j x_j + sum_j b_j raw_j + ..., hands the gradient g by x_{k+1} on,

    by x_j  += a_j g,        by raw_j  += b_j g,        by x_k  += (d raw_k / d x_k)^T (by raw_k)  once no row above reads raw_k any more,

after x_o, the oldest state of the row, has been solved for (`solve.inverse`). One evaluation and one product with its Jacobian a stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.model import Model
from reverie.solve.backward import Back
from reverie.solve.fold import affine
from reverie.solve.plan import Plan

__all__ = ["Reversible"]


@dataclass
class Reversible(Back):
    """Args: w: how many last states are kept, see `inverse.window`. spots: where among the leaves the inputs are that want a gradient."""

    w: int
    spots: dict[str, int]

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
            row = _row(self.plan, self.model, k)
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
                if name in self.spots:
                    held = total[self.spots[name]]
                    total[self.spots[name]] = c * here if held is None else held + c * here
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
