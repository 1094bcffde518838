from __future__ import annotations

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import reverie as rv
from reverie.base import ArgumentError
from reverie.cli import page as pages
from reverie.cli import scenes, showcase
from reverie.cli.app import app
from reverie.cli.charts import COLOURS, curves
from reverie.measure import Judge


@pytest.fixture(scope="module")
def made(tmp_path_factory, scenic):
    """The demo, run once with an exact model of ten real digits, a pipeline and a judge of random weights, and small budgets: (output, folder,
    findings, ...)."""
    x, y = rv.data.digits("train")
    model = rv.oracle.Mixture(x[:10], 0.3, labels=y[:10], process=rv.process.vp(), name="ten")
    torch.manual_seed(0)
    judge = Judge().eval().requires_grad_(False)
    folder, kept = tmp_path_factory.mktemp("demo") / "out", []
    measure = showcase.measure

    def noted(*args):
        kept.append(measure(*args))
        return kept[0]

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "BUDGETS": (4, 6, 8),
            "FINE": 40,
            "COUNT": 10,
            "_ORDERS": (("ddim", {}),),
            "measure": noted,
        }.items():
            patch.setattr(showcase, name, value)
        for name in ("BUDGETS", "FINE", "COUNT"):
            patch.setattr(pages, name, getattr(showcase, name))
        load = rv.load
        patch.setattr("reverie.hub.load", lambda name: model if name == "digits" else load(name))
        patch.setattr(scenes, "STEPS", 2)
        patch.setattr("reverie.measure.judge", lambda: judge)
        done = CliRunner(env={"COLUMNS": "240"}).invoke(
            app, ["demo", "-o", str(folder), "--samples", "100", "--words", scenic]
        )
    assert done.exit_code == 0, done.output
    return done.output, folder, kept[0], model, judge


def test_the_page_is_whole_and_alone(made):
    output, folder, found = made[:3]
    assert f"{folder}/index.html" in output
    assert all(line in output for line in found.summary())
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert [f.name for f in folder.iterdir()] == ["index.html"]
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)  # nothing from elsewhere
    assert "url(http" not in text
    assert "@import" not in text
    assert text.count('<img src="data:image/png;base64,') == 2 * (1 + 3 * len(showcase.SOLVERS))
    assert text.count('<img class="colour" src="data:image/png;base64,') == 2 * len(scenes.PROMPTS)
    assert "guided cfg:3, 4 network forwards each" in text
    assert text.count("<svg ") == 2
    assert "prefers-color-scheme: dark" in text
    for solver in showcase.SOLVERS:
        assert f">{solver}</b>" in text
    assert _unclosed(text) == []


def _unclosed(text: str) -> list[str]:
    """Elements left open at the end; closing one that is not open fails."""

    class Stack(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "img", "input", "br"):
                self.open.append(tag)

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Stack()
    parser.feed(text)
    return parser.open


def test_the_figures_are_right(made):
    _, _, found, model, judge = made
    cond = {"class_labels": torch.arange(10)}
    fine = rv.sample(model, 10, solver="dpmpp-3m", nfe=40, cond=cond, batch=10)
    x = rv.sample(model, 10, solver="dpmpp-2m", nfe=6, cond=cond, batch=10)
    error = ((x - fine).flatten(1).norm(dim=1) / fine.flatten(1).norm(dim=1)).median()
    trial = found.trials[False, "dpmpp-2m", 6]
    assert trial.error == pytest.approx(error.item(), rel=1e-4)
    assert trial.calls == 6
    assert torch.equal(trial.pictures, x)
    assert torch.equal(found.fine[False], fine)
    assert found.trials[False, "heun", 6].calls == 5
    assert not torch.equal(found.fine[True], fine)
    assert found.real == judge.accuracy(*rv.data.digits("heldout"))
    many = rv.sample(model, 100, solver="ddim", nfe=4, cond={"class_labels": torch.arange(100) % 10}, seed=1, batch=200)
    assert found.of("ddim", 4).right == pytest.approx(judge.accuracy(many, torch.arange(100) % 10))
    features = judge.features(rv.data.digits("train")[0]), judge.features(many)
    assert found.of("ddim", 4).frechet == pytest.approx(rv.measure.frechet_distance(*features), rel=1e-3)
    assert found.of("dpmpp-2m", 50).calls == 50
    assert [check.order for _, check in found.orders] == [1]


def test_pictures_from_words_are_read(made, scenic):
    found = scenes.draw(rv.load(scenic), prompts=("a red circle", "two blue stars"))
    m = rv.load(scenic)
    said = ["a red circle"] * 2 + ["two blue stars"] * 2
    assert found.prompts == tuple(said)
    x = rv.sample(m, 4, steps=scenes.STEPS, cond=m.embed(said), guide=rv.guide.CFG(3.0), batch=4)
    assert torch.equal(found.pictures, x)
    assert found.rewards == tuple(rv.measure.reward(x, said).tolist())
    assert (found.guide, found.calls, found.forwards) == ("cfg:3", scenes.STEPS, 2 * scenes.STEPS)
    met = dataclasses.replace(found, rewards=(1.0, 0.5, 1.0, 0.0))
    assert met.summary().startswith("2 of 4 pictures from words")
    assert pages._scenes(met).count("✓</i>") == 2
    assert pages._scenes(met).count('class="missed"') == 2
    assert "<i>50%</i>" in pages._scenes(met)
    assert pages._scenes(None) == ""
    flat = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=rv.process.vp(), name="flat")
    with pytest.raises(ArgumentError, match="flat makes no pictures from words"):
        scenes.draw(flat)


def test_a_strip_is_the_ink_of_its_pictures():
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    data = base64.b64decode(pages.strip(x).removeprefix("data:image/png;base64,"))
    row = np.asarray(Image.open(io.BytesIO(data)))
    assert row.shape == (8, 26, 2)
    assert not row[..., 0].any()
    for i in range(3):
        assert (row[:, 9 * i : 9 * i + 8, 1] == ((x[i, 0] + 1) * 127.5).round().numpy()).all()


def test_a_chart_takes_the_colours_of_the_page():
    svg = curves({"ddim": [(4, 0.2), (8, 0.1)], "heun": [(4, 0.3), (8, 0.05)]}, (4, 8), "a")
    assert svg.startswith("<svg ")
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert not re.search(r'<svg [^>]*(?:width|height)="', svg)
    for name in ("ddim", "heun"):
        assert COLOURS[name] in svg
    assert svg == curves({"ddim": [(8, 0.1), (4, 0.2)], "heun": [(4, 0.3), (8, 0.05)]}, (4, 8), "a")


def test_another_kind_of_model_is_refused():
    flat = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=rv.process.vp())
    with pytest.raises(ArgumentError, match="needs a class-conditional model of 8x8 digits"):
        showcase.measure(flat, Judge())


def test_bad_input(call):
    Path("file").write_text("")
    done = call("demo", "-o", "file/x")
    assert done.exit_code == 2
    assert "cannot make the folder 'file/x'" in done.output
    assert call("demo", "--samples", 5).exit_code == 2
    assert "unknown model 'digit'" in call("demo", "--model", "digit").output
