"""`reverie sample` from a picture, under a mask, with a negative prompt and prompts of a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import reverie as rv
import tiny_pipes
from reverie.base import ArgumentError, FileError
from reverie.cli.begin import begun, read_mask, read_picture
from reverie.cli.parse import read_prompts
from reverie.nets import read_tensors


def gradient(path: Path, size: tuple[int, int] = (8, 8), mode: str = "L") -> Path:
    """Lighter from left to right."""
    image = Image.linear_gradient("L").rotate(90).resize(size)
    image.convert(mode).save(path)
    return path


def samples(path: Path) -> Tensor:
    return read_tensors(path)[0]["samples"]


def record(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        return json.loads(image.info["reverie"])


def test_pictures_are_cut_to_their_middle_and_scaled(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    image.paste((0, 0, 255), (10, 0, 30, 20))
    image.save(tmp_path / "wide.png")
    x, notes = read_picture(tmp_path / "wide.png", (3, 10, 10))
    assert x.shape == (1, 3, 10, 10)
    assert notes == [f"{tmp_path / 'wide.png'} is 40x20; its middle is scaled to 10x10"]
    assert x[0, :, 5, 5].tolist() == [-1.0, -1.0, 1.0]
    assert (x[0, 2] == 1).all(), "the red sides are cut away"
    exact, notes = read_picture(gradient(tmp_path / "g.png"), (1, 8, 8))
    with Image.open(tmp_path / "g.png") as image:
        want = torch.tensor(list(image.getdata())).reshape(8, 8) / 127.5 - 1
    assert torch.allclose(exact[0, 0], want)
    assert notes == []
    mask = read_mask(tmp_path / "g.png", (8, 8))
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(mask[0, 0], (want > 0).float())


def test_prompts_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\ufeff# three\n a cat \n\na dog\n", encoding="utf-8")
    assert read_prompts(tmp_path / "p.txt") == ["a cat", "a dog"]
    (tmp_path / "none.txt").write_text("# nothing\n")
    with pytest.raises(FileError, match="holds no prompt; write one a line"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(FileError, match="is no text in UTF-8"):
        read_prompts(tmp_path / "b.txt")


def test_from_a_picture(call: Callable[..., Any], tmp_path: Path) -> None:
    gradient(tmp_path / "in.png")
    answer = call(
        "sample",
        "digits",
        "7",
        "-n",
        3,
        "--init",
        "in.png",
        "--strength",
        0.5,
        "--steps",
        4,
        "--grid",
        "logsnr",
        "-o",
        "out.safetensors",
    )
    assert answer.exit_code == 0, answer.output
    m, (picture, _) = rv.load("digits"), read_picture(tmp_path / "in.png", (1, 8, 8))
    cond = m.embed(["7"] * 3)
    want = rv.sample(m, 3, init=picture.expand(3, 1, 8, 8), span=(0.5, 0.0), steps=4, grid="logsnr", cond=cond)
    assert torch.equal(samples(tmp_path / "out.safetensors"), want)
    near = [
        (rv.sample(m, 3, init=picture.expand(3, 1, 8, 8), span=(s, 0.0), steps=4, cond=cond) - picture).norm()
        for s in (0.2, 0.9)
    ]
    assert near[0] < near[1]
    call(
        "sample",
        "digits",
        "7",
        "-n",
        2,
        "--init",
        "in.png",
        "--strength",
        0.5,
        "--steps",
        4,
        "--grid",
        "logsnr",
        "-o",
        "more/",
    )
    said = record(tmp_path / "more/000001.png")
    assert (said["init"], said["strength"]) == ("in.png", 0.5)
    assert len(said["init_sha256"]) == 64


def test_under_a_mask(call: Callable[..., Any], tmp_path: Path) -> None:
    gradient(tmp_path / "in.png")
    half = Image.new("L", (8, 8), 0)
    half.paste(255, (4, 0, 8, 8))
    half.save(tmp_path / "mask.png")
    words = ("sample", "digits", "3,5", "-n", 4, "--init", "in.png", "--mask", "mask.png", "--steps", 4)
    answer = call(*words, "-o", "out.safetensors")
    assert answer.exit_code == 0, answer.output
    m, (picture, _) = rv.load("digits"), read_picture(tmp_path / "in.png", (1, 8, 8))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    got = samples(tmp_path / "out.safetensors")
    want = rv.edit.inpaint(m, picture, mask, 4, steps=4, cond=m.embed(["3", "5", "3", "5"]))
    assert torch.equal(got, want)
    assert torch.equal(got[..., :4], picture[..., :4].expand(4, 1, 8, 4))
    assert not torch.equal(got[0, ..., 4:], got[2, ..., 4:])
    assert call(*words, "-o", "more/", "--format", "safetensors").exit_code == 0
    assert torch.equal(torch.cat(list(rv.data.samples(tmp_path / "more"))), want)


def test_networks_that_are_told_pictures(call: Callable[..., Any], tmp_path: Path) -> None:
    tiny_pipes.inpainting().save_pretrained(tmp_path / "paints")
    tiny_pipes.controlled().save_pretrained(tmp_path / "steered")
    gradient(tmp_path / "in.png", (64, 64), "RGB")
    Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
    words = ("a red circle", "-n", 2, "--steps", 2, "--guide", "cfg:3", "-o", "out.safetensors")
    for name, given in (("paints", {"init": "in.png", "mask": "mask.png"}), ("steered", {"control": "in.png"})):
        flags = [word for key, value in given.items() for word in (f"--{key}", value)]
        answer = call("sample", name, *words, *flags)
        assert answer.exit_code == 0, answer.output
        m = rv.load(tmp_path / name)
        size = tuple(m.decode(torch.zeros(1, *m.shape)).shape[1:])
        shown = read_picture(tmp_path / "in.png", size)[0] / 2 + 0.5
        told = {"image": shown} | ({"mask": torch.ones(1, 1, *size[1:])} if "mask" in given else {})
        want = rv.sample(m, 2, steps=2, cond=m.embed(["a red circle"] * 2, **told), guide=rv.guide.CFG(3.0))
        assert torch.allclose(samples(tmp_path / "out.safetensors"), want, atol=1e-5)
    assert "paints into a picture; give --init FILE and --mask FILE" in call("sample", "paints", *words).output
    assert "is steered by a picture; give --control FILE" in call("sample", "steered", *words).output
    assert "digits has no ControlNet; leave out --control" in call("sample", "digits", "--control", "in.png").output


def test_a_negative_prompt(call: Callable[..., Any], scenic: str, tmp_path: Path) -> None:
    words = ("sample", scenic, "a red circle", "-n", 2, "--steps", 2)
    assert call(*words, "--negative", "a blue star", "-o", "out.npy").exit_code == 0
    m = rv.load(scenic)
    plan, cond = rv.solve.plan_for(m, steps=2), m.embed(["a red circle"] * 2)
    away = m.with_null(m.embed("a blue star"))
    want = rv.sample(away, 2, plan=plan, cond=cond, guide=rv.guide.CFG(3.0))
    got = torch.from_numpy(__import__("numpy").load(tmp_path / "out.npy", allow_pickle=False))
    assert torch.equal(got, want)
    assert not torch.equal(got, rv.sample(m, 2, plan=plan, cond=cond, guide=rv.guide.CFG(3.0)))
    assert "there is no guide; give --guide cfg:5" in call(*words, "--negative", "a star", "--guide", "none").output
    assert (
        "reads no texts; leave out --negative"
        in call("sample", "digits", "7", "--guide", "cfg:2", "--negative", "3").output
    )


def test_prompts_from_a_file(call: Callable[..., Any], scenic: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a red circle\n# a comment\ntwo blue stars\n")
    assert call("sample", scenic, "--prompts", "p.txt", "-n", 3, "--steps", 2, "-o", "out.png").exit_code == 0
    assert record(tmp_path / "out.png")["prompts"] == ["a red circle", "two blue stars", "a red circle"]
    assert "not both" in call("sample", scenic, "a star", "--prompts", "p.txt").output
    assert "cannot read 'no.txt'" in call("sample", scenic, "--prompts", "no.txt").output


def test_what_does_not_fit(call: Callable[..., Any], tmp_path: Path) -> None:
    gradient(tmp_path / "in.png")
    (tmp_path / "no.png").write_text("no picture")
    assert (
        "--strength and --mask belong to --init FILE"
        in call("sample", "digits", "--strength", 0.5, "--mask", "in.png").output
    )
    assert "--strength lies in (0, 1], got 0" in call("sample", "digits", "--init", "in.png", "--strength", 0).output
    assert "'no.png' is no picture that can be read" in call("sample", "digits", "--init", "no.png").output
    assert "cannot read 'missing.png'" in call("sample", "digits", "--init", "missing.png").output
    assert call("plan", "ddim", "--process", "digits", "--steps", 3, "-o", "p.json").exit_code == 0
    assert (
        "a saved plan begins where it was compiled"
        in call("sample", "digits", "--init", "in.png", "--plan", "p.json").output
    )
    flat = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=rv.process.vp())
    with pytest.raises(ArgumentError, match="does not say what it makes"):
        begun(rv.Model(lambda x, t: x, flat.process), str(tmp_path / "in.png"), None, None)
