"""Reading: exact on scenes as drawn, blurred or drawn by another hand, and no name for what is no shape."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from held_scenes import held, picture
from torch.nn import functional as F

from reverie.base import ArgumentError, NonFiniteError, ShapeError
from reverie.data import Thing, render, scenes, shapes
from reverie.data.things import OUTLINED, SHAPES
from reverie.measure import read, reward


def test_measurements_are_exact_to_a_pixel() -> None:
    drawn = scenes(200, seed=5, split="heldout")
    for s, seen in zip(drawn, read(render(drawn)), strict=True):
        assert seen.background == s.background
        assert len(seen.things) == len(s.things)
        for t in s.things:
            near = min(seen.things, key=lambda o: (o.x - t.x) ** 2 + (o.y - t.y) ** 2)
            assert (near.shape, near.colour, near.filled) == (t.shape, t.colour, t.filled)
            assert abs(near.x - t.x) < 0.5
            assert abs(near.y - t.y) < 0.5
            assert abs(near.size - t.size) < 0.8
            if t.shape != "circle":
                assert abs(near.angle - t.angle) < 6


def test_blur_does_not_change_a_size() -> None:
    """By a quarter of the pixels, which leaves a third of the smaller stars and crosses unreadable, but not their size."""
    drawn = scenes(200, seed=6, split="heldout")
    x = render(drawn)
    off = []
    for s, seen in zip(drawn, read(F.interpolate(F.avg_pool2d(x, 4), scale_factor=4, mode="bicubic")), strict=True):
        for t in s.things:
            near = min(seen.things, key=lambda o: (o.x - t.x) ** 2 + (o.y - t.y) ** 2)
            if near.shape == t.shape and near.filled == t.filled:
                off.append(near.size - t.size)
    assert len(off) > 300
    assert abs(sum(off) / len(off)) < 0.3


def test_it_reads_another_hand() -> None:
    """Drawn by Pillow at eight times the size and averaged, which shares nothing with the renderer."""
    import math

    import numpy as np
    from PIL import Image, ImageDraw

    def corners(shape: str, r: float) -> list[tuple[float, float]]:
        if shape == "star":
            radii = [r, 0.45 * r] * 5
            return [(q * math.sin(math.pi * k / 5), -q * math.cos(math.pi * k / 5)) for k, q in enumerate(radii)]
        if shape == "triangle":
            return [(r * math.sin(2 * math.pi * k / 3), -r * math.cos(2 * math.pi * k / 3)) for k in range(3)]
        if shape == "square":
            return [(-r, -r), (r, -r), (r, r), (-r, r)]
        w = 0.36 * r
        return [
            (-w, -r),
            (w, -r),
            (w, -w),
            (r, -w),
            (r, w),
            (w, w),
            (w, r),
            (-w, r),
            (-w, w),
            (-r, w),
            (-r, -w),
            (-w, -w),
        ]

    pictures, wanted = [], []
    for shape in SHAPES:
        for k, (colour, ink) in enumerate(
            (("red", (205, 45, 50)), ("blue", (50, 95, 205)), ("yellow", (245, 215, 70)))
        ):
            for filled in (True, False) if shape in OUTLINED else (True,):
                image = Image.new("RGB", (512, 512), (48, 50, 60) if k else (222, 226, 230))
                x, y, r = 170 + 90 * k, 300 - 60 * k, 64.0
                points = [(x + a, y + b) for a, b in corners(shape, r)]
                draw = ImageDraw.Draw(image)
                if shape == "circle":
                    draw.ellipse((x - r, y - r, x + r, y + r), fill=ink if filled else None, outline=ink, width=18)
                elif filled:
                    draw.polygon(points, fill=ink)
                else:
                    draw.polygon(points, outline=ink, width=18)
                small = np.asarray(image.resize((64, 64), Image.Resampling.BOX))
                pictures.append(torch.tensor(small).permute(2, 0, 1) / 127.5 - 1)
                wanted.append((shape, colour, filled, round(x / 8), round(y / 8)))
    for seen, want in zip(read(torch.stack(pictures)), wanted, strict=True):
        assert len(seen.things) == 1
        t = seen.things[0]
        assert (t.shape, t.colour, t.filled) == want[:3]
        assert max(abs(t.x - want[3]), abs(t.y - want[4])) < 1.2


def test_a_picture_is_read_alike_in_any_batch() -> None:
    x = held()[0][:70]
    whole = read(x)
    for s, alone in zip(whole[:9], (read(p[None])[0] for p in x[:9]), strict=True):
        assert [(t.shape, t.colour, t.filled) for t in s.things] == [
            (t.shape, t.colour, t.filled) for t in alone.things
        ]
        for a, b in zip(s.things, alone.things, strict=True):
            assert (a.x, a.y, a.size) == pytest.approx((b.x, b.y, b.size), abs=1e-3)
    assert read(x, batch=7)[69].things[0].shape == whole[69].things[0].shape
    assert [len(s.things) for s in read(x.double())] == [len(s.things) for s in whole]


def test_objects_that_touch_are_told_apart_by_colour() -> None:
    a, b = Thing("circle", "red", 20, 32, 20), Thing("square", "blue", 40, 32, 20)
    for gap in (0, -2, 2):
        seen = read(picture(a, replace(b, x=40.0 + gap)))[0]
        assert sorted((t.shape, t.colour) for t in seen.things) == [("circle", "red"), ("square", "blue")], gap


def test_what_is_no_shape_or_no_colour_is_not_given_a_name() -> None:
    merged = read(picture(Thing("circle", "red", 22, 32, 20), Thing("square", "red", 38, 32, 20)))[0]
    assert [t.shape for t in merged.things] == ["blob"]
    white, grey = (read(picture(Thing("circle", "red", 22, 32, 20, rgb=(v, v, v))))[0].things[0] for v in (0.97, 0.55))
    assert (white.colour, grey.colour) == ("other", "other")
    assert white.shape == "circle"
    assert read(picture())[0].things == ()
    noise = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert all(4 < len(s.things) <= 12 for s in read(noise))
    assert reward(noise, "a red circle").max() < 0.5


def test_reading_takes_no_longer_than_a_few_drawings() -> None:
    x = shapes(128)[0]
    read(x)

    def seconds(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    ratio = min(seconds(lambda: read(x)) / seconds(lambda: shapes(128)) for _ in range(4))
    assert ratio < 15  # about 3


def test_what_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    x = picture(Thing("circle", "red", 12, 14, 12))
    with pytest.raises(ShapeError, match=r"got \(1, 3, 32, 32\)"):
        read(x[..., :32, :32])
    with pytest.raises(ShapeError, match="got list"):
        read([])  # type: ignore[arg-type]
    with pytest.raises(NonFiniteError, match="the first is number 1") as caught:
        read(torch.cat([x, x * torch.nan]))
    assert caught.value.samples == (1,)
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    with pytest.raises(ArgumentError, match=r"reverie\[data\]"):
        read(x)
