"""Sources: what a denoiser learns from, with classes and without."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError, UnknownNameError
from reverie.data import digits, patches
from reverie.nets import UNet
from reverie.train import Augment, Recipe, Step, load_recipe, sources, train
from reverie.train.batches import augmented, rows
from reverie.train.sources import source
from reverie.train.tasks import task

SMALL: dict[str, Any] = {
    "name": "small",
    "data": "patches",
    "net": {
        "name": "unet",
        "args": {"channels": 3, "classes": 0, "widths": [8, 8], "depth": 1, "embed": 8, "heads": 2},
    },
    "steps": 12,
    "batch": 8,
    "rate": 5e-3,
    "warmup": 2,
    "ema": 0.5,
    "save_every": 6,
    "check_every": 12,
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A tiny recipe, judged by few pictures."""
    monkeypatch.setattr(sources, "HELD", 24)
    return Recipe.of(SMALL)


def test_digits_come_in_epochs_with_their_classes(tiny: Recipe) -> None:
    recipe = dataclasses.replace(tiny, augment=Augment(shift=0.5))
    data, (x, labels) = source(recipe), digits("train")
    for step in (0, 3, 400):
        pick = rows(recipe.seed, step, recipe.batch, len(x))
        got, told = data.batch(step)
        assert torch.equal(got, augmented(x[pick], recipe.augment, recipe.seed, step))
        assert told is not None
        assert torch.equal(told, labels[pick])
    assert data.classes == 10
    assert torch.equal(data.heldout[0], digits("heldout")[0])
    assert len(data.trained[0]) == len(data.heldout[0]) == 355


def test_patches_are_new_in_every_step_and_have_no_classes(small: Recipe) -> None:
    data = source(dataclasses.replace(small, seed=5))
    drawn = patches(24, seed=5)
    for step in (2, 0, 1):
        x, classes = data.batch(step)
        assert classes is None
        assert torch.equal(x, drawn[step * 8 : step * 8 + 8])
    assert data.classes == 0
    assert torch.equal(data.heldout[0], patches(24, split="heldout"))
    assert torch.equal(data.trained[0], drawn)


def test_a_network_is_told_no_class_and_refused_if_it_wants_one(small: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(UNet, "forward", lambda self, x, label, **cond: told.append(cond) or x * 0)
    task(small).loss(Step(0))
    assert told == [{}]
    with pytest.raises(ArgumentError, match=r"'patches' have no classes.*classes: 0"):
        task(dataclasses.replace(small, net={"name": "unet", "args": {"channels": 3}}))


def test_what_patches_have_no_use_for_is_refused(small: Recipe) -> None:
    with pytest.raises(ArgumentError, match=r"'augment' must be left out for patches"):
        task(dataclasses.replace(small, augment=Augment(shift=1.0)))
    with pytest.raises(UnknownNameError, match="unknown data set with classes 'patches'"):
        task(dataclasses.replace(small, task="classification", net={"name": "judge"}))
    with pytest.raises(UnknownNameError, match="unknown data set 'patchs'; did you mean 'patches'"):
        source(dataclasses.replace(small, data="patchs"))


def test_parts_of_a_batch_are_the_whole_batch(small: Recipe) -> None:
    torch.manual_seed(0)
    work = task(small)
    for p in work.net.parameters():
        p.data.normal_(std=0.1)
    parts = [work.loss(Step(1, part, 2)).item() for part in (0, 1)]
    assert sum(parts) / 2 == pytest.approx(work.loss(Step(1)).item(), rel=1e-5)


def test_an_unconditional_model_trains_loads_and_samples(tmp_path: Path, small: Recipe) -> None:
    done = train(small, tmp_path, quiet=True)
    before = train(dataclasses.replace(small, steps=1), tmp_path / "a", quiet=True).figures["heldout"]
    assert done.figures.keys() == {"heldout", "trained"}
    assert done.figures["heldout"] < 0.9 * before
    card = json.loads(done.card.read_text())
    assert (card["null"], card["classes"], card["shape"], card["data"]) == (None, None, [3, 32, 32], "patches")
    model = rv.load(done.card)
    assert model.shape == (3, 32, 32)
    x = rv.sample(model, n=3, steps=3, seed=1)
    assert x.shape == (3, 3, 32, 32)
    assert bool(x.isfinite().all())
    assert torch.equal(rv.sample(model, n=1, steps=3, seed=1, start=2), x[2:])


def test_a_training_that_was_stopped_ends_with_the_same_bits(
    tmp_path: Path, small: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(small, tmp_path / "whole", quiet=True).weights.read_bytes()
    forward, calls = UNet.forward, [0]

    def stops(self: UNet, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 9:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(UNet, "forward", stops)
        with pytest.raises(KeyboardInterrupt):
            train(small, tmp_path / "cut", quiet=True)
    assert train(small, tmp_path / "cut", quiet=True).weights.read_bytes() == whole


def test_the_house_models_file_is_small_enough_and_its_loss_starts_at_the_data() -> None:
    recipe = load_recipe("patches")
    assert recipe.data == "patches"
    torch.manual_seed(0)
    work = task(dataclasses.replace(recipe, batch=64))
    size = sum(p.numel() for p in work.net.parameters())
    assert 3e6 < size < 6e6
    assert 2 * size < 15e6
    with torch.no_grad():
        loss = work.loss(Step(0)).item()
    assert 0.8 < loss < 1.6  # a network that says 0 is wrong by the whole question, which the weight makes about 1
