"""The figure and the table of tuned plans beside the best of the peers, from what benchmarks/tuned.py recorded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import median
from typing import Any

from generate.plot import BLUE, GREY, INK, framed, legend, titled

__all__ = ["MARK", "frontier"]

RECORD = Path(__file__).resolve().parents[2] / "benchmarks" / "tuned.json"
MARK = "<!-- frontier -->"
"""Where a page has the figure."""
_NAMES = {
    "mixture": "mixture, 64 dimensions",
    "digits": "digits",
    "shapes": "shapes, guidance 5",
    "separated": "separated mixture",
}
_PEER, _TUNED = GREY, BLUE


def frontier() -> str:
    """The figure and its table as HTML and Markdown."""
    kept: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    settings = [s for s in _NAMES if any(key.rsplit("-", 1)[0] == s for key in kept)]
    seeds = {s: [v for key, v in sorted(kept.items()) if key.rsplit("-", 1)[0] == s] for s in settings}
    said = "Errors of tuned plans and of the best classical plan over evaluations; every tuned curve lies below."
    return f"{framed(_draw(seeds), 'frontier', said)}\n\n{_table(seeds)}"


def _draw(seeds: dict[str, list[Any]]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    figure = Figure(figsize=(4.6 * len(seeds), 3.3), layout="constrained")
    for axes, (setting, runs) in zip(figure.subplots(1, len(seeds), squeeze=False)[0], seeds.items(), strict=True):
        for i, run in enumerate(runs):
            for part, colour, label in (("peers", _PEER, "best of the peers"), ("tuned", _TUNED, "tuned")):
                budgets = sorted(map(int, run[part]))
                middle = [run[part][str(n)]["median"] for n in budgets]
                if part == "peers":  # a peer of fewer evaluations may do better: the best so far
                    middle = [min(middle[: k + 1]) for k in range(len(middle))]
                axes.plot(
                    budgets, middle, "-o", color=colour, lw=1.8, ms=3.6, mew=0, alpha=0.8, label="" if i else label
                )
        axes.set_xscale("log")
        axes.set_yscale("log")
        places = [4, 5, 6, 8, 10, 12, 16, 20, 24]
        axes.xaxis.set_major_locator(FixedLocator(places))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        titled(axes, _NAMES[setting])
        axes.set_xlabel("evaluations of the model", color=INK)
        axes.grid(color=INK, alpha=0.1, lw=0.7)
        legend(axes)
    figure.axes[0].set_ylabel("median distance to the exact solution", color=INK)
    return figure


def _table(seeds: dict[str, list[Any]]) -> str:
    lines = [
        "| | evaluations | tuned: median | 95th percentile | best of the peers | that error takes them | times as many | fitted in |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for setting, runs in seeds.items():
        most = max(int(n) for run in runs for n in run["peers"])
        for n in sorted(int(n) for n in runs[0]["tuned"]):
            rows = [run["tuned"][str(n)] for run in runs if str(n) in run["tuned"]]
            needed = [math.inf if r["equal"] is None else r["equal"] for r in rows]
            own = [run["peers"][str(n)]["median"] for run in runs if str(n) in run["peers"]]
            e = median(needed)
            takes = f"{e:.1f}" if math.isfinite(e) else f"over {most}"
            factor = f"{e / n:.2f}" if math.isfinite(e) else f"over {most / n:.1f}"
            figures = [median([r[key] for r in rows]) for key in ("median", "p95")]
            lines.append(
                f"| {_NAMES[setting]} | {n} | {figures[0]:.2g} | {figures[1]:.2g} | {median(own):.2g} | {takes} | {factor} | "
                f"{median([r['seconds'] for r in rows]):.0f} s |"
            )
    count = max(len(runs) for runs in seeds.values())
    noises = max(run["noises"] for runs in seeds.values() for run in runs)
    return (
        "\n".join(lines)
        + f"\n\nMedians of {count} seeds, {noises} noises that no fit has seen each, one thread; `python benchmarks/tuned.py` measures it anew."
    )
