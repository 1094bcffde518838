"""From figures to a verdict.

The unit is the paired difference within a seed. With d_1 .. d_n of a case (log2 of the ratio for a factor; the difference for a gain; the
distance to the bound otherwise) and its threshold c,

    mean +- t_0.975(n - 1) s / sqrt(n)

is the interval of the mean. The case *holds* where the whole interval lies above c, *holds weakly* where the mean does, and fails otherwise. All
cases must hold for the claim to hold: each is tested at 2.5 % on its side, so their conjunction is too, and needs no correction for their number.

Below five seeds an interval of t says little about the tails, so there the mean must also be at least twice the threshold, and below three
nothing holds better than weakly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reverie.base import ArgumentError
from reverie.papers.claim import Case

__all__ = ["HOLDS", "NOT", "VERDICTS", "WEAKLY", "Outcome", "outcome", "together"]

HOLDS, WEAKLY, NOT = VERDICTS = ("holds", "holds weakly", "does not hold here")
_ENOUGH, _FEWEST = 5, 3


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    Attributes:
        effects: one a seed. mean, low, high: of the effects, and their 95 % interval (infinite below two seeds). threshold: what the interval
            must lie above.
        verdict: "holds", "holds weakly" or "does not hold here".
    """

    effects: tuple[float, ...]
    mean: float
    low: float
    high: float
    threshold: float
    verdict: str


def _effect(case: Case, values: Mapping[str, float], arm: str) -> float:
    own = values[arm]
    if case.at_most is not None:
        return case.at_most - own
    if case.at_least is not None:
        return own - case.at_least
    other = values[case.against]
    worse, better = (other, own) if case.better == "lower" else (own, other)
    if case.gain is not None:
        return worse - better
    if not (worse > 0 and better > 0):
        raise ArgumentError(
            f"{case.figure!r} is {own:g} and {other:g}; a factor needs positive figures, give a gain instead"
        )
    return math.log2(worse / better)


def outcome(case: Case, figures: Sequence[Mapping[str, float]], null: bool = False) -> Outcome:
    """A case judged on its figures.

    Args:
        figures: arm -> value, one a seed. null: put the null control in the method's place.

    Raises:
        ArgumentError: no figures, one that is not finite, or one that a factor cannot take.

    >>> case = Case("error", factor=2)
    >>> found = outcome(case, [{"method": 1.0, "baseline": b} for b in (4.0, 4.2, 3.9, 4.1, 4.0)])
    >>> found.verdict, round(2**found.mean, 2)
    ('holds', 4.04)
    """
    arm = "null" if null and case.arm == "method" else case.arm
    if not figures:
        raise ArgumentError(f"there is no figure of {case.figure!r} to judge")
    for values in figures:
        for name in (arm, case.against) if case.paired else (arm,):
            if not math.isfinite(values[name]):
                raise ArgumentError(
                    f"{case.figure!r} of the arm {name!r} is {values[name]}; a claim is judged on finite figures"
                )
    effects = tuple(_effect(case, values, arm) for values in figures)
    threshold = math.log2(case.factor) if case.factor is not None else case.gain if case.gain is not None else 0.0
    n, mean = len(effects), math.fsum(effects) / len(effects)
    half = math.inf
    if n > 1:
        try:
            from scipy.stats import t
        except ImportError:
            raise ArgumentError("intervals need scipy, which is not installed: pip install 'reverie[claims]'") from None

        s = math.sqrt(math.fsum((e - mean) ** 2 for e in effects) / (n - 1))
        half = float(t.ppf(0.975, n - 1)) * s / math.sqrt(n)
    sure = _above(mean - half, threshold) and n >= _FEWEST and (n >= _ENOUGH or mean >= 2 * abs(threshold))
    verdict = HOLDS if sure else WEAKLY if _above(mean, threshold) else NOT
    return Outcome(effects, mean, mean - half, mean + half, threshold, verdict)


def _above(value: float, threshold: float) -> bool:
    """At least the threshold; strictly where it is 0, for no difference is not better."""
    return value > threshold or (threshold != 0 and value >= threshold - 1e-12 * abs(threshold))


def together(outcomes: Sequence[str]) -> str:
    """The verdict of a claim from those of its cases: the worst of them.

    >>> together(["holds", "holds weakly"])
    'holds weakly'
    """
    return max(outcomes, key=VERDICTS.index)
