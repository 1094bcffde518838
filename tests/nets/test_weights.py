"""Files of weights: whole or not at all."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from reverie.base import FileError
from reverie.nets import read_tensors, write_tensors


def test_round_trip(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4).T, "b": torch.arange(3), "c": torch.tensor(1.5, dtype=torch.float16)}
    write_tensors(tmp_path / "w.safetensors", tensors, {"k": "v"})
    back, metadata = read_tensors(tmp_path / "w.safetensors")
    assert metadata == {"k": "v"}
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[k], v) and back[k].dtype == v.dtype for k, v in tensors.items())


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_truncated_file_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "w.safetensors"
    write_tensors(path, {"a": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FileError, match=r"w\.safetensors' is truncated"):
        read_tensors(path)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="does not exist"):
        read_tensors(tmp_path / "none.safetensors")
    with pytest.raises(FileError, match="cannot write"):
        write_tensors(tmp_path / "none" / "w.safetensors", {"a": torch.ones(1)})


def test_a_full_disk_leaves_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_tensors(path, {"a": torch.ones(10)})
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # what the disk takes
    try:
        with pytest.raises(FileError, match="cannot write"):
            write_tensors(path, {"a": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
