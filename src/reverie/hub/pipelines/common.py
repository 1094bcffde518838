"""What the families of pipelines share: the codec, pictures' sizes, heads, and the model put together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reverie.base import ArgumentError, ShapeError, unknown
from reverie.hub.pipelines.family import Ask
from reverie.hub.process import label_of, predicts_of
from reverie.model import Cond, Model, Target
from reverie.process import Process

__all__ = [
    "Latents",
    "assemble",
    "cast",
    "default",
    "options",
    "pair",
    "patches",
    "pixels",
    "quiet",
    "rows",
    "scale_of",
]


class Latents:
    """An autoencoder as a codec: z = s (mean(q(z | x)) - m) / d, with its config's scaling factor s, shift m and standard deviation d."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae

    def _constants(self, like: Tensor) -> tuple[float, Tensor | float, Tensor | float]:
        config = self.vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is None or std is None:
            return config.scaling_factor, config.get("shift_factor") or 0.0, 1.0
        m, d = (torch.tensor(v, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1) for v in (mean, std))
        return config.scaling_factor, m, d

    @contextmanager
    def _precise(self) -> Iterator[torch.dtype]:
        """Autoencoders that overflow in half precision say so in their config (`force_upcast`)."""
        held: torch.dtype = self.vae.dtype
        if held != torch.float16 or not self.vae.config.get("force_upcast"):
            yield held
            return
        self.vae.to(torch.float32)
        try:
            yield torch.float32
        finally:
            self.vae.to(held)

    @torch.no_grad()
    def encode(self, data: Tensor) -> Tensor:
        """Pictures `(B, 3, H, W)` in [-1, 1] to latents."""
        with self._precise() as dtype:
            said = self.vae.encode(data.to(dtype))
        z: Tensor = said.latents if hasattr(said, "latents") else said.latent_dist.mean
        s, m, d = self._constants(data)
        return (z.to(data.dtype) - m) * s / d

    @torch.no_grad()
    def decode(self, state: Tensor) -> Tensor:
        """Latents to pictures."""
        s, m, d = self._constants(state)
        with self._precise() as dtype:
            shown: Tensor = self.vae.decode((state * d / s + m).to(dtype)).sample
        return shown.to(state.dtype)


def scale_of(vae: Any) -> int:
    """Pixels a latent entry, along each side."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def pixels(ask: Ask, own: tuple[int, int], step: int) -> tuple[int, int]:
    """The picture's height and width in pixels: those asked for, else the pipeline's own.

    Args:
        step: what they must be multiples of.

    Raises `ArgumentError` for a size that cannot be.
    """
    if ask.size is None:
        return own
    size = tuple(ask.size) if isinstance(ask.size, tuple | list) else ()
    if len(size) != 2 or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in size):
        raise ArgumentError(f"size is (height, width) in pixels, got {ask.size!r}")
    if size[0] % step or size[1] % step:
        near = tuple(max(step, round(v / step) * step) for v in size)
        raise ArgumentError(f"size {size} must be of multiples of {step} pixels, for example {near}")
    return size


def pair(size: Any) -> tuple[int, int]:
    """A config's `sample_size` as (height, width)."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def patches(shape: tuple[int, int], patch: int) -> int:
    """Tokens of a latent picture, its height and width given."""
    return (shape[0] // patch) * (shape[1] // patch)


def cast(value: Tensor | None, like: Tensor) -> Any:
    """A condition in the network's precision; whole numbers stay."""
    return value.to(like.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def default(function: Callable[..., Any], name: str) -> Any:
    """What a pipeline's own method takes where an argument is not given."""
    return inspect.signature(function).parameters[name].default


def options(given: Mapping[str, Any], **known: Any) -> dict[str, Any]:
    """The options of an `embed`, with defaults. Raises `UnknownNameError` for others."""
    for key in given:
        if not known:
            raise ArgumentError(f"this model's embed takes no options, got {key!r}")
        if key not in known:
            raise unknown("option of embed", key, known)
    return {**known, **given}


def rows(value: Any, count: int, what: str) -> Tensor:
    """A number, or one a prompt, as a tensor `(count, ...)`; raises `ShapeError` for another count."""
    tensor = torch.as_tensor(value, dtype=torch.float32)
    tensor = tensor[None] if tensor.ndim == 0 else tensor
    if len(tensor) not in (1, count):
        raise ShapeError(f"{what} has {len(tensor)} rows for {count} prompts; give one, or one a prompt")
    return tensor.expand(count, *tensor.shape[1:])


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and warnings of diffusers and transformers; what matters of them becomes an error."""
    from diffusers.utils import logging as theirs
    from transformers.utils import logging as others

    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in (theirs, others)]
    for log, _, _ in before:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, level, bar in before:
            log.set_verbosity(level)
            if bar:
                log.enable_progress_bar()


def assemble(
    pipe: Any,
    ask: Ask,
    net: nn.Module,
    process: Process,
    shape: tuple[int, int, int],
    out_channels: int,
    embed: Callable[..., Cond] | None = None,
    null: Cond | None = None,
) -> Model:
    """The model of a pipeline: its prediction type and label from the scheduler, a head of variance where the network has twice the channels.

    Raises `ArgumentError` for a network whose output fits neither.
    """
    target: str | Target = predicts_of(pipe.scheduler)
    if out_channels not in (shape[0], 2 * shape[0]):
        raise ArgumentError(
            f"the network of {ask.name} gives {out_channels} channels for states of {shape[0]}; {shape[0]}, or {2 * shape[0]} with a learned "
            "variance, are needed"
        )
    vae = getattr(pipe, "vae", None)
    model = Model(
        net.eval(), process, target if out_channels == shape[0] else (target, "variance"), label=label_of(pipe.scheduler, process), null=null,
        codec=None if vae is None else Latents(vae), embed=embed, shape=shape, name=ask.name,
    )  # fmt: skip
    model.device = torch.device(pipe._execution_device)  # not the weights' where they are offloaded
    return model
