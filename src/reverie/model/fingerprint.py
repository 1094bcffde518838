"""What a model computes, in 64 hexadecimal digits: two models that differ in a weight, process, prediction type or guide differ in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reverie.model.model import Model

__all__ = ["feed", "fingerprint"]


def fingerprint(model: Model) -> str:
    """The SHA-256 of what a model computes: its weights, process, prediction type and time label.

    A network that is no `nn.Module` is known by its name and by the tensors that the model itself holds (an oracle's means, say).
    """
    told = model._label if isinstance(model._label, str) else "function"
    said = [model.process.spec(), repr(model), told, None if model.shape is None else list(model.shape)]
    h = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    parts: list[Any] = [model, model.net, model.codec, *(v for _, v in sorted(vars(model).items()) if _plain(v))]
    for part in parts:
        own = part.state_dict() if isinstance(part, nn.Module) else getattr(part, "__dict__", {})
        feed(h, {k: v for k, v in own.items() if isinstance(v, Tensor)})
    return h.hexdigest()


def _plain(value: Any) -> bool:
    return type(value).__module__.startswith("reverie.oracle")


def feed(h: Any, tensors: Mapping[str, Tensor]) -> None:
    """Add tensors, by name, to a hash."""
    for name, value in sorted(tensors.items()):
        h.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        h.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
