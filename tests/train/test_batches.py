"""Batches: each sample once an epoch, pure in (seed, step); augmentation moves a blob as its formula says."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.base.noise import DATA, Noise
from reverie.train import Augment
from reverie.train.batches import augmented, rows


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 40), batch=st.integers(1, 60))
def test_property_every_sample_once_an_epoch(seed: int, size: int, batch: int) -> None:
    steps = math.ceil(3 * size / batch)
    seen = torch.cat([rows(seed, s, batch, size) for s in range(steps)])
    for epoch in range(3):
        assert sorted(seen[epoch * size : (epoch + 1) * size].tolist()) == list(range(size))


def test_orders_differ_between_epochs_and_seeds() -> None:
    one, two = rows(0, 0, 50, 50), rows(0, 1, 50, 50)
    assert not torch.equal(one, two)
    assert not torch.equal(one, rows(1, 0, 50, 50))
    assert torch.equal(one, rows(0, 0, 50, 50))


def _blob(batch: int) -> torch.Tensor:
    """An ellipse of ink in the middle of 32x32 pictures."""
    y, x = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(32) - 15.5, indexing="ij")
    return (2 * torch.exp(-(x**2) / 18 - y**2 / 8) - 1).expand(batch, 1, 32, 32)


def _moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre (B, 2) and covariance (B, 2, 2) of the ink, in pixels, as (x, y)."""
    ink = (x[:, 0] + 1).double()
    at = torch.arange(x.shape[-1]).double() - (x.shape[-1] - 1) / 2
    grid = torch.stack(torch.meshgrid(at, at, indexing="xy"))
    mass = ink.sum((1, 2))
    centre = torch.einsum("byx,cyx->bc", ink, grid) / mass[:, None]
    second = torch.einsum("byx,cyx,dyx->bcd", ink, grid, grid) / mass[:, None, None]
    return centre, second - centre[:, :, None] * centre[:, None, :]


def _draws(batch: int, seed: int, step: int) -> torch.Tensor:
    return Noise(seed).uniform((5,), index=range(batch), stage=1 + step, stream=DATA) * 2 - 1


def test_oracle_shift_moves_the_centre() -> None:
    centre, _ = _moments(augmented(_blob(6), Augment(shift=3.0), seed=1, step=4))
    torch.testing.assert_close(centre, -3.0 * _draws(6, 1, 4)[:, 2:4].double(), atol=0.02, rtol=0)


def test_oracle_turn_rotates_the_axes_and_scale_stretches_them() -> None:
    u = _draws(6, 2, 0)
    _, cov = _moments(augmented(_blob(6), Augment(turn=40.0, scale=0.2), seed=2, step=0))
    values, vectors = torch.linalg.eigh(cov)
    torch.testing.assert_close(values[:, 1].sqrt(), 3 * (1 + 0.2 * u[:, 1].double()), rtol=0.03, atol=0)
    major = torch.atan2(vectors[:, 1, 1], vectors[:, 0, 1])
    wrapped = (major + math.pi / 2) % math.pi - math.pi / 2
    torch.testing.assert_close(wrapped.abs(), (u[:, 0].double() * math.radians(40)).abs(), atol=0.02, rtol=0)


def test_oracle_noise_has_the_deviation_drawn() -> None:
    x = _blob(4)
    added = augmented(x, Augment(noise=0.5), seed=3, step=7) - x
    torch.testing.assert_close(added.flatten(1).std(1), 0.5 * _draws(4, 3, 7)[:, 4].abs(), rtol=0.1, atol=0)


def test_limits_nothing_to_do_and_outside_is_paper() -> None:
    x = _blob(3)
    assert augmented(x, Augment(), 0, 0) is x
    out = augmented(torch.ones(64, 1, 8, 8), Augment(shift=4.0), 0, 0)
    assert out.min() == pytest.approx(-1.0)
    assert out.max() == pytest.approx(1.0)
