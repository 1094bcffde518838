"""A whole trajectory as one CUDA graph.

On a GPU a small network is held up by the launching of its kernels. A captured run launches one graph: labels, coefficients and conditions lie
on the device beforehand, the initial state and the noises are copied into fixed buffers, and the finite check is read once, after the graph. The
arithmetic is that of `run`, kernel by kernel, so the bits are the same.

What cannot be captured: hooks, dynamic plans, gradients, and networks that synchronise (`.item()`, shapes that depend on data).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, Noise, ShapeError
from reverie.model import Model, conditions
from reverie.solve.context import Run
from reverie.solve.plan import Plan
from reverie.solve.run import handlers_of, run, stages, static_jobs

__all__ = ["Captured", "capture"]


def _cuda_graph(work: Callable[[], None]) -> Callable[[], None]:
    """Run `work` three times aside, so that libraries and the allocator settle, then record it; returns what replays it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


class Captured:
    """A recorded run of one plan on one model at one batch size; call it as often as wanted. Made by `capture`."""

    def __init__(
        self,
        plan: Plan,
        model: Model,
        x: Tensor,
        cond: Mapping[str, Any] | None,
        inputs: Mapping[str, Tensor] | None,
        graph: Callable[[Callable[[], None]], Callable[[], None]],
    ) -> None:
        self.plan, self.model = plan, model
        self.x = x.clone()
        self.cond = {k: v.clone() if isinstance(v, Tensor) else v for k, v in _told(cond, model, x).items()}
        self.inputs = {k: v.to(x).expand(x.shape).clone() for k, v in (inputs or {}).items()}
        self.noise = torch.zeros(plan.noises, *x.shape, dtype=x.dtype, device=x.device)
        first = self._context()
        self._jobs = [
            (dataclasses.replace(f, wide=tuple((key, c.to(x)) for key, c in f.wide)), m, label)
            for f, m, label in static_jobs(first)[0]
        ]
        self._silent, calls, forwards = handlers_of(()), model.calls, model.forwards
        self._spent = (plan.nfe or 0, plan.cost(model) or 0)
        self._replay = graph(self._work)
        model.calls, model.forwards = calls, forwards  # the recording itself is no use of the network

    def _context(self) -> Run:
        ctx = Run(self.plan, self.model, self.x)
        ctx.cond, ctx.inputs, ctx.noise, ctx._noises = self.cond, self.inputs, self.noise, len(self.noise)
        return ctx

    def _work(self) -> None:
        with torch.no_grad():
            ctx = self._context()
            sums = stages(ctx, self._jobs, len(self._jobs), self._silent, {}, False, False)
            self._out = ctx.x
            self._finite = torch.cat(sums).isfinite().all()

    def __call__(
        self,
        x: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        noise: int | Noise | Tensor = 0,
        index: Sequence[int] | Tensor | None = None,
        inputs: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Run from x; arguments as for `run`, of the shapes that were captured. Raises as `run`, and `ShapeError` for other shapes."""
        _same("the state", x, self.x)
        self.x.copy_(x)
        for what, given, kept in (
            ("cond", {} if cond is None else _told(cond, self.model, self.x), self.cond),
            ("inputs", {k: v.to(self.x).expand(self.x.shape) for k, v in (inputs or {}).items()}, self.inputs),
        ):
            if set(given) != set(kept):  # none given, too: what is in the buffers is the last call's
                raise ArgumentError(
                    f"{what} {sorted(given)} was given, {sorted(kept)} captured; give these, or capture the run again"
                )
            for key, value in given.items():
                if isinstance(value, Tensor):
                    _same(f"{what}[{key!r}]", value, kept[key])
                    kept[key].copy_(value)
                elif value != kept[key]:
                    raise ArgumentError(
                        f"{what}[{key!r}] = {value!r} was captured as {kept[key]!r}; capture the run again"
                    )
        drawn = self._context()
        drawn.noise = Noise(noise) if isinstance(noise, int) else noise
        if index is not None:
            drawn.index = torch.as_tensor(index).cpu()
        for j in range(len(self.noise)):
            self.noise[j] = drawn.draw(j)
        self._replay()
        self.model.calls += self._spent[0]
        self.model.forwards += self._spent[1]
        if not bool(self._finite):
            run(self.plan, self.model, self.x, cond=self.cond, noise=self.noise, index=drawn.index, inputs=self.inputs)
        return self._out.clone()


def capture(
    plan: Plan,
    model: Model,
    x: Tensor,
    *,
    cond: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Tensor] | None = None,
) -> Captured:
    """Record a run as one CUDA graph: `captured(x, cond=..., noise=...)` then gives what `run` gives, with one launch.

    Args:
        plan: static, without hooks. model: on a CUDA device; guided models too. x: an example state `(B, *shape)` there.
        cond, inputs: examples of what the run is given; later calls may give other tensors of the same shapes.

    Returns:
        A `Captured`: memory for the whole run stays allocated as long as it lives.

    Raises:
        ArgumentError: a dynamic plan, or a state that is not on a CUDA device. RuntimeError (from torch): a network that cannot be captured.

    Source: https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """
    if plan.rule is not None:
        raise ArgumentError(f"{plan.solver!r} decides its stages during the run; only a static plan can be captured")
    if x.dtype not in (torch.float32, torch.float64):
        raise ArgumentError(f"states are float32 or float64, got {x.dtype}")
    if x.device.type != "cuda":
        raise ArgumentError(
            f"a CUDA graph needs the state and the model on a CUDA device, got {x.device}; use run there"
        )
    return Captured(plan, model, x, cond, inputs, _cuda_graph)


def _told(cond: Mapping[str, Any] | None, model: Model, x: Tensor) -> dict[str, Any]:
    return conditions(cond, len(x), model.null, x.device)


def _same(what: str, given: Tensor, kept: Tensor) -> None:
    if given.shape != kept.shape:
        raise ShapeError(f"{what} has shape {tuple(given.shape)}; {tuple(kept.shape)} was captured")
