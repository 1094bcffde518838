from __future__ import annotations

from pathlib import Path

import pytest

RECIPE = """
name: small
net: {name: unet, args: {widths: [8, 8], depth: 1, heads: 0, embed: 16}}
steps: 4
batch: 8
save_every: 2
check_every: 4
"""


@pytest.fixture
def recipe(call):
    Path("recipe.yaml").write_text(RECIPE)
    return "recipe.yaml"


def test_a_recipe_becomes_a_model_that_samples(call, recipe):
    done = call("train", recipe, "-o", "run")
    assert done.exit_code == 0, done.output
    assert "run/small.safetensors  4 steps, heldout " in done.output
    assert "next: reverie sample run/small.json -o out.png" in done.output
    assert call("sample", "run/small.json", "-n", 2, "--steps", 1).exit_code == 0
    assert Path("out.png").exists()


def test_it_resumes_unless_fresh(call, recipe):
    call("train", recipe, "-o", "run")
    assert "resumed from" in call("train", recipe, "-o", "run").output
    assert "resumed from" not in call("train", recipe, "-o", "run", "--fresh").output


def test_steps_and_quiet(call, recipe):
    done = call("train", recipe, "-o", "run", "--steps", 2, "--quiet")
    assert done.output.startswith("run/small.safetensors  2 steps")


def test_ctrl_c_says_how_to_go_on(call, recipe, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt("stopped after step 3; saved here. The same command goes on")

    monkeypatch.setattr("reverie.train.train", stop)
    done = call("train", recipe)
    assert done.exit_code == 130
    assert "stopped after step 3; saved here. The same command goes on" in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("digit",), "did you mean 'digits'"),
        (("no.yaml",), "no.yaml does not exist"),
        (("recipe.yaml", "--steps", 0), "steps must be at least 1, got 0"),
        (("recipe.yaml", "-o", "recipe.yaml/x"), "cannot make the folder"),
    ],
)
def test_bad_input(call, recipe, words, said):
    done = call("train", *words)
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output
