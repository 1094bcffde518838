"""The judge of shapes: what it reads, what distances in its features notice, what it refuses, and what it shares nothing with."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reverie.base import ArgumentError, FileError, ShapeError
from reverie.data import Scene, Thing, render, scenes
from reverie.measure import SceneJudge, frechet_distance, judge_shapes, kernel_distance, scene_judge
from reverie.measure.judge_shapes import KINDS, counts
from reverie.train.reading import blurred

N = 400
HELD = scenes(2 * N, split="heldout")  # halves that share no scene
PICTURES = render(HELD)


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    return scene_judge().features(PICTURES[:N])


def test_it_counts_every_kind_of_object_in_held_out_scenes() -> None:
    net = scene_judge()
    assert net.accuracy(PICTURES[:500], HELD[:500]) >= 0.96
    assert sum(p.numel() for p in net.parameters()) < 300_000
    assert not net.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in net.parameters())


def test_its_accuracy_is_a_share_of_right_readings() -> None:
    net, x, true = scene_judge(), PICTURES[:100], HELD[:100]
    right = (net.read(x, batch=30) == counts(true)).all(1)
    assert net.accuracy(x, true) == right.sum().item() / 100
    assert net.accuracy(x, [replace(s, things=()) for s in true]) == 0.0
    assert net.accuracy(x, [*true[1:], true[0]]) < 0.1


def test_counts_are_by_kind() -> None:
    two = Scene(
        (Thing("star", "blue", 14, 12, 16), Thing("star", "blue", 44, 44, 16), Thing("cross", "pink", 13, 45, 15))
    )
    made = counts([two, Scene()])
    assert made.shape == (2, len(KINDS))
    assert {KINDS[i]: n for i, n in enumerate(made[0].tolist()) if n} == {("star", "blue"): 2, ("cross", "pink"): 1}
    assert made[1].sum() == 0
    assert torch.equal(scene_judge().read(render([two])), made[:1])
    with pytest.raises(ArgumentError, match="no red hexagon"):
        counts([Scene((Thing("hexagon", "red", 20, 20, 12),))])


def test_features_are_what_its_looks_are_told_from_scaled_whatever_the_batch(features: torch.Tensor) -> None:
    net = scene_judge()
    assert features.shape == (N, 128)
    mean, var = net.scale.running_mean, net.scale.running_var
    assert mean is not None
    assert var is not None
    with torch.no_grad():
        raw = features[:50] * (var + net.scale.eps).sqrt() + mean
        torch.testing.assert_close(net.looks(raw), net(PICTURES[:50])[1], rtol=1e-3, atol=1e-3)
    assert 0.3 < features[:, :64].std(0).mean() < 1.5
    assert 0.3 < features[:, 64:].std(0).mean() < 1.5
    torch.testing.assert_close(net.features(PICTURES[:50], batch=7), features[:50], rtol=1e-4, atol=1e-4)


def test_features_of_the_first_half_are_of_the_objects() -> None:
    """Without objects they are where the sum over none is, and two objects far from each other are as far again from there as one."""
    net = scene_judge()
    one, other = Thing("circle", "red", 13, 13, 14), Thing("circle", "red", 51, 51, 14)
    none, single, both = net.features(render([Scene(()), Scene((one,)), Scene((one, other))]))[:, :64]
    assert 1.4 < ((both - none).norm() / (single - none).norm()).item() < 2.4


def test_it_tells_tone_blur_and_noise() -> None:
    net, x = scene_judge(), PICTURES[:200]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain, soft, rough = net(x)[1], net(blurred(x, torch.ones(200)))[1], net(x + 0.2 * noise)[1]
    tone = torch.tensor([[3 * ((a + b) / 2 - 0.5) for a, b in zip(*s.tones, strict=True)] for s in HELD[:200]])
    assert (plain[:, :3] - tone).abs().mean() < 0.1
    assert plain[:, 3].mean() < 0.3  # a blur of a fraction of a pixel cannot be told from none
    assert plain[:, 4].abs().mean() < 0.1
    assert (soft[:, 3].mean() - 2 / 1.5).abs() < 0.35  # of the largest blur, 1.5 pixels, told as 2
    assert (rough[:, 4].mean() - 2 * 0.2 / 0.3).abs() < 0.25


@pytest.fixture(scope="module")
def there() -> dict[str, list[torch.Tensor]]:
    """Features of the other half: as drawn, and blurred and made noisy more and more."""
    net, x = scene_judge(), PICTURES[N:]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return {
        "drawn": [net.features(x)],
        "blur": [net.features(blurred(x, torch.full((N,), s))) for s in (0.5, 0.8, 1.2)],
        "noise": [net.features(x + s * noise) for s in (0.05, 0.1, 0.2)],
    }


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize("spoilt", ["blur", "noise"])
def test_distances_grow_with_blur_and_noise(distance, spoilt: str, features: torch.Tensor, there) -> None:
    floor = distance(features, there["drawn"][0])
    low, middle, high = (distance(features, f) for f in there[spoilt])
    assert floor < low < middle < high
    assert high > 4 * max(floor, 0)


def test_two_halves_of_the_data_are_next_to_each_other(features: torch.Tensor, there) -> None:
    """The kernel distance has no bias, so it is about 0; the Fréchet distance has that of few samples."""
    drawn, high = there["drawn"][0], there["blur"][2]
    assert abs(kernel_distance(features, drawn)) < 0.1 * kernel_distance(features, high)
    assert frechet_distance(features, drawn) < 0.3 * frechet_distance(features, high)
    assert frechet_distance(features, drawn) > frechet_distance(features, features)


def test_distances_notice_contents(features: torch.Tensor, there) -> None:
    """Scenes that are as well drawn, but of other things: of one object only, or all blue."""
    net, drawn = scene_judge(), there["drawn"][0]
    few = torch.tensor([len(s.things) == 1 for s in HELD[N:]])
    same = drawn[: int(few.sum())]
    assert frechet_distance(features, drawn[few]) > 2 * frechet_distance(features, same)
    blue = [replace(s, things=tuple(replace(t, colour="blue", rgb=None) for t in s.things)) for s in HELD[N : N + 200]]
    there_blue = frechet_distance(features, net.features(render(blue)))
    assert there_blue > 2 * frechet_distance(features, drawn[:200])


def test_errors_name_what_is_wrong() -> None:
    net = scene_judge()
    for wrong in (torch.zeros(2, 1, 64, 64), torch.zeros(2, 3, 32, 32), torch.zeros(3, 64, 64)):
        with pytest.raises(ShapeError, match=r"reads pictures \(B, 3, 64, 64\), got"):
            net.features(wrong)
    with pytest.raises(ShapeError, match="one scene a picture"):
        net.accuracy(PICTURES[:2], HELD[:3])
    with pytest.raises(ShapeError, match="one scene a picture"):
        net.accuracy(PICTURES[:0], [])
    with pytest.raises(ArgumentError, match="multiples of 4"):
        SceneJudge(widths=(8, 8, 6))
    with pytest.raises(ArgumentError, match="three multiples"):
        SceneJudge(widths=(8, 8))


def test_a_damaged_file_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self)[:-10])
    scene_judge.cache_clear()
    with pytest.raises(FileError, match="install reverie again"):
        scene_judge()
    monkeypatch.undo()
    scene_judge.cache_clear()
    assert scene_judge() is scene_judge()


VERIFIER = ("scene", "segments", "templates", "colour", "background", "verifier", "benchmark", "categories")


def _imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_the_judge_and_the_verifier_share_nothing_but_the_data() -> None:
    file = Path(judge_shapes.__file__)
    ours = {name for name in _imports(file) if name.startswith("reverie")}
    assert ours
    assert all(name.startswith(("reverie.base", "reverie.data.things")) for name in ours)
    for name in VERIFIER:
        assert not any(
            "judge_shapes" in used or "scene_judge" in used for used in _imports(file.with_name(f"{name}.py"))
        )
