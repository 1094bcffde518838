"""How far words reach."""

from __future__ import annotations

from dataclasses import replace

import pytest
from many_scenes import RED, true

from reverie.data import Scene, Thing


@pytest.mark.parametrize(
    ("dx", "dy", "met"), [(5, 0, True), (3, 0, False), (10, 19, True), (10, 21, False), (-5, 0, False)]
)
def test_how_far_left_of_reaches(dx: float, dy: float, met: bool) -> None:
    s = Scene((Thing("circle", "red", 30, 30, 12), Thing("square", "blue", 30 + dx, 30 + dy, 12)))
    assert true("a circle left of a square", s) == met


@pytest.mark.parametrize(
    ("word", "size", "met"),
    [("small", 15.9, True), ("small", 16.1, False), ("large", 17.1, True), ("large", 16.9, False)],
)
def test_how_far_small_and_large_reach(word: str, size: float, met: bool) -> None:
    assert true(f"a {word} circle", Scene((replace(RED, size=size),))) == met
