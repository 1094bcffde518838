"""A bridge through snapshots: paths under a Brownian reference, and under the reference that the rounds have found."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

import reverie as rv
from generate.plot import BLUE, INK, NAVY, RED, bare, framed, legend, titled
from reverie.solve.bridges import Affine, LinearSDE

__all__ = ["MARK", "bridge"]

MARK = "<!-- bridge -->"
"""Where a page has the figure."""
_TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
_TIMES = (0.0, 1.1, 2.2, 3.3, 4.4)
_RATE, _SIGMA = 1.2, 0.07


def bridge() -> str:
    """The figure as HTML."""
    said = "Paths through five snapshots of a turning cloud: straight between them with a Brownian reference, round with the one that was found."
    return framed(_draw(), "bridge", said)


def _cloud(t: float, n: int, stage: int) -> torch.Tensor:
    """n points of a cloud at (1, 0), carried along by the truth."""
    phi, m, q = LinearSDE(_RATE * _TURN, None, _SIGMA).transition(t)
    z = rv.Noise(0).normals((2,), range(n), (2 * stage, 2 * stage + 1), dtype=torch.float64)
    start = torch.tensor([1.0, 0.0], dtype=torch.float64) + 0.09 * z[0]
    return start @ phi.mT + m + (z[1] @ torch.linalg.cholesky(q).mT if t else 0.0)


def _draw() -> Any:
    from matplotlib.figure import Figure

    seen = [_cloud(t, 60, k) for k, t in enumerate(_TIMES)]
    held = [_cloud((s + t) / 2, 60, 50 + k) for k, (s, t) in enumerate(pairwise(_TIMES))]
    figure = Figure(figsize=(8.4, 4.3), layout="constrained")
    for axes, rounds in zip(figure.subplots(1, 2, sharex=True, sharey=True), (0, 5), strict=True):
        found = rv.solve.multimarginal_bridge(seen, _TIMES, Affine(_TURN[None]), _SIGMA, rounds=rounds, steps=16)
        for path in found.paths()[::20]:
            axes.plot(*path.mT.tolist(), color=BLUE, lw=0.8, alpha=0.35)
        axes.scatter(*torch.cat(held).mT.tolist(), s=7, facecolors="none", edgecolors=RED, lw=0.6, label="held out")
        axes.scatter(*torch.cat(seen).mT.tolist(), s=7, color=NAVY, lw=0, label="snapshots")
        rate = (
            "Brownian reference"
            if found.theta is None
            else f"{rounds} rounds: rate {found.theta.item():.2f}, truth {_RATE}"
        )
        titled(axes, rate)
        bare(axes)
        if rounds == 0:
            legend(axes, loc="lower right", markerscale=1.8)
    for axes, (t, cloud) in ((a, c) for a in figure.axes for c in zip(_TIMES, seen, strict=True)):
        x, y = (cloud.mean(0) * 0.5).tolist()
        axes.annotate(f"t = {t:g}", (x, y), ha="center", va="center", fontsize=8.5, color=INK)
    return figure
