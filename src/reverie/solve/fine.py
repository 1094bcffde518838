"""Fine solutions: where a sample ends if the solver makes no error.

x* is the model's own probability flow from the sample's initial noise to t_min, solved to a tolerance (`oracle.solve_ode`) or by a fine
plan; for a plan that goes on to sigma = 0, x* is the x0 which the model predicts there, because no solver may ask it later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reverie.base import PRIOR, ArgumentError, Noise
from reverie.model import Model, conditions, select
from reverie.oracle import solve_ode
from reverie.solve.plan import Plan
from reverie.solve.run import run
from reverie.solve.solver import plan

__all__ = ["Fine"]


class Fine:
    """The fine solutions of samples 0 .. n - 1 of a seed, each computed when first asked for.

    Args:
        m: the model, guided or not. n, seed, shape, batch: as for `sample`. cond: conditions of the n samples.
        reference: a float, the tolerance of `solve_ode` (a float32 network supports 1e-4 to 1e-5); or an int, the calls of a fine plan of
            dpmpp-3m; or a `Plan` that ends at t_min.
        tell: called after each block with the calls of the model, per sample, that were made in it.
        stream: of the noise; another than that of `sample` has noises that no sample begins with.

    >>> import reverie as rv
    >>> o = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=rv.process.vp())
    >>> fine = Fine(o, 8, (2,), reference=200)
    >>> bool(torch.allclose(fine(1.0, o.process.t_min), Fine(o, 8, (2,))(1.0, o.process.t_min), atol=1e-5))
    True
    """

    def __init__(
        self,
        m: Model,
        n: int,
        shape: Sequence[int],
        *,
        cond: Mapping[str, Any] | None = None,
        seed: int = 0,
        batch: int = 64,
        reference: float | int | Plan = 1e-4,
        tell: Callable[[int, int], None] | None = None,
        stream: int = PRIOR,
    ) -> None:
        self.stream = stream
        self.m, self.n, self.shape, self.seed, self.batch = m, n, tuple(shape), seed, batch
        self.cond = conditions(cond, n, m.null, m.device)
        self.tell = tell
        self._known: dict[tuple[float, float], Tensor] = {}
        self.reference = reference
        whole = isinstance(reference, int) and not isinstance(reference, bool) and reference >= 1
        if not (isinstance(reference, Plan) or whole or (isinstance(reference, float) and 1e-13 <= reference < 1)):
            raise ArgumentError(
                f"reference is a tolerance (1e-4), a number of calls (200), a Plan, or None for none, got {reference!r}"
            )

    def __str__(self) -> str:
        if isinstance(self.reference, float):
            return f"solve_ode, rtol {self.reference:g}"
        solver = self.reference.solver if isinstance(self.reference, Plan) else "dpmpp-3m"
        return f"{solver}, {self.calls} calls"

    @property
    def calls(self) -> int | None:
        """Calls of the model that a solution takes; None where a tolerance decides."""
        if isinstance(self.reference, Plan):
            return self.reference.nfe
        return None if isinstance(self.reference, float) else self.reference

    def __call__(self, start: float, stop: float) -> Tensor:
        """The states `(n, *shape)`, float64 on the CPU, at the time `stop` of a run from `start`."""
        p = self.m.process
        if stop < p.t_min:
            if (start, stop) not in self._known:
                self._known[start, stop] = self._map(
                    lambda x, told: self.m(x, p.t_min, **told).x0, self(start, p.t_min)
                )
            return self._known[start, stop]
        if (start, stop) not in self._known:
            self._known[start, stop] = self._map(self._solver(start, stop), self.begin(start))
        return self._known[start, stop]

    def begin(self, start: float) -> Tensor:
        """The initial states `(n, *shape)`, float64 on the CPU."""
        p = self.m.process
        return p.prior(p.draw(Noise(self.seed), self.shape, range(self.n), stage=0, stream=self.stream), start)

    def _solver(self, start: float, stop: float) -> Callable[[Tensor, Mapping[str, Any]], Tensor]:
        if isinstance(self.reference, float):
            return lambda x, told: self._ode(x, start, stop, told)
        table = self.reference if isinstance(self.reference, Plan) else self._table(self.reference, start)
        if abs(table.start - start) + abs(table.times[-1] - stop) > 1e-6 * (start - stop):
            raise ArgumentError(
                f"the fine plan goes from t = {table.start:g} to {table.times[-1]:g}, a compared one from {start:g} to {stop:g}; "
                "give reference=1e-4 (a tolerance), which follows any"
            )
        return lambda x, told: run(table, self.m, x.double(), cond=told)

    def _table(self, calls: int, start: float) -> Plan:
        """A plan of so many calls from any start, even in lam; where alpha = 0 at the start, so that lam is not finite, with one call more there."""
        p = self.m.process
        # where t_min is clean itself (flow), a plan that ends there ends at sigma = 0
        end = "sigma_min" if p.sigma(p.t_min) > 0 else "denoise"
        (low, high), lam = p.lam_range, p.lam(start)
        share = (high - lam) / (high - low) if math.isfinite(lam) else 1.0
        even = plan("dpmpp-3m", p, nfe=calls, end=end, span=(1.0 if share > 1 - 1e-9 else share, 0.0))
        if math.isfinite(lam):
            return even
        return plan("dpmpp-3m", p, grid=[start, *even.times], end=end)

    def _ode(self, x: Tensor, start: float, stop: float, told: Mapping[str, Any]) -> Tensor:
        assert isinstance(self.reference, float)
        try:
            return solve_ode(self.m, x, start, stop, cond=told, rtol=self.reference)
        except ArgumentError as error:
            raise ArgumentError(
                f"the fine solution: {error}. Give another reference: a larger tolerance (1e-3), a number of calls (200), or None"
            ) from None

    def _map(self, f: Callable[[Tensor, Mapping[str, Any]], Tensor], x: Tensor) -> Tensor:
        """f in blocks of the batch."""
        parts = []
        for rows in torch.arange(self.n).split(self.batch):
            before = self.m.calls
            where = rows.to(self.m.device)
            told = select(self.cond, where, self.n) if self.n > 1 else self.cond
            with torch.no_grad():
                parts.append(f(x[rows].to(self.m.device), told).double().cpu())
            if self.tell is not None:
                self.tell(len(rows), self.m.calls - before)
        return torch.cat(parts)
