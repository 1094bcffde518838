"""Stock pipelines of diffusers with tiny networks of random weights: 16x16 pictures, 8x8 latents; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMPipeline,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from reverie.hub.tokenizer import make_tokenizer

WORDS = ["a", "red", "blue", "circle", "star", "blurry"]
PROMPTS = ["a red circle", "a blue star"]
BLOCKS = {
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 8,
}
CROSS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 2,
}
SIZE = 2
"""Pixels a latent entry."""


def vae(**config: Any) -> Any:
    return AutoencoderKL(
        block_out_channels=(4, 4), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1,
        norm_num_groups=2, sample_size=16, mid_block_add_attention=False, **{"scaling_factor": 0.7} | config,
    )  # fmt: skip


def clip(tokenizer: Any, projected: bool = False) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=tokenizer.model_max_length, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, projection_dim=16, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5_tokenizer() -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0), *((f"▁{word}", -1.0) for word in WORDS)]
    return T5Tokenizer(vocab=[*pieces, *((chr(c), -9.0) for c in range(97, 123))], extra_ids=0)


def t5(tokenizer: Any) -> Any:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), **sizes))


def ddim(**config: Any) -> Any:
    own = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    return DDIMScheduler(timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True, **own | config)


def unet(**config: Any) -> Any:
    return UNet2DConditionModel(**BLOCKS | CROSS | {"cross_attention_dim": 16} | config)


def ready(pipe: Any) -> Any:
    """Without a progress bar, and with weights everywhere: layers that begin at zero would hide what reaches them.

    Networks are in evaluation mode and frozen, as those of folders: torch folds batches otherwise where weights have gradients, and rounds otherwise.
    """
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
            for parameter in part.parameters():
                if not bool(parameter.any()):
                    torch.nn.init.normal_(parameter, std=0.1)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stable_diffusion(
    cls: Any = StableDiffusionPipeline, predicts: str = "epsilon", channels: int = 4, config: Any = None, **parts: Any
) -> Any:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(WORDS, length=12)
    own = {
        "vae": vae(), "tokenizer": tokenizer, "text_encoder": clip(tokenizer), "unet": unet(in_channels=channels, **config or {}),
        "scheduler": ddim(prediction_type=predicts), "safety_checker": None, "feature_extractor": None,
    }  # fmt: skip
    return ready(cls(**own | parts, requires_safety_checker=False))


def control(**config: Any) -> Any:
    torch.manual_seed(1)
    return ControlNetModel(
        **{k: v for k, v in BLOCKS.items() if k != "sample_size"}, down_block_types=CROSS["down_block_types"], attention_head_dim=2,
        conditioning_embedding_out_channels=(4, 8), **{"cross_attention_dim": 16} | config,
    )  # fmt: skip


def controlled(nets: int = 1) -> Any:
    made = [control() for _ in range(nets)]
    return stable_diffusion(StableDiffusionControlNetPipeline, controlnet=made if nets > 1 else made[0])


def inpainting() -> Any:
    return stable_diffusion(StableDiffusionInpaintPipeline, channels=9)


XL = {
    "cross_attention_dim": 32,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 64,
}


def xl(scheduler: Any = None, cls: Any = StableDiffusionXLPipeline, **more: Any) -> Any:
    torch.manual_seed(0)
    one, two = make_tokenizer(WORDS, length=12), make_tokenizer(WORDS, length=12)
    return ready(
        cls(
            vae=vae(),
            text_encoder=clip(one),
            text_encoder_2=clip(two, True),
            tokenizer=one,
            tokenizer_2=two,
            unet=unet(**XL),
            scheduler=scheduler or ddim(),
            add_watermarker=False,
            **more,
        )
    )


def xl_controlled() -> Any:
    return xl(cls=StableDiffusionXLControlNetPipeline, controlnet=control(**XL))


def sd3(third: bool = True) -> Any:
    torch.manual_seed(0)
    one, two, three = make_tokenizer(WORDS, length=12), make_tokenizer(WORDS, length=12), t5_tokenizer()
    net = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32, pos_embed_max_size=12,
    )  # fmt: skip
    return ready(
        StableDiffusion3Pipeline(
            transformer=net,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vae(shift_factor=0.1),
            text_encoder=clip(one, True),
            tokenizer=one,
            text_encoder_2=clip(two, True),
            tokenizer_2=two,
            text_encoder_3=t5(three) if third else None,
            tokenizer_3=three if third else None,
        )
    )


def flux(distilled: bool = True) -> Any:
    torch.manual_seed(0)
    one, two = make_tokenizer(WORDS, length=12), t5_tokenizer()
    net = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32,
        pooled_projection_dim=16, guidance_embeds=distilled, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return ready(
        FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64
            ),
            vae=vae(shift_factor=0.1),
            text_encoder=clip(one),
            tokenizer=one,
            text_encoder_2=t5(two),
            tokenizer_2=two,
            transformer=net,
        )
    )


TOKENS = {
    "patch_size": 2,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "in_channels": 4,
    "out_channels": 8,
}


def dit() -> Any:
    torch.manual_seed(0)
    labels = {"0": "tench, Tinca tinca", "7": "cock"}
    return ready(DiTPipeline(DiTTransformer2DModel(sample_size=8, **TOKENS), vae(), ddim(), id2label=labels))


def pixart(alpha: bool) -> Any:
    """Alpha's network of 128x128 latents is told the resolution, sigma's of 8x8 is not."""
    torch.manual_seed(0)
    tokenizer = t5_tokenizer()
    net = PixArtTransformer2DModel(
        sample_size=128 if alpha else 8,
        cross_attention_dim=24,
        caption_channels=32,
        interpolation_scale=1,
        **TOKENS | {"attention_head_dim": 12},
    )
    cls = PixArtAlphaPipeline if alpha else PixArtSigmaPipeline
    return ready(cls(tokenizer=tokenizer, text_encoder=t5(tokenizer), vae=vae(), transformer=net, scheduler=ddim()))


def unconditional() -> Any:
    torch.manual_seed(0)
    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    net = UNet2DModel(**BLOCKS | plain | {"in_channels": 1, "out_channels": 1})
    return ready(DDIMPipeline(net, ddim(prediction_type="v_prediction")))
