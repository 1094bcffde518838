"""What a pipeline's model is told: prompts and their lengths, negative prompts, LoRA, pictures, sizes; and what cannot be told."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline, StableDiffusionXLImg2ImgPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import nn

import reverie as rv
import tiny_pipes
from reverie.base import ArgumentError, ShapeError, UnknownNameError
from reverie.hub.pipelines.common import Latents
from tiny_pipes import PROMPTS

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
LONG = "a red circle a blue star " * 3
PICTURE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def sd() -> rv.Model:
    return rv.hub.model(tiny_pipes.stable_diffusion())


@pytest.fixture(scope="module")
def sd3() -> Any:
    return tiny_pipes.sd3()


def worst(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).detach().abs().max())


# -- prompts


def test_a_prompt_that_is_too_long_is_told_with_the_words_that_do_not_fit(sd: rv.Model) -> None:
    assert sd.embed("a red circle a blue star a red circle a")["encoder_hidden_states"].shape == (1, 12, 16)
    with pytest.raises(
        ArgumentError, match=r"18 tokens, this model reads 10 at most; shorten it: 'blue star a red.*' does not fit"
    ):
        sd.embed([PROMPTS[0], LONG])
    xl = rv.hub.model(tiny_pipes.xl())
    with pytest.raises(ArgumentError, match="reads 10 at most"):
        xl.embed(PROMPTS[0], prompt_2=LONG)
    pixart = rv.hub.model(tiny_pipes.pixart(False))
    assert pixart.embed("A RED star " * 99)["encoder_hidden_states"].shape == (1, 300, 32)
    with pytest.raises(ArgumentError, match=r"reads 4 at most; shorten it: 'circle.*does not fit"):
        pixart.embed("a blue a red circle", max_sequence_length=5)


def test_the_longest_text_encoder_decides_and_a_shorter_one_s_cut_is_said_once(sd3: Any) -> None:
    for pipe, size in ((sd3, None), (tiny_pipes.flux(), (16, 16))):
        m = rv.hub.model(pipe, size=size)
        with pytest.warns(
            UserWarning, match=r"longer than the 12 tokens of tokenizer, which does not read 'blue star"
        ) as said:
            m.embed(LONG)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            m.embed(LONG)
        assert len(said) == len([r for r in ("tokenizer", "tokenizer_2") if pipe.components[r].model_max_length == 12])
        with pytest.raises(ArgumentError, match="18 tokens, this model reads 15 at most"):
            m.embed(LONG, max_sequence_length=16)
    m = rv.hub.model(sd3)
    with pytest.raises(ArgumentError, match="reads 10 at most"):
        m.embed(LONG, prompt_3="a star")  # T5 reads another text, so this one is CLIP's alone


def test_what_is_no_prompt_or_option_is_named(sd: rv.Model) -> None:
    for bad in ([], 5, ["a", 5]):
        with pytest.raises(ArgumentError, match="a prompt is a str"):
            sd.embed(bad)
    with pytest.raises(UnknownNameError, match=r"option of embed 'clip_skp'; did you mean 'clip_skip'"):
        sd.embed("a star", clip_skp=1)
    with pytest.raises(UnknownNameError, match="'guidance'"):
        sd.embed("a star", guidance=3.0)  # this U-Net is not told
    with pytest.raises(ArgumentError, match="prompt_2 has 2 texts for 3 prompts"):
        rv.hub.model(tiny_pipes.xl()).embed(["a"] * 3, prompt_2=["a", "star"])
    dit = rv.hub.model(tiny_pipes.dit())
    assert dit.embed("cock, Tinca tinca, 999")["class_labels"].tolist() == [7, 0, 999]
    assert dit.embed("all")["class_labels"].tolist() == list(range(1000))
    assert len(dit.card["classes"]) == 1000
    assert (dit.card["classes"][7], dit.card["classes"][8], dit.null) == ("cock", "8", {"class_labels": 1000})
    for bad in ("coc", 1000, "star"):
        with pytest.raises(UnknownNameError, match=r"numbers 0 to 999.*listed by pipe.labels"):
            dit.embed(bad)
    with pytest.raises(ArgumentError, match="embed takes no options, got 'size'"):
        dit.embed(7, size=3)


def test_options_reach_the_pipeline_s_own_encoder(sd: rv.Model, sd3: Any) -> None:
    pipe = tiny_pipes.xl()
    xl = rv.hub.model(pipe)
    theirs = pipe.encode_prompt(PROMPTS, None, "cpu", 1, False, clip_skip=1)[0]
    assert torch.equal(xl.embed(PROMPTS, clip_skip=1)["encoder_hidden_states"], theirs)
    assert worst(xl.embed(PROMPTS)["encoder_hidden_states"], theirs) > 1e-2
    if not hasattr(tiny_pipes.stable_diffusion().text_encoder, "text_model"):
        with pytest.raises(ArgumentError, match="clip_skip: this diffusers"):
            sd.embed(PROMPTS, clip_skip=1)
    m = rv.hub.model(sd3)
    ours = m.embed(PROMPTS, prompt_2="a", prompt_3=["star", "blue"], max_sequence_length=20)
    text, _, pooled, _ = sd3.encode_prompt(
        PROMPTS, ["a"] * 2, ["star", "blue"], "cpu", 1, False, max_sequence_length=20
    )
    assert ours["encoder_hidden_states"].shape == (2, 12 + 20, 32)
    assert torch.equal(ours["encoder_hidden_states"], text)
    assert torch.equal(ours["pooled_projections"], pooled)


def test_a_pipeline_without_text_encoders_takes_conditions() -> None:
    pipe = tiny_pipes.stable_diffusion()
    text = rv.hub.model(pipe).embed([*PROMPTS, ""])["encoder_hidden_states"]
    pipe.text_encoder = None
    m = rv.hub.model(pipe)
    with pytest.raises(ArgumentError, match=r"has no text encoder; give cond=.'encoder_hidden_states'"):
        m.embed("a star")
    guided = m.with_null({"encoder_hidden_states": text[2:]}) | rv.guide.CFG(2.0)
    assert m.null is None
    assert torch.isfinite(guided(X, 500.0, encoder_hidden_states=text[:2]).x0).all()
    for pipe, part in (
        (tiny_pipes.sd3(), "text_encoder"),
        (tiny_pipes.flux(), "text_encoder_2"),
        (tiny_pipes.pixart(False), "text_encoder"),
    ):
        setattr(pipe, part, None)
        with pytest.raises(ArgumentError, match="give cond="):
            rv.hub.model(pipe, size=(16, 16)).embed("a star")


def test_another_null_condition_is_a_copy_and_is_checked(sd: rv.Model) -> None:
    null = sd.embed("blurry")
    other, x, told = sd.with_null(null), X, sd.embed(PROMPTS)
    assert worst(other.null["encoder_hidden_states"], sd.null["encoder_hidden_states"]) > 1e-4
    scale = rv.guide.CFG(3.0)
    base, negative = sd(x, 500.0, **told).raw, sd(x, 500.0, **null).raw
    for guided in (other | scale, (sd | scale).with_null(null)):
        assert worst(guided(x, 500.0, **told).raw, negative + 3 * (base - negative)) < 1e-5
    assert worst((sd | scale)(x, 500.0, **told).raw, (other | scale)(x, 500.0, **told).raw) > 1e-4
    with pytest.raises(ArgumentError, match=r"has \['encoder_hidden_states'\] too"):
        sd.with_null({"text": 1})
    with pytest.raises(ArgumentError, match=r"a dict as m\.embed"):
        sd.with_null("blurry")


# -- weights that the pipeline loads


def test_lora_is_in_effect_as_the_pipeline_has_it(tmp_path: Path) -> None:
    pipe = tiny_pipes.stable_diffusion()
    m = rv.hub.model(pipe)
    told = m.embed(PROMPTS)
    plain = m(X, 500.0, **told).raw
    torch.manual_seed(2)
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layered = m(X, 500.0, **told).raw
    assert worst(layered, plain) > 1e-3
    type(pipe).save_lora_weights(tmp_path, unet_lora_layers=get_peft_model_state_dict(pipe.unet))
    pipe.unet.delete_adapters("default")
    assert torch.equal(m(X, 500.0, **told).raw, plain)
    pipe.load_lora_weights(tmp_path, adapter_name="style")
    assert worst(m(X, 500.0, **told).raw, layered) < 1e-6
    pipe.set_adapters("style", 0.5)
    half = m(X, 500.0, **told).raw
    assert min(worst(half, layered), worst(half, plain)) > 1e-4
    pipe.fuse_lora()
    assert worst(m(X, 500.0, **told).raw, half) < 1e-5
    text = m.embed(PROMPTS)["encoder_hidden_states"]
    pipe.text_encoder.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    assert worst(m.embed(PROMPTS)["encoder_hidden_states"], text) > 1e-4


def test_a_textual_inversion_is_as_many_tokens_as_it_has_vectors() -> None:
    pipe = tiny_pipes.stable_diffusion()
    m = rv.hub.model(pipe)
    pipe.load_textual_inversion({"<x>": torch.randn(3, 16)}, token="<x>")
    ours = m.embed("a <x> star")["encoder_hidden_states"]
    assert torch.equal(ours, pipe.encode_prompt("a <x> star", "cpu", 1, False)[0])
    assert worst(ours, m.embed("a red star")["encoder_hidden_states"]) > 1e-2
    assert m.embed("a <x> star a red star a")["encoder_hidden_states"].shape == (1, 12, 16)
    with pytest.raises(ArgumentError, match="11 tokens, this model reads 10"):
        m.embed("a <x> star a red star a red star")


# -- pictures as conditions


def test_several_controlnets_add_up() -> None:
    pipe = tiny_pipes.controlled(2)
    seen: list[torch.Tensor] = []
    pipe.unet.register_forward_hook(lambda _, args, out: seen.append(out[0]))
    pipe(
        PROMPTS, image=[PICTURE, 1 - PICTURE], controlnet_conditioning_scale=[0.7, 0.4], latents=X, num_inference_steps=1, output_type="latent"
    )  # fmt: skip
    m = rv.hub.model(pipe)
    ours = m(X, 999.0, **m.embed(PROMPTS, image=[PICTURE, 1 - PICTURE], scale=[0.7, 0.4])).raw
    assert worst(ours, seen[0][2:]) < 1e-5
    assert worst(ours, m(X, 999.0, **m.embed(PROMPTS, image=[PICTURE, 1 - PICTURE], scale=0.7)).raw) > 1e-4
    with pytest.raises(ArgumentError, match="1 pictures for 2 ControlNets"):
        m.embed(PROMPTS, image=PICTURE)
    with pytest.raises(ArgumentError, match="scale is a number, or one a ControlNet"):
        m.embed(PROMPTS, image=[PICTURE] * 2, scale=[1.0] * 3)


def test_a_control_picture_s_scale_may_be_told_at_the_call() -> None:
    m = rv.hub.model(tiny_pipes.controlled())
    told, one = m.embed(PROMPTS, image=PICTURE[:1]), m.embed(PROMPTS[0], image=PICTURE[:1], scale=0.25)
    assert [len(v) for v in told.values()] == [2, 2]
    assert worst(m(X, 9.0, **told | {"control_scale": 0.25}).raw[:1], m(X[:1], 9.0, **one).raw) < 1e-5
    with pytest.raises(ArgumentError, match=r"was not told its picture.*control_image=tensor"):
        m(X, 9.0, **m.embed(PROMPTS))
    guided = m.with_null(m.embed("blurry")) | rv.guide.CFG(2.0)  # the picture is told to both branches
    assert torch.isfinite(guided(X, 9.0, **told).raw).all()


def test_pictures_that_cannot_be_told_are_named() -> None:
    m, paints = rv.hub.model(tiny_pipes.controlled()), rv.hub.model(tiny_pipes.inpainting())
    bad = [
        (PICTURE[0], r"is a tensor \(B, 3, H, W\), got \(3, 16, 16\)"),
        ("a.png", "got str"),
        (PICTURE[:, :1], r"got \(2, 1, 16, 16\)"),
        (PICTURE[..., :8], r"has \(16, 8\) pixels, the model makes \(16, 16\)"),
        (PICTURE * 2 - 1, r"values in \[0, 1\], got -0.99"),
        ((PICTURE * 255).to(torch.uint8), r"values in \[0, 1\]"),
        (PICTURE.repeat(2, 1, 1, 1), "has 4 rows for 2 prompts"),
    ]
    for picture, said in bad:
        with pytest.raises(ArgumentError, match=said):
            m.embed(PROMPTS, image=picture)
    with pytest.raises(ArgumentError, match="needs both image= and mask="):
        paints.embed(PROMPTS, image=PICTURE)
    with pytest.raises(ShapeError, match=r"mask is a tensor \(B, 1, H, W\)"):
        paints.embed(PROMPTS, image=PICTURE, mask=PICTURE)
    with pytest.raises(ArgumentError, match=r"is told m.embed\(prompt, image=picture, mask=mask\)"):
        paints(X, 9.0, **paints.embed(PROMPTS))
    told = paints.embed(PROMPTS, image=PICTURE, mask=PICTURE[:, :1])
    assert set(told["mask"].unique().tolist()) == {0.0, 1.0}
    with pytest.raises(ShapeError, match=r"a mask of latent size \(8, 8\) for a state of \(8, 4\)"):
        paints(X[..., :4], 9.0, **told)
    with pytest.raises(ArgumentError, match="cannot be asked without the condition encoder_hidden_states"):
        paints(X, 9.0)


# -- sizes and scales


def test_what_is_not_told_is_the_pipeline_s_own_default() -> None:
    for pipe, scale in ((tiny_pipes.flux(), 3.5), (tiny_pipes.stable_diffusion(config={"time_cond_proj_dim": 8}), 7.5)):
        m = rv.hub.model(pipe, size=(16, 16))
        told = m.embed(PROMPTS)
        plain = m(X, 0.5, **told).raw
        assert torch.equal(plain, m(X, 0.5, **told, guidance=scale).raw)
        assert torch.equal(plain, m(X, 0.5, **m.embed(PROMPTS, guidance=scale)).raw)
        assert worst(plain, m(X, 0.5, **told, guidance=scale + 1).raw) > 1e-4
    xl = rv.hub.model(tiny_pipes.xl(), size=(16, 24))
    assert "time_ids" not in xl.embed(PROMPTS)
    assert xl.embed(PROMPTS, crop=(2, 4))["time_ids"].tolist() == [[16, 24, 2, 4, 16, 24]] * 2
    assert xl.embed("a", target_size=(8, 9))["time_ids"].tolist() == [[16, 24, 0, 0, 8, 9]]
    with pytest.raises(ArgumentError, match="original_size, crop and target_size are pairs"):
        xl.embed("a", crop=(1, 2, 3))


def test_sizes_in_pixels_become_states_and_shifts() -> None:
    pipe = tiny_pipes.flux()
    m = rv.hub.model(pipe, size=(32, 16))
    assert (m.shape, rv.hub.model(pipe).shape) == ((4, 16, 8), (4, 128, 128))
    want = rv.process.flow(rv.process.dynamic_shift(8 * 4, base_tokens=4, top_tokens=64))
    assert m.process == want
    with torch.no_grad():
        assert m.decode(torch.zeros(1, *m.shape)).shape == (1, 3, 32, 16)
    xl = rv.hub.model(tiny_pipes.xl())
    with pytest.raises(ArgumentError, match="SDXL is told text_embeds besides"):
        xl(X, 9.0, encoder_hidden_states=torch.zeros(2, 12, 32))
    wide, told = torch.cat([X, X], dim=3), xl.embed(PROMPTS)
    sizes = torch.tensor([[16.0, 32.0, 0.0, 0.0, 16.0, 32.0]]).expand(2, 6)
    assert torch.equal(
        xl(wide, 9.0, **told).raw, xl(wide, 9.0, **told, time_ids=sizes).raw
    )  # told by the state's own size
    pixart = rv.hub.model(tiny_pipes.pixart(True), size=(16, 16))
    told = pixart.embed(PROMPTS, resolution=(16, 24))
    assert told["resolution"].tolist() == [[16.0, 24.0]] * 2
    assert torch.allclose(told["aspect_ratio"], torch.full((2, 1), 16 / 24))


@pytest.mark.parametrize(
    ("make", "size", "said"),
    [
        (tiny_pipes.stable_diffusion, (16, 17), r"of multiples of 2 pixels, for example \(16, 16\)"),
        (tiny_pipes.flux, (16, 18), "of multiples of 4 pixels"),
        (tiny_pipes.sd3, (16, 64), "positions for 48 pixels a side"),
        (tiny_pipes.dit, (16, 32), "a DiT makes squares"),
        (tiny_pipes.unconditional, (7, 8), "of multiples of 2"),
        (tiny_pipes.xl, 16, r"size is \(height, width\) in pixels, got 16"),
        (tiny_pipes.xl, (16, -2), r"size is \(height, width\)"),
    ],
)
def test_sizes_that_cannot_be_made(make: Any, size: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        rv.hub.model(make(), size=size)


# -- pipelines


def test_a_subclass_is_of_its_family_and_others_are_named() -> None:
    class Mine(StableDiffusionPipeline):  # type: ignore[misc]
        pass

    pipe = tiny_pipes.stable_diffusion(Mine)
    assert rv.hub.model(pipe, name="mine").name == "mine"
    assert rv.hub.model(pipe).name == "Mine"

    class KandinskyPipeline:
        components = None

    with pytest.raises(
        ArgumentError,
        match=r"KandinskyPipeline is no pipeline that Reverie knows \(.*DiTPipeline.*FluxPipeline.*\).*rv.Model\(net, process",
    ):
        rv.hub.model(KandinskyPipeline())
    for other in (nn.Linear(1, 1), StableDiffusionPipeline, None):
        with pytest.raises(ArgumentError, match="a pipeline of diffusers, or its folder, is needed"):
            rv.hub.model(other)
    for key, value in (("dtype", torch.float16), ("variant", "fp16")):
        with pytest.raises(ArgumentError, match=f"{key} is for folders"):
            rv.hub.model(pipe, **{key: value})


def test_networks_that_cannot_be_told_are_refused() -> None:
    for channels in (5, 8):
        with pytest.raises(ArgumentError, match=rf"takes {channels} channels; 4 \(latents\) or 9"):
            rv.hub.model(tiny_pipes.stable_diffusion(channels=channels))
    pipe = tiny_pipes.stable_diffusion()
    pipe.unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    with pytest.raises(ArgumentError, match="unload_ip_adapter"):
        rv.hub.model(pipe)
    pipe = tiny_pipes.controlled()
    pipe.controlnet.register_to_config(global_pool_conditions=True)
    with pytest.raises(ArgumentError, match="guess mode"):
        rv.hub.model(pipe)
    pipe.controlnet = nn.Identity()
    with pytest.raises(ArgumentError, match="Identity is no ControlNet"):
        rv.hub.model(pipe)
    pipe = tiny_pipes.dit()
    pipe.transformer.out_channels = 6
    with pytest.raises(ArgumentError, match="gives 6 channels for states of 4; 4, or 8 with a learned variance"):
        rv.hub.model(pipe)
    pipe = tiny_pipes.xl(cls=StableDiffusionXLImg2ImgPipeline, requires_aesthetics_score=True)
    with pytest.raises(ArgumentError, match="refiner"):
        rv.hub.model(pipe)


def test_evaluation_mode_is_set() -> None:
    pipe = tiny_pipes.dit()
    pipe.transformer.train()
    m = rv.hub.model(pipe)
    assert not any(part.training for part in m.net.modules())  # in training DiT forgets labels at random
    pipe = tiny_pipes.pixart(False)
    pipe.text_encoder.train()
    rv.hub.model(pipe)
    assert not pipe.text_encoder.training


# -- codecs


def fake(dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    """An autoencoder that returns what it is given, and says in which precision."""
    seen: list[torch.dtype] = []

    def decode(z: torch.Tensor) -> Any:
        seen.append(z.dtype)
        return SimpleNamespace(sample=z)

    vae = SimpleNamespace(dtype=dtype, decode=decode, config={"scaling_factor": 0.5, **config}, seen=seen)
    vae.config = type("Config", (dict,), {"__getattr__": dict.__getitem__})(vae.config)
    vae.encode = lambda x: SimpleNamespace(latents=x)
    vae.to = lambda to: setattr(vae, "dtype", to)
    return vae


def test_a_codec_scales_and_shifts_as_its_config_says() -> None:
    z = torch.ones(1, 2, 1, 1)
    for config, want in (
        ({}, [2.0, 2.0]),
        ({"shift_factor": 0.25}, [2.25, 2.25]),
        ({"latents_mean": [1.0, 2.0], "latents_std": [3.0, 4.0]}, [7.0, 10.0]),
    ):
        codec = Latents(fake(**config))
        assert codec.decode(z).flatten().tolist() == want
        assert torch.allclose(codec.encode(codec.decode(z)), z)


def test_a_tiny_autoencoder_is_a_codec_too() -> None:
    blocks = {
        "encoder_block_out_channels": (4, 4),
        "decoder_block_out_channels": (4, 4),
        "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
    }
    vae = AutoencoderTiny(**blocks, latent_channels=4)
    m = rv.hub.model(tiny_pipes.stable_diffusion(vae=vae))
    with torch.no_grad():
        assert torch.equal(m.decode(X), vae.decode(X).sample)
        assert torch.equal(m.encode(PICTURE), vae.encode(PICTURE).latents)
    assert m.shape == (4, 8, 8)


def test_a_codec_that_overflows_in_half_precision_is_used_in_single() -> None:
    z = torch.ones(1, 2, 1, 1)
    for dtype, config, want in (
        (torch.float16, {"force_upcast": True}, torch.float32),
        (torch.float16, {}, torch.float16),
        (torch.bfloat16, {"force_upcast": True}, torch.bfloat16),
    ):
        vae = fake(dtype, **config)
        assert Latents(vae).decode(z).dtype == torch.float32
        assert (vae.seen, vae.dtype) == ([want], dtype)
