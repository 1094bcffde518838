"""The verifier: right on scenes as drawn and as an autoencoder leaves them, at chance on others' captions, and fooled by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from held_scenes import DARK, A, B, blurred, held, picture
from torch import Tensor
from torch.nn import functional as F

from reverie.base import ArgumentError, ShapeError
from reverie.data import Scene, demands, parse, render
from reverie.measure import accuracy, read, reward

FULL = "a small red circle in the top left and a large outlined blue square on a dark background"
SHOWN = Scene((A, B), "dark", DARK)


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


def test_others_captions_are_at_chance() -> None:
    x, captions = held()
    a = accuracy(x, captions[1:] + captions[:1])
    assert a.overall[0] < 0.02
    assert 0.1 < a.reward < 0.4
    assert a.kinds["shape"][0] < 0.35
    assert a.kinds["colour"][0] < 0.25


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


def test_errors_name_what_is_wrong() -> None:
    x = picture(A)
    with pytest.raises(ShapeError, match="got 2 for 1"):
        reward(x, ["a circle"] * 2)
    with pytest.raises(ArgumentError, match="hexagon"):
        reward(x, "a hexagon")
    with pytest.raises(ShapeError, match="at least one"):
        accuracy(x[:0], [])
