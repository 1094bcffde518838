"""What a model computes, in 64 hexadecimal digits.

Two models that differ in a weight or buffer, in process, prediction type, time label, null condition or in a field of a guide differ in them. Two
kinds of difference cannot be seen: inside a function (a label, a scale, a network that is no `nn.Module`), of which only the name is known, and in
what `embed` does, whose results are conditions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reverie.model.model import Model

__all__ = ["feed", "fingerprint"]

_KNOWN: weakref.WeakKeyDictionary[nn.Module, dict[bool, tuple[int, str]]] = weakref.WeakKeyDictionary()


def fingerprint(model: Model, exact: bool = True) -> str:
    """The SHA-256 of what a model computes.

    Args:
        exact: all that fixes a sample's bits, the codec and the precision of weights among it. Without, two models count as one that differ in these
            alone, in their names, or in being compiled: the same map, to within its precision.
    """
    net = model.net
    told = model._label if isinstance(model._label, str) else "function"
    targets = ["variance" if t is None else t.name for t in model.targets]
    said: list[Any] = [model.process.spec(), targets, told, None if model.shape is None else list(model.shape)]
    said += [[type(g).__name__, _fields(g)] for g in getattr(model, "guides", ())]
    named = not isinstance(net, nn.Module) or exact
    h = hashlib.sha256(json.dumps([*said, model.name if named else ""], sort_keys=True, default=str).encode())
    if isinstance(net, nn.Module):
        h.update(_weights(net, exact).encode())
    parts = [*([model.codec] if exact else []), *(v for _, v in sorted(vars(model).items()) if _plain(v))]
    for part in (model, *([] if isinstance(net, nn.Module) else [net]), *parts):
        for name, value in sorted(getattr(part, "__dict__", {}).items()):
            if isinstance(value, Tensor):
                feed(h, {name: value}, exact)
            elif isinstance(value, nn.Module) and value is not net:
                h.update(_weights(value, exact).encode())
    for name, value in sorted((model.null or {}).items()):
        feed(
            h,
            {f"null {name}": torch.as_tensor(value) if isinstance(value, int | float | Tensor) else torch.zeros(0)},
            exact,
        )
    return h.hexdigest()


def _fields(guide: Any) -> list[Any]:
    """A guide's settings as plain values; of a tensor its digest, of a function only that it is one."""
    if not dataclasses.is_dataclass(guide):
        return [repr(guide).split(" at 0x")[0]]
    return [[f.name, _value(getattr(guide, f.name))] for f in dataclasses.fields(guide)]


def _value(value: Any) -> Any:
    if isinstance(value, Tensor):
        h = hashlib.sha256()
        feed(h, {"": value})
        return h.hexdigest()
    if isinstance(value, tuple | list):
        return [_value(v) for v in value]
    if isinstance(value, float | int | str | None):
        return repr(value)
    return "function" if callable(value) else repr(value).split(" at 0x")[0]


def _plain(value: Any) -> bool:
    return type(value).__module__.startswith("reverie.oracle")


def _tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, value in (*net.named_parameters(), *net.named_buffers()):
        yield name.replace("_orig_mod.", ""), value


def _weights(net: nn.Module, exact: bool) -> str:
    """The digest of a network's parameters and buffers; looked at again only where one was written to since."""
    try:
        version = sum(value._version + 1 for _, value in _tensors(net))
    except RuntimeError:  # tensors made in inference mode have no version
        version = -1
    known = _KNOWN.setdefault(net, {}).get(exact)
    if known is not None and known[0] == version >= 0:
        return known[1]
    h = hashlib.sha256()
    feed(h, dict(_tensors(net)), exact)
    _KNOWN[net][exact] = version, h.hexdigest()
    return h.hexdigest()


def feed(h: Any, tensors: Mapping[str, Tensor], exact: bool = True) -> None:
    """Add tensors, by name, to a hash; without `exact` as bfloat16, which is the same for weights of any precision."""
    for name, value in sorted(tensors.items()):
        shown = value if exact or not value.is_floating_point() else value.to(torch.bfloat16)
        h.update(f"{name}{shown.dtype}{tuple(shown.shape)}".encode())
        h.update(shown.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
