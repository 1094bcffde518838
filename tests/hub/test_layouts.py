"""Layouts of text-to-image pipelines: PixArt's stock pipeline tells its transformer what training told it, and makes the picture that we make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError, Noise, UnknownNameError
from reverie.hub.layouts import LAYOUTS, PixArt, lengthened, mask_of
from reverie.hub.pipeline import make_text_encoder, write_pipeline
from reverie.hub.tokenizer import make_tokenizer, tokens
from reverie.nets import build
from tiny_parts import TEXT, TRANSFORMER, VAE

PROMPTS = ["a red circle to the left of a small star", "two crosses"]


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    vae: Any = build("autoencoder-kl", VAE)
    vae.register_to_config(scaling_factor=0.7)
    net = PixArt().make(**TRANSFORMER)
    for value in net.parameters():  # its gates begin at about zero
        torch.nn.init.normal_(value, std=0.3)
    encoder = make_text_encoder(tokenizer, **TEXT)
    for value in [*net.parameters(), *encoder.parameters()]:
        value.data = value.data.half().float()  # as files hold them
    return {
        "vae": vae.eval(),
        "tokenizer": tokenizer,
        "text_encoder": encoder.eval(),
        "net": net.eval(),
        "scheduler": PixArt().scheduler("flow"),
    }


@pytest.fixture(scope="module")
def folder(parts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pixart") / "tiny"
    card = {"name": "tiny", "vocabulary": "whole"}
    PixArt().write(place, parts["net"], card=card, **{k: v for k, v in parts.items() if k != "net"})
    return place


def test_a_longer_text_encoder_says_the_same(parts: dict[str, Any]) -> None:
    own, longer = parts["text_encoder"], lengthened(parts["text_encoder"], 120)
    ids = tokens(parts["tokenizer"], PROMPTS)
    far = torch.nn.functional.pad(ids, (0, 88), value=own.config.eos_token_id)
    with torch.no_grad():
        torch.testing.assert_close(longer(far)[0][:, :32], own(ids)[0], rtol=1e-5, atol=1e-6)
    assert own.config.max_position_embeddings == 32
    assert lengthened(own, 32) is own


def test_the_mask_is_the_tokenizers(parts: dict[str, Any]) -> None:
    said = parts["tokenizer"](PROMPTS, padding="max_length", max_length=32, return_tensors="pt")
    assert torch.equal(mask_of(said.input_ids, parts["text_encoder"].config.eos_token_id), said.attention_mask)


def test_training_tells_the_transformer_what_the_pipeline_tells_it(folder: Path, parts: dict[str, Any]) -> None:
    m, layout = rv.load(folder), PixArt()
    assert m.embed is not None
    cond = m.embed(PROMPTS)
    assert cond["encoder_hidden_states"].shape == (2, 120, 16)
    told = layout.told(parts["text_encoder"], tokens(parts["tokenizer"], PROMPTS))
    longest = told["encoder_attention_mask"].shape[1]
    assert longest == 12, "ten words, a start and an end"
    assert torch.equal(cond["encoder_attention_mask"][:, :longest], told["encoder_attention_mask"])
    x, t = torch.randn(2, 4, 16, 16), torch.tensor([0.3, 0.8])
    own = layout.model(parts["net"], name="tiny", **{k: v for k, v in parts.items() if k != "net"})
    with torch.no_grad():
        a, b, c = m(x, t, **cond).flow, own(x, t, **told).flow, own(x, t, **own.embed([PROMPTS[1], PROMPTS[0]])).flow
    assert float((a - b).abs().max()) < 1e-4
    assert float((b - c).abs().max()) > 0.05, "it reads the prompt"


def test_the_stock_pipeline_and_sample_make_the_same_picture(folder: Path) -> None:
    from diffusers import PixArtAlphaPipeline

    pipe = PixArtAlphaPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    # diffusers' own scheduler tells the network whole labels, which moves a random one by much more than a trained one
    pipe.scheduler = rv.hub.scheduler("dpmpp-2m", pipe.scheduler, timestep_spacing="trailing")
    m = rv.load(folder)
    assert m.process == rv.process.flow()
    assert m.shape == (4, 16, 16)
    noise = torch.stack([Noise(3).normal((4, 16, 16), [i])[0] for i in range(2)])
    theirs = pipe(
        PROMPTS, num_inference_steps=5, guidance_scale=3.0, latents=noise.clone(), output_type="latent", use_resolution_binning=False,
        clean_caption=False,
    ).images  # fmt: skip
    plan = rv.solve.plan("dpmpp-2m", m.process, steps=5, grid="trailing")
    assert m.embed is not None
    ours = rv.run(plan, m | rv.guide.CFG(3.0), noise, cond=m.embed(PROMPTS))
    assert float((ours - theirs).abs().max()) < 1e-3 * float(theirs.abs().max())


def test_what_cannot_be_is_refused(parts: dict[str, Any], tmp_path: Path) -> None:
    layout = PixArt()
    with pytest.raises(ArgumentError, match="no learned variance"):
        layout.make(**TRANSFORMER | {"out_channels": 8})
    with pytest.raises(ArgumentError, match="pixart-transformer-2d"):
        layout.make(**TRANSFORMER | {"widht": 3})
    with pytest.raises(UnknownNameError, match="'eps'"):
        layout.scheduler("eps")
    with pytest.raises(ArgumentError, match="shift is positive, got 0"):
        layout.scheduler("flow", shift=0.0)
    own = {k: v for k, v in parts.items() if k != "net"}
    for nets in ({}, {"unet": parts["net"], "transformer": parts["net"]}):
        with pytest.raises(ArgumentError, match="a U-Net or a transformer"):
            write_pipeline(tmp_path / "x", **own, **nets)
    assert sorted(LAYOUTS) == ["pixart-transformer-2d", "unet-2d-condition"]
