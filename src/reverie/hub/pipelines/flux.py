"""Flux: a transformer on the straight path over 2x2 patches of the latents, under T5's text and CLIP's pooled text.

The state is the latent itself, `(16, h, w)`; it is packed to `(h w / 4, 64)` on its way in, with its patches' places, and unpacked on its way out.
The shift of the path follows the picture's size where the scheduler says so (`rv.process.dynamic_shift`). Networks that were distilled with guidance
(`guidance_embeds`) are told its scale as the condition `guidance`, by default that of the pipeline's own call, 3.5.

Sources: Black Forest Labs 2024 (github.com/black-forest-labs/flux); Esser et al. 2024 (2403.03206) for the path.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reverie.base import ArgumentError
from reverie.hub.pipelines.common import assemble, cast, default, options, patches, pixels, quiet, rows, scale_of
from reverie.hub.pipelines.family import VAE, Ask, family
from reverie.hub.pipelines.prompts import Prompts, Reader
from reverie.hub.process import process_of
from reverie.model import Cond, Model

__all__ = ["flux"]

_PATCH = 2


class _Transformer(nn.Module):
    """Args: guidance: what a distilled network is told where the condition does not say it; None for others."""

    def __init__(self, transformer: nn.Module, guidance: float | None) -> None:
        super().__init__()
        self.transformer, self.guidance = transformer, guidance

    def forward(
        self,
        x: Tensor,
        label: Tensor,
        *,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        guidance: Tensor | float | None = None,
        **more: Any,
    ) -> Tensor:
        h, w = x.shape[-2] // _PATCH, x.shape[-1] // _PATCH
        if self.guidance is not None:
            scale = torch.as_tensor(self.guidance if guidance is None else guidance)
            more["guidance"] = scale.to(x.device, torch.float32).expand(len(x))
        said = self.transformer(
            hidden_states=nn.functional.pixel_unshuffle(x, _PATCH).flatten(2).mT, timestep=label / 1000,
            encoder_hidden_states=cast(encoder_hidden_states, x), pooled_projections=cast(pooled_projections, x),
            txt_ids=torch.zeros(encoder_hidden_states.shape[1], 3, device=x.device), img_ids=_places(h, w, x.device),
            return_dict=False, **more,
        )[0]  # fmt: skip
        return nn.functional.pixel_shuffle(said.mT.unflatten(2, (h, w)), _PATCH)


def _places(h: int, w: int, device: torch.device) -> Tensor:
    """Each patch's (0, row, column)."""
    grid = torch.meshgrid(torch.zeros(1), torch.arange(float(h)), torch.arange(float(w)), indexing="ij")
    return torch.stack([g.reshape(-1) for g in grid], dim=1).to(device)


@family(
    "FluxPipeline", "FluxImg2ImgPipeline",
    parts={
        "transformer": ("FluxTransformer2DModel",), "vae": VAE, "text_encoder": ("CLIPTextModel",), "tokenizer": ("CLIPTokenizer",),
        "text_encoder_2": ("T5EncoderModel",), "tokenizer_2": ("T5Tokenizer",), "scheduler": (),
    },
    optional=("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
)  # fmt: skip
def flux(pipe: Any, ask: Ask) -> Model:
    """`embed(prompt, prompt_2=None, guidance=None, max_sequence_length=512)`; null is the empty prompt, for guidance besides the distilled one."""
    config, scale = pipe.transformer.config, scale_of(pipe.vae)
    own = pipe.default_sample_size * scale
    size = pixels(ask, (own, own), scale * _PATCH)
    h, w = size[0] // scale, size[1] // scale
    if config.in_channels % _PATCH**2:
        raise ArgumentError(f"the transformer takes {config.in_channels} channels, no multiple of {_PATCH**2}")
    length = default(pipe.encode_prompt, "max_sequence_length")
    distilled = {"guidance": None} if config.guidance_embeds else {}
    whole = pipe.text_encoder is not None and pipe.text_encoder_2 is not None
    told: set[str] = set()

    @torch.no_grad()
    def embed(prompt: Any, **more: Any) -> Cond:
        if not whole:
            raise ArgumentError(
                f"{ask.name} lacks a text encoder; give cond={{'encoder_hidden_states': (B, tokens, {config.joint_attention_dim}), "
                f"'pooled_projections': (B, {config.pooled_projection_dim})}}"
            )
        said = options(more, prompt_2=None, max_sequence_length=length, **distilled)
        readers = [
            Reader("tokenizer", pipe.tokenizer_max_length),
            Reader("tokenizer_2", said["max_sequence_length"], 1),
        ]
        texts, second = Prompts(pipe, readers, ask.whole, told).check(prompt, said["prompt_2"])
        assert texts is not None
        with quiet():
            text, pooled, _ = pipe.encode_prompt(
                texts, second, pipe._execution_device, 1, max_sequence_length=said["max_sequence_length"]
            )
        found: Cond = {"encoder_hidden_states": text, "pooled_projections": pooled}
        if said.get("guidance") is not None:
            found["guidance"] = rows(said["guidance"], len(texts), "guidance").to(text.device)
        return found

    guidance = float(default(type(pipe).__call__, "guidance_scale")) if config.guidance_embeds else None
    return assemble(
        pipe, ask, _Transformer(pipe.transformer, guidance), process_of(pipe.scheduler, patches((h, w), _PATCH)),
        (config.in_channels // _PATCH**2, h, w), pipe.transformer.out_channels // _PATCH**2, embed, embed("") if whole else None,
    )  # fmt: skip
