"""A comparison as a picture: each metric over network forwards, or at a single budget a line a solver; with intervals and the noise floor."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from reverie.base import ArgumentError
from reverie.base.files import atomic
from reverie.inspect.comparison import METRICS, Comparison, Row
from reverie.inspect.figures import Figure

__all__ = ["chart"]

SHOWN = 8
"""Solvers drawn in colour; more than these are a tangle. The others are grey."""
_COLOURS = ("#3f7fe0", "#d2456f", "#2f9d76", "#c98a1f", "#7b5cd6", "#1b1b20", "#29a3b8", "#9a5b34")
_MARKERS = "osD^vPXh"
_GREY, _INK, _SOFT = "#b9b9c0", "#1b1b20", "#66666f"


def chart(found: Comparison, path: Path) -> None:
    """Draw a comparison into a file. Raises `ArgumentError` without matplotlib or rows, `FileError` where it cannot be written."""
    try:
        import matplotlib
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        raise ArgumentError("plots need matplotlib, which is not installed: pip install 'reverie[plot]'") from None
    if not found.metrics:
        raise ArgumentError("there is nothing to plot: no row has a figure")
    single = len({r.forwards for r in found.rows}) == 1 or len(found.budgets) == 1
    style: Any = {
        "font.family": "sans-serif", "font.size": 10, "text.color": _INK, "axes.labelcolor": _SOFT, "xtick.color": _SOFT, "ytick.color": _SOFT,
        "axes.titlesize": 11, "axes.titlelocation": "left", "axes.titlepad": 10, "axes.edgecolor": "#d5d5da", "svg.hashsalt": "reverie",
    }  # fmt: skip
    names = list(dict.fromkeys(r.solver for r in found.rows))
    many = len(found.metrics)
    with matplotlib.rc_context(style):
        height = max(3.4, 1.9 + 0.26 * len(names)) if single else 4.9
        canvas = Canvas(figsize=(max(6.0, 4.5 * many), height), layout="constrained", facecolor="white")
        axes = canvas.subplots(1, many, squeeze=False, sharey=single)[0]
        for ax, metric in zip(axes, found.metrics, strict=True):
            (_dots if single else _curves)(ax, found, metric, names)
            ax.set_title(METRICS[metric])
            ax.grid(color="#ececf0", lw=0.8)
            ax.set_axisbelow(True)
            ax.tick_params(length=0, which="both")
            for side in ("top", "right", "left"):
                ax.spines[side].set_visible(False)
        if single:
            axes[many // 2].set_xlabel("lower is better; in brackets, network forwards a sample")
        legend: dict[str, Any] = {}
        for ax in axes:
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
                legend.setdefault(label, handle)
        order = [
            *(name for name in _ranked(found, names) if name in legend),
            *(label for label in legend if label not in names),
        ]
        if order:
            canvas.legend(
                [legend[label] for label in order], order, loc="outside lower center", ncols=min(5, len(order)), frameon=False,
                handlelength=2.2,
            )  # fmt: skip
        s = found.settings
        marked = any(found.best(b, k) for b in found.budgets for k in found.metrics)
        star = "; a star is better than all others of its budget by more than the noise" if marked else ""
        bars = (
            "bars"
            if single
            else "bars (of the lowest)"
            if found.metrics[0] != "error"
            else "bands, bars (of the lowest) and grey"
        )
        canvas.suptitle(
            f"{s.get('model', 'model')}, {s.get('n')} samples; {bars}: 95 % intervals{star}",
            x=0.01,
            ha="left",
            fontsize=10,
            color=_SOFT,
        )
        with atomic(path) as temporary:
            canvas.savefig(
                temporary, format=path.suffix[1:], dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None
            )


def _ranked(found: Comparison, names: list[str]) -> list[str]:
    """Solvers by how they place among the others, over all budgets and metrics, best first."""
    places: dict[str, list[float]] = {name: [] for name in names}
    for budget in found.budgets:
        for metric in found.metrics:
            rows = [(f.value, r.solver) for r in found.rows if r.budget == budget and (f := r.figure(metric))]
            weight = 2.0 if metric == "error" else 1.0
            for place, (_, solver) in enumerate(sorted(rows)):
                places[solver] += [place / max(1, len(rows) - 1)] * int(weight)
    return sorted(names, key=lambda name: sum(places[name]) / len(places[name]) if places[name] else math.inf)


def _points(found: Comparison, metric: str, name: str) -> list[tuple[Row, Figure]]:
    pairs = [(r, f) for r in found.rows if r.solver == name and (f := r.figure(metric)) is not None]
    return sorted(pairs, key=lambda pair: pair[0].forwards)


def _floor(found: Comparison, metric: str) -> Figure | None:
    return None if found.floor is None else getattr(found.floor, metric, None)


def _curves(ax: Any, found: Comparison, metric: str, names: list[str]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    ranked = _ranked(found, names)
    shown = ranked[:SHOWN] if len(ranked) > SHOWN + 1 else ranked
    ax.set(xscale="log", yscale="log", xlabel="network forwards a sample")
    values: list[float] = []
    for name in ranked[len(shown) :]:
        points = _points(found, metric, name)
        label = f"{len(ranked) - len(shown)} others"
        ax.plot(
            [r.forwards for r, _ in points],
            [_up(f.value) for _, f in points],
            "-",
            color=_GREY,
            lw=0.9,
            zorder=1,
            label=label,
        )
        values += [f.value for _, f in points]
    high: list[float] = []
    for k, name in reversed(list(enumerate(shown))):
        points = _points(found, metric, name)
        if not points:
            continue
        x, y = [r.forwards for r, _ in points], [_up(f.value) for _, f in points]
        colour = _COLOURS[k % len(_COLOURS)]
        lower = [_up(max(f.low, f.value / 4)) for _, f in points]
        if (
            metric == "error"
        ):  # intervals of distances hold what all share, and would hide the lines: one of them says enough
            ax.fill_between(x, lower, [f.high for _, f in points], color=colour, alpha=0.1, lw=0, zorder=2)
        elif k == 0:
            ax.vlines(x, lower, [f.high for _, f in points], color=colour, alpha=0.45, lw=1.4, zorder=2)
        style = "-" if k < len(_COLOURS) else "--"
        ax.plot(
            x,
            y,
            style,
            marker=_MARKERS[k % len(_MARKERS)],
            color=colour,
            lw=1.7,
            ms=5,
            mew=0,
            zorder=3 + SHOWN - k,
            label=name,
        )
        stars = [(r.forwards, f.value) for r, f in points if found.best(r.budget, metric) is r]
        if stars:
            ax.plot(*zip(*stars, strict=True), "*", color=colour, ms=15, mec="white", mew=1.0, zorder=30)
        values += y
        high += y
    floor = _floor(found, metric)
    if floor is not None and found.floor is not None:
        ax.axhspan(_up(max(floor.low, floor.value / 4)), floor.high, color=_INK, alpha=0.05, lw=0, zorder=0)
        ax.axhline(
            _up(floor.value), color=_INK, ls=(0, (4, 3)), lw=1.1, zorder=1, label=f"{found.floor.count} real samples"
        )
        values.append(floor.value)
    low = min((v for v in values if v > 0), default=1e-6)
    top = max(max(high, default=1.0) * 1.6, floor.high if floor else 0.0)
    ax.set_ylim(low / 1.5, top)  # a solver that fails may leave the picture
    ticks = sorted({r.forwards for r in found.rows if r.within}) or sorted({r.forwards for r in found.rows})
    ticks = [
        t for i, t in enumerate(ticks) if t in _asked(found) or (i and t / ticks[i - 1] > 1.3 and not _asked(found))
    ]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    _scale(ax.yaxis)


def _scale(axis: Any) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, in plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda v, _: f"{v:g}")


def _asked(found: Comparison) -> set[float]:
    """For each budget, the forwards that most of its rows spend."""
    out = set()
    for budget in found.budgets:
        spent = [r.forwards for r in found.rows if r.budget == budget]
        out.add(max(sorted(set(spent)), key=spent.count))
    return out


def _dots(ax: Any, found: Comparison, metric: str, names: list[str]) -> None:
    ranked = _ranked(found, names)
    ax.set_xscale("log")
    values = []
    for y, name in enumerate(ranked):
        for r, f in _points(found, metric, name):
            best, leads = found.best(r.budget, metric) is r, found.mark(r, metric) != ""
            colour = _COLOURS[0] if leads else _SOFT
            ax.plot(
                [_up(max(f.low, f.value / 4)), f.high],
                [y, y],
                "-",
                color=colour,
                lw=1.6,
                alpha=0.5,
                solid_capstyle="round",
            )
            ax.plot([_up(f.value)], [y], "*" if best else "o", color=colour, ms=14 if best else 6, mec="white", mew=0.8)
            values.append(f.value)
    floor = _floor(found, metric)
    if floor is not None and found.floor is not None:
        ax.axvline(_up(floor.value), color=_INK, ls=(0, (4, 3)), lw=1.1, label=f"{found.floor.count} real samples")
    spent = {r.solver: r.forwards for r in found.rows}
    ax.set_yticks(range(len(ranked)), [f"{name}  ({spent[name]:g})" for name in ranked])
    ax.set_ylim(len(ranked) - 0.4, -0.6)
    _scale(ax.xaxis)


def _up(value: float) -> float:
    return max(value, 1e-12)
