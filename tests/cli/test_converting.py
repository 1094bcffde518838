"""`reverie convert`: a pipeline's folder with another scheduler, for diffusers and for Reverie."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

import reverie as rv
from reverie.base import ArgumentError
from reverie.hub import Scheduler
from reverie.hub.save import save_pipeline

TEXT = "a red circle"


def test_a_folder_with_a_plan(call: Callable[..., Any], scenic: str, tmp_path: Path) -> None:
    m = rv.load(scenic)
    plan = rv.solve.plan("unipc-2", m.process, 3, grid="logsnr").replace(
        provenance=rv.solve.origin.origin(m | rv.guide.CFG(3.0))
    )
    plan.save(tmp_path / "three.json")
    answer = call("convert", scenic, "new", "--plan", "three.json")
    assert answer.exit_code == 0, answer.output
    assert "scheduler three.json" in answer.output
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "new")
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe.scheduler) is Scheduler
    latents = torch.randn(1, *m.shape, generator=torch.Generator().manual_seed(0))
    drawn = pipe(TEXT, num_inference_steps=3, guidance_scale=3.0, latents=latents, output_type="pt").images
    again = rv.load(tmp_path / "new")
    assert again.card == m.card
    assert again.process == m.process
    x = again.decode(rv.run(plan, again | rv.guide.CFG(3.0), latents, cond=again.embed(TEXT))) / 2 + 0.5
    assert (drawn - x.clamp(0, 1)).abs().max() < 1e-4


def test_solvers_options_and_half_precision(call: Callable[..., Any], scenic: str, tmp_path: Path) -> None:
    answer = call("convert", scenic, "new", "--solver", "ddim", "--grid", "karras:5", "--option", "eta=0.5", "--half")
    assert answer.exit_code == 0, answer.output
    config = json.loads((tmp_path / "new/scheduler/scheduler_config.json").read_text())
    assert (config["solver"], config["grid"], config["solver_options"]) == ("ddim", "karras:5", {"eta": 0.5})
    assert call("convert", "new", "same").exit_code == 0
    size = [(tmp_path / f"{p}/unet/diffusion_pytorch_model.safetensors").stat().st_size for p in ("new", "same")]
    assert size[0] < 0.7 * size[1]
    assert json.loads((tmp_path / "same/scheduler/scheduler_config.json").read_text())["solver"] == "ddim"
    a, b = rv.load(scenic), rv.load(tmp_path / "same")
    cond = a.embed([TEXT])
    assert torch.allclose(rv.sample(a, 1, nfe=2, cond=cond), rv.sample(b, 1, nfe=2, cond=cond), atol=1e-2)


def test_what_it_refuses(call: Callable[..., Any], scenic: str, tmp_path: Path) -> None:
    assert "'digits' is no pipeline of diffusers" in call("convert", "digits", "new").output
    assert "unknown solver 'dpmpp-9m'" in call("convert", scenic, "new", "--solver", "dpmpp-9m").output
    assert "belong to a solver; name one with --solver" in call("convert", scenic, "new", "--grid", "karras").output
    assert "leave --plan out" in call("convert", scenic, "new", "--plan", "p.json", "--solver", "ddim").output
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    assert "has no model_index.json, so it is not replaced" in call("convert", scenic, "mine").output
    assert (tmp_path / "mine/letter.txt").read_text() == "dear"
    assert not (tmp_path / "new").exists()
    with pytest.raises(ArgumentError, match="a pipeline of diffusers, or its folder, is needed"):
        save_pipeline(3, tmp_path / "new")
    with pytest.raises(ArgumentError, match=r"pipe\.half\(\) makes"):
        save_pipeline(StableDiffusionPipeline.from_pretrained(scenic), tmp_path / "new", half=True)
    with pytest.raises(ArgumentError, match="grid belong to a solver"):
        save_pipeline(scenic, tmp_path / "new", grid="karras")
