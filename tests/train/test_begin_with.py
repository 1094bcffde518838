"""Trainings that begin with a finished model's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from reverie.base import ArgumentError, FileError
from reverie.nets import read_tensors
from reverie.train import Recipe, train
from reverie.train.tasks import task

NET = {"name": "unet", "args": {"widths": [8, 8], "depth": 1, "heads": 0}}
TINY: dict[str, Any] = {"name": "tiny", "net": NET, "steps": 3, "batch": 4, "save_every": 1}


def test_it_begins_where_another_ended_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    first = train(Recipe.of(TINY), tmp_path / "a", quiet=True)
    want, _ = read_tensors(first.weights)
    more = Recipe.of(TINY | {"begin": str(tmp_path / "a"), "seed": 1})
    for path in (tmp_path / "a", first.card, first.weights):
        net = task(Recipe.of(TINY | {"begin": str(path)})).net
        assert all(torch.equal(v, want[k].to(v.dtype)) for k, v in net.state_dict().items())
    second = train(more, tmp_path / "b", quiet=True)
    train(more, tmp_path / "c", quiet=True)
    sorted((tmp_path / "c").glob("checkpoint-*"))[-1].unlink()  # as if killed after the step before
    again = train(more, tmp_path / "c", quiet=True)
    assert second.weights.read_bytes() == again.weights.read_bytes()
    assert second.weights.read_bytes() != first.weights.read_bytes()
    card = json.loads(second.card.read_text())
    assert card["recipe"]["begin"] == str(tmp_path / "a")
    assert len(card["begun"]) == 64
    assert "begun" not in json.loads(first.card.read_text())


def test_what_cannot_be_begun_with(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="holds 0 models"):
        task(Recipe.of(TINY | {"begin": str(tmp_path)}))
    with pytest.raises(FileError, match="does not exist"):
        task(Recipe.of(TINY | {"begin": str(tmp_path / "no.json")}))
    train(Recipe.of(TINY | {"steps": 1}), tmp_path / "a", quiet=True)
    wide = {"name": "unet", "args": {"widths": [8, 16], "depth": 1, "heads": 0}}
    with pytest.raises(ArgumentError, match=r"do not fit the recipe's network: '.*' and .* more differ"):
        task(Recipe.of(TINY | {"net": wide, "begin": str(tmp_path / "a")}))
