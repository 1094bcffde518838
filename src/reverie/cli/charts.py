"""Curves as SVG that takes the colour and the font of the page around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reverie.base import ArgumentError
from reverie.papers.figure import INK, element

__all__ = ["COLOURS", "curves"]

COLOURS = {"ddim": "#8d8d96", "heun": "#c98a1f", "dpm-fast": "#2f9d76", "dpmpp-2m": "#3f7fe0", "dpmpp-3m": "#d2456f"}


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], ticks: Sequence[int], salt: str) -> str:
    """Error against evaluations, both on logarithmic axes, as an SVG element without a fixed size.

    Args:
        lines: name -> (evaluations, error) pairs, drawn in the colour of the name. ticks: marked evaluations.
        salt: a word that keeps the ids of several charts on one page apart.

    Raises:
        ArgumentError: matplotlib is missing.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import FixedLocator, NullLocator
    except ImportError:
        raise ArgumentError("the charts need matplotlib, which is not installed: pip install 'reverie[plot]'") from None
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif", "font.size": 11}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.4, 3.9), layout="constrained")
        axes = figure.add_subplot()
        for name, points in lines.items():
            x, y = zip(*sorted(set(points)), strict=True)
            axes.plot(x, y, "o-", color=COLOURS.get(name, INK), lw=1.9, ms=4, mew=0, label=name)
        axes.set(xscale="log", yscale="log", xlabel="evaluations", ylabel="relative distance to the fine solution")
        axes.xaxis.set_major_locator(FixedLocator([float(t) for t in ticks]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([str(t) for t in ticks])
        axes.grid(color=INK, alpha=0.12, lw=0.7)
        axes.tick_params(colors=INK, which="both", length=0, pad=6)
        for part in (axes.xaxis.label, axes.yaxis.label):
            part.set_color(INK)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return element(figure, salt)
