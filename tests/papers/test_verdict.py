"""From figures to a verdict: against scipy, at the edges, and how often chance alone "holds"."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reverie.base import ArgumentError
from reverie.papers import VERDICTS, Case, outcome
from reverie.papers.verdict import together

HOLDS, WEAKLY, NOT = VERDICTS
GAIN = Case("f", gain=1.0)


def seen(case: Case, effects, base: float = 0.0):
    """The outcome of effects: of a gain, or log2 of a factor."""
    if case.factor is not None:
        return outcome(case, [{"method": 1.0, "baseline": 2.0**e} for e in effects])
    return outcome(case, [{"method": base, "baseline": base + e} for e in effects])


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_the_interval_is_students(effects):
    found = seen(GAIN, effects)
    want = stats.ttest_1samp(effects, 0.0).confidence_interval(0.95) if np.ptp(effects) else None
    assert found.effects == pytest.approx(effects)
    assert found.mean == pytest.approx(np.mean(effects), abs=1e-9)
    if want is not None and np.std(effects) > 1e-6:
        assert (found.low, found.high) == pytest.approx((want.low, want.high), rel=1e-6, abs=1e-6)
    if found.verdict == HOLDS:
        assert found.low >= 1 - 1e-9
    assert (found.verdict == NOT) == (found.mean < 1 - 1e-12)


@pytest.mark.parametrize(("n", "quantile"), [(2, 12.7062), (3, 4.30265), (5, 2.77645), (20, 2.09302)])
def test_the_interval_has_the_quantile_of_the_table(n, quantile):
    """Student's table, 0.975 with n - 1 degrees of freedom (Fisher and Yates)."""
    effects = [(-1.0) ** k for k in range(n)]
    found = seen(GAIN, effects)
    mean = sum(effects) / n
    s = math.sqrt(sum((e - mean) ** 2 for e in effects) / (n - 1))
    assert (found.high - found.low) / 2 == pytest.approx(quantile * s / math.sqrt(n), rel=1e-5)


def spread(mean: float, half: float, n: int = 5) -> list[float]:
    """n effects with this mean and this half-width of the interval."""
    e = np.array([(-1.0) ** k for k in range(n)])
    e -= e.mean()
    s = e.std(ddof=1)
    return list(mean + e / s * half * math.sqrt(n) / stats.t.ppf(0.975, n - 1))


@pytest.mark.parametrize("case", [GAIN, Case("f", factor=2.0)])
def test_the_edges(case):
    """The threshold is 1 for both, log2 of 2 for the factor."""
    assert seen(case, spread(1.5, 0.499)).verdict == HOLDS
    assert seen(case, spread(1.5, 0.501)).verdict == WEAKLY
    assert seen(case, spread(1.001, 0.5)).verdict == WEAKLY
    assert seen(case, spread(0.999, 0.5)).verdict == NOT
    assert seen(case, spread(-3.0, 0.1)).verdict == NOT
    assert seen(case, [1.0] * 5).verdict == HOLDS, "at the threshold itself, which is not 0"
    assert seen(case, [1.0 - 1e-9] * 5).verdict == NOT


@pytest.mark.parametrize("n", [3, 4])
def test_few_seeds_need_twice_the_threshold(n):
    assert seen(GAIN, spread(1.99, 0.5, n)).verdict == WEAKLY
    assert seen(GAIN, spread(2.01, 0.5, n)).verdict == HOLDS
    assert seen(GAIN, spread(2.01, 1.02, n)).verdict == WEAKLY, "and the interval as well"
    assert seen(GAIN, spread(1.99, 0.5, 5)).verdict == HOLDS, "five do not"
    assert seen(Case("f", factor=2.0), spread(1.99, 0.5, n)).verdict == WEAKLY, "of a factor the logarithm"
    assert seen(Case("f", factor=2.0), spread(2.01, 0.5, n)).verdict == HOLDS


@pytest.mark.parametrize("n", [3, 4])
@pytest.mark.parametrize(
    "case", [Case("f", gain=0.0), Case("f", factor=1.0), Case("f", gain=-1.0), Case("f", factor=0.5)]
)
def test_where_nothing_was_asked_beyond_better_few_seeds_are_too_few(case, n):
    assert seen(case, spread(50.0, 0.1, n)).verdict == WEAKLY
    assert seen(case, spread(50.0, 0.1, 5)).verdict == HOLDS


@pytest.mark.parametrize("n", [3, 4])
def test_few_seeds_keep_a_bound_by_half(n):
    def judged(case: Case, value: float) -> str:
        return outcome(case, [{"method": value}] * n).verdict

    assert [judged(Case("f", at_most=1.0), v) for v in (0.49, 0.51, 1.01)] == [HOLDS, WEAKLY, NOT]
    assert [judged(Case("f", at_least=1.0), v) for v in (2.01, 1.99, 0.99)] == [HOLDS, WEAKLY, NOT]


@pytest.mark.parametrize("n", [1, 2])
def test_below_three_seeds_nothing_holds(n):
    assert seen(GAIN, [50.0] * n).verdict == WEAKLY
    assert seen(GAIN, [0.0] * n).verdict == NOT
    found = seen(GAIN, [50.0])
    assert (found.low, found.high) == (-math.inf, math.inf)


@pytest.mark.parametrize("case", [Case("f", gain=0.0), Case("f", factor=1.0)])
def test_no_difference_is_not_better(case):
    assert seen(case, [0.0] * 5).verdict == NOT
    assert seen(case, [1e-9] * 5).verdict == HOLDS
    assert seen(case, spread(0.1, 0.101)).verdict == WEAKLY
    assert seen(case, spread(0.1, 0.099)).verdict == HOLDS


def test_a_factor_is_a_ratio_of_the_worse_to_the_better():
    figures = [{"method": 2.0, "baseline": 8.0}] * 5
    lower, higher = outcome(Case("f", factor=2.0), figures), outcome(Case("f", factor=2.0, better="higher"), figures)
    assert (lower.mean, lower.threshold, lower.verdict) == (2.0, 1.0, HOLDS)
    assert (higher.mean, higher.threshold, higher.verdict) == (-2.0, 1.0, NOT)


def test_a_gain_is_a_difference_in_the_better_direction():
    figures = [{"method": 2.0, "baseline": 8.0}] * 5
    assert outcome(Case("f", gain=5.0), figures).mean == 6.0
    assert outcome(Case("f", gain=5.0, better="higher"), figures).mean == -6.0


def test_a_margin_allows_a_little_worse():
    figures = [{"method": 1.05, "baseline": 1.0}] * 5
    assert outcome(Case("f", factor=0.9), figures).verdict == HOLDS
    assert outcome(Case("f", factor=0.96), figures).verdict == NOT
    assert outcome(Case("f", gain=-0.06), figures).verdict == HOLDS
    assert outcome(Case("f", gain=-0.04), figures).verdict == NOT


def test_bounds_are_on_the_arms_own_value():
    figures = [{"method": v} for v in (0.2, 0.3, 0.25, 0.22, 0.28)]
    below = outcome(Case("f", at_most=0.4), figures)
    assert below.effects == pytest.approx((0.2, 0.1, 0.15, 0.18, 0.12))
    assert (below.threshold, below.verdict) == (0.0, HOLDS)
    assert outcome(Case("f", at_most=0.27), figures).verdict == WEAKLY
    assert outcome(Case("f", at_most=0.2), figures).verdict == NOT
    assert outcome(Case("f", at_least=0.1), figures).verdict == HOLDS
    assert outcome(Case("f", at_least=0.23), figures).verdict == WEAKLY
    assert outcome(Case("f", at_least=0.4), figures).verdict == NOT
    for bound in ("at_most", "at_least"):
        assert outcome(Case("f", **{bound: 0.2}), [{"method": 0.2}] * 5).verdict == HOLDS, "the bound itself is allowed"


def test_a_share_of_the_gap_between_the_null_and_the_other_arm():
    """The method closes 5 of the 6 between 8 and 2; where higher is better the same with all signs turned."""
    figures = [{"method": 3.0, "baseline": 2.0, "null": 8.0}] * 5
    assert outcome(Case("f", share=0.8), figures).mean == pytest.approx(5 - 0.8 * 6)
    assert outcome(Case("f", share=0.8), figures).verdict == HOLDS
    assert outcome(Case("f", share=0.9), figures).verdict == NOT
    turned = [{a: -v for a, v in one.items()} for one in figures]
    assert outcome(Case("f", share=0.8, better="higher"), turned).mean == pytest.approx(0.2)
    assert outcome(Case("f", share=0.8), [{"method": 5.0, "baseline": 5.0, "null": 5.0}] * 5).verdict == NOT, "no gap"
    assert outcome(Case("f", share=0.8), figures, "null").mean == pytest.approx(-0.8 * 6), "the null closes nothing"


def test_a_signed_factor_takes_figures_of_any_sign():
    figures = [{"method": -0.1, "baseline": 1.0}] * 5
    assert outcome(Case("f", factor=2.0, signed=True), figures).mean == pytest.approx(1.0 + 0.2)
    figures = [{"method": 1.0, "baseline": 2.0}] * 5
    found = outcome(Case("f", factor=2.0, signed=True), figures)
    assert (found.mean, found.threshold, found.verdict) == (0.0, 0.0, NOT)
    assert outcome(Case("f", factor=1.9, signed=True), figures).verdict == HOLDS
    assert outcome(Case("f", factor=1.9, signed=True, better="higher"), figures).mean == pytest.approx(1.0 - 1.9 * 2.0)


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.2, 5), st.sampled_from(["lower", "higher"]))
def test_a_signed_factor_and_a_ratio_agree_on_positive_figures(own, other, factor, better):
    figures = [{"method": own, "baseline": other}] * 5
    ratio, signed = (outcome(Case("f", factor=factor, better=better, signed=s), figures) for s in (False, True))
    if abs(ratio.mean - ratio.threshold) > 1e-9:
        assert (ratio.mean > ratio.threshold) == (signed.mean > 0)


def test_a_control_takes_the_methods_place():
    figures = [{"method": 1.0, "baseline": 4.0, "null": 8.0, "other": 2.0}] * 5
    assert outcome(Case("f", factor=2.0), figures, "null").mean == -1.0
    assert outcome(Case("f", factor=2.0), figures, "other").mean == 1.0
    assert outcome(Case("f", factor=2.0), figures).mean == 2.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("arm", ["method", "baseline"])
def test_what_is_not_finite_is_refused(bad, arm):
    figures = [{"method": 1.0, "baseline": 2.0} for _ in range(5)]
    figures[3][arm] = bad
    for case in (Case("err", factor=2.0), Case("err", gain=0.1)):
        with pytest.raises(ArgumentError, match=rf"'err' of the arm '{arm}' is -?(nan|inf)"):
            outcome(case, figures)


@pytest.mark.parametrize("bad", [0.0, -1.0])
@pytest.mark.parametrize("arm", ["method", "baseline"])
def test_a_factor_needs_positive_figures(bad, arm):
    figures = [{"method": 1.0, "baseline": 2.0, arm: bad}] * 5
    with pytest.raises(ArgumentError, match=r"'err'.*positive figures.*give a gain"):
        outcome(Case("err", factor=2.0), figures)
    outcome(Case("err", gain=2.0), figures)


def test_a_factor_of_tiny_and_huge_figures_is_no_accident():
    """Their ratio is no float, but the logarithms are."""
    found = outcome(Case("err", factor=2.0), [{"method": 1e300, "baseline": 1e-300}] * 5)
    assert found.mean == pytest.approx(-600 * math.log2(10))
    found = outcome(Case("err", factor=2.0), [{"method": 1e-300, "baseline": 1e300}] * 5)
    assert found.mean == pytest.approx(600 * math.log2(10))


def test_nothing_to_judge_is_refused():
    with pytest.raises(ArgumentError, match="no figure of 'err'"):
        outcome(Case("err", gain=0.0), [])


def test_a_claim_is_as_good_as_its_worst_case():
    assert together([HOLDS, HOLDS]) == HOLDS
    assert together([HOLDS, WEAKLY, HOLDS]) == WEAKLY
    assert together([WEAKLY, NOT, HOLDS]) == NOT


@pytest.mark.parametrize("n", [5, 20])
def test_a_true_effect_at_the_threshold_holds_by_chance_once_in_forty(n):
    """2.5 % within four standard deviations of a binomial; an interval of the normal distribution would give 6 % at n = 5."""
    claims = 3000
    effects = 1.0 + np.random.default_rng(n).normal(size=(claims, n))
    share = np.mean([seen(GAIN, row).verdict == HOLDS for row in effects])
    off = 4 * math.sqrt(0.025 * 0.975 / claims)
    assert abs(share - 0.025) < off
    if n == 5:
        z = (effects.mean(1) - 1.96 * effects.std(1, ddof=1) / math.sqrt(n) > 1).mean()
        assert abs(z - 0.025) > off, "the test could not tell"


def test_a_conjunction_holds_by_chance_no_more_often():
    """Both true effects at their thresholds, independent: the product of two shares, far below one of them."""
    effects = 1.0 + np.random.default_rng(0).normal(size=(400, 2, 5))
    both = [together([seen(GAIN, row).verdict for row in pair]) == HOLDS for pair in effects]
    assert np.mean(both) < 0.025
