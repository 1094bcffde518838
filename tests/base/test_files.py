"""Files are written whole or not at all."""

import os

import pytest

from reverie.base import FileError
from reverie.base.errors import unknown
from reverie.base.files import atomic, check_writable, read_bytes


def test_a_failure_in_the_middle_leaves_the_old_file_and_no_litter(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic(target) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_a_file_error_and_the_old_file_survives(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(FileError, match=r"No space left.*untouched"), atomic(target):
        raise OSError(28, "No space left on device")
    assert target.read_text() == "old"


def test_the_new_file_appears_at_once_with_ordinary_permissions(tmp_path):
    target = tmp_path / "a.txt"
    with atomic(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    plain = tmp_path / "b.txt"
    plain.write_text("")
    assert target.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("act", [check_writable, lambda p: atomic(p).__enter__()])
def test_a_missing_folder_is_named_before_any_work(tmp_path, act):
    with pytest.raises(FileError, match=r"nowhere.*choose a folder"):
        act(tmp_path / "nowhere" / "a.txt")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(FileError, match="it is a folder"):
        check_writable(tmp_path)
    with pytest.raises(FileError, match="cannot read"):
        read_bytes(tmp_path, 1 << 20)


def test_reading_is_bounded(tmp_path):
    source = tmp_path / "a.bin"
    source.write_bytes(b"12345")
    assert read_bytes(source, 5) == b"12345"
    with pytest.raises(FileError, match="5 bytes; at most 4"):
        read_bytes(source, 4)
    with pytest.raises(FileError, match="No such file"):
        read_bytes(tmp_path / "none", 4)


def test_unknown_names_the_nearest_or_only_the_known():
    assert "did you mean 'euler'" in str(unknown("solver", "eulr", ["euler", "heun"]))
    far = str(unknown("solver", "zzz", ["euler", "heun"]))
    assert "did you mean" not in far
    assert "Known: euler, heun" in far
