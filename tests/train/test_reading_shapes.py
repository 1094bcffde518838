"""Training the judge of shapes: what is true of a scene, how pictures are spoilt, the loss in closed form, and a recipe that runs and resumes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reverie.base import ArgumentError, UnknownNameError
from reverie.data import Scene, Thing, render, scenes
from reverie.data.things import COLOURS, SHAPES
from reverie.measure.judge_shapes import counts
from reverie.train import Recipe, train
from reverie.train.reading import Truth, blurred, reading, spoilt, truth
from reverie.train.recipe import Spoil

TINY = {
    "name": "judge",
    "task": "classification",
    "data": "shapes",
    "net": {"name": "scene-judge", "args": {"widths": [4, 4, 4], "width": 4}},
    "spoil": {"blur": 1.0, "noise": 0.2, "light": 0.1},
    "steps": 3,
    "batch": 4,
    "save_every": 1,
}


def test_every_object_has_a_cell_of_its_own() -> None:
    drawn = scenes(1000)
    true = truth(drawn)
    assert (true.shape > 0).sum((1, 2)).tolist() == [len(s.things) for s in drawn]
    kind = (true.shape - 1) * len(COLOURS) + true.colour
    seen = torch.stack([torch.bincount(k[s > 0], minlength=40) for k, s in zip(kind, true.shape, strict=True)])
    assert torch.equal(seen, counts(drawn))


def test_what_is_true_of_one_object() -> None:
    thing = Thing("star", "blue", x=20, y=52, size=19, filled=True)
    true = truth([Scene((thing,), tones=((0.4, 0.5, 0.6), (0.6, 0.5, 0.2)))])
    assert true.shape[0, 6, 2] == 1 + SHAPES.index("star")
    assert true.colour[0, 6, 2] == list(COLOURS).index("blue")
    assert true.look[0, :, 6, 2].tolist() == [(20 - 32) / 16, (52 - 32) / 16, 1.0, 0.0]
    torch.testing.assert_close(true.looks[0], torch.tensor([0.0, 0.0, -0.3, 0.0, 0.0]))
    assert truth([Scene((Thing("circle", "red", 20, 20, 12, filled=False),))]).look[0, 3, 2, 2] == 2.0


def test_a_blur_of_nothing_changes_nothing_and_its_variance_is_its_own() -> None:
    x = render(scenes(3))
    assert torch.equal(blurred(x, torch.zeros(3)), x)
    point = torch.zeros(2, 1, 33, 33)
    point[:, :, 16, 16] = 1
    spread = blurred(point, torch.tensor([1.0, 2.0]))
    at = torch.arange(33.0) - 16
    torch.testing.assert_close(spread.sum((1, 2, 3)), torch.ones(2))
    torch.testing.assert_close((spread.sum((1, 2)) * at**2).sum(1), torch.tensor([1.0, 4.0]), rtol=1e-3, atol=1e-3)
    flat = torch.full((1, 3, 64, 64), 0.3)
    torch.testing.assert_close(blurred(flat, torch.tensor([2.0])), flat)


def test_pictures_are_spoilt_as_told_and_alike_in_any_part() -> None:
    x, spoil = torch.zeros(64, 3, 64, 64), Spoil(blur=1.5, noise=0.3, light=0.15)
    made, share, light = spoilt(x, spoil, 0, 5, range(64))
    torch.testing.assert_close(made.std((1, 2, 3)), 0.3 * share[:, 1], rtol=0.05, atol=1e-6)
    torch.testing.assert_close(made.mean((1, 2, 3)), light, rtol=0, atol=0.02)
    assert 0.3 < (share == 0).float().mean() < 0.7
    assert share.max() <= 1
    assert light.abs().max() <= 0.15
    assert not torch.equal(spoilt(x, spoil, 0, 6, range(64))[0], made)
    for mine, whole in zip(spoilt(x[32:], spoil, 0, 5, range(32, 64)), (made, share, light), strict=True):
        assert torch.equal(mine, whole[32:])
    drawn = render(scenes(4))
    assert torch.equal(spoilt(drawn, Spoil(), 0, 0, range(4))[0], drawn)


class Says(nn.Module):
    """A judge that says the same of every picture."""

    def __init__(self, cells: Tensor, looks: Tensor) -> None:
        super().__init__()
        self.said = cells, looks

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(v.expand(len(x), *v.shape) for v in self.said)  # type: ignore[return-value]


def test_the_loss_is_the_likelihood_of_what_is_true() -> None:
    """Of a judge that knows nothing: log 6 a cell, log 8 an object, and half of all squares."""
    drawn = [Scene((Thing("circle", "red", 48, 32, 15),)), Scene(())]
    true, judge = truth(drawn), Says(torch.zeros(18, 8, 8), torch.zeros(5))
    square = true.looks.square().sum() + true.look.square().sum()
    expected = (2 * 64 * math.log(6) + math.log(8) + square.item() / 2) / 2
    assert reading(judge, torch.zeros(2, 3, 64, 64), true).item() == pytest.approx(expected, rel=1e-6)  # type: ignore[arg-type]


def test_a_judge_that_says_the_truth_has_no_loss() -> None:
    drawn = scenes(1)
    true = truth(drawn)
    names = [40.0 * nn.functional.one_hot(v[0], n).permute(2, 0, 1) for v, n in ((true.shape, 6), (true.colour, 8))]
    judge = Says(torch.cat([*names, true.look[0]]), true.looks[0])
    assert reading(judge, torch.zeros(1, 3, 64, 64), true).item() < 1e-4  # type: ignore[arg-type]
    other = Truth(true.shape, (true.colour + 1) % 8, true.look, true.looks)
    wrong = reading(judge, torch.zeros(1, 3, 64, 64), other).item()  # type: ignore[arg-type]
    assert wrong == pytest.approx(
        40 * len(drawn[0].things), rel=1e-3
    )  # a cell with no object has no colour to get wrong


def test_a_recipe_trains_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = train(Recipe.of(TINY), tmp_path / "a", quiet=True)
    train(Recipe.of(TINY), tmp_path / "b", quiet=True)
    sorted((tmp_path / "b").glob("checkpoint-*"))[-1].unlink()  # as if killed after the step before
    again = train(Recipe.of(TINY), tmp_path / "b", quiet=True)
    assert again.weights.read_bytes() == whole.weights.read_bytes()
    assert set(again.figures) == {"heldout", "accuracy"}


def test_what_cannot_work_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"'spoil\.blur' must be at least 0"):
        Recipe.of(TINY | {"spoil": {"blur": -1}})
    with pytest.raises(UnknownNameError, match=r"did you mean 'spoil\.noise'"):
        Recipe.of(TINY | {"spoil": {"noize": 1}})
    with pytest.raises(ArgumentError, match="'spoil' must be left out but for the judge of shapes"):
        Recipe.of({"name": "x", "spoil": {"blur": 1}})
    with pytest.raises(ArgumentError, match="'augment' must be left out for shapes"):
        Recipe.of(TINY | {"augment": {"turn": 10}})
    with pytest.raises(UnknownNameError, match="unknown network 'judge'"):
        train(Recipe.of(TINY | {"net": {"name": "judge"}}), tmp_path, quiet=True)
