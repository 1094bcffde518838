"""Text-to-image pipelines in Stable Diffusion's own layout: a tokenizer, a text encoder, a U-Net, an autoencoder and a scheduler.

A folder holds one sub-folder a part and `model_index.json`, which diffusers' `StableDiffusionPipeline.from_pretrained` reads as it stands; with a
transformer in the U-Net's place it is PixArt's (`hub.layouts`). A prompt
becomes the text encoder's last states, `length` vectors, to which the U-Net attends; a picture x is the latent z = s mean(q(z | x)), with s the
autoencoder's `scaling_factor`, 1 over the standard deviation of its means. Weights are stored in half precision; no pickle is written or read.

Sources: Rombach et al. 2022 (2112.10752); Radford et al. 2021 (2103.00020) for CLIP's text encoder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reverie.base import ArgumentError, FileError, ReverieError, unknown
from reverie.base.files import atomic_folder, read_bytes
from reverie.hub.pipelines.common import Latents
from reverie.hub.pipelines.unet import UNet
from reverie.hub.process import PREDICTS, predicts_of, process_of
from reverie.hub.tokenizer import missing, tokens, write_json, write_tokenizer
from reverie.model import Cond, Model
from reverie.nets import build, models_in, read_tensors, write_tensors

__all__ = [
    "LARGEST", "PARTS", "make_scheduler", "make_text_encoder", "make_unet", "read_autoencoder", "text_to_image", "write_pipeline",
]  # fmt: skip

PARTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
LARGEST = 15_000_000
"""Bytes that no file of a written pipeline reaches."""
_FILES = {
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "transformer": "diffusion_pytorch_model.safetensors",
}


# -- the parts


def make_text_encoder(tokenizer: Any, **config: Any) -> nn.Module:
    """A `CLIPTextModel` with fresh weights for a tokenizer.

    Args:
        config: fields of `CLIPTextConfig`; where it is silent, hidden size 128, an MLP of 4 times that, 4 layers and 4 heads.

    Raises `ArgumentError` for a configuration that cannot work.

    >>> from reverie.hub.tokenizer import make_tokenizer
    >>> make_text_encoder(make_tokenizer(), num_hidden_layers=1).config.hidden_size
    128
    """
    try:
        from transformers import CLIPTextConfig, CLIPTextModel
    except ImportError:
        raise missing() from None
    width = config.get("hidden_size", 128)
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise ArgumentError(f"hidden_size of the text encoder is a whole number of at least 1, got {width!r}")
    own = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 4, "num_attention_heads": 4}
    fixed = {
        "vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length, "projection_dim": width,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    known = CLIPTextConfig().to_dict()
    for key in config:
        if key in fixed:
            raise ArgumentError(f"the text encoder's {key} follows from its tokenizer; leave it out")
        if key not in known:
            raise unknown("field of the text encoder", key, known)
    try:
        made: Any = CLIPTextModel(CLIPTextConfig(**own | config | fixed))
    except Exception as error:  # transformers checks with kinds of errors that change from version to version
        raise ArgumentError(f"text encoder: {' '.join(str(error).split())}") from error
    return made


def make_unet(**config: Any) -> nn.Module:
    """diffusers' `UNet2DConditionModel` with fresh weights, from its own config.

    Raises `ArgumentError` for a configuration that cannot work.

    >>> small = {"sample_size": 16, "block_out_channels": [8, 8], "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 2}
    >>> blocks = {"down_block_types": ["CrossAttnDownBlock2D"] * 2, "up_block_types": ["CrossAttnUpBlock2D"] * 2}
    >>> make_unet(**small, **blocks).config.in_channels
    4
    """
    try:
        from diffusers import UNet2DConditionModel
    except ImportError:
        raise missing() from None
    try:
        made: Any = UNet2DConditionModel(**config)
    except (TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ArgumentError(f"unet-2d-condition: {error}") from None
    return made


def make_scheduler(beta_start: float = 0.00085, beta_end: float = 0.02, labels: int = 1000, predicts: str = "v") -> Any:
    """A `DDIMScheduler`: betas whose roots are even from one end to the other (Stable Diffusion's "scaled_linear").

    Stable Diffusion ends at beta 0.012, alpha_T = 0.07, which on 16x16 latents leaves the background's tone readable in what should be pure noise (a
    mean over 256 entries sees alpha_T at 16 times its size); 0.02 has alpha_T = 0.015. Steps begin at the last label ("trailing", Lin et al. 2024,
    2305.08891) and the last goes to sigma = 0, so that `reverie.sample(..., solver="ddim", grid="trailing")` is the same computation.

    Args:
        predicts: "v" or "eps".

    >>> process_of(make_scheduler())
    DDPM(1000 labels, abar 0.99915 .. 0.000230013)
    """
    try:
        from diffusers import DDIMScheduler
    except ImportError:
        raise missing() from None
    types = {ours: theirs for theirs, ours in PREDICTS.items()}
    if predicts not in ("v", "eps"):
        raise unknown("prediction type of a pipeline", predicts, ["v", "eps"])
    if not 0 < beta_start <= beta_end < 1:
        raise ArgumentError(f"0 < beta_start <= beta_end < 1 is needed, got {beta_start} and {beta_end}")
    if isinstance(labels, bool) or not isinstance(labels, int) or labels < 2:
        raise ArgumentError(f"labels is a whole number of at least 2, got {labels!r}")
    return DDIMScheduler(
        num_train_timesteps=labels, beta_start=beta_start, beta_end=beta_end, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=True, steps_offset=1, prediction_type=types[predicts], timestep_spacing="trailing",
    )  # fmt: skip


# -- together


def text_to_image(
    *,
    unet: Any,
    text_encoder: Any,
    tokenizer: Any,
    scheduler: Any,
    vae: Any = None,
    name: str | None = None,
    whole: bool = True,
) -> Model:
    """The parts of a pipeline as a `Model`: its `embed` takes prompts, its null condition is the empty prompt, its codec the autoencoder.

    Args:
        scheduler: whose process and prediction type the U-Net was trained on. vae: without it the model makes latents.
        whole: whether a word that is no token is an error, see `tokens`; of a vocabulary as large as CLIP's own it is none.

    Raises:
        UnknownNameError: a prediction type of the scheduler that Reverie lacks.
    """

    @torch.no_grad()
    def embed(prompt: str | Sequence[str]) -> Cond:
        device = next(text_encoder.parameters()).device
        return {"encoder_hidden_states": text_encoder(tokens(tokenizer, prompt, whole).to(device))[0]}

    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return Model(
        UNet(unet), process_of(scheduler), predicts_of(scheduler), null=embed(""), codec=None if vae is None else Latents(vae), embed=embed,
        shape=(unet.config.in_channels, height, width), name=name,
    )  # fmt: skip


def read_autoencoder(path: str | Path) -> tuple[nn.Module, str]:
    """A trained autoencoder (`NAME.json` with `NAME.safetensors`, as a recipe of the task "autoencoding" writes them), and its digest.

    Args:
        path: of either file, or of the folder that holds exactly one.

    Returns:
        The network, frozen and in evaluation mode, and a hexadecimal digest of its configuration and weights.

    Raises:
        FileError: missing, malformed, or not an autoencoder.
    """
    source = Path(path)
    if source.is_dir():
        found = models_in(source)
        if len(found) != 1:
            raise FileError(
                f"{str(source)!r} holds {len(found)} models (<name>.json with <name>.safetensors); name an autoencoder's card, or train one: "
                "reverie train shapes-vae"
            )
        source = found[0]
    source = source.with_suffix(".json")
    try:
        card = json.loads(read_bytes(source, 1 << 20))
        if card["kind"] != "reverie-autoencoder":
            raise FileError(f"{str(source)!r} is a {card['kind']}, not a reverie-autoencoder")
        net = build(card["net"]["name"], card["net"].get("args"))
        weights, _ = read_tensors(source.with_suffix(".safetensors"))
        net.load_state_dict(weights)
    except FileError:
        raise
    except (ReverieError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise FileError(f"{str(source)!r} is no autoencoder: {' '.join(str(error).split())[:300]}") from None
    digest = hashlib.sha256(json.dumps(card["net"], sort_keys=True).encode())
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return net.eval().requires_grad_(False), digest.hexdigest()


def write_pipeline(
    folder: str | Path,
    *,
    vae: Any,
    text_encoder: Any,
    tokenizer: Any,
    scheduler: Any,
    unet: Any = None,
    transformer: Any = None,
    card: Mapping[str, Any] | None = None,
    largest: int = LARGEST,
) -> Path:
    """Write a folder that `StableDiffusionPipeline.from_pretrained`, or `PixArtAlphaPipeline`'s, loads as it stands, whole or not at all.

    Weights are safetensors in half precision, rounded to nearest. What was in the folder before is replaced, if it was a pipeline or empty.

    Args:
        vae: its `scaling_factor` is written as it stands in its config. unet, transformer: one of the two. card: plain values, written as
            `card.json`.
        largest: bytes that no file may reach.

    Raises:
        FileError: a file that would be larger, a folder that cannot be written or that holds something else.
        ArgumentError: a weight beyond half precision; neither or both of U-Net and transformer.
    """
    from diffusers import __version__

    if (unet is None) == (transformer is None):
        raise ArgumentError("a pipeline has a U-Net or a transformer; give one of unet and transformer")
    target = Path(folder)
    own = {"unet": unet} if transformer is None else {"transformer": transformer}
    parts = {"vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer, **own, "scheduler": scheduler}
    with atomic_folder(target, "model_index.json") as made:
        for name, part in parts.items():
            _write_part(made / name, name, part)
        kind = "PixArtAlphaPipeline" if unet is None else "StableDiffusionPipeline"
        index: dict[str, Any] = {"_class_name": kind, "_diffusers_version": __version__}
        index |= {name: [_library(part), type(part).__name__] for name, part in parts.items()}
        if unet is not None:
            index |= {name: [None, None] for name in ("safety_checker", "feature_extractor", "image_encoder")}
            index["requires_safety_checker"] = False
        write_json(made / "model_index.json", index)
        if card is not None:
            write_json(made / "card.json", dict(card))
        for file in sorted(f for f in made.rglob("*") if f.is_file()):
            if (size := file.stat().st_size) >= largest:
                raise FileError(
                    f"{file.relative_to(made)} would have {size} bytes, {largest} or more; take a smaller network"
                )
    return target


def _library(part: Any) -> str:
    return type(part).__module__.split(".")[0]


def _write_part(folder: Path, name: str, part: Any) -> None:
    """One part as its own library writes it, its weights then in half precision and under Stable Diffusion's names."""
    folder.mkdir(parents=True)
    if name == "tokenizer":
        write_tokenizer(folder, part)
        return
    if name == "scheduler":
        part.save_pretrained(folder)
        return
    config = part.config.to_dict() if name == "text_encoder" else {k: v for k, v in part.config.items() if k[0] != "_"}
    if name == "text_encoder":
        config |= {"architectures": ["CLIPTextModel"], "dtype": "float32"}
    else:
        from diffusers import __version__

        config = {"_class_name": type(part).__name__, "_diffusers_version": __version__} | config
    write_json(folder / "config.json", config)
    half = {}
    for key, value in part.state_dict().items():
        rounded = value.half() if value.is_floating_point() else value
        if rounded.is_floating_point() and not rounded.isfinite().all():
            raise ArgumentError(
                f"the weight {key!r} of the {name} is not finite in half precision; it cannot be written"
            )
        # transformers 5 has no prefix in memory; files of Stable Diffusion, and older versions, do
        bare = name == "text_encoder" and not key.startswith("text_model.")
        half[f"text_model.{key}" if bare else key] = rounded
    write_tensors(folder / _FILES[name], half, {"format": "pt"})
