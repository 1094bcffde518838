"""Layouts of text-to-image pipelines that are trained here: which network, which noise, and how diffusers' pipeline of that kind tells it a text.

    unet-2d-condition      Stable Diffusion   DDPM's noise, v or eps       attends to all states of the text encoder
    pixart-transformer-2d  PixArt             straight paths (flow)        attends to those of the words, by a mask

Of PixArt the text encoder is T5; here it is CLIP's, which `PixArtAlphaPipeline` calls in the same way. That pipeline fills prompts up to 120
tokens, so an encoder with fewer positions gets 120 when it is written: CLIP reads text from left to right, and what stands behind a prompt changes
nothing of it.

Sources: Rombach et al. 2022 (2112.10752); Chen et al. 2023 (2310.00426), PixArt-alpha; Esser et al. 2024 (2403.03206) for flows on latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from reverie.base import ArgumentError, unknown
from reverie.hub.pipeline import make_scheduler, make_unet, text_to_image, write_pipeline
from reverie.hub.pipelines import Ask, wrapped
from reverie.hub.pipelines.common import quiet
from reverie.hub.tokenizer import missing
from reverie.model import Cond, Model

__all__ = ["LAYOUTS", "Layout", "PixArt", "StableDiffusion", "lengthened", "mask_of"]


class Layout(Protocol):
    """A kind of pipeline.

    Attributes:
        part: what its denoiser is called among the parts. process: the name of a recipe's process, and settings: the further keys that it may have.
        predicts: the prediction types that its networks may have.
    """

    part: ClassVar[str]
    process: ClassVar[str]
    settings: ClassVar[tuple[str, ...]]
    predicts: ClassVar[tuple[str, ...]]

    def make(self, **config: Any) -> nn.Module:
        """The denoiser with fresh weights, of its own config. Raises `ArgumentError` for one that cannot work."""

    def scheduler(self, predicts: str, **settings: Any) -> Any:
        """The scheduler of diffusers that says which noise the denoiser is trained on. Raises `ArgumentError`, `UnknownNameError`."""

    def needs(self, net: Any) -> tuple[tuple[int, int, int], int, str]:
        """The shape of the latents that a denoiser takes, the width of text states, and what its config calls the latter."""

    def told(self, text_encoder: nn.Module, tokens: Tensor) -> Cond:
        """What the denoiser is told of prompts given as tokens `(B, length)`."""

    def model(self, net: Any, *, text_encoder: Any, tokenizer: Any, scheduler: Any, vae: Any, name: str) -> Model:
        """The parts as a `Model` that takes prompts and makes pictures."""

    def write(self, folder: Path, net: Any, *, card: Mapping[str, Any], **parts: Any) -> None:
        """Write the folder that diffusers' pipeline loads, see `write_pipeline`."""


class StableDiffusion:
    """`UNet2DConditionModel` in `StableDiffusionPipeline`."""

    part: ClassVar[str] = "unet"
    process: ClassVar[str] = "scaled-linear"
    settings: ClassVar[tuple[str, ...]] = ("beta_start", "beta_end", "labels")
    predicts: ClassVar[tuple[str, ...]] = ("v", "eps")

    def make(self, **config: Any) -> nn.Module:
        return make_unet(**config)

    def scheduler(self, predicts: str, **settings: Any) -> Any:
        return make_scheduler(predicts=predicts, **settings)

    def needs(self, net: Any) -> tuple[tuple[int, int, int], int, str]:
        size = net.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return (net.config.in_channels, height, width), net.config.cross_attention_dim, "cross_attention_dim"

    def told(self, text_encoder: nn.Module, tokens: Tensor) -> Cond:
        return {"encoder_hidden_states": text_encoder(tokens)[0]}

    def model(self, net: Any, *, text_encoder: Any, tokenizer: Any, scheduler: Any, vae: Any, name: str) -> Model:
        return text_to_image(
            unet=net, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler, vae=vae, name=name
        )

    def write(self, folder: Path, net: Any, *, card: Mapping[str, Any], **parts: Any) -> None:
        write_pipeline(folder, unet=net, card=card, **parts)


class PixArt:
    """`PixArtTransformer2DModel` in `PixArtAlphaPipeline`, under CLIP's text encoder, on straight paths."""

    part: ClassVar[str] = "transformer"
    process: ClassVar[str] = "flow"
    settings: ClassVar[tuple[str, ...]] = ("shift", "labels")
    predicts: ClassVar[tuple[str, ...]] = ("flow",)
    length: ClassVar[int] = 120
    """Tokens of a prompt in the pipeline."""

    def make(self, **config: Any) -> nn.Module:
        try:
            from diffusers import PixArtTransformer2DModel
        except ImportError:
            raise missing() from None
        try:
            made: Any = PixArtTransformer2DModel(**config)
        except (TypeError, ValueError, IndexError, ZeroDivisionError, NotImplementedError) as error:
            raise ArgumentError(f"pixart-transformer-2d: {error}") from None
        if made.out_channels != made.config.in_channels or made.use_additional_conditions:
            raise ArgumentError(
                "pixart-transformer-2d: out_channels must be in_channels (no learned variance), and use_additional_conditions false"
            )
        return made

    def scheduler(self, predicts: str, *, shift: float = 1.0, labels: int = 1000, **settings: Any) -> Any:
        """A `DPMSolverMultistepScheduler` on the straight path; `PixArtAlphaPipeline` cannot run the FlowMatch schedulers."""
        try:
            from diffusers import DPMSolverMultistepScheduler
        except ImportError:
            raise missing() from None
        if predicts not in self.predicts:
            raise unknown("prediction type of a flow's pipeline", predicts, self.predicts)
        if settings:
            raise unknown("setting of a flow's noise", next(iter(settings)), self.settings)
        if not shift > 0:
            raise ArgumentError(f"shift is positive, got {shift!r}")
        return DPMSolverMultistepScheduler(
            num_train_timesteps=labels, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
        )

    def needs(self, net: Any) -> tuple[tuple[int, int, int], int, str]:
        size = net.config.sample_size
        return (net.config.in_channels, size, size), net.config.caption_channels, "caption_channels"

    def told(self, text_encoder: nn.Module, tokens: Tensor) -> Cond:
        mask = mask_of(tokens, _end(text_encoder))
        longest = int(mask.sum(1).max())
        return {
            "encoder_hidden_states": text_encoder(tokens[:, :longest])[0],
            "encoder_attention_mask": mask[:, :longest],
        }

    def model(self, net: Any, *, text_encoder: Any, tokenizer: Any, scheduler: Any, vae: Any, name: str) -> Model:
        from diffusers import PixArtAlphaPipeline

        encoder = lengthened(text_encoder, self.length)
        with quiet():  # it expects T5
            pipe = PixArtAlphaPipeline(
                tokenizer=tokenizer, text_encoder=encoder, vae=vae, transformer=net, scheduler=scheduler
            )
        return wrapped(pipe, Ask(name, None, whole=True))

    def write(self, folder: Path, net: Any, *, card: Mapping[str, Any], **parts: Any) -> None:
        longer = lengthened(parts.pop("text_encoder"), self.length)
        write_pipeline(folder, transformer=net, text_encoder=longer, card=card, **parts)


LAYOUTS: dict[str, Layout] = {"unet-2d-condition": StableDiffusion(), "pixart-transformer-2d": PixArt()}
"""By the name of the network in a recipe."""


def mask_of(tokens: Tensor, end: int) -> Tensor:
    """1 for the tokens of each prompt up to its first end token, 0 for those that fill it up: `(B, length)`, int64.

    >>> mask_of(torch.tensor([[0, 5, 9, 9], [0, 9, 9, 9]]), 9)
    tensor([[1, 1, 1, 0],
            [1, 1, 0, 0]])
    """
    ends = (tokens == end).long()
    return (ends.cumsum(1) - ends == 0).long()


def lengthened(text_encoder: Any, length: int) -> Any:
    """A copy of a CLIP text encoder with positions for `length` tokens, the further ones zeros; itself where it has as many already.

    What it says of the tokens that it could read before does not change.
    """
    own = text_encoder.config.max_position_embeddings
    if own >= length:
        return text_encoder
    config = type(text_encoder.config)(**text_encoder.config.to_dict() | {"max_position_embeddings": length})
    made = type(text_encoder)(config)
    weights = dict(text_encoder.state_dict())
    for name, value in made.state_dict().items():
        if name not in weights or weights[name].shape != value.shape:
            if not name.endswith("position_embedding.weight"):
                raise ArgumentError(f"the text encoder's {name!r} cannot be lengthened")
            weights[name] = torch.cat([weights[name], weights[name].new_zeros(length - own, value.shape[1])])
    made.load_state_dict(weights)
    device = next(text_encoder.parameters()).device
    return made.to(device).eval().requires_grad_(False)


def _end(text_encoder: Any) -> int:
    return int(text_encoder.config.eos_token_id)
