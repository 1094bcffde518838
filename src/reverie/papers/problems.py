"""Where solvers are put to the test: an overlapping mixture, whose every answer is exact, and the trained digits.

    error      the solver's alone: the median over samples of |x - x*| / rms |x*|, x* the exact solution of the model's own ODE from the same noise
               (`solve.Fine`; on the trained network to a tolerance of 1e-4)
    kernel     the unbiased kernel distance to exact samples of the mixture, or to the real digits in the features of an independent classifier
    frechet    the Fréchet distance likewise; it is biased upwards by few samples, so only differences of it mean something

Every seed has its own mixture and its own noises; all arms of a seed start from the same noises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reverie.base import DATA, ArgumentError, Noise
from reverie.data import digits as real
from reverie.guide import CFG
from reverie.hub import load
from reverie.inspect.entries import entry
from reverie.measure import frechet_distance, judge, kernel_distance
from reverie.model import Model
from reverie.oracle import Mixture
from reverie.process import Process, vp
from reverie.solve import Plan, sample
from reverie.solve.fine import Fine

_NONE = torch.empty(0)
__all__ = ["Problem", "digits", "mixture", "overlapping"]


class Problem:
    """A model, a number of noises, and their exact solutions.

    Args:
        name: of the setting, as in figures. m: the model, guided or not. n: samples. seed: of the noises. cond: of the n samples.
        reference: of the exact solutions, see `solve.Fine`. data: what its samples should be like. fresh: n others of these.
    """

    def __init__(
        self,
        name: str,
        m: Model,
        n: int,
        seed: int,
        cond: Mapping[str, Any] | None = None,
        reference: float = 1e-6,
        batch: int = 256,
        data: Tensor = _NONE,
        fresh: Tensor = _NONE,
    ) -> None:
        if m.shape is None:
            raise ArgumentError(f"the model of {name!r} must know its shape")
        self.name, self.m, self.n, self.seed, self.cond, self.batch = name, m, n, seed, cond, min(n, batch)
        self.data, self.fresh = data, fresh
        self.fine = Fine(m, n, m.shape, cond=cond, seed=seed, batch=self.batch, reference=reference)
        self._made: dict[str, tuple[Plan, Tensor]] = {}

    def samples(self, solver: Any, nfe: int) -> tuple[Plan, Tensor]:
        """The plan of a solver with a budget of calls, and its samples `(n, *shape)`; made once. Raises `NonFiniteError`."""
        key = repr((solver, nfe))
        if key not in self._made:
            plan = entry(solver).compile(self.m, nfe=nfe)
            if plan.nfe is None or plan.nfe > nfe:
                raise ArgumentError(f"{solver!r} makes {plan.nfe} calls of {nfe} allowed")
            x = sample(self.m, self.n, plan=plan, cond=self.cond, seed=self.seed, batch=self.batch, decode=False)
            self._made[key] = plan, x.double().cpu()
        return self._made[key]

    def error(self, solver: Any, nfe: int) -> float:
        """The error of a solver with a budget of calls.

        Args:
            solver: a spec, "dpmpp-2m@logsnr:lower_final=true", or a pair (name, options); a list of them counts by its best.
        """
        if isinstance(solver, list):
            return min(self.error(one, nfe) for one in solver)
        plan, x = self.samples(solver, nfe)
        target = self.fine(plan.start, plan.times[-1])
        size = target.flatten(1).square().sum(1).mean().sqrt()
        return float((x - target).flatten(1).norm(dim=1).median() / size)

    def kernel(self, solver: Any, nfe: int) -> float:
        """The kernel distance of its samples to data, in the judge's features where data are digits; "data" stands for fresh data."""
        return kernel_distance(*self._features(solver, nfe))

    def frechet(self, solver: Any, nfe: int) -> float:
        """The Fréchet distance likewise."""
        return frechet_distance(*self._features(solver, nfe))

    def _features(self, solver: Any, nfe: int) -> tuple[Tensor, Tensor]:
        x = self.fresh if solver == "data" else self.samples(solver, nfe)[1]
        if tuple(x.shape[1:]) != (1, 8, 8):
            return x.flatten(1), self.data.flatten(1)
        with torch.no_grad():
            return judge().features(x.float()), judge().features(self.data.float())

    def figures(self, metric: str, arms: Mapping[str, Any], budgets: Sequence[int]) -> dict[str, dict[str, float]]:
        """Figures "name/budget": a metric of each arm, a solver or (solver, k), which has k times the budget."""
        measure = getattr(self, metric)
        out = {}
        for nfe in budgets:
            of = {}
            for arm, solver in arms.items():
                spec, times = solver if isinstance(solver, tuple) and isinstance(solver[-1], int) else (solver, 1)
                of[arm] = measure(spec, nfe * times)
            out[f"{self.name}/{nfe}"] = of
        return out


def overlapping(
    seed: int, dim: int = 64, modes: int = 10, norm: float = 2.0, process: Process | None = None
) -> Mixture:
    """A mixture whose components, of standard deviation 1, overlap: means of length 2, each a class; another one every seed.

    >>> overlapping(0).shape
    (64,)
    """
    means = Noise(seed).normal((dim,), range(modes), stream=DATA).double()
    return Mixture(
        norm * means / means.norm(dim=1, keepdim=True),
        1.0,
        process=vp() if process is None else process,
        name="mixture",
    )


def mixture(seed: int, n: int, guidance: float = 1.0, process: Process | None = None) -> Problem:
    """The overlapping mixture in 64 dimensions; under guidance its classes are its components, in turn."""
    o = overlapping(seed, process=process)
    data, fresh = o.sample(4000, seed, start=1 << 20), o.sample(n, seed, start=1 << 21)
    if guidance == 1.0:
        return Problem("mixture", o, n, seed, data=data, fresh=fresh)
    cond = {"class_labels": torch.arange(n) % len(o.components.means)}
    return Problem("mixture", o | CFG(guidance), n, seed, cond, data=data, fresh=fresh)


def digits(seed: int, n: int, guidance: float = 1.0) -> Problem:
    """The shipped model of handwritten digits; all classes in turn, also of the fresh data, which lowers the floor of a distance."""
    m, (held, labels) = load("digits"), real("heldout")
    order = Noise(seed).uniform((len(held),), [0], stream=DATA)[0].argsort(stable=True)
    by = [order[labels[order] == c] for c in range(10)]
    picked = torch.stack([of[: min(map(len, by))] for of in by], 1).flatten()[:n]
    cond = {"class_labels": torch.arange(n) % 10}
    guided = m if guidance == 1.0 else m | CFG(guidance)
    return Problem("digits", guided, n, seed, cond, 1e-4, 128, real("train")[0], held[picked])
