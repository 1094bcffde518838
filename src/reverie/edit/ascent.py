"""DDIM inversion: a picture's way up to its noise, by plain steps, or by fixed points of the steps down.

A DDIM step from s down to t with eps asked at s, turned round, is an equation for x_s,

    x_s = (alpha_s / alpha_t) x_t + (sigma_s - alpha_s sigma_t / alpha_t) eps(x_s, s).

DDIM inversion puts eps(x_t, s) there: the answer at the state that is known, told the level that is sought. Each round of a fixed-point iteration
asks again at what came of it, eps(x_s, s); where it converges (steps that are short beside the network's slope), DDIM down on the same nodes gives
the picture back up to rounding. The rounds are stages of a plan, so that guides, conditions and hooks go with it as ever.

Sources: Song et al. 2021 (2010.02502, section 4.3); Mokady et al. 2023 (2211.09794) for the level that is told; Pan et al. 2023 (2309.04907) and
Garibi et al. 2024 (2403.14602) for fixed points.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from reverie.base import ArgumentError, TimeError
from reverie.process import Process
from reverie.solve import Plan, Stage, prediction, state

__all__ = ["ascent", "nodes_of"]


def ascent(process: Process, times: Sequence[float], rounds: int = 0) -> Plan:
    """The plan from a clean state up to its noise, for `run` and every model of the process.

    Args:
        times: rising, from the picture's (the process's clean end, or a little noise) to the noise's; those of a plan are `plan.times[::-1]`.
        rounds: of the fixed-point iteration, >= 0, one evaluation each a step; 0 is DDIM inversion.

    Raises:
        ArgumentError: rounds, or fewer than two times. TimeError: times that do not rise, or outside the process.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Mixture([[-1.0], [1.0]], 0.5, process=rv.process.vp())
    >>> down = rv.solve.plan("ddim", o.process, steps=20)
    >>> x = o.sample(6).double()
    >>> gaps = [(rv.run(down, o, rv.run(ascent(o.process, down.times[::-1], n), o, x)) - x).abs().max() for n in (0, 20)]
    >>> bool(gaps[0] > 0.01), bool(gaps[1] < 1e-6)
    (True, True)
    """
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
        raise ArgumentError(f"rounds is a whole number of at least 0, got {rounds!r}")
    if len(times) < 2:
        raise ArgumentError(f"an ascent needs two times or more, got {list(times)!r}")
    stages: list[Stage] = []
    for i, (low, high) in enumerate(pairwise(map(float, times))):
        if not low < high:
            raise TimeError(f"the times of an ascent rise, got {low:g} before {high:g}; plan.times[::-1] are a plan's")
        alpha, sigma = (float(f(high)) for f in (process.alpha, process.sigma))
        before, noise = float(process.alpha(low)), float(process.sigma(low))
        begin = len(stages)
        for r in range(rounds + 1):
            k = len(stages)
            row = alpha / before * state(begin) + (sigma - alpha * noise / before) * prediction(k)
            stages.append(Stage(row, high, high, i, inner=r < rounds))
    return Plan(
        "ascent", process, tuple(stages), float(times[0]), ("eps",), options={"rounds": rounds}, papers=("ddim",)
    )


def nodes_of(times: Plan | Sequence[float]) -> tuple[float, ...]:
    """Falling times, or those of a plan.

    >>> nodes_of([0.5, 0.1])
    (0.5, 0.1)
    """
    return times.times if isinstance(times, Plan) else tuple(map(float, times))
