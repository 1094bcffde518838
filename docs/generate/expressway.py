"""The transport expressway: where optimal transport takes noise, and the few steps that are left from there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import reverie as rv
from generate.plot import BLUE, GREY, INK, NAVY, RED, bare, framed, legend, titled

__all__ = ["MARK", "expressway"]

MARK = "<!-- expressway -->"
"""Where a page has the figure."""
_SHOWN, _SPAN = 60, 0.35


class _Path:
    """Keeps the states of a run; put after the start."""

    def __init__(self) -> None:
        self.x: list[Tensor] = []

    def start(self, ctx: rv.solve.Run) -> None:
        self.x.append(ctx.x.clone())

    def after(self, ctx: rv.solve.Run) -> None:
        self.x.append(ctx.x.clone())


def expressway() -> str:
    """The figure as HTML."""
    said = "Six steps of DDIM from noise leave samples between the modes; a map carries noise to noised data, from where six steps end in them."
    return framed(_draw(), "expressway", said)


def _draw() -> Any:
    from matplotlib.figure import Figure

    angle = torch.arange(6) * torch.pi / 3
    modes = 3 * torch.stack([angle.cos(), angle.sin()], 1)
    o = rv.oracle.Mixture(modes, 0.12, process=rv.process.vp())
    noise = rv.Noise(0).normal((2,), range(_SHOWN))
    figure = Figure(figsize=(8.4, 4.3), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    path = _Path()
    rv.run(rv.solve.plan("ddim", o.process, steps=6), o, noise, hooks=path)
    _paths(left, path.x, GREY)
    titled(left, "six steps from noise (ddim)")
    plan = rv.solve.plan("dpmpp-2m-sde", o.process, steps=6, span=(_SPAN, 0.0))
    start, path = rv.solve.TransportStart.fit(o.sample(60, seed=2), plan), _Path()
    rv.run(plan, o, o.process.prior(noise, plan.start), hooks=[start, path])
    for z, y in zip(noise.tolist(), path.x[0].tolist(), strict=True):
        right.plot(*zip(z, y, strict=True), color=BLUE, lw=0.7, alpha=0.45)
    _paths(right, path.x, NAVY)
    right.plot([], [], color=BLUE, lw=1.2, label="transport")
    right.plot([], [], color=NAVY, lw=1.2, label="six steps from there")
    titled(right, "optimal transport, then six steps")
    for axes in (left, right):
        axes.scatter(*noise.mT.tolist(), s=6, color=GREY, lw=0)
        for mode in modes.tolist():
            axes.add_patch(_circle(mode))
        bare(axes)
    legend(figure, loc="outside lower right", handles=right.get_lines()[-2:], ncols=2)
    return figure


def _paths(axes: Any, states: list[Tensor], colour: str) -> None:
    for path in torch.stack(states, 1):
        axes.plot(*path.mT.tolist(), color=colour, lw=0.8, alpha=0.5)
    axes.scatter(*states[-1].mT.tolist(), s=9, color=RED, lw=0, zorder=3)


def _circle(mode: list[float]) -> Any:
    from matplotlib.patches import Circle

    return Circle(mode, 0.36, fill=False, color=INK, lw=0.8, alpha=0.5)
