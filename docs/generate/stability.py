"""Regions of stability: how far out a direction may lie before its errors grow, of plain multistep solvers and of those with momentum."""

from __future__ import annotations

from typing import Any

import torch

from generate.plot import BLUE, GREY, INK, NAVY, framed, legend, titled
from reverie.solve import linear_multistep

__all__ = ["MARK", "stability"]

MARK = "<!-- stability -->"
"""Where a page has the figure."""
_PANELS = (
    ("without momentum", [("order 1", "ddim", {}), ("order 2", "ipndm", {"order": 2}), ("order 4", "ipndm", {"order": 4})]),
    ("with momentum (ghvb)", [("order 4", "ghvb", {"order": 4}), ("order 3.5", "ghvb", {"order": 3.5}), ("order 2.5", "ghvb", {"order": 2.5})]),
)  # fmt: skip
_COLOURS = (GREY, BLUE, NAVY)


def stability() -> str:
    """The figure as HTML."""
    said = "Regions of stability in the complex plane: higher order shrinks them, momentum widens them again."
    return framed(_draw(), "stability", said)


def _draw() -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    x, y = torch.linspace(-2.4, 0.6, 241), torch.linspace(-1.25, 1.25, 201)
    z = torch.complex(*torch.meshgrid(x.double(), y.double(), indexing="xy"))
    for axes, (title, rows) in zip(figure.subplots(1, 2, sharex=True, sharey=True), _PANELS, strict=True):
        for (label, solver, options), colour in zip(rows, _COLOURS, strict=True):
            inside = linear_multistep(solver, **options).stable(z).double()
            axes.contour(x.tolist(), y.tolist(), inside.tolist(), levels=[0.5], colors=[colour], linewidths=1.8)
            axes.plot([], [], color=colour, lw=1.8, label=label)
        axes.axhline(0, color=INK, lw=0.6, alpha=0.3)
        axes.axvline(0, color=INK, lw=0.6, alpha=0.3)
        axes.set_aspect("equal")
        titled(axes, title)
        axes.set_xlabel("step times slope, real part", color=INK)
        legend(axes, loc="upper right", bbox_to_anchor=(1.12, 1.0))
    figure.axes[0].set_ylabel("imaginary part", color=INK)
    return figure
