from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from reverie.cli.app import app
from reverie.hub.pipeline import make_scheduler, make_text_encoder, make_unet, write_pipeline
from reverie.hub.tokenizer import make_tokenizer
from reverie.nets import build, write_tensors
from tiny_parts import TEXT, UNET, VAE

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny class-conditional model, random weights, in the format of house models."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    net = build("unet", {"widths": [8, 8], "depth": 1, "heads": 0, "embed": 16})
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    write_tensors(folder / "tiny.safetensors", {k: v.half() for k, v in net.state_dict().items()})
    card = {
        "format": 1,
        "kind": "reverie-model",
        "name": "tiny",
        "net": {"name": "unet", "args": net.config},
        "process": {"name": "vp-linear"},
        "predicts": "v",
        "label": "lam",
        "null": {"class_labels": 10},
        "shape": [1, 8, 8],
        "classes": [str(c) for c in range(10)],
    }
    (folder / "tiny.json").write_text(json.dumps(card))
    return str(folder)


@pytest.fixture(scope="session")
def scenic(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny text-to-image pipeline of random weights, that recommends a guide."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    vae, unet = build("autoencoder-kl", VAE), make_unet(**UNET)
    encoder = make_text_encoder(tokenizer, **TEXT)
    folder = tmp_path_factory.mktemp("scenic") / "scenic"
    card = {"name": "scenic", "vocabulary": "whole", "sampling": {"grid": "trailing", "guide": "cfg:3"}}
    parts = {"vae": vae, "text_encoder": encoder, "tokenizer": tokenizer, "unet": unet, "scheduler": make_scheduler()}
    return str(write_pipeline(folder, **parts, card=card))


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run `reverie` with words, in an empty folder; the answer has exit_code, output and exception."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner(env={"COLUMNS": "240", "NO_COLOR": "1", "TERM": "dumb", "REVERIE_DEVICE": "cpu"})

    def go(*words: object) -> Any:
        return runner.invoke(app, [str(w) for w in words], prog_name="reverie")

    return go
