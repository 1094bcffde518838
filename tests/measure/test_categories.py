"""Prompts are of the category that they are for."""

from __future__ import annotations

import pytest

from reverie.base import ArgumentError, UnknownNameError
from reverie.data import parse
from reverie.data.things import SHAPES
from reverie.measure import category, prompts
from reverie.measure.categories import CATEGORIES


def test_prompts_are_of_their_category_and_can_be_met() -> None:
    texts = prompts(40, seed=1)
    assert [category(t) for t in texts] == [c for c in CATEGORIES for _ in range(40)]
    assert texts == prompts(40, seed=1) != prompts(40, seed=2)
    assert prompts(12, categories=["binding"]) == prompts(12)[-12:]
    requests = [parse(t) for t in texts]
    assert {ask.shape for r in requests for ask in r.asks} == set(SHAPES)
    assert {r.relations[0][1] for r in requests if r.relations} == {"left of", "right of", "above", "below"}
    for r in requests:
        assert len({(a.shape, a.colour) for a in r.asks}) == len(r.asks)
    binding = [r for r in requests if category(r) == "binding"]
    assert all(len({a.colour for a in r.asks}) == len({a.shape for a in r.asks}) == 2 for r in binding)


def test_what_cannot_be_asked_is_named() -> None:
    with pytest.raises(ArgumentError, match="at least 1"):
        prompts(0)
    with pytest.raises(UnknownNameError, match="counting"):
        prompts(1, categories=["count"])
