"""Big jobs: tens of thousands of samples into a folder, in bounded memory, by any number of processes, resumable after a kill.

A job is a range of sample ids, cut into cells of consecutive ids. Since sample i of a seed has the same bits in any job, who makes a cell,
when, and after how many interruptions changes nothing. A process claims a cell by a lock on one byte of `.lock`, which the system lets go
when the process ends, however it ends; it makes what is missing in that cell; a second thread hashes and writes it. A shard counts once it
is listed in `job.json` and then renamed into place, so that nothing half-written is ever counted. Processes begin with the cells that are
theirs (cell number mod their number) and then help with those that nobody has claimed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from reverie.base import ArgumentError, FileError
from reverie.base.files import atomic
from reverie.data.pictures import pixels
from reverie.data.shards import MANIFEST, VALUES, Manifest, Shard, check_shard, file_hash, read_manifest
from reverie.model import Model, in_turn
from reverie.model.fingerprint import feed, fingerprint
from reverie.solve import Plan, plan_for, sample_blocks

try:
    import fcntl
except ImportError:  # Windows: no locks; two processes may then do the same work, with the same bits
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "Claims",
    "Filled",
    "Shards",
    "Source",
    "Store",
    "cell_size",
    "differing",
    "fill",
    "made_with",
    "plan_hash",
    "sample_folder",
    "share_of",
]

Gaps = dict[int, list[tuple[int, int]]]
"""Cell -> the runs of ids (from, to) that are missing in it."""
WAIT = 0.2
"""Seconds between looks at what other processes do."""


def plan_hash(plan: Plan) -> str:
    """The SHA-256 of a plan's files."""
    h = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        plan.save(Path(folder) / "plan.json")
        for file in sorted(Path(folder).iterdir()):
            h.update(file.read_bytes())
    return h.hexdigest()


def share_of(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """(rank, number of processes) as torchrun tells them by RANK and WORLD_SIZE; (0, 1) outside.

    >>> share_of({"RANK": "3", "WORLD_SIZE": "8"}), share_of({})
    ((3, 8), (0, 1))
    """
    try:
        rank, world = int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1"))
    except ValueError:
        rank, world = -1, 0
    if not 0 <= rank < world:
        raise ArgumentError(
            f"RANK={environment.get('RANK')!r} and WORLD_SIZE={environment.get('WORLD_SIZE')!r} are no share; unset both, or start with torchrun"
        )
    return rank, world


def cell_size(n: int, batch: int, world: int = 1) -> int:
    """Samples a shard by default: about a thousand, whole batches, and at least eight shards a process where that is possible.

    >>> cell_size(50_000, 64), cell_size(50_000, 64, world=8), cell_size(100, 16, world=8)
    (1024, 832, 16)
    """
    wanted = 1000 if world == 1 else min(1000, -(-n // (8 * world)))
    return max(1, -(-wanted // batch)) * batch


class Source:
    """What makes the samples of a job: a model with its guide, plan, conditions, seed and batch.

    Args:
        cond: conditions that the samples take in turn: of a tensor with K entries sample i gets entry i mod K; the rest is shared.
        said: further settings, by which a job may be told from another (a prompt's text, say); it replaces what is found out here.
        init, inputs: as of `sample`, taken in turn like conditions. hooks: of every run. finish: what is done with finished samples, `(x, ids) -> x`.
    """

    def __init__(
        self,
        m: Model,
        plan: Plan,
        guide: Callable[[Model], Model] | None = None,
        cond: Mapping[str, Any] | None = None,
        seed: int = 0,
        batch: int = 16,
        said: Mapping[str, Any] | None = None,
        init: Tensor | None = None,
        inputs: Mapping[str, Tensor] | None = None,
        hooks: Sequence[Any] = (),
        finish: Callable[[Tensor, Sequence[int]], Tensor] = lambda x, ids: x,
    ) -> None:
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise ArgumentError(f"batch must be a whole number of at least 1, got {batch!r}")
        self.init, self.inputs, self.hooks, self.finish = init, dict(inputs or {}), tuple(hooks), finish
        begun = {"init": init, **self.inputs} if init is not None else self.inputs
        self.model, self.plan, self.seed, self.batch = m, plan, seed, batch
        self.guided, self.cond = m if guide is None else m | guide, dict(cond or {})
        self.settings: dict[str, Any] = {
            "model": m.name, "weights": fingerprint(m), "solver": plan.solver, "steps": plan.steps, "nfe": plan.nfe, "grid": plan.grid,
            "end": plan.end, "options": json.loads(json.dumps(dict(plan.options), default=str)), "plan": plan_hash(plan),
            "guide": _named(guide), "cond": _cond_hash(self.cond), "seed": seed, "batch": batch,
        } | ({"begun": _cond_hash(begun)} if begun else {}) | dict(said or {})  # fmt: skip

    def told(self, ids: Sequence[int]) -> dict[str, Any]:
        """The conditions of some samples."""
        return in_turn(self.cond, ids)

    def labels(self, ids: Sequence[int]) -> dict[str, Tensor]:
        """Of the conditions, those that are a whole number a sample: classes."""
        return {
            k: v
            for k, v in self.told(ids).items()
            if isinstance(v, Tensor) and v.ndim == 1 and not v.is_floating_point()
        }

    def blocks(self, ids: range) -> Iterator[Tensor]:
        """The samples of consecutive ids, a batch at a time and in order."""
        at = 0
        for positions, x in self.parts(ids):
            if positions != list(range(at, at + len(x))):
                raise AssertionError(f"consecutive ids came back as {positions}")
            at += len(x)
            yield x

    def parts(self, ids: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
        """The samples of any ids as they are finished: (positions in `ids`, samples)."""
        init = None if self.init is None else in_turn({"init": self.init}, ids)["init"]
        for positions, x in sample_blocks(
            self.guided, len(ids), index=ids, plan=self.plan, cond=self.told(ids), seed=self.seed, batch=self.batch, init=init,
            inputs=in_turn(self.inputs, ids), hooks=self.hooks,
        ):  # fmt: skip
            yield positions, self.finish(x, [ids[i] for i in positions])


def _named(guide: Any) -> str | None:
    if guide is None:
        return None
    if dataclasses.is_dataclass(guide) and not isinstance(guide, type):
        fields = ", ".join(f"{f.name}={getattr(guide, f.name)!r}" for f in dataclasses.fields(guide))
        return re.sub(r" at 0x[0-9a-f]+", "", f"{type(guide).__name__}({fields})")
    return re.sub(r" at 0x[0-9a-f]+", "", repr(guide))


def _cond_hash(cond: Mapping[str, Any]) -> str | None:
    if not cond:
        return None
    h = hashlib.sha256()
    feed(h, {k: v for k, v in cond.items() if isinstance(v, Tensor)})
    h.update(repr(sorted((k, v) for k, v in cond.items() if not isinstance(v, Tensor))).encode())
    return h.hexdigest()


def differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """How two jobs' settings differ, in words, or "". Hashes are named only where nothing plainer differs.

    >>> differing({"seed": 0, "nfe": 8, "plan": "a3"}, {"seed": 0, "nfe": 10, "plan": "7f"})
    'nfe is 8 there and 10 here'
    """
    keys = [k for k in {**there, **here} if there.get(k) != here.get(k)]
    plain = [k for k in keys if k not in ("weights", "plan", "cond")]
    return ", ".join(f"{k} is {_short(there.get(k))} there and {_short(here.get(k))} here" for k in plain or keys)


def _short(value: Any) -> str:
    text = repr(value) if not (isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)) else f"{value[:12]}..."
    return text if len(text) <= 60 else f"{text[:57]}..."


class Claims:
    """Who may work on what, and who may change `job.json`: locks on single bytes of one file, let go when their process ends.

    They hold between processes on one machine, and on shared file systems that keep POSIX locks. Where they do not hold, two processes may do
    the same work, with the same bits and nothing damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".lock"
        self.fresh = not self.path.exists()
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise FileError(
                f"cannot write {str(self.path)!r}: {error.strerror or error}; choose a folder that is writable"
            ) from None
        self._guard = threading.Lock()

    def close(self, remove: bool = False) -> None:
        """Let everything go; remove the file too, if nobody is expected to come back."""
        os.close(self._file)
        if remove:
            self.path.unlink(missing_ok=True)

    def claim(self, cell: int) -> bool:
        """Whether the cell is now this process's."""
        if fcntl is None:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, cell + 1)
        except OSError:
            return False
        return True

    def release(self, cell: int) -> None:
        """Give a cell back."""
        if fcntl is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, cell + 1)

    def sweep(self, cell: int) -> None:
        """Remove the temporary files that killed processes left, where nobody works; cell: ids a cell."""
        for file in self.path.parent.glob(".*.tmp"):
            if named := re.match(r"\.(\d+)[-.]", file.name):
                if self.claim(number := int(named[1]) // cell):
                    file.unlink(missing_ok=True)
                    self.release(number)
            elif file.name.startswith(f".{MANIFEST}."):
                with self.alone():
                    file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else is in here meanwhile."""
        with self._guard:
            if fcntl is not None:
                fcntl.lockf(self._file, fcntl.LOCK_EX, 1, 0)
            try:
                yield
            finally:
                if fcntl is not None:
                    fcntl.lockf(self._file, fcntl.LOCK_UN, 1, 0)


class Store(Protocol):
    """Where a job's samples are kept: shards, or pictures. cell: ids a cell. every: seconds after which what is made is written."""

    claims: Claims
    start: int
    n: int
    cell: int
    every: float

    def missing(self) -> list[tuple[int, int]]:
        """The runs of ids (from, to) that are not kept yet."""
        ...

    def packed(self, x: Tensor) -> Tensor:
        """Samples `(B, *shape)` on the CPU, in the type in which they wait to be written."""
        ...

    def write(self, first: int, x: Tensor) -> None:
        """Keep packed samples first, first + 1, ...; called by one thread of this process at a time."""
        ...


class Shards:
    """A folder of shards with its `job.json`, as `reverie.data.samples` reads it.

    Args:
        labels: ids -> what else is kept a sample. values: "float32" or "uint8" (pictures). cell: samples a shard, None for what the folder
            has, else `cell_size`. share: (rank, processes), for the check of what is there. tell: takes notes for the user.

    Raises:
        ArgumentError: the folder holds a job of other settings. FileError: it cannot be written or its `job.json` cannot be read.
    """

    every = 300.0

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, Any],
        start: int,
        n: int,
        labels: Callable[[Sequence[int]], Mapping[str, Tensor]] = lambda ids: {},
        values: str = "float32",
        cell: int | None = None,
        default_cell: int = 1000,
        share: tuple[int, int] = (0, 1),
        made: Mapping[str, Any] | None = None,
        tell: Callable[[str], None] = lambda note: None,
    ) -> None:
        self.folder, self.start, self.n, self.labels = Path(folder), start, n, labels
        if values not in VALUES:
            raise ArgumentError(f"values are 'float32' or 'uint8', got {values!r}")
        settings = dict(json.loads(json.dumps(settings)))
        made = dict(made or {})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(
                f"cannot make the folder {str(folder)!r}: {error.strerror or error}; choose another place"
            ) from None
        self.claims = Claims(self.folder)
        try:
            with self.claims.alone():
                if (self.folder / MANIFEST).exists():
                    manifest = self._join(settings, values, cell, made, tell)
                elif stray := next(self.folder.glob("*-*.safetensors"), None):
                    raise FileError(
                        f"{str(folder)!r} holds {stray.name!r} but no {MANIFEST} to say what it is; choose another folder"
                    )
                else:
                    manifest = Manifest(settings, start, n, cell or default_cell, values, made=(made,))
                    manifest.write(self.folder)
            self.cell, self.values = manifest.samples_a_shard, manifest.values
            self._check(share, tell)
        except BaseException:
            self.claims.close(remove=self.claims.fresh)
            raise

    def _join(
        self, settings: dict[str, Any], values: str, cell: int | None, made: dict[str, Any], tell: Callable[[str], None]
    ) -> Manifest:
        old = read_manifest(self.folder)
        there, here = dict(old.settings) | {"start": old.start}, settings | {"start": self.start}
        if old.values == "uint8" or values == "uint8":  # pictures can be made of numbers, but not the other way
            there["values"], here["values"] = old.values, old.values if old.values == "float32" else values
        if cell is not None:
            there["samples_a_shard"], here["samples_a_shard"] = old.samples_a_shard, cell
        if said := differing(there, here):
            raise ArgumentError(
                f"{str(self.folder)!r} holds a job of other settings: {said}. Repeat what is there to go on with it, or choose another folder"
            )
        if made not in old.made:
            tell(
                f"{str(self.folder)!r} was begun with {_short(old.made[-1] if old.made else None)}, this is {_short(made)}: samples made now "
                "may differ in rounding from those that would have been made there"
            )
        if self.n < old.n:
            tell(
                f"{str(self.folder)!r} was a job of {old.n} samples; now its first {self.n} are the job. Nothing is deleted: -n {old.n} "
                "brings the others back"
            )
        new = dataclasses.replace(old, n=self.n, made=old.made if made in old.made else (*old.made, made))
        if new != old:
            new.write(self.folder)
        return new

    def _check(self, share: tuple[int, int], tell: Callable[[str], None]) -> None:
        """Forget shards that are gone or damaged; each process looks at its own cells, and at none that somebody works on."""
        rank, world = share
        if rank == 0:
            self.claims.sweep(self.cell)
        for shard in read_manifest(self.folder).shards:
            cell = shard.first // self.cell
            if cell % world != rank or not self.claims.claim(cell):
                continue
            try:
                if wrong := check_shard(self.folder, shard):
                    (self.folder / shard.file).unlink(missing_ok=True)
                    self._forget(shard)
                    if not wrong.endswith("is gone"):  # killed between listing and renaming is no news
                        tell(f"{wrong}; it is made anew")
            finally:
                self.claims.release(cell)

    def _change(self, change: Callable[[Manifest], Manifest]) -> None:
        with self.claims.alone():
            change(read_manifest(self.folder)).write(self.folder)

    def _forget(self, shard: Shard) -> None:
        self._change(lambda m: dataclasses.replace(m, shards=tuple(s for s in m.shards if s != shard)))

    def missing(self) -> list[tuple[int, int]]:
        """See `Store`."""
        present = {entry.name for entry in os.scandir(self.folder)}
        manifest = dataclasses.replace(read_manifest(self.folder), start=self.start, n=self.n)
        return manifest.chain([s for s in manifest.shards if s.file in present])[1]

    def packed(self, x: Tensor) -> Tensor:
        """See `Store`."""
        if self.values == "uint8":
            return pixels(x.detach()).permute(0, 3, 1, 2).cpu()
        return x.detach().float().cpu()

    def write(self, first: int, x: Tensor) -> None:
        """See `Store`."""
        from safetensors.torch import save_file

        ids = torch.arange(first, first + len(x))
        labels = {k: v.cpu().contiguous() for k, v in self.labels(ids.tolist()).items()}
        shape = tuple(x.shape[1:])
        with atomic(self.folder / Shard(first, len(x), 1, "").file) as temporary:
            save_file({"samples": x.contiguous(), "ids": ids} | labels, temporary, {"reverie": "job"})
            shard = Shard(first, len(x), temporary.stat().st_size, file_hash(temporary))
            self._change(
                lambda m: dataclasses.replace(
                    m, shape=shape, shards=(*(s for s in m.shards if s.file != shard.file), shard)
                )
            )


class _Writer:
    """Writes behind the sampling's back, one piece at a time: while one is written, one is made."""

    def __init__(self, store: Store) -> None:
        self.store, self.held = store, set[int]()
        self.unwritten = 0
        self._pool = ThreadPoolExecutor(1, "reverie-writer")
        self._last: Future[None] | None = None

    def write(self, first: int, x: Tensor) -> None:
        self.drain()
        self.unwritten = len(x)
        self._last = self._pool.submit(self._write, first, x)

    def _write(self, first: int, x: Tensor) -> None:
        self.store.write(first, x)
        self.unwritten = 0

    def release(self, cell: int) -> None:
        """Give a cell back once it is written."""
        self._pool.submit(self._release, cell)

    def _release(self, cell: int) -> None:
        self.store.claims.release(cell)
        self.held.discard(cell)

    def drain(self) -> None:
        """Wait for what is being written; raises what went wrong."""
        if self._last is not None:
            self._last.result()
            self._last = None

    def close(self) -> None:
        try:
            self.drain()
        finally:
            self._pool.shutdown()


def fill(
    store: Store,
    blocks: Callable[[range], Iterator[Tensor]],
    share: tuple[int, int] = (0, 1),
    report: Callable[[int, int], None] = lambda done, total: None,
    limit: int = 128 << 20,
) -> int:
    """Make what a store lacks; returns how many samples this process made.

    It first takes the cells of its share, then helps with others that nobody works on. Rank 0 stays until all is done, and takes over what
    a process that died has left. On an exception (Ctrl-C too) what is finished is written before it goes on.

    Args:
        blocks: makes the samples of consecutive ids, in order. share: (rank, processes).
        report: is told (done, total) now and then. limit: bytes of samples a piece that waits to be written; a shard's largest size.
    """
    rank, world = share
    writer, tally = _Writer(store), _Tally(store, report)
    try:
        while True:
            gaps = _cells(store.missing(), store.cell)
            tally.look(gaps, writer.unwritten)
            mine = sorted(gaps, key=lambda c: (c % world != rank, c if c % world == rank else -c))
            cell = next((c for c in mine if c not in writer.held and store.claims.claim(c)), None)
            if cell is not None:
                writer.held.add(cell)
                try:
                    for first, stop in _cells(store.missing(), store.cell).get(cell, []):
                        _make(store, writer, tally, blocks, range(first, stop), limit)
                finally:
                    writer.release(cell)
            elif not gaps or (rank and not writer.held):
                return tally.made
            else:
                own = bool(writer.held)  # then it is our own writing that we wait for
                writer.drain()
                time.sleep(0.002 if own else WAIT)
    finally:
        try:
            writer.close()
        finally:
            store.claims.close()


def _cells(gaps: Sequence[tuple[int, int]], cell: int) -> Gaps:
    """Gaps cut at multiples of the cell's size.

    >>> _cells([(3, 9)], 4)
    {0: [(3, 4)], 1: [(4, 8)], 2: [(8, 9)]}
    """
    cut: Gaps = {}
    for first, stop in gaps:
        while first < stop:
            end = min(stop, (first // cell + 1) * cell)
            cut.setdefault(first // cell, []).append((first, end))
            first = end
    return cut


class _Tally:
    """How many samples are done, here and elsewhere."""

    def __init__(self, store: Store, report: Callable[[int, int], None], every: float = 2.0) -> None:
        self.store, self.report, self.every = store, report, every
        self.kept = self.here = self.made = 0
        self._looked = 0.0

    def look(self, gaps: Gaps, unwritten: int) -> None:
        missing = sum(b - a for runs in gaps.values() for a, b in runs)
        self.kept, self.here, self._looked = self.store.n - missing, unwritten, time.monotonic()
        self.report(min(self.kept + self.here, self.store.n), self.store.n)

    def add(self, count: int, waiting: int) -> None:
        """count more are made; waiting are made in all but not kept yet."""
        self.made += count
        self.here += count
        if time.monotonic() - self._looked >= self.every:
            self.look(_cells(self.store.missing(), self.store.cell), waiting)
        else:
            self.report(min(self.kept + self.here, self.store.n), self.store.n)


def _make(
    store: Store, writer: _Writer, tally: _Tally, blocks: Callable[[range], Iterator[Tensor]], ids: range, limit: int
) -> None:
    piece: Tensor | None = None
    first, count, began = ids.start, 0, time.monotonic()
    try:
        for block in blocks(ids):
            x = store.packed(block)
            if piece is not None and (count + len(x) > len(piece) or time.monotonic() - began >= store.every):
                writer.write(first, piece[:count])
                first, count, began, piece = first + count, 0, time.monotonic(), None
            if piece is None:
                room = max(len(x), limit // max(1, x[0].numel() * x.element_size()))
                piece = x.new_empty((min(ids.stop - first, room), *x.shape[1:]))
            piece[count : count + len(x)] = x
            count += len(x)
            tally.add(len(x), writer.unwritten + count)
    finally:
        if count and piece is not None:
            writer.write(first, piece[:count])


@dataclasses.dataclass(frozen=True)
class Filled:
    """What a process did for a job: samples it made, samples found done, seconds, and whether the job is complete."""

    made: int
    found: int
    seconds: float
    complete: bool


def sample_folder(
    m: Model,
    folder: str | Path,
    n: int,
    *,
    plan: Plan | None = None,
    guide: Callable[[Model], Model] | None = None,
    cond: Mapping[str, Any] | None = None,
    seed: int = 0,
    start: int = 0,
    batch: int = 16,
    values: str = "float32",
    samples_a_shard: int | None = None,
    share: tuple[int, int] | None = None,
    said: Mapping[str, Any] | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
    tell: Callable[[str], None] = lambda note: None,
    **options: Any,
) -> Filled:
    """Samples start .. start + n - 1 of a model, as shards in a folder: any number, in bounded memory, by any number of processes.

    Called again with the same settings it goes on, whatever ended it before, and ends with the bits of `rv.sample`; with a larger n it adds to
    what is there. Shards that are damaged are made anew. Read the samples with `rv.data.samples(folder)`.

    Args:
        plan: or its options: solver, steps, nfe, grid, end, ... (see `plan_for`). guide, seed, start, batch: see `rv.sample`.
        cond: conditions that samples take in turn: of a tensor with K entries sample i gets entry i mod K.
        values: "float32", or "uint8" for pictures: a quarter of the bytes. samples_a_shard: about a thousand by default (`cell_size`); a
            shard has at most 128 MiB, and is written after five minutes in any case.
        share: (rank, processes); by default torchrun's. report: is told (done, total). tell: takes notes. said: see `Source`.

    Raises:
        ArgumentError: the folder holds a job of other settings; the message names them. FileError: it cannot be written.

    >>> import tempfile, torch, reverie as rv
    >>> o = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=rv.process.vp())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sample_folder(o, folder, 20, nfe=4).made, sample_folder(o, folder, 30, nfe=4).made
    ...     bool((torch.cat(list(rv.data.samples(folder))) == rv.sample(o, 30, nfe=4)).all())
    (20, 10)
    True
    """
    for name, value, least in (("n", n, 1), ("start", start, 0), ("samples_a_shard", samples_a_shard or 1, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ArgumentError(f"{name} must be a whole number of at least {least}, got {value!r}")
    began = time.monotonic()
    share = share_of() if share is None else share
    if plan is not None and options:
        raise ArgumentError(f"a compiled plan has its own settings; leave out {', '.join(sorted(options))}")
    source = Source(m, plan_for(m, **options) if plan is None else plan, guide, cond, seed, batch, said)
    store = Shards(
        folder, source.settings, start, n, source.labels, values, samples_a_shard, cell_size(n, batch, share[1]), share, made_with(m), tell
    )  # fmt: skip
    if share[0] == 0 and not (beside := Path(folder) / "plan.json").exists():
        source.plan.save(beside)
    found = n - sum(b - a for a, b in store.missing())
    made = fill(store, source.blocks, share, report)
    return Filled(made, found, time.monotonic() - began, not store.missing())


def made_with(m: Model) -> dict[str, str]:
    """What rounds a sample beside its settings: the device and the versions."""
    device = torch.cuda.get_device_name(m.device) if m.device.type == "cuda" else m.device.type
    return {"device": device, "torch": torch.__version__, "reverie": import_module("reverie").__version__}
