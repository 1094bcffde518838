"""The table of gradients: error, memory and time by mode and steps, from what benchmarks/gradients.py recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["MARK", "gradients"]

RECORD = Path(__file__).resolve().parents[2] / "benchmarks" / "gradients.json"
MARK = "<!-- gradients -->"
"""Where a page has the table."""
_NAMES = {"mixture": "mixture, 64 dimensions, float64", "digits": "digits, float32"}


def gradients() -> str:
    """The table as Markdown."""
    kept: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    lines = []
    for setting, modes in kept.items():
        steps = list(next(iter(modes.values())))
        lines += [
            f"**{_NAMES.get(setting, setting)}**\n",
            "| mode | " + " | ".join(f"{n} steps" for n in steps) + " |",
            "| --- " * (len(steps) + 1) + "|",
        ]
        for mode, rows in modes.items():
            cells = [f"{_error(r['error'])}<br>{r['bytes'] / 1e6:.1f} MB, {r['time']:.1f}x" for r in rows.values()]
            lines.append(f"| {mode} | " + " | ".join(cells) + " |")
        lines.append("")
    return (
        "\n".join(lines)
        + "\nEach cell: the median relative error to full backpropagation, the most memory that tensors hold at once, and the time in units of full "
        "backpropagation's. `python benchmarks/gradients.py` measures it anew."
    )


def _error(e: float) -> str:
    return "0" if e == 0 else f"{e:.1e}"
