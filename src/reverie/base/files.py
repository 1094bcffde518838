"""Writing and reading files so that nothing is ever half there.

A file is written beside its place, flushed to the disk and renamed over it: whoever reads sees the old bytes or the new ones.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reverie.base.errors import FileError

__all__ = ["atomic", "atomic_folder", "check_writable", "read_bytes"]


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to `path` if the block succeeds and removed if it fails.

    Raises `FileError` when the folder is missing or not writable, or the disk is full; the previous file then survives.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise FileError(
            f"cannot write {str(target)!r}: {error.strerror or error}; choose a folder that exists and is writable"
        ) from None
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except FileError:
        raise
    except OSError as error:
        raise FileError(
            f"cannot write {str(target)!r}: {error.strerror or error}; the previous file, if any, is untouched"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path, mark: str) -> Iterator[Path]:
    """A new folder beside `path`, put into its place if the block succeeds; what was there stays as it was if the block fails.

    Args:
        mark: a file by which a folder is known as one of the kind; any other folder that holds something is not replaced.

    Raises `FileError` for a place that holds something else, and when it cannot be written.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "things"
    >>> with atomic_folder(target, "index") as new:
    ...     _ = (new / "index").write_text("whole")
    >>> [file.name for file in target.iterdir()]
    ['index']
    """
    target = Path(path)
    if target.exists() and not (target.is_dir() and ((target / mark).is_file() or not any(target.iterdir()))):
        raise FileError(f"{str(target)!r} exists and has no {mark}, so it is not replaced; choose another folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent) as place:
            made, old = Path(place) / "new", Path(place) / "old"
            made.mkdir()
            yield made
            if target.exists():
                target.rename(old)
            try:
                made.rename(target)
            except OSError:
                if old.exists():
                    old.rename(target)
                raise
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(
            f"cannot write {str(target)!r}: {error.strerror or error}; what was there, if anything, is untouched"
        ) from error


def check_writable(path: str | Path) -> None:
    """Raise `FileError` now rather than after long work, if a file cannot be written there."""
    target = Path(path)
    if target.is_dir():
        raise FileError(f"cannot write {str(target)!r}: it is a folder; name a file in it")
    try:
        with tempfile.NamedTemporaryFile(prefix=f".{target.name}.", dir=target.parent):
            pass
    except OSError as error:
        raise FileError(
            f"cannot write {str(target)!r}: {error.strerror or error}; choose a folder that exists and is writable"
        ) from None


def read_bytes(path: str | Path, limit: int) -> bytes:
    """The bytes of a file of at most `limit` bytes. Raises `FileError` (missing, a folder, too large)."""
    source = Path(path)
    try:
        size = source.stat().st_size
        if size > limit:
            raise FileError(f"{str(source)!r} has {size} bytes; at most {limit} are read")
        return source.read_bytes()
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"cannot read {str(source)!r}: {error.strerror or error}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
