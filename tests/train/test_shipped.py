"""What comes with the package is what its recipes made: same recipe, same figures, small files."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
import torch

from reverie.nets import read_tensors
from reverie.train import Recipe, load_recipe
from reverie.train.tasks import task

FOLDER = Path(str(resources.files("reverie")))
SHIPPED = {
    "digits": FOLDER / "hub/models/digits",
    "digits-judge": FOLDER / "measure/judge-digits",
    "shapes-judge": FOLDER / "measure/judge-shapes",
}


@pytest.mark.parametrize("name", SHIPPED)
def test_its_recipe_is_the_packages(name: str) -> None:
    card = json.loads(SHIPPED[name].with_suffix(".json").read_text())
    assert Recipe.of(card["recipe"]).spec() == load_recipe(name).spec()
    assert card["steps"] == card["recipe"]["steps"]


@pytest.mark.parametrize("name", SHIPPED)
def test_its_figures_are_those_of_its_weights(name: str) -> None:
    card = json.loads(SHIPPED[name].with_suffix(".json").read_text())
    weights, _ = read_tensors(SHIPPED[name].with_suffix(".safetensors"))
    assert all(v.dtype == torch.float16 for v in weights.values() if v.is_floating_point())
    work = task(Recipe.of(card["recipe"]))
    work.net.load_state_dict(weights)
    work.net.eval()
    with torch.no_grad():
        figures = work.check()
    assert figures == pytest.approx({k: card["figures"][k] for k in figures}, rel=1e-3)


def test_together_they_are_under_a_megabyte_and_a_half() -> None:
    sizes = [SHIPPED[n].with_suffix(s).stat().st_size for n in SHIPPED for s in (".safetensors", ".json")]
    assert sum(sizes) < 1_500_000
