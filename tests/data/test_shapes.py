"""The shapes: the same bits in any batch, and nothing else is touched."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

from reverie.base import ArgumentError, Noise, UnknownNameError
from reverie.data import render, scene, scenes, shapes
from reverie.data.things import COLOURS, SHAPES


def test_a_scene_is_the_same_in_any_batch_order_and_subset() -> None:
    x, captions = shapes(70, seed=3)
    for ids in ([7], [69, 0, 13], list(range(69, -1, -1)), list(range(17, 53))):
        y, some = shapes(ids, seed=3)
        assert torch.equal(y, x[ids])
        assert some == [captions[i] for i in ids]
    assert torch.equal(shapes(torch.tensor([5, 2]), seed=3)[0], x[[5, 2]])
    drawn = scenes(70, seed=3)
    assert scene(11, seed=3) == drawn[11]
    for chunk in (1, 7, 70):
        assert torch.equal(render(drawn, chunk), x)


def test_pictures_are_as_promised() -> None:
    x, captions = shapes(40)
    assert x.shape == (40, 3, 64, 64)
    assert x.dtype == torch.float32
    assert -1 <= x.min() < -0.5 < 0.5 < x.max() <= 1
    assert len(captions) == 40
    assert shapes([])[0].shape == (0, 3, 64, 64)


def test_seeds_and_splits_are_different_streams() -> None:
    a, b, c = (set(scenes(200, seed=s, split=w)) for s, w in ((0, "train"), (1, "train"), (0, "heldout")))
    assert len(a) == len(b) == len(c) == 200
    assert len(a | b | c) == 600


def test_the_global_generators_are_left_alone() -> None:
    state = torch.get_rng_state()
    first = shapes(4)[0]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    assert torch.equal(shapes(4)[0], first)


def test_drawing_takes_a_few_times_as_long_as_the_noise_of_as_many_pictures() -> None:
    shapes(64), Noise(0).normal((3, 64, 64), range(64))

    def seconds(work: object) -> float:
        start = time.process_time()
        work()  # type: ignore[operator]
        return time.process_time() - start

    ratio = min(
        seconds(lambda: shapes(256)) / seconds(lambda: Noise(0).normal((3, 64, 64), range(256))) for _ in range(4)
    )
    assert ratio < 12  # about 3; drawn one by one it is 25


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import reverie.data, reverie.measure;"
        "print({m.split('.')[0] for m in set(sys.modules) - before})"
    )
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not any(name in names for name in ("scipy", "sklearn", "skimage", "PIL", "matplotlib"))


def test_pairs_to_avoid_do_not_occur() -> None:
    barred = [("red", "circle"), ("blue", "star"), ("cyan", "cross")]
    kept, all_ = scenes(400, avoid=barred), scenes(400)
    assert not any((t.colour, t.shape) in barred for s in kept for t in s.things)
    clean = [not any((t.colour, t.shape) in barred for t in s.things) for s in all_]
    assert 0 < sum(clean) < 400
    assert all(a == b for a, b, ok in zip(kept, all_, clean, strict=True) if ok)  # the others are what they were


def test_what_cannot_be_drawn_from_is_named() -> None:
    with pytest.raises(UnknownNameError, match="heldout"):
        shapes(1, split="held")
    with pytest.raises(UnknownNameError, match="mauve"):
        shapes(1, avoid=[("mauve", "circle")])
    with pytest.raises(UnknownNameError, match="hexagon"):
        shapes(1, avoid=[("red", "hexagon")])
    with pytest.raises(ArgumentError, match="half of them"):
        shapes(1, avoid=[(c, s) for c in COLOURS for s in SHAPES])
    for index in (-1, 1.5, True, torch.zeros(2, 2, dtype=torch.long), [-1], [0.5]):
        with pytest.raises(ArgumentError, match="index"):
            shapes(index)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="seed"):
        shapes(1, seed=-1)
