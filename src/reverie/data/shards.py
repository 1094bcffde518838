"""Folders of shards: a big job's samples on disk, read back in bounded memory.

A folder holds `job.json`, the plan as `plan.json`, and files `<first id>-<last id>.safetensors`, each a run of consecutive samples with
the tensors `samples` `(count, *shape)`, `ids` `(count,)` and the classes they were told, if any. A shard counts if `job.json` lists it and
its bytes have the SHA-256 that is listed:

    {"format": "reverie-job", "version": 1, "start": 0, "n": 50000, "samples_a_shard": 1000, "values": "float32", "shape": [1, 8, 8],
     "settings": {"model": "digits", "weights": "<sha256>", "solver": "dpmpp-2m", "nfe": 8, "seed": 0, ...},
     "made": [{"device": "cpu", "torch": "2.9.0", "reverie": "0.1.0"}],
     "shards": [{"file": "000000000-000000999.safetensors", "first": 0, "count": 1000, "bytes": 264184, "sha256": "..."}, ...]}

Values are float32 as sampled, or uint8 pictures (`pixels`, channels first). `rv.hub.sample_folder` writes such folders.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, FileError
from reverie.base.files import atomic, read_bytes
from reverie.data.pictures import pixels

__all__ = [
    "MANIFEST",
    "Manifest",
    "Samples",
    "Shard",
    "check_shard",
    "file_hash",
    "read_manifest",
    "samples",
    "write_npz",
]

FORMAT, VERSION = "reverie-job", 1
MANIFEST = "job.json"
LIMIT = 256 << 20
"""Largest manifest read, bytes."""
VALUES = {"float32": torch.float32, "uint8": torch.uint8}


@dataclass(frozen=True)
class Shard:
    """A file of consecutive samples: ids first .. first + count - 1, its size in bytes, its SHA-256."""

    first: int
    count: int
    bytes: int
    sha256: str

    @property
    def stop(self) -> int:
        """The id after the last."""
        return self.first + self.count

    @property
    def file(self) -> str:
        """Its name, which follows from the ids, so that a manifest cannot point elsewhere."""
        return f"{self.first:09d}-{self.stop - 1:09d}.safetensors"


@dataclass(frozen=True)
class Manifest:
    """What `job.json` says: which samples the job is of, with which settings, and what is done.

    Attributes:
        settings: what fixes the samples beside their ids. start, n: the job's ids are start .. start + n - 1.
        samples_a_shard: where runs are cut, at its multiples. values: "float32" or "uint8". shape: of one sample, once known.
        made: what the samples were made with (device, versions); more than one entry if that changed on the way.
    """

    settings: Mapping[str, Any]
    start: int
    n: int
    samples_a_shard: int
    values: str = "float32"
    shape: tuple[int, ...] | None = None
    made: tuple[Mapping[str, Any], ...] = ()
    shards: tuple[Shard, ...] = ()

    def write(self, folder: Path) -> None:
        """Write `job.json`, all or nothing."""
        shards = [{"file": s.file} | vars(s) for s in sorted(self.shards, key=lambda s: s.first)]
        head = {"format": FORMAT, "version": VERSION} | vars(self) | {"shards": 0}
        text = json.dumps(head, indent=1).rsplit('"shards": 0', 1)[0]  # one line a shard
        lines = ",\n  ".join(map(json.dumps, shards))
        with atomic(folder / MANIFEST) as temporary:
            temporary.write_text(f'{text}"shards": [\n  {lines}\n ]\n}}\n', encoding="utf-8")

    def chain(
        self, present: Iterable[Shard] | None = None
    ) -> tuple[list[tuple[Shard, int, int]], list[tuple[int, int]]]:
        """Which part (shard, from, to) each id of the job is read from, in order, and the gaps (from, to) that no shard fills.

        >>> m = Manifest({}, 0, 10, 4, shards=(Shard(0, 4, 1, ""), Shard(2, 4, 1, ""), Shard(7, 9, 1, "")))
        >>> [(s.first, a, b) for s, a, b in m.chain()[0]], m.chain()[1]
        ([(0, 0, 4), (2, 4, 6), (7, 7, 10)], [(6, 7)])
        """
        parts, gaps, at, end = [], [], self.start, self.start + self.n
        for s in sorted(self.shards if present is None else present, key=lambda s: (s.first, -s.count)):
            if s.stop <= at or s.first >= end:
                continue
            if s.first > at:
                gaps.append((at, s.first))
                at = s.first
            parts.append((s, at, min(s.stop, end)))
            at = min(s.stop, end)
        return parts, gaps + ([(at, end)] if at < end else [])


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a job's folder, checked.

    Raises:
        FileError: there is none, or it is malformed or of a newer Reverie.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileError(
            f"{str(folder)!r} is no folder of a job: it holds no {MANIFEST}; make one with: reverie sample MODEL -n N --format safetensors -o FOLDER/"
        )
    try:
        head = json.loads(read_bytes(path, LIMIT))
    except (ValueError, RecursionError) as error:
        raise FileError(f"{str(path)!r} is damaged: not valid JSON ({error}); use another folder") from None
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise FileError(f"{str(path)!r} is no job: its 'format' is not {FORMAT!r}")
    if not isinstance(head.get("version"), int) or not 1 <= head["version"] <= VERSION:
        raise FileError(
            f"{str(path)!r} has version {head.get('version')!r}, this Reverie reads up to {VERSION}; upgrade Reverie"
        )
    try:
        made = Manifest(
            _is(head["settings"], dict),
            _whole(head["start"], 0),
            _whole(head["n"], 1),
            _whole(head["samples_a_shard"], 1),
            _is(head["values"], str),
            None if head.get("shape") is None else tuple(_whole(s, 0) for s in _is(head["shape"], list)),
            tuple(_is(e, dict) for e in _is(head["made"], list)),
            tuple(
                Shard(_whole(s["first"], 0), _whole(s["count"], 1), _whole(s["bytes"], 1), _is(s["sha256"], str))
                for s in _is(head["shards"], list)
            ),
        )
        if made.values not in VALUES:
            raise ValueError(f"values {made.values!r:.40}")
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"{str(path)!r} is malformed: {type(error).__name__} {error}; use another folder") from None
    return made


def _is(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"a {kind.__name__} is needed, got {value!r:.40}")
    return value


def _whole(value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"a whole number of at least {least} is needed, got {value!r:.40}")
    return value


def file_hash(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_shard(folder: Path, shard: Shard) -> str:
    """What is wrong with a shard's file, or ""."""
    path = folder / shard.file
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            return f"{str(path)!r} has {size} bytes, {shard.bytes} were written"
        return (
            ""
            if file_hash(path) == shard.sha256
            else f"{str(path)!r} is damaged: its SHA-256 differs from {MANIFEST}'s"
        )
    except FileNotFoundError:
        return f"{str(path)!r} is gone"
    except OSError as error:
        return f"{str(path)!r} cannot be read: {error.strerror or error}"


class Samples:
    """The samples of a job's folder, read lazily and in the order of their ids; see `samples`.

    Attributes:
        manifest: what `job.json` said. folder, batch, check.
    """

    def __init__(self, folder: str | Path, batch: int = 256, check: bool = True, partial: bool = False) -> None:
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise ArgumentError(f"batch must be a whole number of at least 1, got {batch!r}")
        self.folder, self.batch, self.check = Path(folder), batch, check
        self.manifest = read_manifest(folder)
        here = [s for s in self.manifest.shards if (self.folder / s.file).is_file()]
        self._parts, gaps = self.manifest.chain(here)
        self._length = sum(b - a for _, a, b in self._parts)
        if gaps and not partial:
            raise FileError(
                f"{str(folder)!r} holds {self._length} of {self.manifest.n} samples (the first that is missing is {gaps[0][0]}); "
                "finish the job with the command that began it, or read what is there with partial=True"
            )

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"Samples({str(self.folder)!r}, {len(self)} of {self.manifest.n}, shape {self.manifest.shape})"

    @property
    def settings(self) -> Mapping[str, Any]:
        """What made the samples: model, weights, solver, plan, guide, seed, batch, ..."""
        return self.manifest.settings

    def __iter__(self) -> Iterator[Tensor]:
        for block in self.blocks():
            yield block["samples"]

    def blocks(self) -> Iterator[dict[str, Tensor]]:
        """As iteration, with everything that a shard holds: `samples`, `ids`, and labels such as `class_labels`."""
        from safetensors import SafetensorError, safe_open

        for shard, first, stop in self._parts:
            path = self.folder / shard.file
            if self.check and (wrong := check_shard(self.folder, shard)):
                raise FileError(f"{wrong}; the command that began the job makes it anew")
            try:
                with safe_open(path, framework="pt") as file:
                    names = list(file.keys())
                    for a in range(first - shard.first, stop - shard.first, self.batch):
                        b = min(a + self.batch, stop - shard.first)
                        block = {name: file.get_slice(name)[a:b] for name in names}
                        self._fits(path, block, range(shard.first + a, shard.first + b))
                        x = block["samples"]
                        yield block | {"samples": x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x}
            except (SafetensorError, OSError, ValueError, IndexError) as error:
                if isinstance(error, FileError):
                    raise
                raise FileError(
                    f"{str(path)!r} cannot be read ({error}); the command that began the job makes it anew"
                ) from error

    def _fits(self, path: Path, block: dict[str, Tensor], ids: range) -> None:
        x, shape = block.get("samples"), self.manifest.shape
        if x is None or "ids" not in block or len(x) != len(ids) or x.dtype != VALUES[self.manifest.values]:
            raise FileError(
                f"{str(path)!r} does not hold {len(ids)} samples of {self.manifest.values}; use another folder"
            )
        if block["ids"].tolist() != list(ids) or (shape is not None and tuple(x.shape[1:]) != shape):
            raise FileError(
                f"{str(path)!r} holds other ids, or samples of another shape than {shape}; use another folder"
            )


def samples(folder: str | Path, *, batch: int = 256, check: bool = True, partial: bool = False) -> Samples:
    """The samples of a job's folder, in the order of their ids and in bounded memory.

    Iteration yields float32 tensors `(B, *shape)` with B at most `batch` (fewer at the end of a shard); it can be repeated. Pictures that
    were kept as uint8 come back as value / 127.5 - 1. Nothing is unpickled.

    Args:
        folder: what `reverie sample ... -o FOLDER/` or `rv.hub.sample_folder` made. batch: the most samples at once.
        check: compare each shard's SHA-256 before it is read. partial: read an unfinished job too.

    Raises:
        FileError: no job's folder, an unfinished job (without partial), a shard that is missing or damaged; the message names it.

    >>> import tempfile, torch, reverie as rv
    >>> o = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=rv.process.vp())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = rv.hub.sample_folder(o, folder, 100, nfe=2)
    ...     [len(x) for x in samples(folder, batch=64)]
    [64, 36]
    """
    return Samples(folder, batch, check, partial)


def write_npz(folder: str | Path, path: str | Path) -> int:
    """A job's pictures as one .npz file: `arr_0` uint8 `(n, H, W, C)`, and `arr_1` their classes if they have any.

    This is what guided-diffusion's evaluator reads. Written all or nothing, in bounded memory. Returns n.

    Raises:
        ShapeError: samples that are no pictures. FileError: as `samples`, or it cannot be written.
    """
    from numpy.lib import format as npy

    source = Samples(folder)
    labels, n = [], len(source)
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            for k, block in enumerate(source.blocks()):
                values = pixels(block["samples"]).numpy()
                if k == 0:
                    head = {"descr": "|u1", "fortran_order": False, "shape": (n, *values.shape[1:])}
                    npy.write_array_header_1_0(file, head)
                file.write(values.tobytes())
                labels += [block["class_labels"]] if "class_labels" in block else []
        if labels and sum(map(len, labels)) == n:
            with archive.open("arr_1.npy", "w", force_zip64=True) as file:
                npy.write_array(file, torch.cat(labels).numpy(), allow_pickle=False)
    return n
