"""What a training leaves beside its checkpoints: figures as lines of JSON, sheets of samples; and how it is asked to stop."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, FileError, ShapeError
from reverie.base.files import atomic
from reverie.data import pixels

__all__ = ["Log", "sheet", "stop_signals"]


class Log:
    """Figures as lines of JSON; what a previous run wrote beyond the step it is resumed from is dropped.

    Args:
        path: of the file. done: the step from which the run goes on.
    """

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() and done else []
        kept = []
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a line cut short by a kill
                if json.loads(line)["step"] <= done:
                    kept.append(line + "\n")
        with atomic(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    def write(self, figures: Mapping[str, float]) -> None:
        """Add a line. Raises `FileError`: the disk is full."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dict(figures)) + "\n")
        except OSError as error:
            raise FileError(
                f"cannot write {str(self.path)!r}: {error.strerror or error}; the last checkpoint is intact"
            ) from error


def sheet(x: Tensor, path: Path, gap: int = 2) -> None:
    """Pictures `(N, C, H, W)` in [-1, 1] in rows, as a PNG. Raises `ShapeError`, `FileError`; `ArgumentError` where pillow is missing."""
    try:
        from PIL import Image
    except ImportError:
        raise ArgumentError(
            "sheets of samples need pillow, which is not installed: pip install 'reverie[cli]'"
        ) from None
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ShapeError(f"pictures have shape (N, 1 or 3, H, W), got {tuple(x.shape)}")
    tiles = pixels(x.detach().cpu())
    n, height, width, _ = tiles.shape
    columns = max(1, round((n * height / width) ** 0.5))
    rows = -(-n // columns)
    page = torch.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, dtype=torch.uint8)
    for i in range(n):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        page[top : top + height, left : left + width] = tiles[i]
    with atomic(path) as temporary:
        Image.fromarray(page.numpy()).save(temporary, format="PNG", optimize=True)


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that gets the first SIGINT or SIGTERM, so that a step is never torn; a second one acts at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: Any) -> None:
        caught.append(number)
        signal.signal(number, before[signal.Signals(number)])

    try:
        for s in before:
            signal.signal(s, note)
        yield caught
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
