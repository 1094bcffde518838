"""The verifier: right on scenes as drawn and as an autoencoder leaves them, at chance on others' captions, and fooled by nothing else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from reverie.base import ArgumentError, NonFiniteError, ShapeError, UnknownNameError
from reverie.data import Scene, Thing, demands, parse, render, scenes, shapes
from reverie.data.captions import OUTLINED, SHAPES
from reverie.measure import Accuracy, accuracy, benchmark, calibration, category, prompts, read, reward
from reverie.measure.scene import CATEGORIES

N = 500


@lru_cache(maxsize=1)
def held() -> tuple[Tensor, list[str]]:
    return shapes(N, seed=21, split="heldout")


def blurred(x: Tensor, sigma: float) -> Tensor:
    w = torch.exp(-(torch.arange(-4, 5.0) ** 2) / (2 * sigma**2))
    w = w / w.sum()
    x = F.pad(x.flatten(0, 1)[:, None], (4, 4, 4, 4), mode="replicate")
    x = F.conv2d(F.conv2d(x, w.view(1, 1, 9, 1)), w.view(1, 1, 1, 9))
    return x.view(-1, 3, 64, 64)


def noisy(x: Tensor, y: Tensor, psnr: float) -> Tensor:
    """y with as much noise as brings it to that PSNR with x."""
    room = 4 * 10 ** (-psnr / 10) - (x - y).square().mean((1, 2, 3), keepdim=True)
    return y + room.clamp_min(0).sqrt() * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def cosines(x: Tensor, q: float = 0.25) -> Tensor:
    """As JPEG does it: the cosine transform of 8x8 blocks, coarser for the finer waves."""
    k = torch.arange(8.0)
    c = torch.cos((k + 0.5) * k[:, None] * torch.pi / 8) / 2
    c[0] /= 2**0.5
    step = q * (1 + k[:, None] + k) / 3
    z = c @ x.unfold(2, 8, 8).unfold(3, 8, 8) @ c.T
    y = c.T @ ((z / step).round() * step) @ c
    return y.permute(0, 1, 2, 4, 3, 5).reshape(x.shape)


DEGRADED: dict[str, Callable[[Tensor], Tensor]] = {
    "blur": lambda x: blurred(x, 0.9),
    "noise at 28 dB": lambda x: noisy(x, x, 28),
    "blur and noise at 28 dB": lambda x: noisy(x, blurred(x, 0.8), 28),
    "JPEG-like": cosines,
    "half the resolution": lambda x: noisy(x, F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bicubic"), 27.5),
    "colours shifted": lambda x: (
        blurred(x, 0.6) * torch.tensor([0.92, 1, 0.95]).view(3, 1, 1) + torch.tensor([0.05, -0.04, 0.04]).view(3, 1, 1)
    ),
}


def test_it_reads_what_was_drawn() -> None:
    assert accuracy(*held()).overall[0] >= 0.99


@pytest.mark.parametrize("name", DEGRADED)
def test_it_reads_what_an_autoencoder_leaves(name: str) -> None:
    x, captions = held()
    y = DEGRADED[name](x)
    assert 20 < 10 * torch.log10(4 / (x - y).square().mean()) < 36, "this is not what it is called"
    assert accuracy(y, captions).overall[0] >= 0.97


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


def test_others_captions_are_at_chance() -> None:
    x, captions = held()
    a = accuracy(x, captions[1:] + captions[:1])
    assert a.overall[0] < 0.02
    assert 0.1 < a.reward < 0.4
    assert a.kinds["shape"][0] < 0.35
    assert a.kinds["colour"][0] < 0.25


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


FULL = "a small red circle in the top left and a large outlined blue square on a dark background"
A, B = Thing("circle", "red", 12, 14, 12), Thing("square", "blue", 42, 42, 22, filled=False)
DARK, LIGHT = ((0.17, 0.18, 0.22),) * 2, ((0.92, 0.9, 0.85),) * 2
SHOWN = Scene((A, B), "dark", DARK)


def picture(*things: Thing, background: str = "dark") -> Tensor:
    return render([Scene(things, background, DARK if background == "dark" else LIGHT)])


@pytest.mark.parametrize(
    "changed",
    [
        picture(replace(A, colour="pink"), B), picture(A, replace(B, colour="purple")), picture(replace(A, shape="star", size=14), B),
        picture(A, replace(B, shape="triangle")), picture(A, replace(B, filled=True)), picture(replace(A, size=20), B),
        picture(A, replace(B, size=13)), picture(replace(A, x=50.0), B), picture(replace(A, y=50.0), B), picture(A), picture(B), picture(),
        picture(A, B, replace(A, x=50.0)), picture(A, B, background="light"), picture(replace(A, colour="blue"), replace(B, colour="red")),
    ],
)  # fmt: skip
def test_each_changed_attribute_of_the_picture_lowers_the_reward(changed: Tensor) -> None:
    assert reward(render([SHOWN]), FULL).item() == 1
    assert 0 <= reward(changed, FULL).item() < 1


@pytest.mark.parametrize(
    ("word", "other"),
    [
        ("red", "green"), ("blue", "cyan"), ("circle", "cross"), ("square", "triangle"), ("a small", "two small"), ("small", "large"),
        ("large", "small"), ("outlined", "filled"), ("top left", "bottom left"), ("top left", "center"), ("dark", "gray"),
        ("in the top left and", "below"), ("in the top left and", "to the right of"), (" and a", ", a yellow star and a"),
    ],
)  # fmt: skip
def test_each_changed_word_lowers_the_reward(word: str, other: str) -> None:
    text = FULL.replace(word, other).replace("two small red circle", "two small red circles")
    assert text != FULL
    assert 0 < reward(render([SHOWN]), text).item() < 1


def test_the_reward_is_the_share_of_demands_met() -> None:
    x = picture(A, B)
    assert reward(x, "a red circle and a blue square").tolist() == [1.0]
    assert reward(x, "a red circle and a green square").item() == pytest.approx(4 / 5)
    assert reward(x, "a green circle and a red square").item() == pytest.approx(3 / 5)
    assert reward(x, "a red circle").item() == pytest.approx(2 / 3)
    assert reward(x, "a blue square above a red circle").item() == pytest.approx(5 / 6)
    two = torch.cat([x, picture(A)])
    assert reward(two, ["a red circle and a square", "a red circle"]).tolist() == [1.0, 1.0]
    assert reward(two[:0], []).shape == (0,)


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


def test_prompts_are_of_their_category_and_can_be_met() -> None:
    texts = prompts(40, seed=1)
    assert [category(t) for t in texts] == [c for c in CATEGORIES for _ in range(40)]
    assert texts == prompts(40, seed=1) != prompts(40, seed=2)
    assert prompts(12, categories=["binding"]) == prompts(12)[-12:]
    requests = [parse(t) for t in texts]
    assert {ask.shape for r in requests for ask in r.asks} == set(SHAPES)
    assert {r.relations[0][1] for r in requests if r.relations} == {"left of", "right of", "above", "below"}
    for r in requests:
        assert len({(a.shape, a.colour) for a in r.asks}) == len(r.asks)
    binding = [r for r in requests if category(r) == "binding"]
    assert all(len({a.colour for a in r.asks}) == len({a.shape for a in r.asks}) == 2 for r in binding)


def test_accuracy_counts_by_category_and_by_kind() -> None:
    x = picture(A, B)
    texts = [
        "a red circle and a blue square",
        "a circle and a square",
        "a green circle and a blue square",
        "two circles",
    ]
    a = accuracy(x.expand(4, -1, -1, -1), texts)
    assert a.overall == (0.5, 4)
    assert a.categories == {"two objects": (1.0, 1), "binding": (0.5, 2), "counting": (0.0, 1)}
    assert a.kinds == {"count": (1.0, 4), "shape": (7 / 8, 8), "colour": (3 / 4, 4)}
    met = [[d.met for d in demands(parse(t), s)] for t, s in zip(texts, read(x) * 4, strict=True)]
    assert a.reward == pytest.approx(sum(sum(m) / len(m) for m in met) / 4)


def test_one_table_with_its_calibration() -> None:
    x, captions = held()
    made = benchmark(x[:40], captions[:40], autoencoder=lambda y: blurred(y, 0.8), n=40, name="model")
    assert list(made.columns) == ["model", "clean", "shuffled", "round trip"]
    lines = str(made).splitlines()
    assert lines[0].split() == ["n", "model", "clean", "shuffled", "round", "trip"]
    assert [line.split("  ")[1] for line in lines if line.startswith("  ")][1:7] == list(CATEGORIES)
    assert "100.0%" in next(line for line in lines if "overall" in line)
    assert set(calibration(4)) == {"clean", "shuffled"}
    assert isinstance(calibration(4)["clean"], Accuracy)
    assert "overall" in str(calibration(4)["clean"])


def test_errors_name_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    x = picture(A)
    with pytest.raises(ShapeError, match=r"got \(1, 3, 32, 32\)"):
        read(x[..., :32, :32])
    with pytest.raises(ShapeError, match="got list"):
        read([])  # type: ignore[arg-type]
    with pytest.raises(NonFiniteError, match="the first is number 1") as caught:
        read(torch.cat([x, x * torch.nan]))
    assert caught.value.samples == (1,)
    with pytest.raises(ShapeError, match="got 2 for 1"):
        reward(x, ["a circle"] * 2)
    with pytest.raises(ArgumentError, match="hexagon"):
        reward(x, "a hexagon")
    with pytest.raises(ShapeError, match="at least one"):
        accuracy(x[:0], [])
    with pytest.raises(ArgumentError, match="at least 2"):
        calibration(1)
    with pytest.raises(ArgumentError, match="at least 1"):
        prompts(0)
    with pytest.raises(UnknownNameError, match="counting"):
        prompts(1, categories=["count"])
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    with pytest.raises(ArgumentError, match=r"reverie\[data\]"):
        read(x)
