"""Each shape has its area, its centre of mass and its box, and an outline lies inside it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from reverie.data import Thing
from reverie.data.coverage import box, coverage
from reverie.data.things import OUTLINED


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", math.pi / 4),
        ("square", 1.0),
        ("triangle", 3 * math.sqrt(3) / 4 * 0.635**2),
        ("cross", 1 - 4 * 0.32**2),
        ("star", 5 * math.sin(math.radians(36)) * 0.45 * 0.58**2),
    ],
)
def test_a_shape_has_its_area_its_centre_and_its_box(shape: str, area: float) -> None:
    at = torch.arange(64) + 0.5
    for size, angle in ((12, 0), (17.3, 9), (24, -12)):
        thing = Thing(shape, "red", 30.3, 33.8, size, angle=angle)
        a = coverage([thing])[0]
        assert a.sum().item() == pytest.approx(area * size**2, rel=0.03)
        assert (a.sum(0) @ at / a.sum()).item() == pytest.approx(30.3, abs=0.12)
        assert (a.sum(1) @ at / a.sum()).item() == pytest.approx(33.8, abs=0.12)
        left, top, right, bottom = box(thing)
        seen = (a > 0.55).nonzero() + 0.5
        assert left - 0.5 <= seen[:, 1].min() <= left + 2.0
        assert right - 2.0 <= seen[:, 1].max() <= right + 0.5
        assert top - 0.5 <= seen[:, 0].min() <= top + 2.5
        assert bottom - 2.5 <= seen[:, 0].max() <= bottom + 0.5


@pytest.mark.parametrize("shape", OUTLINED)
def test_an_outline_is_hollow_and_lies_inside_the_shape(shape: str) -> None:
    thing = Thing(shape, "red", 32, 32, 20)
    full, ring = coverage([thing, replace(thing, filled=False)])
    assert ring[32, 32] == 0 < full[32, 32]
    assert (ring <= full + 1e-6).all()
    assert 0.2 < ring.sum() / full.sum() < 0.8
