"""Which pipelines of diffusers Reverie knows: a table from class names to how such a pipeline becomes a `Model`.

A family is registered under the names of diffusers' classes; a pipeline belongs to the first name of its method resolution order that is known, so
that subclasses work. Nothing of diffusers is imported for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from reverie.base import ArgumentError
from reverie.model import Model

__all__ = ["FAMILIES", "VAE", "Ask", "Family", "family", "find", "known", "wrapped"]

VAE = ("AutoencoderKL", "AutoencoderTiny")
"""Autoencoders whose latents are `Latents`."""


@dataclass(frozen=True)
class Ask:
    """What the caller said of the model: its name, the picture's `(height, width)` in pixels or None for the pipeline's own, and whether a word that
    is no token is refused (`hub.tokenizer.tokens`)."""

    name: str
    size: tuple[int, int] | None = None
    whole: bool = False


@dataclass(frozen=True)
class Family:
    """A kind of pipeline.

    Attributes:
        build: makes the model of a pipeline object.
        parts: its components: name -> the classes that can be read from a folder, any of diffusers where there are none.
        optional: those that a pipeline may lack.
    """

    build: Callable[[Any, Ask], Model]
    parts: Mapping[str, tuple[str, ...]]
    optional: frozenset[str]


FAMILIES: dict[str, Family] = {}


def family(
    *names: str, parts: Mapping[str, tuple[str, ...]], optional: Iterable[str] = ()
) -> Callable[[Callable[[Any, Ask], Model]], Callable[[Any, Ask], Model]]:
    """Register a function as what builds the models of pipelines of these class names; see `Family`."""

    def mark(build: Callable[[Any, Ask], Model]) -> Callable[[Any, Ask], Model]:
        FAMILIES.update(dict.fromkeys(names, Family(build, dict(parts), frozenset(optional))))
        return build

    return mark


def known() -> str:
    """The class names of all families, in words."""
    return ", ".join(sorted(FAMILIES))


def find(cls: type) -> Family:
    """The family of a pipeline's class.

    Raises `ArgumentError` for a class of none, with those that are known.
    """
    for base in cls.__mro__:
        if base.__name__ in FAMILIES:
            return FAMILIES[base.__name__]
    raise ArgumentError(
        f"{cls.__name__} is no pipeline that Reverie knows ({known()}). Wrap its denoiser by hand: rv.Model(net, process, predicts=...), with "
        "net(x, label, **cond) and, of its scheduler, process = rv.hub.process_of(pipe.scheduler)"
    )


def wrapped(pipe: Any, ask: Ask) -> Model:
    """The model of a pipeline object, whose networks are put into evaluation mode. Raises as `find` and the family's `build`."""
    known = find(type(pipe))
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval()
    return known.build(pipe, ask)
