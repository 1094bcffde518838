"""Scenes as pictures: which way a turn goes, what lies above what."""

from __future__ import annotations

from dataclasses import replace

import pytest
from many_scenes import RED

from reverie.base import UnknownNameError
from reverie.data import Scene, Thing, render
from reverie.data.coverage import coverage


def test_a_turn_is_clockwise_and_later_objects_lie_above() -> None:
    a = coverage([Thing("square", "red", 32, 32, 20, angle=10)])[0]
    assert a[18:22, :32].sum() > 2 * a[18:22, 32:].sum()  # the top left corner went up and the top right one down
    below, above = Thing("square", "red", 32, 32, 20), Thing("circle", "blue", 32, 32, 10)
    x = render([Scene((below, above)), Scene((above, below))])
    assert (x[0, 2, 32, 32] > 0) & (x[1, 2, 32, 32] < 0)


def test_what_cannot_be_drawn_is_named() -> None:
    with pytest.raises(UnknownNameError, match="blob"):
        render([Scene((replace(RED, shape="blob"),))])
    with pytest.raises(UnknownNameError, match="other"):
        render([Scene((replace(RED, colour="other"),))])
