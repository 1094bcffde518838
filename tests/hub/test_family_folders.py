"""Folders of any family: shards, variants and precisions, parts that may be missing, and every way in which one can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import reverie as rv
import tiny_pipes
from reverie.base import ArgumentError, FileError
from reverie.hub.folder import read_parts, read_pipe
from reverie.nets import read_tensors, write_tensors
from tiny_pipes import PROMPTS

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion 3 in shards: five networks, three tokenizers."""
    folder = tmp_path_factory.mktemp("sd3") / "tiny"
    tiny_pipes.sd3().save_pretrained(folder, max_shard_size="20KB")
    return folder


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "copy"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dit") / "tiny"
    tiny_pipes.dit().save_pretrained(folder)
    return folder


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_shards_are_put_together(source: Path) -> None:
    assert len(list((source / "transformer").glob("*-of-*.safetensors"))) > 2
    assert len(list((source / "text_encoder_3").glob("*-of-*.safetensors"))) > 1
    m, theirs = rv.load(source), rv.hub.model(tiny_pipes.sd3())
    told = m.embed(PROMPTS)
    assert all(torch.equal(told[key], theirs.embed(PROMPTS)[key]) for key in told)
    assert torch.equal(m(X, 0.7, **told).raw, theirs(X, 0.7, **told).raw)


def test_a_missing_or_damaged_shard_is_told(folder: Path) -> None:
    shard = sorted((folder / "text_encoder_3").glob("*-of-*.safetensors"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match=r"the text_encoder_3 in .* cannot be read"):
        rv.load(folder)
    shard.unlink()
    with pytest.raises(FileError, match=r"the text_encoder_3 in .* cannot be read"):
        rv.load(folder)
    for shard in (folder / "transformer").glob("*-00002-of-*.safetensors"):
        shard.unlink()
    with pytest.raises(FileError, match=r"the transformer in .* cannot be read"):
        rv.load(folder)


def test_weights_that_do_not_fit_their_config_are_told(folder: Path) -> None:
    shard = sorted((folder / "text_encoder_3").glob("*-of-*.safetensors"))[0]
    tensors = read_tensors(shard)[0]
    lost = next(iter(tensors))
    write_tensors(shard, {k: v for k, v in tensors.items() if k != lost}, {"format": "pt"})
    with pytest.raises(FileError, match=r"text_encoder_3.* (do not fit its config|cannot be read)"):
        rv.load(folder)
    change(folder / "transformer/config.json", num_layers=3)
    with pytest.raises(FileError, match=r"the transformer in .* cannot be read: .*transformer_blocks"):
        rv.load(folder)


def test_t5_may_be_left_out_and_others_may_not(folder: Path) -> None:
    index = folder / "model_index.json"
    change(index, text_encoder_3=[None, None], tokenizer_3=[None, None])
    shutil.rmtree(folder / "text_encoder_3")
    parts = read_parts(folder)
    assert parts["text_encoder_3"] is parts["tokenizer_3"] is None
    assert rv.load(folder).embed(PROMPTS)["encoder_hidden_states"].shape == (2, 12 + 256, 32)
    for name in ("transformer", "vae", "scheduler"):
        change(index, **{name: [None, None]})
        with pytest.raises(FileError, match=rf"has no {name}: its model_index.json says \[None, None\]"):
            rv.load(folder)
        change(index, **json.loads(json.dumps({name: ["diffusers", KINDS[name]]})))
    change(index, text_encoder=["transformers", "CLIPTextModel"])
    with pytest.raises(FileError, match=r"transformers.CLIPTextModel, CLIPTextModelWithProjection is needed"):
        rv.load(folder)
    change(index, text_encoder=[None, None], tokenizer=[None, None])
    m = rv.load(folder)
    assert m.null is None
    with pytest.raises(ArgumentError, match="lacks one of CLIP's text encoders; give cond="):
        m.embed("a star")


KINDS = {"transformer": "SD3Transformer2DModel", "vae": "AutoencoderKL", "scheduler": "FlowMatchEulerDiscreteScheduler"}


@pytest.mark.parametrize("name", ["text_encoder_3", "transformer"])
def test_pickles_are_refused_in_any_part(folder: Path, name: str) -> None:
    for file in (folder / name).glob("*safetensors*"):
        file.unlink()
    with pytest.raises(FileError, match=r"has no weights: .*\.safetensors is missing"):
        rv.load(folder)
    (folder / name / "pytorch_model-00001-of-00002.bin").write_bytes(b"pickle")
    with pytest.raises(
        FileError, match=rf"weights of the {name} are a pickle.*refused.*DiffusionPipeline.*save_pretrained"
    ):
        rv.load(folder)


def test_a_variant_is_read_where_it_is_asked_for(tmp_path: Path) -> None:
    pipe = tiny_pipes.dit()
    pipe.save_pretrained(tmp_path)
    with torch.no_grad():
        for part in (pipe.transformer, pipe.vae):
            for parameter in part.parameters():
                parameter.mul_(0.5)
    pipe.save_pretrained(tmp_path / "half", variant="fp16")
    for name in ("transformer", "vae"):
        file = tmp_path / "half" / name / "diffusion_pytorch_model.fp16.safetensors"
        shutil.copy(file, tmp_path / name)
    told = {"class_labels": torch.tensor([3, 4])}
    answers = [
        m(X, 500.0, **told).raw
        for m in (rv.hub.model(tmp_path), rv.hub.model(tmp_path, variant="fp16"), rv.hub.model(tmp_path / "half"))
    ]
    assert torch.equal(answers[1], answers[2])
    assert not torch.equal(answers[0], answers[1])
    with pytest.raises(
        FileError, match=r"no weights of the variant 'int8'; it has diffusion_pytorch_model.fp16.safetensors, diff"
    ):
        rv.hub.model(tmp_path, variant="int8")


def test_weights_are_kept_in_the_precision_that_is_asked_for(source: Path, plain: Path) -> None:
    m = rv.load(source, dtype=torch.bfloat16)
    assert m.dtype == torch.bfloat16
    pipe = read_pipe(source, torch.bfloat16)
    assert {q.dtype for part in (pipe.transformer, pipe.vae, pipe.text_encoder) for q in part.parameters()} == {
        torch.bfloat16
    }
    told = m.embed(PROMPTS)
    assert told["encoder_hidden_states"].dtype == torch.bfloat16
    x = rv.sample(m, 2, cond=told, solver="euler", steps=2, grid="trailing", guide=rv.guide.CFG(2.0), batch=2)
    single = rv.load(source)
    y = rv.sample(
        single,
        2,
        cond=single.embed(PROMPTS),
        solver="euler",
        steps=2,
        grid="trailing",
        guide=rv.guide.CFG(2.0),
        batch=2,
    )
    assert x.dtype == y.dtype == torch.float32
    assert x.shape == (2, 3, 16, 16)
    assert 0 < float((x - y).abs().max()) < 0.2
    assert rv.load(plain).dtype == torch.float32
    # a network in half precision takes conditions in any
    mixed = {k: v.float() for k, v in told.items()}
    assert m(X, 0.5, **mixed).raw.dtype == torch.float32


def test_what_the_index_says_besides_parts_reaches_the_pipeline(plain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "copy"))
    change(folder / "model_index.json", id2label={"5": "electric ray, crampfish", "6": "stingray"})
    m = rv.load(folder)
    assert m.embed(["crampfish", 6])["class_labels"].tolist() == [5, 6]
    (folder / "card.json").write_text(json.dumps({"name": "fish", "sampling": {"solver": "ddim"}}))
    m = rv.load(folder, size=(32, 32))
    assert (m.name, m.sampling, m.shape, m.card["classes"][6]) == ("fish", {"solver": "ddim"}, (4, 16, 16), "stingray")
    assert rv.hub.model(folder, name="mine").name == "mine"


def test_what_is_no_folder_of_a_pipeline(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"not a pipeline: it has no model_index\.json"):
        rv.hub.model(tmp_path)
    with pytest.raises(FileError, match=r"not a pipeline"):
        rv.hub.model(tmp_path / "nowhere")
    for kind in ("UNet2DModel", "KandinskyPipeline", "os", ["a.py", "Mine"], None):
        change(folder / "model_index.json", _class_name=kind)
        with pytest.raises(
            FileError, match=r"no pipeline that Reverie can read \(.*StableDiffusion3Pipeline.*\).*rv.Model"
        ):
            rv.hub.model(folder)
    (folder / "model_index.json").write_text("{")
    with pytest.raises(FileError, match="not valid JSON"):
        rv.hub.model(folder)
    with pytest.raises(ArgumentError, match="only a pipeline's folder takes size"):
        rv.load("digits", size=(8, 8))


def test_parts_that_do_not_fit_each_other_are_a_file_error(folder: Path) -> None:
    with pytest.raises(ArgumentError, match="of multiples of 4 pixels"):
        rv.hub.model(folder, size=(15, 16))  # the caller's mistake, not the folder's
    change(folder / "vae/config.json", scaling_factor=1.5)
    assert rv.hub.model(folder).codec is not None
    change(folder / "scheduler/scheduler_config.json", invert_sigmas=True)
    with pytest.raises(FileError, match="cannot be sampled: a flow with invert_sigmas"):
        rv.hub.model(folder)
