"""Stable Diffusion 1 and 2 (and models in their layout): a U-Net under CLIP's text, on the latents of an autoencoder.

The denoiser of the plain, image-to-image, inpainting, ControlNet and latent consistency pipelines is the same; see `unet` for what it is told.
"""

from __future__ import annotations

from typing import Any

import torch

from reverie.base import ArgumentError
from reverie.hub.pipelines.common import assemble, options, pair, pixels, quiet, scale_of
from reverie.hub.pipelines.family import VAE, Ask, family
from reverie.hub.pipelines.prompts import Prompts, Reader
from reverie.hub.pipelines.unet import PARTS, besides, latent_channels, pictures_of, takes, unet_of
from reverie.hub.process import process_of
from reverie.model import Cond, Model

__all__ = ["stable_diffusion"]


@family(
    "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline", "StableDiffusionControlNetPipeline",
    "StableDiffusionControlNetImg2ImgPipeline", "StableDiffusionControlNetInpaintPipeline", "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
    parts={"vae": VAE, "text_encoder": ("CLIPTextModel",), "tokenizer": ("CLIPTokenizer",), **PARTS},
)  # fmt: skip
def stable_diffusion(pipe: Any, ask: Ask) -> Model:
    """`embed(prompt, clip_skip=None)`, with the options of `unet.besides`; null is the empty prompt."""
    scale, channels = scale_of(pipe.vae), latent_channels(pipe)
    h, w = pair(pipe.unet.config.sample_size)
    size = pixels(ask, (h * scale, w * scale), scale)
    prompts = Prompts(pipe, [Reader("tokenizer", pipe.tokenizer.model_max_length)] if pipe.tokenizer else [], ask.whole)

    @torch.no_grad()
    def embed(prompt: Any, **more: Any) -> Cond:
        if pipe.text_encoder is None or pipe.tokenizer is None:
            raise ArgumentError(
                f"{ask.name} has no text encoder; give cond={{'encoder_hidden_states': (B, tokens, width)}}"
            )
        said = options(more, clip_skip=None, **takes(pipe))
        if said["clip_skip"] is not None and not hasattr(pipe.text_encoder, "text_model"):
            raise ArgumentError(
                "clip_skip: this diffusers looks for a layer that this transformers calls otherwise; leave it out"
            )
        (texts,) = prompts.check(prompt)
        assert texts is not None
        with quiet():
            text, _ = pipe.encode_prompt(texts, pipe._execution_device, 1, False, clip_skip=said["clip_skip"])
        return {"encoder_hidden_states": text} | besides(pipe, said, len(texts), size, scale)

    model = assemble(
        pipe, ask, unet_of(pipe, scale), process_of(pipe.scheduler), (channels, size[0] // scale, size[1] // scale),
        pipe.unet.config.out_channels, embed, embed("") if pipe.text_encoder is not None else None,
    )  # fmt: skip
    model.card = {"pictures": named} if (named := pictures_of(pipe)) else {}
    return model
