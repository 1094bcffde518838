"""Ratios of DC-Solver for guidance scales and numbers of steps at which none were searched: cascade polynomial regression.

    r(w, N, i) = sum_{k=0..3} u^k sum_{j=0..2} c^(2-j) sum_{l=0..2} A[k][j][l] n^(2-l),      u = i / N,   c = w / 12,   n = N / 50,

for the steps i = 3 .. N (counted from 1; the first two have ratio 1): a cubic in the place of the step, whose coefficients are parabolas in the
guidance scale, whose coefficients are parabolas in the number of steps. It is linear in the 36 numbers A, so they are fitted by least squares.
Between the cells of the fit it interpolates; outside polynomials go astray, so ratios are clamped to [0.3, 1.7] and cells far outside refused.

Source: Zhao et al. 2024 (2409.03755, section 3.4).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path

import torch
from torch import Tensor

from reverie.base import ArgumentError, FileError, implements
from reverie.base.files import atomic, read_bytes

__all__ = ["BOUNDS", "FIRST", "FORMAT", "VERSION", "Cascade"]

FIRST = 2
"""The first step at which three predictions are known; the steps before it have ratio 1."""
BOUNDS = (0.3, 1.7)
"""Where ratios may lie: beyond, the parabola of DC-Solver is extrapolated too far."""
FORMAT, VERSION = "reverie-cascade", 1
_SHAPE = (4, 3, 3)
_LIMIT = 1 << 20
Cube = tuple[tuple[tuple[float, ...], ...], ...]


@implements("dc-solver")
@dataclass(frozen=True)
class Cascade:
    """Predicted ratios: `cascade(scale, steps)`.

    Attributes:
        coefficients: A, 4 x 3 x 3 numbers: powers of u rising, of c and n falling.
        scales, steps: the lowest and highest guidance scale and number of steps of the cells it was fitted to.
        error: root mean square of what the fit leaves, in units of the ratio.

    >>> cells = {(w, n): (1.0, 1.0) + tuple(1 - 0.02 * w * i / n for i in range(3, n + 1)) for w in (2.0, 4.0, 8.0) for n in (5, 6, 8, 10)}
    >>> found = Cascade.fit(cells)
    >>> [round(r, 6) for r in found(6.0, 7)] == [1.0, 1.0] + [round(1 - 0.12 * i / 7, 6) for i in range(3, 8)]
    True
    """

    coefficients: Cube
    scales: tuple[float, float]
    steps: tuple[int, int]
    error: float = 0.0

    def __post_init__(self) -> None:
        try:
            table = torch.tensor(self.coefficients, dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"coefficients are {_SHAPE} numbers: {error}") from None
        if table.shape != _SHAPE or not bool(table.isfinite().all()):
            raise ArgumentError(f"coefficients are {_SHAPE} finite numbers, got {tuple(table.shape)}")
        for name, (low, high) in (("scales", self.scales), ("steps", self.steps)):
            if not -math.inf < low <= high < math.inf:
                raise ArgumentError(f"{name} go from a lowest to a highest number, got {(low, high)}")

    @classmethod
    def fit(cls, cells: Mapping[tuple[float, int], Sequence[float]]) -> Cascade:
        """Least squares over searched ratios.

        Args:
            cells: (guidance scale, number of steps N) -> N ratios, as in `plan.options["ratios"]` of `compensate`; all of one model, grid
                and order. The parabolas need 3 scales and 3 numbers of steps each; with fewer the degree falls (one: a constant).

        Raises `ArgumentError`: no cells, or cells that are no such ratios.
        """
        if not isinstance(cells, Mapping) or not cells:
            raise ArgumentError("give cells: {(guidance scale, steps): ratios, ...}")
        places, values = [], []
        for key, ratios in cells.items():
            w, n = _cell(key)
            if len(ratios) != n or not all(isinstance(r, Real) and math.isfinite(r) for r in ratios):
                raise ArgumentError(
                    f"the cell of scale {w:g} and {n} steps needs {n} finite ratios, got {ratios!r:.80}"
                )
            places += [(w, n, i) for i in range(FIRST + 1, n + 1)]
            values += [float(r) for r in ratios[FIRST:]]
        if not values:
            raise ArgumentError(f"no cell has more than {FIRST} steps, so there is no ratio to fit")
        at, wanted = torch.tensor(places, dtype=torch.float64), torch.tensor(values, dtype=torch.float64)
        scales, steps = at[:, 0], at[:, 1]
        design = _design(at)
        free = torch.zeros(_SHAPE, dtype=torch.bool)
        wide, long = (min(2, len(axis.unique()) - 1) for axis in (scales, steps))
        for top in (3, 2, 1, 0):
            free[:] = False
            free[: top + 1, 2 - wide :, 2 - long :] = True
            own = design[:, free.flatten()]
            unit = own.norm(dim=0)
            solved = torch.linalg.lstsq(own / unit, wanted[:, None], driver="gelsd", rcond=1e-13)
            if int(solved.rank) == own.shape[1]:
                break
        flat = torch.zeros(free.numel(), dtype=torch.float64)
        flat[free.flatten()] = solved.solution[:, 0] / unit
        left = float((design @ flat - wanted).square().mean().sqrt())
        cube = tuple(tuple(tuple(row) for row in plane) for plane in flat.reshape(_SHAPE).tolist())
        return cls(cube, (float(scales.min()), float(scales.max())), (int(steps.min()), int(steps.max())), left)

    def __call__(self, scale: float, steps: int) -> tuple[float, ...]:
        """The ratios of `steps` steps at a guidance scale, in [0.3, 1.7].

        Raises `ArgumentError` for a cell more than a quarter of the fitted range (or a tenth of its upper end) outside of it.
        """
        w, n = _cell((scale, steps))
        for name, value, (low, high) in (("guidance scale", w, self.scales), ("number of steps", n, self.steps)):
            margin = max((high - low) / 4, abs(high) / 10)
            if not low - margin <= value <= high + margin:
                raise ArgumentError(
                    f"the {name} {value:g} lies far outside those of the fit, {low:g} to {high:g}, where polynomials go astray; "
                    "search ratios there (solve.compensate), or fit again with such a cell"
                )
        at = torch.tensor([(w, n, i) for i in range(FIRST + 1, n + 1)], dtype=torch.float64).reshape(-1, 3)
        found = _design(at) @ torch.tensor(self.coefficients, dtype=torch.float64).flatten()
        return (1.0,) * min(FIRST, n) + tuple(found.clamp(*BOUNDS).tolist())

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all. Raises `FileError`."""
        with atomic(path) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Cascade:
        """Read it; everything is checked. Raises `FileError`."""
        try:
            head = json.loads(read_bytes(Path(path), _LIMIT))
            if head["format"] != FORMAT or head["version"] != VERSION:
                raise ValueError(f"its format is {head['format']!r}, version {head['version']!r}")
            cube = tuple(tuple(tuple(float(c) for c in row) for row in plane) for plane in head["coefficients"])
            (low, high), (few, many) = head["scales"], head["steps"]
            return cls(cube, (float(low), float(high)), (int(few), int(many)), float(head["error"]))
        except (ValueError, KeyError, TypeError, RecursionError, ArgumentError) as error:
            raise FileError(f"{str(path)!r} holds no cascade of ratios: {type(error).__name__} {error}") from None


def _cell(key: object) -> tuple[float, int]:
    if not isinstance(key, tuple) or len(key) != 2:
        raise ArgumentError(f"a cell is (guidance scale, number of steps), got {key!r:.80}")
    w, n = key
    if isinstance(w, bool) or not isinstance(w, Real) or not math.isfinite(w):
        raise ArgumentError(f"a guidance scale is a finite number, got {w!r:.80}")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ArgumentError(f"a number of steps is whole and at least 1, got {n!r:.80}")
    return float(w), n


def _design(at: Tensor) -> Tensor:
    """u^k c^(2-j) n^(2-l) of cells (scale, steps, step) `(m, 3)`, flat in (k, j, l): `(m, 36)`."""
    w, n, i = at.unbind(1)
    falling = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
    u = (i / n)[:, None] ** torch.arange(4, dtype=torch.float64)
    c, long = (w / 12)[:, None] ** falling, (n / 50)[:, None] ** falling
    return torch.einsum("mk,mj,ml->mkjl", u, c, long).flatten(1)
