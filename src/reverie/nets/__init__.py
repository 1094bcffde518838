"""Nets: architectures that no library has in this size, how they are built by name, and the files of their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from reverie.base import ArgumentError, unknown
from reverie.nets.unet import UNet
from reverie.nets.weights import models_in, read_tensors, write_tensors

__all__ = ["NETS", "UNet", "build", "models_in", "read_tensors", "write_tensors"]


def _autoencoder_kl(**config: Any) -> nn.Module:
    """diffusers' AutoencoderKL, the autoencoder of Stable Diffusion, from its own config."""
    try:
        from diffusers import AutoencoderKL
    except ImportError:
        raise ArgumentError(
            "this network is of diffusers, which is not installed: pip install 'reverie[diffusers]'"
        ) from None
    made: Any = AutoencoderKL(**config)
    return made


NETS: dict[str, Callable[..., nn.Module]] = {"unet": UNet, "autoencoder-kl": _autoencoder_kl}


def build(
    name: str, args: Mapping[str, Any] | None = None, nets: Mapping[str, Callable[..., nn.Module]] = NETS
) -> nn.Module:
    """The network of a registered name, with fresh weights: what a recipe or a model file describes.

    Args:
        name: one of `nets`. args: its constructor's arguments.

    Raises:
        UnknownNameError: an unknown name. ArgumentError: arguments that it does not take, or that cannot work.

    >>> build("unet", {"widths": [8, 16], "embed": 16}).config["widths"]
    [8, 16]
    """
    if name not in nets:
        raise unknown("network", name, nets)
    try:
        return nets[name](**dict(args or {}))
    except (TypeError, ValueError) as error:
        if isinstance(error, ArgumentError):
            raise
        raise ArgumentError(f"network {name!r}: {error}") from None
