"""PixArt-alpha and PixArt-sigma: a transformer on an autoencoder's latents under T5's text (or CLIP's, as in `hub.layouts`), with a learned variance.

    encoder_hidden_states (B, tokens, width), encoder_attention_mask (B, tokens);
    resolution (B, 2) in pixels, aspect_ratio (B, 1) where the network asks for them, by default those of the state;  heads (eps, variance)

Sources: Chen et al. 2023 (2310.00426); Chen et al. 2024 (2403.04692).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reverie.base import ArgumentError
from reverie.hub.pipelines.common import assemble, cast, default, options, pixels, quiet, rows, scale_of
from reverie.hub.pipelines.family import VAE, Ask, family
from reverie.hub.pipelines.prompts import Prompts, Reader
from reverie.hub.process import process_of
from reverie.hub.tokenizer import texts_of
from reverie.model import Cond, Model

__all__ = ["pixart"]


class _Transformer(nn.Module):
    """Args: scale: pixels a latent entry."""

    def __init__(self, transformer: nn.Module, scale: int) -> None:
        super().__init__()
        self.transformer, self.scale = transformer, scale

    def forward(
        self,
        x: Tensor,
        label: Tensor,
        *,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        resolution: Tensor | None = None,
        aspect_ratio: Tensor | None = None,
        **more: Any,
    ) -> Tensor:
        added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.transformer.use_additional_conditions:
            h, w = x.shape[-2] * self.scale, x.shape[-1] * self.scale
            size = torch.tensor([[h, w]]).expand(len(x), -1) if resolution is None else resolution
            ratio = torch.tensor([[h / w]]).expand(len(x), -1) if aspect_ratio is None else aspect_ratio
            added = {"resolution": size.to(x), "aspect_ratio": ratio.to(x)}
        said: Tensor = self.transformer(
            x, encoder_hidden_states=cast(encoder_hidden_states, x), encoder_attention_mask=encoder_attention_mask, timestep=label,
            added_cond_kwargs=added, return_dict=False, **more,
        )[0]  # fmt: skip
        return said


@family(
    "PixArtAlphaPipeline", "PixArtSigmaPipeline",
    parts={
        "tokenizer": ("T5Tokenizer", "CLIPTokenizer"), "text_encoder": ("T5EncoderModel", "CLIPTextModel"), "vae": VAE,
        "transformer": ("PixArtTransformer2DModel", "Transformer2DModel"), "scheduler": (),
    },
    optional=("tokenizer", "text_encoder"),
)  # fmt: skip
def pixart(pipe: Any, ask: Ask) -> Model:
    """`embed(prompt, max_sequence_length=..., clean_caption=False, resolution=None)`; null is the empty prompt.

    The pipelines' own calls clean captions by default where bs4 and ftfy are installed; here it is asked for.
    """
    config, scale = pipe.transformer.config, scale_of(pipe.vae)
    own = config.sample_size * scale
    size = pixels(ask, (own, own), scale * config.patch_size)
    length = default(pipe.encode_prompt, "max_sequence_length")
    sized = {"resolution": None} if pipe.transformer.use_additional_conditions else {}

    @torch.no_grad()
    def embed(prompt: Any, **more: Any) -> Cond:
        if pipe.text_encoder is None or pipe.tokenizer is None:
            raise ArgumentError(
                f"{ask.name} has no text encoder; give cond={{'encoder_hidden_states': (B, tokens, {config.caption_channels}), "
                "'encoder_attention_mask': (B, tokens)}"
            )
        said = options(more, max_sequence_length=length, clean_caption=False, **sized)
        clean = pipe._text_preprocessing(texts_of(prompt), clean_caption=said["clean_caption"])
        (texts,) = Prompts(pipe, [Reader("tokenizer", said["max_sequence_length"])], ask.whole).check(clean)
        assert texts is not None
        with quiet():
            text, mask, _, _ = pipe.encode_prompt(
                texts, False, device=pipe._execution_device, max_sequence_length=said["max_sequence_length"]
            )
        found: Cond = {"encoder_hidden_states": text, "encoder_attention_mask": mask}
        if said.get("resolution") is not None:
            asked = rows([list(said["resolution"])], len(texts), "resolution").to(text.device)
            found |= {"resolution": asked, "aspect_ratio": asked[:, :1] / asked[:, 1:]}
        return found

    return assemble(
        pipe, ask, _Transformer(pipe.transformer, scale), process_of(pipe.scheduler),
        (config.in_channels, size[0] // scale, size[1] // scale), pipe.transformer.out_channels, embed,
        embed("") if pipe.text_encoder is not None else None,
    )  # fmt: skip
