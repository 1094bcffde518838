"""Gradients through a run: how far each mode is from full backpropagation, the memory at its peak, and its time.

The gradient is of a sum of squares of the last state, by the initial noise. Memory is the most that tensors hold at once between the call and the end
of the backward pass, less what they held before; time is the median of repetitions, over that of "full" with as many steps, measured in turn.

    python benchmarks/gradients.py [--settings mixture digits] [--steps 5 10 20 50 100] [--record]
"""

from __future__ import annotations

import argparse
import json
import time
import weakref
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import reverie as rv
from reverie.solve import Adjoint

RECORD = Path(__file__).with_suffix(".json")
MODES = {
    "full": ("bdia", "full"),
    "checkpoint": ("bdia", "checkpoint"),
    "reversible": ("bdia", "reversible"),
    "adjoint, time, order 2": ("bdia", Adjoint("time", 2)),
    "adjoint, time, order 4": ("bdia", Adjoint("time", 4)),
    "adjoint, x0, order 4": ("bdia", Adjoint("x0", 4)),
    "adjoint, eps, order 1": ("bdia", Adjoint("eps", 1)),
    "adjoint, eps, order 4": ("bdia", Adjoint("eps", 4)),
}


class Peak(TorchDispatchMode):
    """Bytes that tensors made inside hold, and the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self.seen:
                    self.seen.add(key)
                    self.now += size
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self._freed, key, size)
        return out

    def _freed(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def problem(setting: str) -> tuple[rv.Model, Tensor, dict[str, Any], Tensor]:
    """Model, noise, conditions, and what the last state is weighed with."""
    if setting == "mixture":
        means = 2 * torch.randn(10, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        m: rv.Model = rv.oracle.Mixture(means, 1.0, process=rv.process.vp())
        z = m.process.prior(rv.Noise(0).normal((64,), range(64), dtype=torch.float64))
        return m, z, {}, means[0]
    m = rv.load("digits")
    z = m.process.prior(rv.Noise(0).normal((1, 8, 8), range(64)))
    return m, z, {"class_labels": torch.arange(64) % 10}, rv.data.digits("heldout")[0][0]


def measure(setting: str, steps: list[int], repeat: int) -> dict[str, Any]:
    """By mode and number of steps: error, bytes, and time over that of full backpropagation."""
    m, z, cond, target = problem(setting)
    out: dict[str, Any] = {name: {} for name in MODES}
    for n in steps:
        exact, times = None, {name: list[float]() for name in MODES}
        for turn in range(repeat + 1):
            for name, (solver, grad) in MODES.items():
                plan = rv.solve.plan(solver, m.process, steps=n)
                leaf = z.clone().requires_grad_()
                peak = Peak()
                began = time.perf_counter()
                if turn == 0:  # memory, and what is made once
                    with peak:
                        loss = (rv.run(plan, m, leaf, cond=cond, grad=grad) - target).square().sum()
                        (g,) = torch.autograd.grad(loss, leaf)
                    exact = g if exact is None else exact
                    gaps = (g - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
                    out[name][str(n)] = {"error": float(gaps.median()), "bytes": peak.most}
                    continue
                loss = (rv.run(plan, m, leaf, cond=cond, grad=grad) - target).square().sum()
                torch.autograd.grad(loss, leaf)
                times[name].append(time.perf_counter() - began)
        for name in MODES:
            ratios = [a / b for a, b in zip(times[name], times["full"], strict=True)]
            out[name][str(n)]["time"] = median(ratios)
            said = out[name][str(n)]
            print(
                f"{setting:8} {n:4} {name:24} error {said['error']:.1e}  {said['bytes'] / 1e6:8.2f} MB  time {said['time']:.2f}",
                flush=True,
            )
    return out


def main() -> None:
    """Print the table, and record it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--settings", nargs="*", default=["mixture", "digits"])
    parser.add_argument("--steps", type=int, nargs="*", default=[5, 10, 20, 50, 100])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--record", action="store_true")
    asked = parser.parse_args()
    found = {setting: measure(setting, asked.steps, asked.repeat) for setting in asked.settings}
    if asked.record:
        RECORD.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
