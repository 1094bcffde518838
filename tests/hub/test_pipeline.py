"""Pipelines in Stable Diffusion's layout: the stock pipeline loads and runs them, and Reverie computes the same latents."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError, FileError, Noise, UnknownNameError
from reverie.data import caption, scenes
from reverie.hub.pipeline import (
    PARTS,
    make_scheduler,
    make_text_encoder,
    make_unet,
    read_autoencoder,
    text_to_image,
    write_pipeline,
)
from reverie.hub.process import process_of
from reverie.hub.tokenizer import _merge, _vocabulary, caption_words, make_tokenizer, tokens
from reverie.measure import prompts
from reverie.nets import build, read_tensors
from tiny_parts import TEXT, UNET, VAE

PROMPTS = ["a red circle to the left of a small star", "two crosses, and three hollow squares"]


def parts(predicts: str = "v") -> dict[str, Any]:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    vae: Any = build("autoencoder-kl", VAE)
    vae.register_to_config(scaling_factor=0.7)
    return {
        "vae": vae,
        "tokenizer": tokenizer,
        "text_encoder": make_text_encoder(tokenizer, **TEXT),
        "unet": make_unet(**UNET),
        "scheduler": make_scheduler(predicts=predicts),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    own = parts()
    return write_pipeline(tmp_path_factory.mktemp("pipeline") / "tiny", **own, card={"name": "tiny"}), own


def stock(folder: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# -- the tokenizer


def test_every_caption_is_one_token_a_word() -> None:
    some = scenes(6000, seed=5, split="heldout")
    wordings = Noise(9).uniform((32,), range(len(some))).tolist()
    said = [caption(scene, wording) for scene, wording in zip(some, wordings, strict=True)] + prompts(20)
    tokenizer = make_tokenizer()
    known = tokenizer.get_vocab()
    longest = 0
    for text, numbers in zip(said, tokenizer(said).input_ids, strict=True):
        words = re.findall(r"\w+|[^\w\s]", text)
        assert numbers == [tokenizer.bos_token_id, *(known[f"{w}</w>"] for w in words), tokenizer.eos_token_id], text
        longest = max(longest, len(numbers))
    assert longest <= tokenizer.model_max_length
    assert {w for text in said for w in re.findall(r"\w+|[^\w\s]", text)} == set(caption_words())


def test_merges_survive_words_that_share_pairs() -> None:
    words = ["green", "red", "re", "eere", "greenred", "een", "dredge", "ere"]
    vocabulary, merges = _vocabulary(words)
    ranks = {pair: i for i, pair in enumerate(merges)}
    for word in words:
        assert _merge([*word[:-1], word[-1] + "</w>"], ranks) == [word + "</w>"]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))


def test_any_other_text_falls_into_known_letters() -> None:
    tokenizer = make_tokenizer()
    text = "A Violet ünïcorn, 7 stars! \u661f"
    numbers = tokenizer(text).input_ids[1:-1]
    assert tokenizer.unk_token_id not in numbers
    assert tokenizer.decode(numbers).replace(" ", "") == text.lower().replace(" ", "")


def test_what_it_cannot_hold_is_said() -> None:
    tokenizer = make_tokenizer(length=8)
    assert tokens(tokenizer, "a red star").tolist() == [
        [tokenizer.bos_token_id, *(tokenizer.get_vocab()[w] for w in ("a</w>", "red</w>", "star</w>")), *[tokenizer.eos_token_id] * 4]
    ]  # fmt: skip
    assert tokens(tokenizer, "a red star on the left").shape == (1, 8)
    with pytest.raises(ArgumentError, match="7 tokens, this model reads 6"):
        tokens(tokenizer, ["a red star", "a red star on the left corner"])
    with pytest.raises(UnknownNameError, match="reddish"):
        tokens(tokenizer, "a reddish star")
    with pytest.raises(ArgumentError, match="a prompt is a str"):
        tokens(tokenizer, [])
    with pytest.raises(ArgumentError, match="at least 3"):
        make_tokenizer(length=2)
    with pytest.raises(ArgumentError, match="ASCII"):
        make_tokenizer(["étoile"])


# -- the folder


def test_the_stock_pipeline_loads_and_runs_it(made: tuple[Path, dict[str, Any]]) -> None:
    folder, own = made
    pipe = stock(folder)
    pictures = pipe(PROMPTS[0], num_inference_steps=2, output_type="np").images
    assert pictures.shape == (1, 64, 64, 3)
    assert pipe.vae.config.scaling_factor == 0.7
    assert (pipe.safety_checker, pipe.feature_extractor, pipe.config.requires_safety_checker) == (None, None, False)
    for name in ("vae", "text_encoder", "unet"):
        theirs, ours = getattr(pipe, name).state_dict(), own[name].state_dict()
        assert set(theirs) == set(ours)
        assert all(torch.equal(theirs[k], ours[k].half().float()) for k in ours), name
    texts = [*PROMPTS, ""]
    numbers = pipe.tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    assert torch.equal(numbers, tokens(own["tokenizer"], texts))
    settings = {k: v for k, v in own["scheduler"].config.items() if not k.startswith("_")}
    assert {k: pipe.scheduler.config[k] for k in settings} == settings


def test_the_tokenizer_reads_from_vocabulary_and_merges_alone(made: tuple[Path, dict[str, Any]]) -> None:
    folder, own = made
    assert {f.name for f in (folder / "tokenizer").iterdir()} == {
        "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json",
    }  # fmt: skip
    assert json.loads((folder / "tokenizer/vocab.json").read_text()) == own["tokenizer"].get_vocab()


def test_files_are_half_precision_small_and_no_pickles(made: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = made
    files = [f for f in folder.rglob("*") if f.is_file()]
    assert {f.suffix for f in files} == {".json", ".txt", ".safetensors"}
    assert all(f.stat().st_size < 15_000_000 for f in files)
    assert {f.name for f in folder.iterdir()} == {*PARTS, "model_index.json", "card.json"}
    for file in folder.rglob("*.safetensors"):
        assert all(v.dtype == torch.float16 for v in read_tensors(file)[0].values() if v.is_floating_point())


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    own = parts()
    target = tmp_path / "shapes"
    with pytest.raises(FileError, match="would have"):
        write_pipeline(target, **own, largest=20_000)
    assert list(tmp_path.iterdir()) == []
    write_pipeline(target, **own, card={"a": 1})
    broken = make_unet(**UNET)
    with torch.no_grad():
        next(broken.parameters()).fill_(1e6)
    with pytest.raises(ArgumentError, match="half precision"):
        write_pipeline(target, **own | {"unet": broken}, card={"a": 2})
    assert json.loads((target / "card.json").read_text()) == {"a": 1}
    write_pipeline(target, **own, card={"a": 3})
    assert json.loads((target / "card.json").read_text()) == {"a": 3}
    assert [f.name for f in tmp_path.iterdir()] == ["shapes"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(FileError, match=r"has no model_index\.json, so it is not replaced"):
        write_pipeline(tmp_path / "mine", **own)


# -- the same computation as the stock pipeline's


@pytest.mark.parametrize("predicts", ["v", "eps"])
def test_guided_latents_are_those_of_the_stock_pipeline(tmp_path: Path, predicts: str) -> None:
    own = parts(predicts)
    pipe = stock(write_pipeline(tmp_path / "tiny", **own))
    start = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    theirs = pipe(PROMPTS, latents=start, num_inference_steps=5, guidance_scale=3.0, output_type="latent").images
    model = text_to_image(
        unet=pipe.unet, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer, scheduler=pipe.scheduler, vae=pipe.vae
    )
    plan = rv.solve.plan("ddim", model.process, 5, grid="trailing")
    assert [round(float(stage.t)) for stage in plan.stages(None)] == [999, 799, 599, 399, 199]
    ours = rv.run(plan, model | rv.guide.CFG(3.0), start, cond=model.embed(PROMPTS))
    assert (ours - theirs).abs().max() < 1e-3 * theirs.abs().max()
    unguided = rv.run(plan, model, start, cond=model.embed(PROMPTS))
    assert (unguided - theirs).abs().max() > 1e-2 * theirs.abs().max()
    shown = pipe.vae.decode(theirs / 0.7).sample
    assert torch.allclose(model.decode(theirs), shown)
    again = pipe.vae.encode(shown).latent_dist.mean * 0.7
    assert torch.allclose(model.encode(shown), again)


def test_the_process_is_that_of_the_scheduler() -> None:
    scheduler = make_scheduler()
    process = process_of(scheduler)
    t = torch.tensor([0, 500, 999])
    x, eps = torch.ones(3, 2), torch.full((3, 2), -0.5)
    assert torch.allclose(process.perturb(x, t.double(), eps), scheduler.add_noise(x, eps, t), atol=1e-6)
    assert process.alpha(999.0) == pytest.approx(0.0154, abs=1e-3)


# -- what cannot work


def test_configurations_that_cannot_work_are_named() -> None:
    tokenizer = make_tokenizer()
    with pytest.raises(UnknownNameError, match="hidden_sizes"):
        make_text_encoder(tokenizer, hidden_sizes=3)
    with pytest.raises(ArgumentError, match="vocab_size follows"):
        make_text_encoder(tokenizer, vocab_size=3)
    with pytest.raises(ArgumentError, match="text encoder"):
        make_text_encoder(tokenizer, hidden_size=10, num_attention_heads=3)
    with pytest.raises(ArgumentError, match="unet-2d-condition"):
        make_unet(**UNET | {"norm_num_groups": 3})
    with pytest.raises(ArgumentError, match="unet-2d-condition"):
        make_unet(widths=[8])
    with pytest.raises(UnknownNameError, match="x0"):
        make_scheduler(predicts="x0")
    with pytest.raises(ArgumentError, match="beta_start"):
        make_scheduler(beta_start=0.1)


def test_an_autoencoder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="holds 0 models"):
        read_autoencoder(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps({"kind": "reverie-model"}))
    with pytest.raises(FileError, match="not a reverie-autoencoder"):
        read_autoencoder(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(FileError, match="no autoencoder"):
        read_autoencoder(tmp_path / "a.json")
