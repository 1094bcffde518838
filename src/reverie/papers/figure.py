"""The figure of a claim: what was measured, arm beside arm, and what was asked of it.

Above, each setting's figures over the evaluations, a line an arm (median over seeds, every seed a faint point). Below, a row a case: the effect
of every seed, its mean with the 95 % interval, what was asked, and the null control in the method's place.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from reverie.base import ArgumentError
from reverie.base.files import atomic
from reverie.papers.claim import place
from reverie.papers.records import Record
from reverie.papers.verdict import NOT

__all__ = ["COLOURS", "INK", "draw", "element", "svg"]

COLOURS = {"holds": "#2f9d76", "holds weakly": "#c98a1f", "does not hold here": "#d2456f"}
"""Of the verdicts."""
_ARMS = {"method": "#3f7fe0", "baseline": "#8d8d96"}
_MORE = ("#c98a1f", "#2f9d76", "#8a63c9", "#b0763f")
ACROSS = 2
"""Panels side by side at most."""
INK = "#010203"
"""Stands for the colour of the page around it until an SVG is finished."""


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
    down = -(-len(panels) // ACROSS)
    tall = 2.7 * down + 0.5 if panels else 0.0
    height = tall + 0.95 * len(_groups(record)) + 0.27 * len(record.cases)
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
            grid = upper.subplots(down, min(ACROSS, len(panels)), squeeze=False).flatten()
            for axes in grid[len(panels) :]:
                axes.set_axis_off()
            lines: dict[str, Any] = {}
            for axes, (setting, arms) in zip(grid, panels.items(), strict=False):
                lines |= _panel(axes, record, setting, arms, colours, ink)
            upper.legend(
                list(lines.values()),
                list(lines),
                loc="outside upper left",
                ncols=min(4, len(lines)),
                frameon=False,
                fontsize=8.5,
                labelcolor=ink,
            )
        if forest or not panels:
            groups = _groups(record)
            column = lower.subplots(
                len(groups), 1, squeeze=False, height_ratios=[0.95 + 0.27 * len(g) for g in groups.values()]
            )
            for axes, (name, cases) in zip(column[:, 0], groups.items(), strict=True):
                _forest(axes, record, not name, cases, ink)
    return figure


def _panel(axes: Any, record: Record, setting: str, arms: Any, colours: Any, ink: str) -> dict[str, Any]:
    """A setting's figures; its lines by the names of their arms."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    lines: dict[str, Any] = {}
    for arm, points in arms.items():
        x, medians = [at for at, _ in points], [median(values) for _, values in points]
        (lines[record.name(arm)],) = axes.plot(
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
    if places != list(range(int(places[0]), int(places[0]) + len(places))):  # ranks are even, budgets in logarithms
        axes.set_xscale("log")
    if min(values) > 0 and max(values) > 3 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(record.axis)
    axes.set_title(setting, loc="left", fontsize=10.5, fontweight="bold", color=ink)
    axes.set_ylabel(textwrap.fill(record.units.get(setting, ""), 30))
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.grid(color=ink, alpha=0.1, lw=0.7)
    _plain(axes, ink)
    return lines


def _groups(record: Record) -> dict[str, list[Any]]:
    """The cases that may share an axis: all ratios; of others, those of one setting."""
    groups: dict[str, list[Any]] = {}
    for case in record.cases:
        ratio = "factor" in case and not case.get("signed")
        groups.setdefault("" if ratio else place(case["figure"])[0], []).append(case)
    return groups


def _forest(axes: Any, record: Record, ratios: bool, cases: Sequence[Any], ink: str) -> None:
    """A row a case: effects less the threshold, so that all are asked to lie right of 0."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ends = [0.0]
    for row, case in enumerate(cases):
        own, null, ideal = case["outcome"], case["null"], case.get("ideal")
        y, colour, shift = -row, COLOURS[own["verdict"]], own["threshold"]
        effects = [e - shift for e in own["effects"]]
        axes.plot(effects, [y] * len(effects), "o", color=colour, ms=3, mew=0, alpha=0.4)
        if own["low"] is not None:
            axes.plot([own["low"] - shift, own["high"] - shift], [y, y], color=colour, lw=2.4, solid_capstyle="round")
        axes.plot([own["mean"] - shift], [y], "o", color=colour, ms=6, mew=0)
        ends += [*effects, own["mean"] - shift]
        for control, mark in ((null, "x"), (ideal, "+")):
            if control is not None:
                axes.plot([control["mean"] - shift], [y], mark, color="#8d8d96", ms=5.5 if mark == "x" else 7, mew=1.6)
                ends.append(control["mean"] - shift)
    axes.axvline(0, color=ink, lw=1)
    pad = 0.06 * (max(ends) - min(ends) or 1)
    axes.set_xlim(min(ends) - pad, max(ends) + pad)
    axes.set_ylim(-len(cases) + 0.4, 0.6)
    axes.set_yticks([-r for r in range(len(cases))], [shown(record, case) for case in cases])
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=ratios))
    if ratios:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{2.0**v:g}x" if v >= 0 else f"1/{2.0**-v:g}"))
    controls = "cross: the null control" + ("; plus: the positive one" if any(c.get("ideal") for c in cases) else "")
    axes.set_xlabel(f"effect, {'in units of' if ratios else 'less'} what was asked (line)\n{controls}")
    axes.grid(axis="x", color=ink, alpha=0.1, lw=0.7)
    _plain(axes, ink)


def shown(record: Record, case: Any) -> str:
    """A case in a few words: "digits, 8: DDIM / DPM-Solver-fast >= 2"."""
    setting, at = place(case["figure"])
    where = setting if at is None else f"{setting}, {at:g}"
    own = record.name(case["arm"])
    if "at_most" in case or "at_least" in case:
        sign, bound = ("≤", case["at_most"]) if "at_most" in case else ("≥", case["at_least"])
        return f"{where}: {own} {sign} {bound:.3g}"
    other = record.name(case["against"]).split(",")[0]
    over, under = (other, own) if case["better"] == "lower" else (own, other)
    if "share" in case:
        return f"{where}: {own} closes {case['share']:.0%} of the gap to {other}"
    if "gain" in case:
        return f"{where}: {over} − {under} {'>' if case['gain'] == 0 else '≥'} {case['gain']:.3g}"
    if case.get("signed"):
        return f"{where}: {over} − {case['factor']:.3g} {under} > 0"
    return f"{where}: {over} / {under} {'>' if case['factor'] == 1 else '≥'} {case['factor']:.3g}"


def _plain(axes: Any, ink: str) -> None:
    axes.tick_params(colors=ink, which="both", length=0, pad=5)
    for part in (axes.xaxis.label, axes.yaxis.label):
        part.set_color(ink)
    for spine in axes.spines.values():
        spine.set_visible(False)


def svg(record: Record, ink: str = "", forest: bool = True) -> str:
    """The figure as an SVG element of no fixed size, in the colour of the text around it; with `ink`, a colour, as an SVG file."""
    figure, salt = draw(record, ink or INK, forest), f"{record.slug}{int(forest)}"
    return svg_text(figure, salt) if ink else element(figure, salt)


def svg_text(figure: Any, salt: str) -> str:
    """A matplotlib figure as SVG that names neither day nor maker; `salt` keeps its ids apart from those of other figures on a page."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    return re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.S)


def element(figure: Any, salt: str) -> str:
    """A figure drawn in `INK` as an SVG element without a fixed size, in the colour and the font of the page around it."""
    text = svg_text(figure, salt)
    text = re.sub(
        r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text[text.index("<svg") :].replace(INK, "currentColor")
    )
    head, rest = text.split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", head) + ">" + rest


def save(record: Record, path: str | Path) -> None:
    """The figure as a file, .png, .svg or .pdf by its name. Raises `ArgumentError` (matplotlib is missing) and `FileError`."""
    kind = Path(path).suffix.lstrip(".")
    if kind not in ("png", "svg", "pdf"):
        raise ArgumentError(f"a plot is a .png, .svg or .pdf file, got {str(path)!r}")
    figure = draw(record)
    with atomic(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=150, facecolor="white")


def table(record: Record) -> str:
    """The cases of a record as a Markdown table."""
    head = "| asked | mean found [95 %] | null control | |\n| --- | ---: | ---: | --- |"
    cells = ([cell.replace("|", "\\|") for cell in row] for row in rows(record))
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in cells)])


def rows(record: Record) -> list[tuple[str, str, str, str]]:
    """The cases as text: what was asked, the mean that was found with its interval, the null control and whether it fails, the verdict.

    Of ratios the mean is geometric.
    """
    out = []
    for case in record.cases:
        own, null = case["outcome"], case["null"]
        control = "–"
        if null is not None:
            control = f"{_said(case, null['mean'])}, " + ("fails" if null["verdict"] == NOT else "passes")
        ends = (
            ("high", "low") if "at_most" in case else ("low", "high")
        )  # the effect is the distance below such a bound
        span = "" if own["low"] is None else f" [{_said(case, own[ends[0]])}, {_said(case, own[ends[1]])}]"
        out.append((shown(record, case), _said(case, own["mean"]) + span, control, own["verdict"]))
    return out


def _said(case: Any, effect: float) -> str:
    """An effect in the terms in which it was asked."""
    if "factor" in case and not case.get("signed"):
        return f"{2.0**effect:.3g}"
    value = (
        case["at_most"] - effect if "at_most" in case else case["at_least"] + effect if "at_least" in case else effect
    )
    return f"{value:.3g}"
