"""DPM-OT (2307.11308): fewer samples between modes than DDIM and DDPM, by the late start; the transport has no part in it.

T(z) takes every latent equally often, so that in law it is a latent drawn at random, and a random one of the same 96 leaves as few samples between
modes: from sigma / alpha = 0.78 as few as the data have, from 3.3 half a percent. What transport adds is that z says which latent, and near noises
the same one. Noise in place of the latents leaves 14 % there: the late start needs data to start from. From 3.3 DDPM in six is as good.

These data are also what samples stay near to. Their median distance to the nearest of the 96 is a little below that of fresh data (0.13 to 0.14),
though DDPM's is lower still, whose modes are too narrow; and the shares of the modes are those of the 96, not of the mixture. The paper's
measure on pictures, a classifier's doubt, is not tried here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reverie.base import Noise
from reverie.measure import nearest_distance
from reverie.oracle import Mixture
from reverie.papers.claim import Budget, Case, Claim, Figures
from reverie.process import vp
from reverie.solve import TransportStart, plan, sample
from reverie.solve.context import Run

ANGLES = torch.arange(6, dtype=torch.float64) * math.pi / 3
MODES, STD, FAR = 8 * torch.stack([ANGLES.cos(), ANGLES.sin()], 1), 0.3, 4.0
LATENTS = 96
STARTS = {"between modes": (0.45, 0.0), "from more noise": (0.6, 0.0)}
"""Where the latents are: at sigma / alpha = 0.78 and 3.3."""
SOLVER = "dpmpp-2m-sde"
_STREAM = 0x0D7


class _Random:
    """Starts from latents drawn at random, each as likely."""

    begins = True

    def __init__(self, latents: Tensor, seed: int) -> None:
        self.latents, self.noise = latents, Noise(seed)

    def start(self, ctx: Run) -> None:
        """Set the state."""
        u = self.noise.uniform((1,), ctx.index, 0, _STREAM)[:, 0]
        ctx.x = self.latents[(u * len(self.latents)).long().clamp_max(len(self.latents) - 1)].to(ctx.x)


class _Prior:
    """Starts from the run's own noise, though the plan starts below it."""

    begins = True

    def start(self, ctx: Run) -> None:
        """Leave the state."""


def run(arms: Mapping[str, Any], seed: int, budget: Budget) -> Figures:
    """Shares of samples farther than four standard deviations from every mode, and median distances to the nearest of the data that were noised."""
    o, n = Mixture(MODES, STD, process=vp()), budget.pick(500, 4000, 20000)
    data = o.sample(budget.pick(24, LATENTS, LATENTS), seed, start=1 << 20)
    out: dict[str, dict[str, float]] = {}
    for setting, span in STARTS.items():
        late = plan(SOLVER, o.process, 6, span=span)
        fitted = TransportStart.fit(
            data, late, seed=seed, rounds=budget.pick(0, 1, 3), patience=budget.pick(20, 50, 50)
        )
        begins = {"transport": fitted, "random": _Random(fitted.ot.targets, seed), "prior": _Prior()}
        for nfe in (6,) if budget.name == "tiny" else (4, 6, 8, 10):
            late = plan(SOLVER, o.process, nfe, span=span)
            for arm, kind in arms.items():
                if kind == "data":
                    x = o.sample(n, seed, start=1 << 22)
                elif kind in begins:
                    x = sample(o, n, plan=late, hooks=begins[kind], seed=seed, batch=n)
                else:
                    x = sample(o, n, plan=plan(kind, o.process, nfe), seed=seed, batch=n)
                away = nearest_distance(x, MODES.to(x)) > FAR * STD
                out.setdefault(f"{setting}/{nfe}", {})[arm] = float(away.double().mean())
                near = float(nearest_distance(x, data).median())
                out.setdefault(f"{setting}, nearest/{nfe}", {})[arm] = near
    return out


CLAIM = Claim(
    slug="dpm-ot",
    kind="superiority",
    statement="With 6 evaluations on a mixture of six separate modes, starting from noised data to which white noise is transported leaves at most "
    "half as many samples between modes as DDIM and as DDPM, and from more noise at most half as many as starting from a random one of these data.",
    arms={"method": "transport", "baseline": "ddim", "ddpm": "ddpm", "random": "random", "prior": "prior"},
    ideal="data",
    names={
        "method": "transported",
        "baseline": "DDIM",
        "ddpm": "DDPM",
        "random": "random",
        "prior": "noise at the late start",
        "null": "DDIM in its place",
        "ideal": "fresh data",
    },
    run=run,
    cases=(
        Case("between modes/6", factor=2.0, signed=True),
        Case("between modes/6", factor=2.0, signed=True, against="ddpm"),
        Case("from more noise/6", factor=2.0, signed=True, against="random"),
    ),
    axis="evaluations",
    units={
        "between modes": "share of samples 4 standard deviations from every mode",
        "between modes, nearest": "median distance to the nearest of the 96 data",
        "from more noise": "share of samples 4 standard deviations from every mode",
        "from more noise, nearest": "median distance to the nearest of the 96 data",
    },
    use="""\
m = rv.oracle.Mixture([[-3.0, 0.0], [3.0, 0.0]], 0.2, process=rv.process.vp())
plan = rv.solve.plan("dpmpp-2m-sde", m.process, 6, span=(0.45, 0))
begin = rv.solve.TransportStart.fit(m.sample(32), plan)
x = rv.sample(m, 16, plan=plan, hooks=begin)""",
)
