"""Jobs into folders on the command line: which form the folder takes, what is shown meanwhile, how they stop.

The work itself is `reverie.hub.jobs`; here are its pictures (one PNG a sample, named by id, its settings inside), its bar, and its signals.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from reverie.base import ArgumentError
from reverie.cli.console import err
from reverie.cli.output import Output, settings_in
from reverie.data.shards import MANIFEST, read_manifest
from reverie.hub.jobs import Claims, differing

__all__ = ["FORMATS", "PICTURES_UP_TO", "Pictures", "form", "shown", "stoppable"]

FORMATS = ("png", "safetensors", "npz")
PICTURES_UP_TO = 1000
"""Samples up to which a new folder gets a picture each, if nothing else is said."""


def form(folder: Path, asked: str | None, n: int, pictures: bool) -> str:
    """The form of a folder: what was asked; else what it holds; else pictures for a few samples that are pictures, shards for the rest.

    Raises:
        ArgumentError: another form than the three, or pictures in a folder of shards.
    """
    if asked not in (None, *FORMATS):
        raise ArgumentError(f"the format {asked!r} is none of {', '.join(FORMATS)}")
    if (folder / MANIFEST).exists():
        if asked == "png":
            raise ArgumentError(f"{str(folder)!r} holds a job's shards, and pictures are asked; choose another folder")
        return asked or ("npz" if read_manifest(folder).values == "uint8" else "safetensors")
    if asked is not None:
        return asked
    if any(re.fullmatch(r"\d{6,}\.png", entry.name) for entry in os.scandir(folder)):
        return "png"
    return "png" if pictures and n <= PICTURES_UP_TO else "safetensors"


class Pictures:
    """A folder with one PNG a sample, named by id; a `Store` of `reverie.hub.jobs`. Each picture holds the settings that made it.

    Args:
        names: ids -> what they are called, or None. record: what is written into each picture; `settings` in it tell a job from another.
        share: (rank, processes), for the check of what is there. tell: takes notes for the user.

    Raises:
        ArgumentError: pictures of these ids are there already, of other settings or by somebody else.
    """

    every = 10.0

    def __init__(
        self,
        target: Output,
        start: int,
        n: int,
        cell: int,
        names: Callable[[Sequence[int]], list[str] | None],
        record: Mapping[str, Any],
        share: tuple[int, int] = (0, 1),
        tell: Callable[[str], None] = lambda note: None,
    ) -> None:
        self.target, self.start, self.n, self.cell, self.names, self.record = (
            target,
            start,
            n,
            cell,
            names,
            dict(record),
        )
        self.claims = Claims(target.path)
        try:
            self._check(share, tell)
        except BaseException:
            self.claims.close(remove=self.claims.fresh)
            raise

    def _present(self) -> dict[int, Path]:
        found = (re.fullmatch(r"(\d{6,})\.png", entry.name) for entry in os.scandir(self.target.path))
        ids = {int(f[1]): self.target.path / f[0] for f in found if f}
        return {i: path for i, path in ids.items() if self.start <= i < self.start + self.n}

    def _check(self, share: tuple[int, int], tell: Callable[[str], None]) -> None:
        rank, world = share
        if rank == 0:
            self.claims.sweep(self.cell)
        for k, (i, path) in enumerate(sorted(self._present().items())):
            if k and i // self.cell % world != rank:  # all look at the first, so that all refuse other settings
                continue
            try:
                with Image.open(path) as image:
                    there = settings_in(image)
                    image.verify()
            except (OSError, SyntaxError, ValueError) as error:
                tell(f"{str(path)!r} is damaged ({error}); it is made anew")
                path.unlink(missing_ok=True)
                continue
            if there is None:
                raise ArgumentError(
                    f"{str(path)!r} is there and no picture of this kind; choose another folder, or remove it"
                )
            if said := differing(there, self.record["settings"]):
                raise ArgumentError(
                    f"{str(path)!r} is a sample of other settings: {said}. Repeat what is there to go on with it, or choose another folder"
                )

    def missing(self) -> list[tuple[int, int]]:
        """See `Store`."""
        gaps, at, stop = [], self.start, self.start + self.n
        for i in (*sorted(self._present()), stop):
            if i > at:
                gaps.append((at, i))
            at = i + 1
        return gaps

    def packed(self, x: Tensor) -> Tensor:
        """See `Store`."""
        return x.detach().float().cpu()

    def write(self, first: int, x: Tensor) -> None:
        """See `Store`."""
        ids = range(first, first + len(x))
        self.target.write(x, ids, self.names(ids), 1, self.record)


@contextlib.contextmanager
def shown(name: str, total: int, quiet: bool = False, every: float = 30.0) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and remaining time on a terminal, a line every so many seconds elsewhere; yields what takes (done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    if quiet:
        yield lambda done, total: None
        return
    console, began, first, said = err(), time.monotonic(), [-1], [time.monotonic()]

    def pace(done: int) -> float:
        return (done - first[0]) / max(1e-9, time.monotonic() - began)

    if not console.is_terminal:

        def line(done: int, total: int) -> None:
            first[0] = done if first[0] < 0 else first[0]
            if time.monotonic() - said[0] >= every and done > first[0]:
                said[0] = time.monotonic()
                console.print(
                    f"{name}: {done} of {total} samples, {pace(done):.3g}/s, {_clock((total - done) / pace(done))} left"
                )

        yield line
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("samples  {task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=total, rate="")

        def update(done: int, total: int) -> None:
            if first[0] < 0:
                first[0] = done
                bar.reset(task, total=total, completed=done, rate="")
            bar.update(task, completed=done, rate=f"{pace(done):.3g}/s" if done > first[0] else "")

        yield update


def _clock(seconds: float) -> str:
    """
    >>> _clock(75), _clock(7500)
    ('1:15', '2:05:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGINT and SIGTERM (a scheduler's, torchrun's) raise KeyboardInterrupt once; further ones wait until what is finished is written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)

    def stop(number: int, frame: Any) -> None:
        for s in signals:
            signal.signal(s, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(s, stop) for s in signals]
    try:
        yield
    finally:
        for s, handler in zip(signals, before, strict=True):
            signal.signal(s, handler)
