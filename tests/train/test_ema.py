"""The average of the weights against its explicit sum."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reverie.train import ema


def test_oracle_explicit_sum() -> None:
    """After n steps: sum_k (1 - d_k) prod_{j > k} d_j w_k + prod_j d_j w_0."""
    net = nn.Linear(1, 1, bias=False)
    values = [0.3, -1.0, 2.0, 5.0]
    average = {"weight": torch.tensor([[7.0]])}
    want = 7.0
    for step, value in enumerate(values):
        nn.init.constant_(net.weight, value)
        ema.update(average, net, step, 0.25)
        d = min(0.25, (1 + step) / (10 + step))
        want = d * want + (1 - d) * value
    assert average["weight"].item() == pytest.approx(want, rel=1e-6)


def test_limit_no_decay_copies() -> None:
    net = nn.Linear(2, 2)
    average = {k: torch.zeros_like(v) for k, v in net.state_dict().items()}
    ema.update(average, net, 5, 0.0)
    assert all(torch.equal(average[k], v) for k, v in net.state_dict().items())


def test_integer_buffers_are_copied() -> None:
    net = nn.BatchNorm1d(2)
    average = {k: v.clone() for k, v in net.state_dict().items()}
    net(torch.randn(3, 2))
    ema.update(average, net, 0, 0.9)
    assert average["num_batches_tracked"] == 1


def test_the_ramp_forgets_the_start() -> None:
    product = 1.0
    for step in range(700):
        product *= ema.decay_at(step, 0.999)
    assert product < 1e-12
    assert [ema.decay_at(s, 0.5) for s in (0, 8, 100)] == [0.1, 0.5, 0.5]
