"""From figures to a verdict.

The unit is the paired difference within a seed. The effect e of a case and its threshold c, for values that are better when lower:

    factor f          e = log2(other / own)                                   c = log2 f
    factor f, signed  e = other - f own                                       c = 0
    gain g            e = other - own                                         c = g
    share q           e = (null - own) - q (null - other)                     c = 0
    at_most b         e = b - own                                             c = 0            at_least b: e = own - b

Over seeds, mean +- t_0.975(n - 1) s / sqrt(n) is the interval of the mean effect. The case *holds* where the whole interval lies above c, *holds
weakly* where the mean does, and fails otherwise; equality is enough, except where it would say that there is no difference (factor 1, gain 0, a
share). All cases must hold for the claim to hold: each is tested at 2.5 % on its side, so their conjunction is too, and needs no correction for
their number.

Below five seeds an interval of t says little about the tails. With three or four the mean must also be twice what was asked (for a factor twice its
logarithm; a bound kept by half), where nothing was asked beyond "better" five are needed, and below three nothing holds better than weakly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reverie.base import ArgumentError, ReverieError
from reverie.papers.claim import Case, Claim

__all__ = [
    "HOLDS",
    "NOT",
    "VERDICTS",
    "WEAKLY",
    "ControlError",
    "Decision",
    "Outcome",
    "decide",
    "effect",
    "outcome",
    "together",
]

HOLDS, WEAKLY, NOT = VERDICTS = ("holds", "holds weakly", "does not hold here")
_ENOUGH, _FEWEST = 5, 3


class ControlError(ReverieError):
    """A control of a claim failed: its null control passed, or its positive control did not. There is no verdict then."""


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    Attributes:
        effects: one a seed. mean, low, high: of the effects, and their 95 % interval (infinite below two seeds). threshold: what the interval must
            lie above.
        verdict: "holds", "holds weakly" or "does not hold here".
    """

    effects: tuple[float, ...]
    mean: float
    low: float
    high: float
    threshold: float
    verdict: str


@dataclass(frozen=True)
class Decision:
    """What became of a claim: its verdict, and each case with its outcome and those of the controls (None where a control has no part in it)."""

    verdict: str
    cases: tuple[tuple[Case, Outcome, Outcome | None, Outcome | None], ...]


def effect(case: Case, values: Mapping[str, float], arm: str) -> float:
    """The effect of one seed, with `arm` in the place of the case's own. Raises `ArgumentError`: a ratio of figures that are not positive."""
    own = values[arm]
    if case.at_most is not None:
        return case.at_most - own
    if case.at_least is not None:
        return own - case.at_least
    sign = 1.0 if case.better == "lower" else -1.0
    other = values[case.against]
    if case.gain is not None:
        return sign * (other - own)
    if case.share is not None:
        return sign * ((values["null"] - own) - case.share * (values["null"] - other))
    factor = case.factor or 1.0
    if case.signed:
        return other - factor * own if sign > 0 else own - factor * other
    if not (own > 0 and other > 0):
        raise ArgumentError(
            f"{case.figure!r} is {own:g} and {other:g}; a factor needs positive figures, or signed=True (or give a gain)"
        )
    return sign * (math.log2(other) - math.log2(own))


def _asked(case: Case) -> tuple[float, bool]:
    """The threshold of the effect, and whether it must be exceeded."""
    if case.factor is not None and not case.signed:
        return math.log2(case.factor), case.factor == 1
    if case.gain is not None:
        return case.gain, case.gain == 0
    return 0.0, case.paired


def _plenty(case: Case, mean: float) -> bool:
    """Whether a mean effect is so large that three or four seeds will do."""
    bound = case.at_most if case.at_most is not None else case.at_least
    if bound is not None:
        return bound > 0 and mean >= (bound / 2 if case.at_most is not None else bound)
    threshold, _ = _asked(case)
    return threshold > 0 and mean >= 2 * threshold


def outcome(case: Case, figures: Sequence[Mapping[str, float]], arm: str | None = None) -> Outcome:
    """A case judged on its figures.

    Args:
        figures: arm -> value, one a seed. arm: in the place of the case's own, for a control.

    Raises:
        ArgumentError: no figures, one that is not finite, or one that a factor cannot take; or scipy is missing.

    >>> case = Case("error", factor=2)
    >>> found = outcome(case, [{"method": 1.0, "baseline": b} for b in (4.0, 4.2, 3.9, 4.1, 4.0)])
    >>> found.verdict, round(2**found.mean, 2)
    ('holds', 4.04)
    """
    own = case.arm if arm is None else arm
    if not figures:
        raise ArgumentError(f"there is no figure of {case.figure!r} to judge")
    for values in figures:
        for name in (case.arms - {"null", case.arm}) | {own}:
            if not math.isfinite(values[name]):
                raise ArgumentError(
                    f"{case.figure!r} of the arm {name!r} is {values[name]}; a claim is judged on finite figures"
                )
    effects = tuple(effect(case, values, own) for values in figures)
    n, mean = len(effects), math.fsum(effects) / len(effects)
    s = math.sqrt(math.fsum((e - mean) ** 2 for e in effects) / (n - 1)) if n > 1 else math.inf
    half = student(n - 1) * s / math.sqrt(n) if n > 1 else math.inf
    threshold, strictly = _asked(case)

    def above(value: float) -> bool:
        return value > threshold if strictly else value >= threshold - 1e-12 * abs(threshold)

    sure = above(mean - half) and n >= _FEWEST and (n >= _ENOUGH or _plenty(case, mean))
    verdict = HOLDS if sure else WEAKLY if above(mean) else NOT
    return Outcome(effects, mean, mean - half, mean + half, threshold, verdict)


def student(degrees: int) -> float:
    """The 97.5 % point of Student's t. Raises `ArgumentError` where scipy is missing."""
    try:
        from scipy.stats import t
    except ImportError:
        raise ArgumentError("intervals need scipy, which is not installed: pip install 'reverie[claims]'") from None
    return float(t.ppf(0.975, degrees))


def decide(claim: Claim, found: Sequence[Mapping[str, Mapping[str, float]]], *, some: bool = False) -> Decision:
    """The verdict of a claim on the figures of all seeds.

    Args:
        found: figure -> arm -> value, one a seed. some: leave out the cases whose figures were not measured (the tiny budget).

    Raises:
        ControlError: the null control passes in some setting, or the positive control fails. ArgumentError: a figure that was not measured, or as
            `outcome`.
    """
    judged: list[tuple[Case, Outcome, Outcome | None, Outcome | None]] = []
    for case in claim.cases:
        if any(case.figure not in f for f in found):
            if some:
                continue
            raise ArgumentError(
                f"the claim of {claim.slug!r} asks about {case.figure!r}, which its run did not measure"
            )
        values = [f[case.figure] for f in found]

        def control(arm: str, case: Case = case, values: Sequence[Mapping[str, float]] = values) -> Outcome | None:
            return outcome(case, values, arm) if case.arm == "method" and all(arm in v for v in values) else None

        judged.append((case, outcome(case, values), control("null"), control("ideal")))
    if not judged:
        raise ArgumentError(f"the run of {claim.slug!r} measured no figure that a case asks about")
    settings: dict[str, list[str]] = {}
    for case, _, null, ideal in judged:
        if null is not None and not case.cost:
            settings.setdefault(case.setting, []).append(null.verdict)
        if ideal is not None and not case.cost and ideal.verdict == NOT:
            raise ControlError(
                f"the positive control of {claim.slug!r} fails at {case.figure!r}: not even ideal samples would pass, so the figure cannot show "
                "what is asked; measure more samples, or another figure"
            )
    for setting, nulls in settings.items():
        if together(nulls) != NOT:
            raise ControlError(
                f"the null control of {claim.slug!r} {together(nulls)} on {setting!r}: the predicate cannot tell the method from what must fail"
            )
    if not settings:
        raise ControlError(f"the null control of {claim.slug!r} takes no part in what was measured")
    return Decision(together([own.verdict for _, own, _, _ in judged]), tuple(judged))


def together(outcomes: Sequence[str]) -> str:
    """The verdict of a claim from those of its cases: the worst of them.

    >>> together(["holds", "holds weakly"])
    'holds weakly'
    """
    return max(outcomes, key=VERDICTS.index)
