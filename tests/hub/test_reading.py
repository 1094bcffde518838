"""Pipelines read from a folder: the same computation, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler
from test_pipeline import PROMPTS, parts

import reverie as rv
from reverie.base import ArgumentError, FileError, UnknownNameError
from reverie.hub.folder import read_parts, read_pipeline
from reverie.hub.pipeline import text_to_image, write_pipeline
from reverie.nets import read_tensors, write_tensors
from tiny_parts import UNET

CARD = {"name": "tiny", "vocabulary": "whole", "sampling": {"solver": "ddim", "grid": "trailing", "guide": "cfg:3"}}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    own = parts()
    return write_pipeline(tmp_path_factory.mktemp("pipeline") / "tiny", **own, card=CARD), own


@pytest.fixture
def folder(source: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(source[0], tmp_path / "copy"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_folder_is_the_model_that_was_written(source: tuple[Path, dict[str, Any]]) -> None:
    folder, own = source
    m = rv.load(folder)
    assert (m.name, m.shape, m.sampling) == ("tiny", (4, 16, 16), {"solver": "ddim", "grid": "trailing"})
    assert m.card == CARD
    for part in ("unet", "text_encoder", "vae"):
        own[part].load_state_dict({k: v.half().float() for k, v in own[part].state_dict().items()})
    theirs = text_to_image(**own)
    assert torch.equal(m.embed(PROMPTS)["encoder_hidden_states"], theirs.embed(PROMPTS)["encoder_hidden_states"])
    settings: dict[str, Any] = {"solver": "ddim", "steps": 3, "grid": "trailing", "guide": rv.guide.CFG(3.0)}
    one, two = (rv.sample(x, 2, cond=x.embed(PROMPTS), batch=2, **settings) for x in (m, theirs))
    assert one.shape == (2, 3, 64, 64)
    assert torch.equal(one, two)
    assert not any(q.requires_grad for q in m.net.parameters())
    assert not m.net.training


def test_a_model_of_a_folder_that_is_searched_has_a_name(
    source: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(source[0], tmp_path / "toy")
    monkeypatch.setenv("REVERIE_MODELS", f"{tmp_path / 'nowhere'}{os.pathsep}{tmp_path}")
    assert {"toy", "digits"} <= set(rv.hub.house_models())
    assert rv.load("toy").shape == (4, 16, 16)
    monkeypatch.delenv("REVERIE_MODELS")
    with pytest.raises(UnknownNameError, match="toy"):
        rv.load("toy")


def test_without_a_card_words_of_any_kind_are_read(folder: Path) -> None:
    with pytest.raises(UnknownNameError, match="reddish"):
        rv.load(folder).embed("a reddish star")
    (folder / "card.json").unlink()
    m = rv.load(folder)
    assert (m.name, m.card, m.sampling) == ("copy", {}, {})
    assert m.embed("a reddish star")["encoder_hidden_states"].shape == (1, 32, 16)
    with pytest.raises(ArgumentError, match="30 at most; shorten it"):
        m.embed("a red star " * 12)


def test_half_precision_variants_are_read(folder: Path) -> None:
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        (folder / part / f"{stem}.safetensors").rename(folder / part / f"{stem}.fp16.safetensors")
    m = rv.load(folder)
    assert m.dtype == torch.float32


def test_its_process_is_its_scheduler_s(folder: Path) -> None:
    before = rv.load(folder).process
    for scheduler in (DDPMScheduler, EulerDiscreteScheduler):
        config = json.loads((folder / "scheduler/scheduler_config.json").read_text())
        scheduler.from_config(config).save_pretrained(folder / "scheduler")
        change(folder / "model_index.json", scheduler=["diffusers", scheduler.__name__])
        assert rv.load(folder).process == before
    change(folder / "scheduler/scheduler_config.json", beta_end=0.012)
    assert rv.load(folder).process != before


# -- what cannot be read


def test_pickles_are_refused_with_how_to_convert_them(folder: Path) -> None:
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    torch.save(read_tensors(weights)[0], weights.with_suffix(".bin"))
    assert rv.load(folder).name == "tiny"  # the safetensors beside it are read
    weights.unlink()
    with pytest.raises(FileError, match=r"pickle.*diffusion_pytorch_model.bin.*refused.*save_pretrained"):
        rv.load(folder)


@pytest.mark.parametrize("name", ["vae", "text_encoder", "tokenizer", "unet", "scheduler"])
def test_a_missing_part_is_named(folder: Path, name: str) -> None:
    shutil.rmtree(folder / name)
    with pytest.raises(FileError, match=f"lacks the folder of its {name}"):
        rv.load(folder)
    (folder / name).mkdir()
    with pytest.raises(FileError, match=name):
        rv.load(folder)
    index = json.loads((folder / "model_index.json").read_text())
    del index[name]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(FileError, match=f"has no {name}"):
        rv.load(folder)


def test_damage_is_named(folder: Path) -> None:
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match="unet"):
        rv.load(folder)
    tensors = read_tensors_of(whole, folder)
    write_tensors(weights, dict(list(tensors.items())[1:]))
    with pytest.raises(FileError, match="unet"):
        rv.load(folder)
    weights.write_bytes(whole)
    (folder / "card.json").write_text("{")
    with pytest.raises(FileError, match=r"card.json.*not valid JSON"):
        rv.load(folder)
    (folder / "card.json").write_text("[]")
    with pytest.raises(FileError, match="not an object"):
        rv.load(folder)


def read_tensors_of(whole: bytes, folder: Path) -> dict[str, torch.Tensor]:
    (folder / "whole.safetensors").write_bytes(whole)
    return read_tensors(folder / "whole.safetensors")[0]


def test_other_pipelines_and_parts_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no pipeline \(model_index.json\)"):
        rv.load(tmp_path)
    with pytest.raises(FileError, match="not a pipeline"):
        read_parts(tmp_path)
    change(folder / "model_index.json", unet=["diffusers", "UNet2DModel"])
    with pytest.raises(FileError, match="UNet2DConditionModel is needed"):
        rv.load(folder)
    change(folder / "model_index.json", unet=["os", "system"])
    with pytest.raises(FileError, match=r"os.system"):
        rv.load(folder)
    change(folder / "model_index.json", unet=["diffusers", "UNet2DConditionModel"], scheduler=["diffusers", "NoSuch"])
    with pytest.raises(FileError, match="NoSuch, which the installed diffusers lacks"):
        rv.load(folder)
    change(folder / "model_index.json", _class_name="KandinskyPipeline")
    with pytest.raises(FileError, match=r"is a KandinskyPipeline, no .*FluxPipeline.*rv.Model\(net, process"):
        rv.load(folder)


def test_a_scheduler_without_a_known_process_is_refused(folder: Path) -> None:
    change(folder / "scheduler/scheduler_config.json", prediction_type="mystery")
    with pytest.raises(FileError, match="cannot be sampled"):
        read_pipeline(folder)
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps({"_class_name": "KarrasVeScheduler"}))
    change(folder / "model_index.json", scheduler=["diffusers", "KarrasVeScheduler"])
    with pytest.raises(FileError, match="KarrasVeScheduler has no noise levels that Reverie knows"):
        read_pipeline(folder)
    change(folder / "model_index.json", scheduler=["diffusers", "DiffusionPipeline"])
    with pytest.raises(FileError, match=r"diffusers.DiffusionPipeline, a scheduler of diffusers is needed"):
        read_pipeline(folder)


@pytest.mark.parametrize("said", [None, [], {"guide": 5}, {"sampler": "ddim"}])
def test_a_card_s_sampling_is_checked(folder: Path, said: object) -> None:
    change(folder / "card.json", sampling=said)
    with pytest.raises(FileError, match="says sampling"):
        rv.load(folder)


def test_a_network_of_another_size_is_refused(folder: Path) -> None:
    change(folder / "unet/config.json", block_out_channels=[8, 16])
    assert UNET["block_out_channels"] == [8, 8]
    with pytest.raises(FileError, match="unet"):
        rv.load(folder)
