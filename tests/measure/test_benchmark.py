"""The table: a model's pictures beside what the verifier itself gets right."""

from __future__ import annotations

import pytest
from held_scenes import blurred, held

from reverie.base import ArgumentError
from reverie.measure import Accuracy, benchmark, calibration
from reverie.measure.categories import CATEGORIES


def test_one_table_with_its_calibration() -> None:
    x, captions = held()
    made = benchmark(x[:40], captions[:40], autoencoder=lambda y: blurred(y, 0.8), n=40, name="model")
    assert list(made.columns) == ["model", "clean", "shuffled", "round trip"]
    lines = str(made).splitlines()
    assert lines[0].split() == ["n", "model", "clean", "shuffled", "round", "trip"]
    assert [line.split("  ")[1] for line in lines if line.startswith("  ")][1:7] == list(CATEGORIES)
    assert "100.0%" in next(line for line in lines if "overall" in line)
    assert set(calibration(4)) == {"clean", "shuffled"}
    assert isinstance(calibration(4)["clean"], Accuracy)
    assert "overall" in str(calibration(4)["clean"])


def test_a_calibration_needs_two_scenes() -> None:
    with pytest.raises(ArgumentError, match="at least 2"):
        calibration(1)
