"""Stable Diffusion 3: a transformer on the straight path, under two of CLIP's text encoders and T5 (which may be left out).

    state (16, h, w), told sigma * 1000;  encoder_hidden_states (B, 77 + T5's tokens, width), pooled_projections (B, width)

Without T5 its part of the text is zeros, as in diffusers.

Sources: Esser et al. 2024 (2403.03206).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reverie.base import ArgumentError
from reverie.hub.pipelines.common import assemble, cast, default, options, patches, pixels, quiet, scale_of
from reverie.hub.pipelines.family import VAE, Ask, family
from reverie.hub.pipelines.prompts import Prompts, Reader
from reverie.hub.process import process_of
from reverie.model import Cond, Model

__all__ = ["stable_diffusion_3"]

_CLIP, _T5 = ("CLIPTextModelWithProjection",), ("T5EncoderModel",)


class _Transformer(nn.Module):
    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self, x: Tensor, label: Tensor, *, encoder_hidden_states: Tensor, pooled_projections: Tensor, **more: Any
    ) -> Tensor:
        said: Tensor = self.transformer(
            hidden_states=x, timestep=label, encoder_hidden_states=cast(encoder_hidden_states, x),
            pooled_projections=cast(pooled_projections, x), return_dict=False, **more,
        )[0]  # fmt: skip
        return said


@family(
    "StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline",
    parts={
        "transformer": ("SD3Transformer2DModel",), "vae": VAE, "text_encoder": _CLIP, "tokenizer": ("CLIPTokenizer",), "text_encoder_2": _CLIP,
        "tokenizer_2": ("CLIPTokenizer",), "text_encoder_3": _T5, "tokenizer_3": ("T5Tokenizer",), "scheduler": (),
    },
    optional=("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"),
)  # fmt: skip
def stable_diffusion_3(pipe: Any, ask: Ask) -> Model:
    """`embed(prompt, prompt_2=None, prompt_3=None, clip_skip=None, max_sequence_length=256)`; null is the empty prompt."""
    config, scale = pipe.transformer.config, scale_of(pipe.vae)
    own = config.sample_size * scale
    size = pixels(ask, (own, own), scale * config.patch_size)
    h, w = size[0] // scale, size[1] // scale
    most = config.pos_embed_max_size * config.patch_size * scale
    if max(size) > most:
        raise ArgumentError(f"size {size}: this model has positions for {most} pixels a side at most")
    length = default(pipe.encode_prompt, "max_sequence_length")
    whole = all(getattr(pipe, part) is not None for part in ("text_encoder", "text_encoder_2"))
    told: set[str] = set()

    @torch.no_grad()
    def embed(prompt: Any, **more: Any) -> Cond:
        if not whole:
            raise ArgumentError(
                f"{ask.name} lacks one of CLIP's text encoders; give cond={{'encoder_hidden_states': (B, tokens, {config.joint_attention_dim}), "
                f"'pooled_projections': (B, {config.pooled_projection_dim})}}"
            )
        said = options(more, prompt_2=None, prompt_3=None, clip_skip=None, max_sequence_length=length)
        readers = [Reader("tokenizer", pipe.tokenizer_max_length), Reader("tokenizer_2", pipe.tokenizer_max_length, 1)]
        if pipe.text_encoder_3 is not None:
            readers.append(Reader("tokenizer_3", said["max_sequence_length"], 2))
        texts, second, third = Prompts(pipe, readers, ask.whole, told).check(prompt, said["prompt_2"], said["prompt_3"])
        with quiet():
            text, _, pooled, _ = pipe.encode_prompt(
                texts, second, third, pipe._execution_device, 1, False, clip_skip=said["clip_skip"],
                max_sequence_length=said["max_sequence_length"],
            )  # fmt: skip
        return {"encoder_hidden_states": text, "pooled_projections": pooled}

    return assemble(
        pipe, ask, _Transformer(pipe.transformer), process_of(pipe.scheduler, patches((h, w), config.patch_size)),
        (config.in_channels, h, w), pipe.transformer.out_channels, embed, embed("") if whole else None,
    )  # fmt: skip
