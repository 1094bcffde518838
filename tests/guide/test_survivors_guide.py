"""What a mutation run (`make mutants`) found that no other test of the guides held."""

from __future__ import annotations

import pytest
import torch

from reverie.guide import CFG


@pytest.mark.parametrize("scale", [3.0, torch.tensor(3.0)])
def test_both_ends_of_the_interval_belong_to_it_for_one_time_and_for_times_of_samples(scale: float) -> None:
    guide, times = CFG(scale, interval=(0.25, 0.5)), [0.125, 0.25, 0.375, 0.5, 0.625]
    assert [float(guide.at(t)) for t in times] == [1.0, 3.0, 3.0, 3.0, 1.0]
    assert guide.at(torch.tensor(times)).tolist() == [1.0, 3.0, 3.0, 3.0, 1.0]  # type: ignore[union-attr]
    assert [guide.needs(t) for t in times] == [(), ("null",), ("null",), ("null",), ()]


def test_an_interval_of_one_time_is_no_empty_interval() -> None:
    assert [float(CFG(3.0, interval=(0.25, 0.25)).at(t)) for t in (0.125, 0.25, 0.5)] == [1.0, 3.0, 1.0]
