from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from reverie.base import ArgumentError, FileError, ShapeError
from reverie.cli.output import Output
from reverie.nets import read_tensors

RECORD = {"seed": 3, "versions": {"reverie": "0"}, "ids": [4, 5]}
X = torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)


def test_raw_files_hold_the_bits(tmp_path):
    Output(str(tmp_path / "x.safetensors")).write(X, [4, 5], None, 1, RECORD)
    tensors, metadata = read_tensors(tmp_path / "x.safetensors")
    assert torch.equal(tensors["samples"], X)
    assert tensors["ids"].tolist() == [4, 5]
    assert json.loads(metadata["reverie"]) == RECORD
    Output(str(tmp_path / "x.npy")).write(X, [4, 5], None, 1, RECORD)
    assert np.array_equal(np.load(tmp_path / "x.npy"), X.numpy())


def test_a_folder_holds_one_picture_a_sample(tmp_path):
    Output(str(tmp_path / "new") + "/").write(X, [4, 5], ["a", "b"], 1, RECORD)
    assert sorted(f.name for f in (tmp_path / "new").iterdir()) == ["000004.png", "000005.png"]
    image = Image.open(tmp_path / "new" / "000005.png")
    assert image.size == (8, 8)
    said = json.loads(image.text["reverie"])
    assert (said["ids"], said["classes"], said["seed"]) == ([5], ["b"], 3)
    assert np.asarray(image).tolist() == ((X[1, 0] + 1) * 127.5).round().int().tolist()


def test_an_existing_folder_needs_no_slash(tmp_path):
    assert Output(str(tmp_path)).folder
    assert Output(str(tmp_path)).partial.parent == tmp_path


def test_a_sheet_carries_its_settings(tmp_path):
    Output(str(tmp_path / "x.png")).write(X, [4, 5], ["a", "b"], 1, RECORD)
    image = Image.open(tmp_path / "x.png")
    assert json.loads(image.text["reverie"]) == RECORD
    assert [f.name for f in tmp_path.iterdir()] == ["x.png"]


@pytest.mark.parametrize("name", ["x.jpg", "x", "x.PNG.gif"])
def test_other_endings_are_refused(tmp_path, name):
    with pytest.raises(ArgumentError, match=r"must end with \.png"):
        Output(str(tmp_path / name))


@pytest.mark.parametrize("name", ["missing/x.png", "missing/x.npy", "file/x/"])
def test_an_unwritable_place_is_found_out_first(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="choose"):
        Output(str(tmp_path / name) + ("/" if name.endswith("/") else ""))


def test_sizes_are_checked(tmp_path):
    with pytest.raises(ArgumentError, match="columns must be at least 1, got 0"):
        Output(str(tmp_path / "x.png"), columns=0)
    with pytest.raises(ArgumentError, match="raw samples"):
        Output(str(tmp_path / "x.npy"), scale=2)


def test_vectors_fit_only_raw_files(tmp_path):
    Output(str(tmp_path / "x.npy")).check((2,))
    with pytest.raises(ShapeError, match="no pictures"):
        Output(str(tmp_path / "x.png")).check((2,))
