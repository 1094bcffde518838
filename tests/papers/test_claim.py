"""A claim that could not fail, or that has no null control, is refused."""

from __future__ import annotations

import pytest

from reverie.base import ArgumentError, UnknownNameError
from reverie.papers import BUDGETS, Budget, Case, Claim

from . import fakes


@pytest.mark.parametrize("bounds", [{}, {"factor": 2.0, "gain": 1.0}, {"at_most": 1.0, "at_least": 0.0}])
def test_a_case_has_one_bound(bounds):
    with pytest.raises(ArgumentError, match="one bound of factor, gain, share, at_most, at_least; 'err' has"):
        Case("err", **bounds)


@pytest.mark.parametrize("factor", [0.0, -2.0, float("nan")])
def test_a_factor_is_positive(factor):
    with pytest.raises(ArgumentError, match="a factor is positive; that of 'err' is"):
        Case("err", factor=factor)


def test_a_direction_is_lower_or_higher():
    with pytest.raises(UnknownNameError, match="unknown direction 'less'"):
        Case("err", factor=2.0, better="less")  # type: ignore[arg-type]


def test_a_bound_of_zero_is_a_bound():
    assert Case("err", gain=0.0).paired
    assert not Case("err", at_most=0.0).paired


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_is_a_share(share):
    with pytest.raises(ArgumentError, match=r"a share is in \(0, 1\]; that of 'err' is"):
        Case("err", share=share)


def test_what_a_case_needs():
    assert Case("e", factor=2.0).arms == {"method", "baseline", "null"}
    assert Case("e", factor=2.0, arm="other").arms == {"other", "baseline"}
    assert Case("e", share=0.5, arm="other").arms == {"other", "baseline", "null"}
    assert Case("e", at_most=2.0).arms == {"method", "null"}
    assert Case("digits, cost/8", factor=2.0).setting == "digits, cost"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"arms": {"baseline": 1.0}}, "need 'method'"),
        ({"arms": {"method": 1.0, "baseline": 2.0, "null": 3.0}}, "leave 'null' and 'ideal' to the controls"),
        ({"arms": {"method": 1.0, "baseline": 2.0, "ideal": 3.0}}, "leave 'null' and 'ideal' to the controls"),
        ({"cases": (Case("e", factor=2.0, cost=True),)}, "no case of 'deis' is about the method"),
        ({"arms": {"method": 1.0}}, "has no null control: give null="),
        ({"cases": ()}, "no case: nothing could make it fail"),
        ({"cases": (Case("e", gain=0.0, arm="othr"),)}, "unknown arm of 'e' 'othr'; did you mean 'other'"),
        ({"cases": (Case("e", gain=0.0, against="base"),)}, "unknown arm of 'e' 'base'; did you mean 'baseline'"),
        ({"cases": (Case("e", gain=0.0, arm="other"),)}, "no case of 'deis' is about the method"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(more, said):
    with pytest.raises(ArgumentError, match=said):
        fakes.superiority(**more)


def test_kinds():
    with pytest.raises(UnknownNameError, match="unknown kind of claim 'better'"):
        Claim("deis", "better", "It is.", {"method": 1}, fakes.errors, (Case("e", at_most=1.0),), null=2)  # type: ignore[arg-type]
    for kind in ("saving", "identity"):
        with pytest.raises(ArgumentError, match="has no null control"):
            Claim("deis", kind, "It is.", {"method": 1, "baseline": 2}, fakes.errors, (Case("e", gain=1.0),))  # type: ignore[arg-type]


def test_the_null_of_a_superiority_is_the_baseline():
    assert fakes.superiority().everything["null"] == fakes.superiority().arms["baseline"]
    assert fakes.superiority(null=7.0).everything["null"] == 7.0
    assert "null" not in fakes.superiority().arms
    assert "ideal" not in fakes.superiority().everything
    assert fakes.superiority(ideal=0.1).everything["ideal"] == 0.1


def test_budgets():
    assert [(b.name, b.seeds) for b in BUDGETS.values()] == [("tiny", 2), ("quick", 5), ("full", 20)]
    assert [b.pick(1, 2, 3) for b in BUDGETS.values()] == [1, 2, 3]
    with pytest.raises(UnknownNameError, match="unknown budget 'huge'"):
        Budget("huge", 3)
    claim = fakes.superiority(seeds={"quick": 8})
    assert [claim.seeds_of(b) for b in BUDGETS.values()] == [2, 8, 20]
