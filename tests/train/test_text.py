"""A text-to-image training: it runs, resumes to the same bits, writes a pipeline, and says what cannot work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError, FileError, UnknownNameError
from reverie.data import shapes
from reverie.hub.folder import read_parts
from reverie.hub.pipeline import LARGEST, make_text_encoder, make_unet, read_autoencoder
from reverie.hub.tokenizer import make_tokenizer, tokens, write_tokenizer
from reverie.train import Recipe, Step, load_recipe, text, train
from reverie.train.text import TextToImage, latents
from tiny_parts import TRANSFORMER, UNET, VAE


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae")
    spec = {
        "name": "vae",
        "task": "autoencoding",
        "data": "shapes",
        "net": {"name": "autoencoder-kl", "args": VAE},
        "steps": 1,
        "batch": 2,
    }
    train(Recipe.of(spec), folder, quiet=True)
    return folder


@pytest.fixture
def spec(vae: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name, value in (("HELD", 4), ("DRAWS", 1), ("PROMPTS", 1), ("SHOWN", 2), ("STEPS", 2)):
        monkeypatch.setattr(text, name, value)
    return {
        "name": "tiny",
        "task": "text-to-image",
        "data": "shapes",
        "vae": str(vae),
        "scenes": 12,
        "net": {"name": "unet-2d-condition", "args": UNET},
        "text": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        "process": {"name": "scaled-linear"},
        "label": "t",
        "weight": "min-snr:5",
        "times": {"law": "uniform"},
        "steps": 3,
        "batch": 4,
        "save_every": 1,
        "check_every": 2,
        "picture_every": 2,
    }


def test_it_runs_resumes_to_the_same_bits_and_writes_a_pipeline(spec: dict[str, Any], tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    recipe = Recipe.of(spec)
    whole = train(recipe, tmp_path / "a", quiet=True)
    train(recipe, tmp_path / "b", quiet=True)
    sorted((tmp_path / "b").glob("checkpoint-*"))[-1].unlink()  # as if killed after the step before
    again = train(recipe, tmp_path / "b", quiet=True)
    assert {"heldout", "accuracy", "reward"} == set(whole.figures)
    ours, theirs = (sorted(t.weights.parents[1].rglob("*.*")) for t in (whole, again))
    assert len(ours) == len(theirs) > 10
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(ours, theirs, strict=True) if a.is_file())
    assert (tmp_path / "a/samples-00000002.png").is_file()
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "a/tiny")
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a red circle", num_inference_steps=1, output_type="np").images.shape == (1, 64, 64, 3)
    card = json.loads(whole.card.read_text())
    assert card["figures"] == whole.figures
    assert Recipe.of(card["recipe"]) == recipe
    logged = [json.loads(line) for line in (tmp_path / "a/train.jsonl").read_text().splitlines()]
    assert {"loss", "heldout", "accuracy"} <= set(logged[-1])


def _with_fewer_words(place: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(place, tmp_path / "fewer"))
    write_tokenizer(copy / "tokenizer", make_tokenizer(["a", "red", "circle"], length=32))
    return copy


def test_it_begins_with_a_finished_pipeline(spec: dict[str, Any], tmp_path: Path) -> None:
    first = train(Recipe.of(spec | {"steps": 1, "picture_every": 0}), tmp_path / "a", quiet=True)
    place = first.card.parent
    more = spec | {"begin": str(place), "seed": 1, "scenes": 8}
    made = TextToImage(Recipe.of(more))
    parts = read_parts(place)
    for name in ("unet", "text_encoder"):
        own = made.net[name].state_dict()
        assert all(torch.equal(v, own[k]) for k, v in parts[name].state_dict().items())
    assert made.vae.config.scaling_factor == parts["vae"].config.scaling_factor
    assert abs(made.train.scaling - parts["vae"].config.scaling_factor) > 1e-6, "other scenes have another scale"
    second = train(Recipe.of(more | {"steps": 1, "picture_every": 0}), tmp_path / "b", quiet=True)
    assert json.loads(second.card.read_text())["begun"] == made.begun
    other = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    net = {"name": "unet-2d-condition", "args": UNET | {"cross_attention_dim": 32}}
    with pytest.raises(ArgumentError, match="do not fit the recipe's network"):
        TextToImage(Recipe.of(more | {"text": other, "net": net}))
    with pytest.raises(ArgumentError, match="has another vocabulary"):
        TextToImage(Recipe.of(more | {"begin": str(_with_fewer_words(place, tmp_path))}))
    with pytest.raises(FileError, match="is not a pipeline"):
        TextToImage(Recipe.of(more | {"begin": str(tmp_path)}))


def test_a_transformer_on_straight_paths_under_a_finished_text_encoder(spec: dict[str, Any], tmp_path: Path) -> None:
    first = train(Recipe.of(spec | {"steps": 1, "picture_every": 0}), tmp_path / "a", quiet=True)
    place = first.card.parent
    flow = spec | {
        "net": {"name": "pixart-transformer-2d", "args": TRANSFORMER},
        "text": {"pipeline": str(place)},
        "process": {"name": "flow"},
        "predicts": "flow",
        "weight": "none",
        "steps": 2,
        "picture_every": 0,
    }
    made = TextToImage(Recipe.of(flow))
    assert set(made.net) == {"transformer"}
    loss = made.loss(Step(0))
    loss.backward()
    assert all(p.grad is None for p in made.text_encoder.parameters())
    parts = [made.loss(Step(0, part, 2)) for part in range(2)]
    assert torch.allclose(loss, sum(parts) / 2, rtol=1e-4)
    done = train(Recipe.of(flow), tmp_path / "b", quiet=True)
    theirs = read_parts(place)["text_encoder"].state_dict()
    ours = read_parts(done.card.parent)["text_encoder"].state_dict()
    for name, value in theirs.items():
        if value.is_floating_point():
            assert torch.equal(ours[name][: len(value)], value)
    m = rv.load(done.card.parent)
    assert m.process == rv.process.flow()
    assert rv.sample(m, 2, nfe=2, cond=m.embed(["a red circle", "two stars"])).shape == (2, 3, 64, 64)
    for change, error, match in (
        ({"predicts": "v"}, ArgumentError, "'flow' for pixart-transformer-2d"),
        ({"process": {"name": "scaled-linear"}}, ArgumentError, "'flow' for pixart-transformer-2d"),
        ({"process": {"name": "flow", "beta_end": 0.02}}, UnknownNameError, "process.beta_end"),
        ({"text": {"pipeline": str(place), "hidden_size": 16}}, ArgumentError, "a pipeline's path alone"),
    ):
        with pytest.raises(error, match=match):
            Recipe.of(flow | change)
    with pytest.raises(ArgumentError, match="has no transformer; begin with a model of the same layout"):
        TextToImage(Recipe.of(flow | {"begin": str(place)}))
    with pytest.raises(ArgumentError, match="caption_channels 24"):
        TextToImage(Recipe.of(flow | {"net": flow["net"] | {"args": TRANSFORMER | {"caption_channels": 24}}}))


def test_latents_are_made_once_and_damaged_parts_again(vae: Path, tmp_path: Path) -> None:
    net, digest = read_autoencoder(vae)
    tokenizer, told = make_tokenizer(), []
    whole = latents(net, tokenizer, 7, batch=2)
    kept = {"folder": tmp_path, "digest": digest, "part": 4, "batch": 2, "say": told.append}
    first = latents(net, tokenizer, 7, **kept)
    assert len(told) == 2
    assert torch.equal(first.mean, whole.mean)
    files = sorted((tmp_path / "latents").iterdir())
    files[1].write_bytes(files[1].read_bytes()[:-5])
    again = latents(net, tokenizer, 7, **kept)
    assert len(told) == 3
    assert torch.equal(again.mean, first.mean)
    assert torch.equal(again.tokens, first.tokens)
    latents(net, tokenizer, 7, **kept | {"digest": "another"})
    assert len(told) == 5
    x, captions = shapes(7)
    with torch.no_grad():
        exact = net.encode(x).latent_dist.mean
    assert torch.allclose(whole.mean.float(), exact, atol=2e-3)
    assert torch.equal(whole.tokens.long(), tokens(tokenizer, captions))
    assert whole.scaling == pytest.approx(1 / whole.mean.double().std().item())


def test_parts_of_a_batch_make_the_whole_and_dropped_captions_are_the_empty_prompt(spec: dict[str, Any]) -> None:
    made = TextToImage(Recipe.of(spec))
    whole = made.loss(Step(1))
    parts = [made.loss(Step(1, part, 2)) for part in range(2)]
    assert torch.allclose(whole, sum(parts) / 2, rtol=1e-5)
    always = TextToImage(Recipe.of(spec | {"drop": 0.9999999}))
    always.net.load_state_dict(made.net.state_dict())
    always.train.tokens[:] = 0
    told = always.loss(Step(1))
    always.train.tokens[:] = always.empty.to(torch.int16)
    assert torch.equal(told, always.loss(Step(1)))
    assert made.model.process.t_max == 999
    latent = made.vae.encode(shapes(12)[0]).latent_dist.mean * made.vae.config.scaling_factor
    assert latent.std().item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"vae": ""}, ArgumentError, "vae"),
        ({"data": "digits"}, ArgumentError, "data"),
        ({"label": "lam"}, ArgumentError, "label"),
        ({"predicts": "x0"}, ArgumentError, "predicts"),
        ({"augment": {"shift": 1.0}}, ArgumentError, "augment"),
        ({"net": {"name": "unet"}}, ArgumentError, "net.name"),
        ({"process": {"name": "vp-linear"}}, ArgumentError, "process.name"),
        ({"process": {"name": "scaled-linear", "beta": 1}}, UnknownNameError, "process.beta"),
        ({"process": {"name": "scaled-linear", "beta_end": 2}}, ArgumentError, "process.beta_end"),
        ({"scenes": 0}, ArgumentError, "scenes"),
        ({"picture_every": -1}, ArgumentError, "picture_every"),
        ({"task": "denoising"}, ArgumentError, "left out for denoising"),
        ({"weight": "min-snr:-1"}, ArgumentError, "min-snr"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(spec: dict[str, Any], change: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        Recipe.of(spec | change)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"vae": "no/such"}, FileError, "train it first"),
        ({"text": {"hidden_size": 8, "num_attention_heads": 2}}, ArgumentError, "cross_attention_dim"),
        ({"text": {"length": "long"}}, ArgumentError, "length"),
        ({"text": {"widht": 1}}, UnknownNameError, "widht"),
        ({"text": {"hidden_size": 16, "length": 12}}, ArgumentError, "tokens, this model reads 10"),
        ({"net": {"name": "unet-2d-condition", "args": UNET | {"sample_size": 8}}}, ArgumentError, "latents of shape"),
    ],
)
def test_parts_that_do_not_fit_are_refused(spec: dict[str, Any], change: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        TextToImage(Recipe.of(spec | change))


def test_the_recipe_of_the_package_is_valid() -> None:
    recipe = load_recipe("shapes")
    assert recipe.task == "text-to-image"
    assert Recipe.of(recipe.spec()) == recipe
    unet = make_unet(**recipe.net["args"])
    options = {k: v for k, v in recipe.text.items() if k != "length"}
    encoder = make_text_encoder(make_tokenizer(length=recipe.text["length"]), **options)
    sizes = [2 * sum(p.numel() for p in net.parameters()) for net in (unet, encoder)]
    assert max(sizes) < 0.98 * LARGEST  # with room for a header
