"""`reverie sample` with a text-to-image pipeline: prompts in turn, the model's own guide, titles and records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.base import ArgumentError, UnknownNameError
from reverie.cli import parse
from reverie.cli.sheet import _wrapped, contact_sheet

ONE, TWO = "a red circle", "two blue stars above a green cross"


def record(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        return json.loads(image.info["reverie"])


def test_texts_are_taken_in_turn(call: Callable[..., Any], scenic: str, tmp_path: Path) -> None:
    answer = call("sample", scenic, ONE, TWO, "-n", 3, "--steps", 2, "-o", "out.png")
    assert answer.exit_code == 0, answer.output
    assert "2 calls and 4 network forwards each" in answer.output
    said = record(tmp_path / "out.png")
    assert said["prompts"] == [ONE, TWO, ONE]
    assert (said["prompt"], said["guide"]) == ([ONE, TWO], "cfg:3")
    assert "classes" not in said
    call("sample", scenic, ONE, TWO, "-n", 3, "--steps", 2, "-o", "raw.npy")
    m, plan = rv.load(scenic), rv.solve.plan_for(rv.load(scenic), steps=2)
    want = rv.sample(m, 3, plan=plan, cond=m.embed([ONE, TWO, ONE]), guide=rv.guide.CFG(3.0))
    got = torch.from_numpy(__import__("numpy").load(tmp_path / "raw.npy", allow_pickle=False))
    assert torch.equal(got, want)
    call("sample", scenic, TWO, "-n", 1, "--start", 1, "--steps", 2, "-o", "one.npy")
    alone = torch.from_numpy(__import__("numpy").load(tmp_path / "one.npy", allow_pickle=False))
    assert torch.equal(alone[0], want[1])


def test_a_guide_that_is_given_or_declined(call: Callable[..., Any], scenic: str, tmp_path: Path) -> None:
    answer = call("sample", scenic, ONE, "-n", 1, "--steps", 2, "--guide", "none", "-o", "out.png")
    assert "2 calls and 2 network forwards each" in answer.output
    assert record(tmp_path / "out.png")["guide"] is None
    call("sample", scenic, ONE, "-n", 1, "--steps", 2, "--guide", "cfg:7", "-o", "out.png")
    said = record(tmp_path / "out.png")
    assert (said["guide"], said["prompt"]) == ("cfg:7", ONE)
    assert "unknown guide 'pag'" in call("sample", scenic, ONE, "--guide", "pag").output


def test_nothing_said_is_the_null_condition(call: Callable[..., Any], scenic: str, tmp_path: Path) -> None:
    answer = call("sample", scenic, "-n", 2, "--steps", 2, "--guide", "none", "-o", "out.npy")
    assert answer.exit_code == 0, answer.output
    m = rv.load(scenic)
    want = rv.sample(m, 2, steps=2, cond=m.embed(["", ""]))
    got = torch.from_numpy(__import__("numpy").load(tmp_path / "out.npy", allow_pickle=False))
    assert torch.equal(got, want)


def test_a_folder_of_pictures_names_their_texts(call: Callable[..., Any], scenic: str, tmp_path: Path) -> None:
    assert call("sample", scenic, ONE, TWO, "-n", 3, "--steps", 2, "-o", "more/").exit_code == 0
    assert [record(tmp_path / f"more/{i:06d}.png")["prompts"] for i in range(3)] == [[ONE], [TWO], [ONE]]


def test_what_cannot_be_drawn_is_said(call: Callable[..., Any], scenic: str) -> None:
    assert "'crimson'" in call("sample", scenic, "a crimson circle").output
    assert "this model reads 30 at most" in call("sample", scenic, "a red circle " * 11).output
    with pytest.raises(UnknownNameError):
        parse.cycled(rv.load(scenic), ["a violet star"], [0])
    with pytest.raises(ArgumentError, match="takes no prompt, got 'cat'"):
        parse.cycled(rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=rv.process.vp()), ["cat", "dog"], [0])


def test_long_captions_are_wrapped_and_a_title_is_above() -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(10)
    lines = _wrapped("a small red circle above two large blue stars", font, 100)
    assert len(lines) > 1
    assert " ".join(lines) == "a small red circle above two large blue stars"
    assert all(font.getlength(line) <= 100 for line in lines)
    assert _wrapped("", font, 100) == [""]
    x = torch.zeros(4, 3, 32, 32)
    plain, titled, told = contact_sheet(x), contact_sheet(x, title="a star"), contact_sheet(x, ["a star " * 9] * 4)
    assert titled.width == plain.width == told.width
    assert titled.height > plain.height
    assert told.height > contact_sheet(x, ["a"] * 4).height


def test_pictures_of_another_size(call: Callable[..., Any], scenic: str, tmp_path: Path) -> None:
    answer = call("sample", scenic, ONE, "-n", 2, "--steps", 2, "--size", "24x16", "-o", "wide.npy")
    assert answer.exit_code == 0, answer.output
    m = rv.load(scenic, size=(16, 24))
    want = rv.sample(m, 2, steps=2, cond=m.embed([ONE, ONE]), guide=rv.guide.CFG(3.0))
    got = torch.from_numpy(__import__("numpy").load(tmp_path / "wide.npy", allow_pickle=False))
    assert got.shape == (2, 3, 16, 24)
    assert torch.equal(got, want)
    call("sample", scenic, ONE, "-n", 1, "--steps", 2, "--size", "24x16", "-o", "wide.png")
    assert record(tmp_path / "wide.png")["size"] == "24x16"


@pytest.mark.parametrize(
    ("size", "said"),
    [("24", "WIDTHxHEIGHT in pixels, such as 768x512, got '24'"), ("0x16", "got '0x16'"), ("7x16", "multiple")],
)
def test_sizes_that_cannot_be(call: Callable[..., Any], scenic: str, size: str, said: str) -> None:
    answer = call("sample", scenic, ONE, "--size", size, "-o", "out.png")
    assert answer.exit_code == 2
    assert said in " ".join(answer.output.split())
    assert "only a pipeline's folder takes size" in " ".join(call("sample", "digits", "--size", "8x8").output.split())
