"""Stable Diffusion XL: a U-Net under two of CLIP's text encoders, told the pooled text and the picture's size and crop besides.

The sizes (`time_ids`) are those of the state where the condition does not say them, so that other sizes of state are told right. With
`force_zeros_for_empty_prompt` the null condition is zeros, not the empty prompt.

Sources: Podell et al. 2023 (2307.01952).
"""

from __future__ import annotations

from typing import Any

import torch

from reverie.base import ArgumentError
from reverie.hub.pipelines.common import assemble, options, pair, pixels, quiet, rows, scale_of
from reverie.hub.pipelines.family import VAE, Ask, family
from reverie.hub.pipelines.prompts import Prompts, Reader
from reverie.hub.pipelines.unet import PARTS, besides, latent_channels, pictures_of, takes, unet_of
from reverie.hub.process import process_of
from reverie.model import Cond, Model

__all__ = ["stable_diffusion_xl"]


@family(
    "StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline", "StableDiffusionXLControlNetPipeline",
    "StableDiffusionXLControlNetImg2ImgPipeline", "StableDiffusionXLControlNetInpaintPipeline",
    parts={
        "vae": VAE, "text_encoder": ("CLIPTextModel",), "tokenizer": ("CLIPTokenizer",),
        "text_encoder_2": ("CLIPTextModelWithProjection",), "tokenizer_2": ("CLIPTokenizer",), **PARTS,
    },
    optional=("text_encoder", "tokenizer"),
)  # fmt: skip
def stable_diffusion_xl(pipe: Any, ask: Ask) -> Model:
    """`embed(prompt, prompt_2=None, clip_skip=None, original_size=None, crop=None, target_size=None)`, with the options of `unet.besides`.

    original_size, target_size: (height, width) in pixels; crop: (top, left). What of the three is not given is the model's size, or (0, 0).
    """
    if pipe.config.get("requires_aesthetics_score"):
        raise ArgumentError("SDXL's refiner is told an aesthetic score in place of a size, which Reverie does not do")
    scale, channels = scale_of(pipe.vae), latent_channels(pipe)
    h, w = pair(pipe.unet.config.sample_size)
    size = pixels(ask, (h * scale, w * scale), scale)
    found = [("tokenizer", 0), ("tokenizer_2", 1 if pipe.tokenizer is not None else 0)]
    readers = [Reader(name, getattr(pipe, name).model_max_length, slot) for name, slot in found if getattr(pipe, name)]
    prompts = Prompts(pipe, readers, ask.whole)
    sizes = ("original_size", "crop", "target_size")

    @torch.no_grad()
    def embed(prompt: Any, **more: Any) -> Cond:
        if pipe.text_encoder_2 is None or pipe.tokenizer_2 is None:
            raise ArgumentError(
                f"{ask.name} has no text encoders; give cond={{'encoder_hidden_states': (B, tokens, width), 'text_embeds': (B, width)}}"
            )
        said = options(more, prompt_2=None, clip_skip=None, **dict.fromkeys(sizes), **takes(pipe))
        texts, second = prompts.check(prompt, said["prompt_2"])
        assert texts is not None
        with quiet():
            text, _, pooled, _ = pipe.encode_prompt(
                texts, second, pipe._execution_device, 1, False, clip_skip=said["clip_skip"]
            )
        found: Cond = {"encoder_hidden_states": text, "text_embeds": pooled}
        if any(said[key] is not None for key in sizes):
            six = [v for key, own in zip(sizes, (size, (0, 0), size), strict=True) for v in said[key] or own]
            if len(six) != 6:
                raise ArgumentError(f"original_size, crop and target_size are pairs, got {[said[k] for k in sizes]}")
            found["time_ids"] = rows([six], len(texts), "time_ids").to(text.device)
        return found | besides(pipe, said, len(texts), size, scale)

    null = None
    if pipe.text_encoder_2 is not None:
        null = embed("")
        if pipe.config.get("force_zeros_for_empty_prompt"):
            null = {key: torch.zeros_like(value) for key, value in null.items()}
    model = assemble(
        pipe, ask, unet_of(pipe, scale), process_of(pipe.scheduler), (channels, size[0] // scale, size[1] // scale),
        pipe.unet.config.out_channels, embed, null,
    )  # fmt: skip
    model.card = {"pictures": named} if (named := pictures_of(pipe)) else {}
    return model
