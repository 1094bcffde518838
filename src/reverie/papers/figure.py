"""The figure of a claim: what was measured, arm beside arm, and what was asked of it.

Above, each setting's figures over the evaluations, a line an arm (median over seeds, every seed a faint point). Below, a row a case: the effect
of every seed, its mean with the 95 % interval, what was asked, and the null control in the method's place.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from reverie.base import ArgumentError
from reverie.base.files import atomic
from reverie.papers.records import Record

__all__ = ["COLOURS", "draw", "svg"]

COLOURS = {"holds": "#2f9d76", "holds weakly": "#c98a1f", "does not hold here": "#d2456f"}
"""Of the verdicts."""
_ARMS = {"method": "#3f7fe0", "baseline": "#8d8d96"}
_MORE = ("#c98a1f", "#2f9d76", "#8a63c9", "#b0763f")
_INK = "#010203"
"""Stands for the colour of the page around it until an SVG is finished."""


def place(figure: str) -> tuple[str, float | None]:
    """A figure's setting and its place on the axis: "digits/8" -> ("digits", 8.0)."""
    setting, _, at = figure.rpartition("/")
    try:
        return setting, float(at)
    except ValueError:
        return figure, None


def curves(record: Record) -> dict[str, dict[str, list[tuple[float, tuple[float, ...]]]]]:
    """Setting -> arm -> (place, values of the seeds), of settings that vary: at least two places, or two arms that differ."""
    found: dict[str, dict[str, list[tuple[float, tuple[float, ...]]]]] = {}
    for figure, arms in record.figures.items():
        setting, at = place(figure)
        if at is not None and not setting.endswith(", cost"):
            for arm, values in arms.items():
                if arm != "null" or values != arms.get("baseline"):
                    found.setdefault(setting, {}).setdefault(arm, []).append((at, values))
    return {s: arms for s, arms in found.items() if max(map(len, arms.values())) > 1}


def _colours(record: Record) -> dict[str, str]:
    arms = list(dict.fromkeys(a for figures in record.figures.values() for a in figures))
    free = iter(_MORE * 9)
    return {a: _ARMS.get(a) or next(free) for a in arms if a != "null"} | {"null": "#b9b9c2"}


def draw(record: Record, ink: str = "#1b1b20", forest: bool = True) -> Any:
    """A matplotlib Figure of the record; without `forest` only the figures, where they vary. Raises `ArgumentError` where matplotlib is missing."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ArgumentError("the plot needs matplotlib, which is not installed: pip install 'reverie[plot]'") from None
    panels, colours = curves(record), _colours(record)
    rows = len(record.cases)
    tall = 3.1 if panels else 0.0
    height = tall + 0.95 + 0.27 * rows
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": f"{record.slug}{int(forest)}",
            "font.family": "sans-serif",
            "font.size": 9.5,
        }
    ):
        figure = Figure(figsize=(8.4, height if forest or not panels else tall), layout="constrained")
        upper, lower = (figure, figure)
        if panels and forest:
            parts: Any = figure.subfigures(2, 1, height_ratios=[tall, height - tall])
            upper, lower = parts
        if panels:
            row = upper.subplots(1, len(panels), squeeze=False)[0]
            for axes, (setting, arms) in zip(row, panels.items(), strict=True):
                _panel(axes, record, setting, arms, colours, ink)
        if forest or not panels:
            _forest(lower.subplots(), record, ink)
    return figure


def _panel(axes: Any, record: Record, setting: str, arms: Any, colours: Any, ink: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    for arm, points in arms.items():
        x, medians = [at for at, _ in points], [median(values) for _, values in points]
        axes.plot(
            x,
            medians,
            marker="o",
            color=colours[arm],
            lw=1.8,
            ms=3.6,
            mew=0,
            label=record.name(arm),
            ls="--" if arm == "null" else "-",
        )
        for at, values in points:
            axes.plot([at] * len(values), values, "o", color=colours[arm], ms=2.6, mew=0, alpha=0.35)
    places = sorted({at for points in arms.values() for at, _ in points})
    values = [v for points in arms.values() for _, vs in points for v in vs]
    axes.set_xscale("log")
    if min(values) > 0 and max(values) > 3 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(record.axis)
    axes.set_title(setting, loc="left", fontsize=10.5, fontweight="bold", color=ink)
    axes.set_ylabel(record.units.get(setting, ""))
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.grid(color=ink, alpha=0.1, lw=0.7)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=ink)
    _plain(axes, ink)


def _forest(axes: Any, record: Record, ink: str) -> None:
    """A row a case, in units of what was asked: effects less the threshold, so that all are asked to lie right of 0."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    labels, ratios = [], all("factor" in case for case in record.cases)
    ends: list[float] = []
    for row, case in enumerate(record.cases):
        own, null = case["outcome"], case["null"]
        y, colour, shift = -row, COLOURS[own["verdict"]], own["threshold"]
        labels.append(f"{shown(record, case)}")
        effects = [e - shift for e in own["effects"]]
        axes.plot(effects, [y] * len(effects), "o", color=colour, ms=3, mew=0, alpha=0.4)
        if own["low"] is not None:
            axes.plot([own["low"] - shift, own["high"] - shift], [y, y], color=colour, lw=2.4, solid_capstyle="round")
        axes.plot([own["mean"] - shift], [y], "o", color=colour, ms=6, mew=0)
        ends += [*effects, own["mean"] - shift]
        if case["arm"] == "method":
            axes.plot([null["mean"] - shift], [y], "x", color="#8d8d96", ms=5.5, mew=1.6)
            ends.append(null["mean"] - shift)
    axes.axvline(0, color=ink, lw=1)
    pad = 0.06 * (max(*ends, 0) - min(*ends, 0) or 1)
    axes.set_xlim(min(*ends, 0) - pad, max(*ends, 0) + pad)
    axes.set_ylim(-len(labels) + 0.4, 0.6)
    axes.set_yticks([-r for r in range(len(labels))], labels)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=ratios))
    if ratios:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{2.0**v:g}x" if v >= 0 else f"1/{2.0**-v:g}"))
    axes.set_xlabel(
        "effect, in units of what was asked (line); cross: the null control"
        if ratios
        else "effect less what was asked (line); cross: the null control"
    )
    axes.grid(axis="x", color=ink, alpha=0.1, lw=0.7)
    _plain(axes, ink)


def shown(record: Record, case: Any) -> str:
    """A case in a few words: "digits, 8: DDIM / DPM-Solver-fast >= 2"."""
    setting, at = place(case["figure"])
    where = setting if at is None else f"{setting}, {at:g}"
    own = record.name(case["arm"])
    other = record.name(case["against"]).split(",")[0]
    if "factor" in case:
        over, under = (other, own) if case["better"] == "lower" else (own, other)
        sign = ">" if case["factor"] == 1 else "≥"
        return f"{where}: {over} / {under} {sign} {case['factor']:.3g}"
    if "gain" in case:
        over, under = (other, own) if case["better"] == "lower" else (own, other)
        return f"{where}: {over} − {under} {'>' if case['gain'] == 0 else '≥'} {case['gain']:.3g}"
    sign, bound = ("≤", case["at_most"]) if "at_most" in case else ("≥", case["at_least"])
    return f"{where}: {own} {sign} {bound:.3g}"


def _plain(axes: Any, ink: str) -> None:
    axes.tick_params(colors=ink, which="both", length=0, pad=5)
    for part in (axes.xaxis.label, axes.yaxis.label):
        part.set_color(ink)
    for spine in axes.spines.values():
        spine.set_visible(False)


def svg(record: Record, forest: bool = True) -> str:
    """The figure as an SVG element that takes the colour of the text around it and has no fixed size."""
    buffer = io.StringIO()
    figure = draw(record, _INK, forest)
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{record.slug}{int(forest)}"}):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :].replace(_INK, "currentColor"), flags=re.S)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    head, rest = text.split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", head) + ">" + rest


def save(record: Record, path: str | Path) -> None:
    """The figure as a file, .png, .svg or .pdf by its name. Raises `ArgumentError` (matplotlib is missing) and `FileError`."""
    kind = Path(path).suffix.lstrip(".")
    figure = draw(record)
    with atomic(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=150, facecolor="white")


def table(record: Record) -> str:
    """The cases of a record as a Markdown table."""
    head = "| asked | found, with its 95 % interval | null control | |\n| --- | ---: | ---: | --- |"
    return "\n".join([head, *(f"| {a} | {b} | {c} | {v} |" for a, b, c, v, _ in rows(record))])


def rows(record: Record) -> Sequence[tuple[str, str, str, str, str]]:
    """The cases as text: what was asked, what was found with its interval, the null control, the verdict, and the figure's name."""
    out = []
    for case in record.cases:
        own, null = case["outcome"], case["null"]
        control = _said(case, null["mean"]) if case["arm"] == "method" else "–"
        span = "" if own["low"] is None else f" [{_said(case, own['low'])}, {_said(case, own['high'])}]"
        out.append((shown(record, case), _said(case, own["mean"]) + span, control, own["verdict"], case["figure"]))
    return out


def _said(case: Any, effect: float) -> str:
    if "factor" in case:
        return f"{2.0**effect:.3g}"
    value = effect if "gain" in case else case["at_most"] - effect if "at_most" in case else case["at_least"] + effect
    return f"{value:.3g}"
