"""Places: where the parts of a network are, and how the picture's features are read from and written into their calls."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, SupportsIndex, overload

from torch import Tensor, nn

from reverie.base import ArgumentError, unknown

__all__ = ["ATTENTION", "KINDS", "PARTS", "About", "Place", "Places", "argument", "bare"]

PARTS = ("encoder", "middle", "decoder", "body")
ATTENTION = ("self-attention", "cross-attention", "joint-attention")
KINDS = (
    *ATTENTION, "resnet", "attention", "transformer", "joint", "single", "downsample", "upsample", "feedforward", "text-feedforward", "block",
)  # fmt: skip


def bare(module: Any) -> Any:
    """The module inside what `torch.compile` made of it."""
    while isinstance(module, nn.Module) and "_orig_mod" in module._modules:
        module = module._modules["_orig_mod"]
    return module


@functools.cache
def _parameters(kind: Any) -> tuple[str, ...]:
    """Names of the arguments of a class's `forward`."""
    return tuple(inspect.signature(kind.forward).parameters)[1:]


def argument(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], which: str | int) -> Any:
    """An argument of a call of a module, by its name or position in `forward`; None where it was not given."""
    kind: Any = type(module)
    names = _parameters(kind)
    name = which if isinstance(which, str) else (names[which] if which < len(names) else "")
    if name in kwargs:
        return kwargs[name]
    at = names.index(which) if which in names else which
    return args[at] if isinstance(at, int) and at < len(args) else None


@dataclass(frozen=True)
class About:
    """What the managers need to know of a place.

    frame: the enclosing module whose call tells the grid; patch: pixels of its input a token, along a side; text: whether text tokens come "first" or
    "last" in joint attention; at: which entry of a tuple it returns holds the picture's features, None for a bare tensor; tops: the modules in which
    the network was found.
    """

    frame: nn.Module | None = None
    patch: int = 1
    text: str | None = None
    at: int | None = None
    tops: tuple[nn.Module, ...] = ()


@dataclass(frozen=True)
class Place:
    """A module of a network, and what it is there.

    Attributes:
        name: the module's name inside the network, as in `named_modules()`.
        kind: "self-attention", "cross-attention", "joint-attention"; of blocks "resnet", "attention", "transformer", "joint" and "single" (of two
            streams, and of one, over text and picture), "downsample", "upsample"; "feedforward", "text-feedforward"; "block" where given by hand.
        part: "encoder", "middle" or "decoder" of a U-Net, "body" of a transformer.
        index: position among the places of its list, in the order of execution.
        scale: pixels of the network's input, along a side, that one pixel or token of what goes in here spans.
        module: the module itself.
        widths: channels that go in and come out, where known.
        skip: of a decoder's block, how many of its last input channels come from the encoder by a skip connection; 0 for none.
    """

    name: str
    kind: str
    part: str
    index: int
    scale: int
    module: nn.Module
    widths: tuple[int, int] | None = None
    skip: int = 0
    about: About = field(default=About(), compare=False, repr=False)

    def __repr__(self) -> str:
        skip = f", skip {self.skip}" if self.skip else ""
        return f"<{self.name}: {self.kind} {self.index}, {self.part}, scale {self.scale}{skip}, {type(self.module).__name__}>"

    def input(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """The features that a call of the module is given: `(B, C, H, W)` or `(B, tokens, C)`.

        Raises `ArgumentError` where its first argument is no tensor.
        """
        x = argument(self.module, args, kwargs, 0)
        if not isinstance(x, Tensor):
            raise ArgumentError(f"{self.name} was given {type(x).__name__} first, not features")
        return x

    def with_input(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], x: Tensor
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with other features: what a function of `inputs` returns."""
        self.input(args, kwargs)
        kind: Any = type(self.module)
        return ((x, *args[1:]), dict(kwargs)) if args else ((), {**kwargs, _parameters(kind)[0]: x})

    def output(self, output: Any) -> Tensor:
        """The picture's features in what the module returned.

        Of a module of two streams these are the picture's; of the attention inside a "single" block they are text and picture.
        """
        x = output if self.about.at is None else output[self.about.at] if isinstance(output, tuple | list) else None
        if not isinstance(x, Tensor):
            raise ArgumentError(f"{self.name} returned {type(output).__name__}, in which no features were found")
        return x

    def with_output(self, output: Any, x: Tensor) -> Any:
        """What the module returned, with other features: what a function of `outputs` returns."""
        self.output(output)
        at = self.about.at
        return x if at is None else (*output[:at], x, *output[at + 1 :])

    def idle(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What a block returns that passes its input on: for `replace`, to skip it.

        Raises:
            ArgumentError: it is no residual block, or its output is wider than its input.
        """
        if self.kind not in ("resnet", "attention", "transformer", "joint", "single", "block"):
            raise ArgumentError(
                f"{self.name} is of kind {self.kind!r}; only blocks with a residual connection can pass their input on"
            )
        if self.widths is not None and self.widths[0] != self.widths[1]:
            raise ArgumentError(
                f"{self.name} turns {self.widths[0]} channels into {self.widths[1]} and cannot pass its input on; leave it out"
            )
        x = self.input(args, kwargs)
        if self.about.at is None:
            return x
        return (argument(self.module, args, kwargs, "encoder_hidden_states"), x) if self.about.at else (x,)


class Places(tuple[Place, ...]):
    """Places in the order of execution; `where` selects, a slice of them is Places again, and they print one a line."""

    __slots__ = ()

    def where(
        self,
        *,
        part: str | Collection[str] | None = None,
        kind: str | Collection[str] | None = None,
        index: int | Collection[int] | None = None,
        scale: int | Collection[int] | None = None,
        name: str | None = None,
    ) -> Places:
        """Those that meet every condition; a collection means any of its members.

        Args:
            part: "encoder", "middle", "decoder", "body". kind, index, scale: see `Place`. name: a regular expression, found anywhere in the name.

        Raises:
            UnknownNameError: a part or kind that no network has. ArgumentError: an invalid regular expression.
        """
        for what, value, known in (("part", part, PARTS), ("kind of place", kind, KINDS)):
            for one in [value] if isinstance(value, str) else value or ():
                if one not in known:
                    raise unknown(what, one, known)
        try:
            pattern = None if name is None else re.compile(name)
        except re.error as error:
            raise ArgumentError(f"name={name!r} is no regular expression: {error}") from None
        return Places(
            p
            for p in self
            if _among(p.part, part)
            and _among(p.kind, kind)
            and _among(p.index, index)
            and _among(p.scale, scale)
            and (pattern is None or pattern.search(p.name))
        )

    @overload
    def __getitem__(self, key: SupportsIndex) -> Place: ...
    @overload
    def __getitem__(self, key: slice) -> Places: ...
    def __getitem__(self, key: SupportsIndex | slice) -> Place | Places:
        """A place, or of a slice the places."""
        return Places(tuple.__getitem__(self, key)) if isinstance(key, slice) else tuple.__getitem__(self, key)

    def __add__(self, other: Iterable[Place]) -> Places:  # type: ignore[override]
        """Both, one after the other."""
        return Places((*self, *other))

    def __repr__(self) -> str:
        return "\n".join(map(repr, self)) or "no places"


def _among(value: Any, wanted: Any) -> bool:
    return wanted is None or (
        value in wanted if isinstance(wanted, Collection) and not isinstance(wanted, str) else value == wanted
    )
