"""Recipes: what they refuse, by name and value."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from reverie.base import ArgumentError, FileError, UnknownNameError
from reverie.train import Recipe, load_recipe, recipes


@pytest.mark.parametrize("name", recipes())
def test_those_of_the_package_load_and_survive_a_round_trip(name: str) -> None:
    recipe = load_recipe(name)
    assert Recipe.of(recipe.spec()).spec() == recipe.spec()


def test_a_file_is_read_and_text_numbers_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nrate: 1e-3\nsteps: 5\ntimes: {law: uniform}\nclip: 2\n")
    recipe = load_recipe(path)
    assert (recipe.rate, recipe.steps, recipe.times.law, recipe.clip) == (1e-3, 5, "uniform", 2.0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"step": 5}, "did you mean 'steps'"),
        ({"times": {"means": 1}}, r"unknown recipe key 'times\.means'; did you mean 'times\.mean'"),
        ({"augment": {"shfit": 1}}, r"did you mean 'augment\.shift'"),
        ({"task": "denoise"}, "unknown task 'denoise'; did you mean 'denoising'"),
        ({"times": {"law": "normal"}}, "unknown law of times 'normal'"),
        ({"weight": "min_snr:5"}, "unknown weight 'min_snr:5'; did you mean 'min-snr'"),
        ({"precision": "bf16"}, "unknown precision 'bf16'; did you mean 'bfloat16'"),
    ],
)
def test_unknown_names_come_with_the_nearest(spec: dict, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        Recipe.of({"name": "x"} | spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"steps": 0}, "'steps' must be at least 1, got 0"),
        ({"steps": 2.5}, "'steps' must be of type int, got 2.5"),
        ({"steps": True}, "'steps' must be of type int, got True"),
        ({"batch": -1}, "'batch' must be at least 1"),
        ({"rate": 0}, "'rate' must be positive"),
        ({"rate": "fast"}, "'rate' must be a number, got 'fast'"),
        ({"rate": float("nan")}, "'rate' must be finite"),
        ({"ema": 1.0}, r"'ema' must be in \[0, 1\), got 1.0"),
        ({"drop": -0.1}, "'drop'"),
        ({"decay": -1}, "'decay' must be at least 0"),
        ({"warmup": -1}, "'warmup' must be at least 0"),
        ({"clip": 0}, "'clip' must be positive"),
        ({"seed": 2**32}, "'seed'"),
        ({"save_every": 0}, "'save_every'"),
        ({"check_every": 0}, "'check_every'"),
        ({"name": "a/b"}, "'name' must be a file name"),
        ({"net": "unet"}, "'net' must be a mapping, got 'unet'"),
        ({"net": {"args": {}}}, "'net' must be a mapping with a 'name'"),
        ({"times": {"std": 0}}, r"'times\.std' must be positive, got 0"),
        ({"times": 3}, "times must be a mapping"),
        ({"augment": {"shift": -1}}, r"'augment\.shift' must be at least 0"),
        ({"augment": {"scale": 1}}, r"'augment\.scale' must be below 1"),
        (
            {"weight": "min-snr:0"},
            "a weight is none, edm:DATA, min-snr:GAMMA or truncated-snr:GAMMA with a positive number, got 'min-snr:0'",
        ),
        ({"weight": 5}, "'weight' must be of type str, got 5"),
        ({"weight": "edm", "task": "classification"}, "'weight' must be 'none' for classification, got 'edm'"),
        ({"accumulate": 0}, "'accumulate' must be at least 1, got 0"),
        ({"kl": -1}, "'kl' must be at least 0, got -1"),
    ],
)
def test_values_are_checked_field_by_field(spec: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Recipe.of({"name": "x"} | spec)


def test_a_recipe_needs_a_name_and_to_be_a_mapping() -> None:
    with pytest.raises(ArgumentError, match="needs a 'name'"):
        Recipe.of({"steps": 3})
    with pytest.raises(ArgumentError, match="must be a mapping"):
        Recipe.of([1])  # type: ignore[arg-type]


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileError, match=r"none\.yaml does not exist; those of the package are digits"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        load_recipe("digit")
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: [\n")
    with pytest.raises(FileError, match="no valid YAML"):
        load_recipe(bad)
    bad.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(FileError, match="no valid YAML"):
        load_recipe(bad)
    bad.write_text("name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(FileError, match="no valid YAML"):
        load_recipe(bad)
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ArgumentError, match=r"reverie\[cli\]"):
        load_recipe("digits")
