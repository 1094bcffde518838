"""Where samples go: a contact sheet, a folder of pictures, or a file of raw numbers; each with the settings that made them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from reverie.base import ArgumentError, FileError
from reverie.base.files import atomic, check_writable
from reverie.cli.sheet import columns_for, contact_sheet, enlarged, pixels
from reverie.nets import write_tensors

__all__ = ["Output", "settings_in"]

_RAW = (".safetensors", ".npy")


@dataclass
class Output:
    """A place for samples, by its name: NAME.png a contact sheet, NAME.safetensors or NAME.npy raw samples, anything that is a folder or
    ends with '/' one PNG a sample, named by its id.

    Args:
        name: the path. columns, scale: of a contact sheet; scale also of single pictures (1 by default). captions: write classes or texts below.

    Raises:
        ArgumentError: another ending, or columns and scale for raw samples. FileError: it cannot be written; found out here, before any work.
    """

    name: str
    columns: int | None = None
    scale: int | None = None
    captions: bool = True

    def __post_init__(self) -> None:
        self.path = Path(self.name)
        self.folder = self.name.endswith("/") or self.path.is_dir()
        if not self.folder and self.path.suffix not in (".png", *_RAW):
            raise ArgumentError(
                f"the output {self.name!r} must end with .png (a contact sheet), .safetensors or .npy (raw samples), or '/' (a folder)"
            )
        if self.path.suffix in _RAW and not (self.columns is None and self.scale is None):
            raise ArgumentError(f"columns and scale shape pictures; {self.name!r} holds raw samples")
        for what, value in (("columns", self.columns), ("scale", self.scale)):
            if value is not None and value < 1:
                raise ArgumentError(f"{what} must be at least 1, got {value}")
        if self.folder:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FileError(
                    f"cannot make the folder {self.name!r}: {error.strerror or error}; choose another place"
                ) from None
        check_writable(self.partial if self.folder else self.path)

    @property
    def partial(self) -> Path:
        """The hidden file that keeps what an interrupted job has finished."""
        name = f".{self.path.resolve().name if self.folder else self.path.name}.partial.safetensors"
        return self.path / name if self.folder else self.path.parent / name

    @property
    def pictures(self) -> bool:
        """Whether it can hold nothing but pictures."""
        return self.folder or self.path.suffix == ".png"

    def check(self, shape: Sequence[int] | None) -> None:
        """Raise `ShapeError` if samples of this shape are not what it can hold; None: not known before sampling."""
        if self.pictures and shape is not None:
            pixels(torch.zeros(1, *shape))

    def write(
        self, x: Tensor, ids: Sequence[int], names: Sequence[str] | None, cycle: int, record: dict[str, Any]
    ) -> None:
        """Write samples `(n, *shape)` with their ids, class names and settings; all or nothing, file by file.

        Raises:
            ShapeError: pictures are needed. FileError: the disk is full, or was taken away.
        """
        if self.folder:
            digits = max(6, len(str(max(ids))))
            for i, (key, tile) in enumerate(zip(ids, pixels(x), strict=True)):
                called = "prompts" if "prompts" in record else "classes"
                said = record | {"ids": [key]} | ({called: [names[i]]} if names else {})
                _png(enlarged(tile, self.scale or 1), self.path / f"{key:0{digits}d}.png", said)
        elif self.path.suffix == ".png":
            columns = self.columns or columns_for(len(ids), cycle)
            below = names if self.captions else None
            title = below[0] if below and "prompts" in record and len(set(below)) == 1 else None
            _png(contact_sheet(x, None if title else below, columns, self.scale, title=title), self.path, record)
        elif self.path.suffix == ".npy":
            import numpy

            with atomic(self.path) as temporary, temporary.open("wb") as file:
                numpy.save(file, x.numpy(), allow_pickle=False)
        else:
            write_tensors(self.path, {"samples": x, "ids": torch.tensor(ids)}, {"reverie": json.dumps(record)})


def settings_in(image: Image.Image) -> dict[str, Any] | None:
    """The settings that tell the job of a picture from another, or None for a picture that is not of a job."""
    try:
        settings = json.loads(image.info["reverie"])["settings"]
    except (KeyError, ValueError, TypeError):
        return None
    return settings if isinstance(settings, dict) else None


def _png(image: Image.Image, path: Path, record: dict[str, Any]) -> None:
    info = PngInfo()
    info.add_text("Software", f"reverie {record.get('versions', {}).get('reverie', '')}".strip())
    info.add_itxt("reverie", json.dumps(record))
    with atomic(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info, optimize=True)
