"""What samples begin from, on the command line: a picture, and a mask on it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from reverie.base import ArgumentError, FileError
from reverie.base.files import read_bytes
from reverie.edit.inpaint import Inpaint, known_part, pasted
from reverie.model import Model

__all__ = ["Begun", "begun", "read_mask", "read_picture"]

_LARGEST = 256 << 20
"""Bytes of a picture file."""


@dataclass(frozen=True)
class Begun:
    """What the samples of a job begin from, for `hub.jobs.Source`; `embeds` for `m.embed`; `said` goes into the settings of the job."""

    init: Tensor | None = None
    inputs: dict[str, Tensor] = field(default_factory=dict)
    hooks: tuple[Any, ...] = ()
    finish: Callable[[Tensor, Sequence[int]], Tensor] = lambda x, ids: x
    span: tuple[float, float] = (1.0, 0.0)
    embeds: dict[str, Tensor] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def begun(
    m: Model,
    init: str | None = None,
    strength: float | None = None,
    mask: str | None = None,
    control: str | None = None,
) -> Begun:
    """The beginning that --init, --strength, --mask and --control describe.

    Args:
        init: path of a picture. strength: in (0, 1], how far up the noise the run begins; 0.6 of an `init` alone, 1 under a mask.
        mask: path of a picture that is white where the picture is to be made; a network that was trained to paint is told it, others are held to the
            rest by the hook `Inpaint`. control: path of a ControlNet's picture.

    Raises:
        ArgumentError: --strength or --mask without --init, strength out of range, a picture that the model needs and was not given, or the other way
            round. FileError: no picture. ShapeError: a model that makes no pictures.
    """
    needs = list(m.card.get("pictures", ()))
    steered = "control_image" if "control_image" in needs else "image" if needs == ["image"] else None
    if control is not None and steered is None:
        raise ArgumentError(f"{m.name} has no ControlNet; leave out --control")
    if control is None and steered is not None:
        raise ArgumentError(f"{m.name} is steered by a picture; give --control FILE")
    if mask is None and "mask" in needs:
        raise ArgumentError(f"{m.name} paints into a picture; give --init FILE and --mask FILE")
    if control is not None:
        shown, notes = read_picture(control, _size(m))
        return _with_control(_begun_from(m, init, strength, mask), str(steered), shown, control, notes)
    return _begun_from(m, init, strength, mask)


def _with_control(b: Begun, name: str, shown: Tensor, path: str, notes: Sequence[str]) -> Begun:
    said = b.said | {"control": Path(path).name, "control_sha256": _digest(path)}
    return replace(b, embeds=b.embeds | {name: (shown + 1) / 2}, said=said, notes=(*b.notes, *notes))


def _begun_from(m: Model, init: str | None, strength: float | None, mask: str | None) -> Begun:
    """The beginning without a ControlNet's picture; see `begun`."""
    if init is None:
        lone = [f"--{name}" for name, value in (("strength", strength), ("mask", mask)) if value is not None]
        if lone:
            raise ArgumentError(f"{' and '.join(lone)} belong to --init FILE, the picture that is changed")
        return Begun()
    strength = (0.6 if mask is None else 1.0) if strength is None else strength
    if not 0 < strength <= 1:
        raise ArgumentError(f"--strength lies in (0, 1], got {strength:g}")
    size = _size(m)
    picture, notes = read_picture(init, size)
    said: dict[str, Any] = {"init": Path(init).name, "init_sha256": _digest(init), "strength": strength}
    if mask is None:
        return Begun(picture, span=(strength, 0.0), said=said, notes=tuple(notes))
    free = read_mask(mask, size[1:])
    said |= {"mask": Path(mask).name, "mask_sha256": _digest(mask)}

    def paste(x: Tensor, ids: Sequence[int]) -> Tensor:
        return pasted(x, picture, free)

    begin = picture if strength < 1 else None
    if "mask" in m.card.get("pictures", ()):
        embeds = {"image": (picture + 1) / 2, "mask": free}
        return Begun(begin, finish=paste, span=(strength, 0.0), embeds=embeds, said=said, notes=tuple(notes))
    inputs = {name: value.cpu() for name, value in known_part(m, picture, free).items()}
    return Begun(begin, inputs, (Inpaint(),), paste, (strength, 0.0), said=said, notes=tuple(notes))


def read_picture(path: str | Path, size: tuple[int, int, int]) -> tuple[Tensor, list[str]]:
    """A picture file as `(1, C, H, W)` in [-1, 1], its middle cut to the wanted sides and scaled, and what was done to it.

    Args:
        size: (C, H, W), C 1 (grey) or 3.

    Raises `FileError` for a file that is no picture.
    """
    image = _open(path)
    channels, height, width = size
    notes = []
    if image.size != (width, height):
        ratio = min(image.width / width, image.height / height)
        cut = (round(width * ratio), round(height * ratio))
        left, top = (image.width - cut[0]) // 2, (image.height - cut[1]) // 2
        notes.append(f"{path} is {image.width}x{image.height}; its middle is scaled to {width}x{height}")
        image = image.crop((left, top, left + cut[0], top + cut[1])).resize((width, height), Image.Resampling.LANCZOS)
    values = _values(image.convert("L" if channels == 1 else "RGB"), channels)
    return values * 2 - 1, notes


def read_mask(path: str | Path, size: tuple[int, int]) -> Tensor:
    """A picture file as a mask `(1, 1, H, W)`, 1 where it is lighter than half, cut and scaled as `read_picture` does. Raises `FileError`."""
    values, _ = read_picture(path, (1, *size))
    return (values > 0).float()


def _size(m: Model) -> tuple[int, int, int]:
    """Channels, height and width of what the model makes."""
    from reverie.cli.sheet import pixels

    if m.shape is None:
        raise ArgumentError(f"{m.name} does not say what it makes, so --init cannot be fitted to it")
    with torch.no_grad():
        shown = m.decode(torch.zeros(1, *m.shape, device=m.device)) if m.codec is not None else torch.zeros(1, *m.shape)
    pixels(shown.cpu())  # raises unless it is a picture
    channels, height, width = shown.shape[1:]
    return channels, height, width


def _open(path: str | Path) -> Image.Image:
    data = read_bytes(Path(path), _LARGEST)
    try:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FileError(f"{str(path)!r} is no picture that can be read ({error})") from None
    return image


def _values(image: Image.Image, channels: int) -> Tensor:
    """Pixels `(1, C, H, W)` in [0, 1]."""
    raw = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return raw.reshape(image.height, image.width, channels).permute(2, 0, 1)[None].float() / 255


def _digest(path: str | Path) -> str:
    return hashlib.sha256(read_bytes(Path(path), _LARGEST)).hexdigest()
