"""What a comparison found: rows, the best at each budget, a table, a file, a plot."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reverie.base import ArgumentError, FileError, unknown
from reverie.base.files import atomic, read_bytes
from reverie.inspect.figures import Figure

__all__ = ["METRICS", "Comparison", "Floor", "Row"]

METRICS = {
    "error": "distance to the fine solution",
    "frechet": "Fréchet distance to data",
    "sliced": "sliced Wasserstein distance to data",
}
"""What is measured, as a heading."""
FORMAT, KIND = 1, "reverie-comparison"
_LIMIT = 1 << 28


@dataclass(frozen=True)
class Row:
    """One solver at one budget.

    Attributes:
        solver: how it is called. grid: its grid and end. budget: asked for (calls or steps). steps, calls: of its plan (calls None: decided in
            the run). forwards: network forwards a sample that were spent. within: whether they are no more than the budget allows.
        error: median over samples of |x - x*| / rms |x*|; None for stochastic solvers. switched: share of samples in another mode than x*.
        frechet, sliced: distances to data. seconds: of sampling. key: of its plan.
    """

    solver: str
    grid: str
    budget: int
    steps: int
    calls: int | None
    forwards: float
    within: bool
    error: Figure | None = None
    switched: float | None = None
    frechet: Figure | None = None
    sliced: Figure | None = None
    seconds: float = 0.0
    key: str = ""

    def figure(self, metric: str) -> Figure | None:
        """The figure of a metric: "error", "frechet" or "sliced"."""
        if metric not in METRICS:
            raise unknown("metric", metric, METRICS)
        return getattr(self, metric)


@dataclass(frozen=True)
class Floor:
    """What `count` real samples, held out, score against the others: no sampler can be seen to be better."""

    count: int
    frechet: Figure | None = None
    sliced: Figure | None = None


@dataclass(frozen=True)
class Comparison:
    """Solvers on one model, budget by budget; `print` it, `save` it, `plot` it.

    Attributes:
        rows: in the order of budgets, then as the solvers were given. floor: of real data, None without data.
        by: "nfe" or "steps", what a budget counts. settings: what was compared, as plain values. notes: what a reader should know.
        fingerprint: of model, noises, conditions and data. complete: False while rows are missing.
    """

    rows: tuple[Row, ...]
    floor: Floor | None = None
    by: str = "nfe"
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    fingerprint: str = ""
    complete: bool = True

    @property
    def budgets(self) -> tuple[int, ...]:
        """Those asked for, in order."""
        return tuple(sorted({r.budget for r in self.rows}))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that some row has."""
        return tuple(name for name in METRICS if any(r.figure(name) for r in self.rows))

    def leaders(self, budget: int, metric: str = "error") -> tuple[Row, ...]:
        """The row with the lowest figure at a budget, and those that cannot be told from it; rows that spend more than the budget are left out."""
        rows = [(r, f) for r in self.rows if r.budget == budget and r.within and (f := r.figure(metric)) is not None]
        if not rows:
            return ()
        lowest, figure = min(rows, key=lambda pair: pair[1].value)
        level = [(f.value, k) for k, (r, f) in enumerate(rows) if r is not lowest and not figure.less(f)]
        return (lowest, *(rows[k][0] for _, k in sorted(level)))

    def best(self, budget: int, metric: str = "error") -> Row | None:
        """The row that is better than every other at this budget by more than the noise; None where there is none."""
        rows = self.leaders(budget, metric)
        others = [r for r in self.rows if r.budget == budget and r.within and r.figure(metric) is not None]
        return rows[0] if len(rows) == 1 and len(others) > 1 else None

    def mark(self, row: Row, metric: str) -> str:
        """ "*" for the best, "=" for one of several that lead, "" for the others."""
        if self.best(row.budget, metric) is row:
            return "*"
        rows = self.leaders(row.budget, metric)
        return "=" if len(rows) > 1 and any(r is row for r in rows) else ""

    def table(self) -> list[tuple[str, list[list[str]]]]:
        """(heading, rows of cells) for each budget, best first; the first entry holds the names of the columns."""
        shown = self.metrics
        names = {"error": "error", "frechet": "Fréchet", "sliced": "sliced W"}
        switched = any(r.switched is not None for r in self.rows)
        head = ["solver", "grid", "forwards"]
        for metric in shown:
            head += [names[metric], *(["switched"] if metric == "error" and switched else [])]
        blocks: list[tuple[str, list[list[str]]]] = [("", [head])]
        for budget in self.budgets:
            rows = [r for r in self.rows if r.budget == budget]
            rows.sort(key=lambda r: tuple(f.value if (f := r.figure(k)) else math.inf for k in shown))
            cells = []
            for r in rows:
                line = [r.solver, r.grid, f"{r.forwards:g}" + ("" if r.within else " >")]
                for metric in shown:
                    line.append(_cell(r.figure(metric), self.mark(r, metric)))
                    if metric == "error" and switched:
                        line.append("-" if r.switched is None else f"{r.switched:.0%}")
                cells.append(line)
            what = "step" if self.by == "steps" else "call"
            blocks.append((f"{budget} {what}{'s' * (budget != 1)}", cells))
        if self.floor is not None:
            line = [f"{self.floor.count} real samples", "", "-"]
            for metric in shown:
                line.append(_cell(getattr(self.floor, metric, None), ""))
                line += ["-"] if metric == "error" and switched else []
            blocks.append(("noise floor", [line]))
        return blocks

    def verdict(self) -> list[str]:
        """What to use at each budget, a line each."""
        names = {"error": "error", "frechet": "Fréchet", "sliced": "sliced W"}
        lines = []
        for budget in self.budgets:
            said = []
            for metric in self.metrics:
                rows = self.leaders(budget, metric)
                if self.best(budget, metric) is not None:
                    said.append(f"{names[metric]} {rows[0].solver}")
                elif len(rows) > 1:
                    few = ", ".join(r.solver for r in rows[:3])
                    said.append(
                        f"{names[metric]} level: {few}" + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")
                    )
            if said:
                lines.append(f"at {budget} {'steps' if self.by == 'steps' else 'calls'}: " + "; ".join(said))
        return lines

    def legend(self) -> list[str]:
        """What the marks and the columns mean, and the notes."""
        s = self.settings
        lines = [
            "± half of a 95 % interval of the figure itself.  * best at its budget, = cannot be told from the lowest: by paired "
            "differences, from which the noise that all share is gone."
        ]
        if any(not r.within for r in self.rows):
            lines[0] += "  > spends more than the budget, and is not ranked."
        if "error" in self.metrics:
            lines.append(
                f"error: median over {s.get('fine')} samples of |x - x*| / rms |x*|, x* the fine solution from the same noise "
                f"({s.get('reference')})"
            )
        if self.floor is not None:
            lines.append(
                f"distances: {s.get('n')} samples to {s.get('data')}"
                + (f", Fréchet in {s['features']}" if s.get("features") else "")
            )
        return lines + [f"note: {n}" for n in self.notes]

    def __str__(self) -> str:
        s, blocks = self.settings, self.table()
        every = [line for _, lines in blocks for line in lines]
        widths = [max(len(line[k]) for line in every) for k in range(len(every[0]))]
        title = f"{s.get('model', 'model')}: {s.get('n')} samples, seed {s.get('seed')}"
        lines = [title + ("" if self.complete else "  (unfinished)"), ""]
        for heading, rows in blocks:
            if heading:
                lines += ["", heading]
            for row in rows:
                cells = [c.ljust(w) if k < 2 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))]
                lines.append("  " + "  ".join(cells).rstrip())
        return "\n".join([*lines, "", *self.legend(), *([""] if self.verdict() else []), *self.verdict()])

    def to_json(self) -> str:
        """All of it as JSON, with what is needed to pair figures again."""
        marks: dict[str, dict[str, Any]] = {f"{b}": {} for b in self.budgets}
        for budget in self.budgets:
            for metric in self.metrics:
                best = self.best(budget, metric)
                leaders = [r.solver for r in self.leaders(budget, metric)]
                marks[f"{budget}"][metric] = {"best": best and best.solver, "leaders": leaders}
        head = {
            "kind": KIND,
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "complete": self.complete,
            "by": self.by,
        }
        body = {"settings": dict(self.settings), "notes": list(self.notes), "best": marks}
        rows = ",\n  ".join(json.dumps(_plain(r), allow_nan=False, ensure_ascii=False) for r in self.rows)
        floor = json.dumps(None if self.floor is None else _plain(self.floor), allow_nan=False, ensure_ascii=False)
        text = json.dumps({**head, **body}, indent=1, allow_nan=False, ensure_ascii=False)
        return f'{text[:-2]},\n "floor": {floor},\n "rows": [\n  {rows}\n ]\n}}\n'

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all. Raises `FileError`."""
        with atomic(path) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Read what `save` wrote. Raises `FileError` (missing, of another kind, malformed, newer)."""
        try:
            found = json.loads(read_bytes(path, _LIMIT))
        except ValueError as error:
            raise FileError(f"{str(path)!r} is no comparison: not valid JSON ({error})") from None
        if not isinstance(found, dict) or found.get("kind") != KIND:
            raise FileError(f"{str(path)!r} is no comparison: its 'kind' is not {KIND!r}; name another file")
        if not isinstance(found.get("format"), int) or found["format"] > FORMAT:
            raise FileError(
                f"{str(path)!r} has format {found.get('format')!r}, this Reverie reads up to {FORMAT}; upgrade"
            )
        try:
            floor = found["floor"]
            return cls(
                tuple(Row(**_figures(r)) for r in found["rows"]),
                None if floor is None else Floor(**_figures(floor)),
                found["by"], found["settings"], tuple(found["notes"]), found["fingerprint"], found["complete"],
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileError(f"{str(path)!r} is a malformed comparison: {type(error).__name__} {error}") from None

    def plot(self, path: str | Path) -> None:
        """Draw it: each metric over network forwards, with intervals and the noise floor. `path` ends with .png, .svg or .pdf.

        Raises:
            ArgumentError: matplotlib is missing, another ending, or no rows. FileError: it cannot be written.
        """
        from reverie.inspect.chart import chart

        if Path(path).suffix not in (".png", ".svg", ".pdf"):
            raise ArgumentError(f"a plot's name ends with .png, .svg or .pdf, got {str(path)!r}")
        chart(self, Path(path))


def _cell(figure: Figure | None, mark: str) -> str:
    return "-  " if figure is None else f"{figure} {mark or ' '}"


def _plain(what: Row | Floor) -> dict[str, Any]:
    out = dataclasses.asdict(what)
    for value in out.values():
        if isinstance(value, dict):
            value["parts"] = [float(f"{v:.6g}") for v in value["parts"]]
    return out


def _figures(found: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _figure(v) if isinstance(v, Mapping) else v for k, v in found.items()}


def _figure(v: Mapping[str, Any]) -> Figure:
    parts: Sequence[float] = v["parts"]
    return Figure(float(v["value"]), float(v["low"]), float(v["high"]), v["kind"], tuple(map(float, parts)))
