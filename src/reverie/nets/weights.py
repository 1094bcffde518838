"""Files of weights: safetensors, written all or nothing, read without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from reverie.base import FileError
from reverie.base.files import atomic

__all__ = ["models_in", "read_tensors", "write_tensors"]


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as a safetensors file, all or nothing: on failure the previous file survives.

    Raises:
        FileError: the folder is missing or cannot be written, or the disk is full.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(folder + "/a.safetensors", {"w": torch.ones(2)}, {"said": "so"})
    ...     read_tensors(folder + "/a.safetensors")
    ({'w': tensor([1., 1.])}, {'said': 'so'})
    """
    from safetensors.torch import save

    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, dict(metadata or {}))
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def models_in(folder: str | Path) -> list[Path]:
    """The cards of the models in a folder, sorted: each `NAME.json` that has its `NAME.safetensors` beside it."""
    return sorted(card for card in Path(folder).glob("*.json") if card.with_suffix(".safetensors").is_file())


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        FileError: it is missing, truncated or no safetensors file; the message names it.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileError(f"{str(path)!r} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise FileError(
            f"{str(path)!r} is truncated or no safetensors file ({error}); fetch or make it again"
        ) from error
