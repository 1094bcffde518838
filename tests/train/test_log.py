"""What a training leaves beside its checkpoints: lines, sheets; and how it is asked to stop."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reverie.base import ArgumentError, FileError, ShapeError
from reverie.train.log import Log, sheet, stop_signals


def _steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_lines_beyond_the_resumed_step_and_torn_ones_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    log = Log(path, 0)
    for step in (2, 4, 6):
        log.write({"step": step, "loss": 0.5})
    with path.open("a") as file:
        file.write('7\n{"loss": 1}\n{"step": 3, "lo')
    Log(path, 4).write({"step": 5})
    assert _steps(path) == [2, 4, 5]
    Log(path, 0)
    assert path.read_text() == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    log = Log(tmp_path / "train.jsonl", 0)
    log.path = Path("/dev/full")
    with pytest.raises(FileError, match=r"cannot write '/dev/full': No space left.*the last checkpoint is intact"):
        log.write({"step": 1})


@pytest.mark.parametrize(
    ("n", "height", "width", "columns", "rows"), [(1, 4, 4, 1, 1), (5, 4, 4, 2, 3), (9, 4, 4, 3, 3), (4, 8, 2, 4, 1)]
)
def test_a_sheets_layout(tmp_path: Path, n: int, height: int, width: int, columns: int, rows: int) -> None:
    x = torch.linspace(-1, 1, n)[:, None, None, None].expand(n, 1, height, width)
    sheet(x, tmp_path / "a.png", gap=2)
    page = np.asarray(Image.open(tmp_path / "a.png"))
    assert page.shape == (rows * (height + 2) + 2, columns * (width + 2) + 2, 3)
    seen = np.full_like(page, 255)
    for i in range(n):
        top, left = 2 + i // columns * (height + 2), 2 + i % columns * (width + 2)
        seen[top : top + height, left : left + width] = round(255 * (i / max(1, n - 1)))
    assert np.abs(page.astype(int) - seen).max() <= 1
    assert (page[:2] == 255).all()


def test_colours_and_values_out_of_range(tmp_path: Path) -> None:
    x = torch.tensor([3.0, 0.0, -3.0])[None, :, None, None].expand(1, 3, 2, 2)
    sheet(x, tmp_path / "a.png", gap=1)
    assert np.asarray(Image.open(tmp_path / "a.png"))[1, 1].tolist() == [255, 128, 0]
    for shape in ((3, 2, 2), (1, 2, 2, 2)):
        with pytest.raises(ShapeError, match=r"pictures have shape \(N, 1 or 3, H, W\), got"):
            sheet(torch.zeros(shape), tmp_path / "b.png")


def test_without_pillow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ArgumentError, match=r"pip install 'reverie\[cli\]'"):
        sheet(torch.zeros(1, 1, 2, 2), tmp_path / "a.png")


def test_the_first_signal_is_noted_and_the_second_acts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_signals() as caught:
        signal.raise_signal(signal.SIGINT)
        assert caught == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_signals_are_left_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with stop_signals():
            seen.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]
