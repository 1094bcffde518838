"""The patches: the same bits in any batch, cut from the photographs they should be, and from no others."""

from __future__ import annotations

import dataclasses
import socket
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from reverie.base import ArgumentError, Noise, UnknownNameError
from reverie.data import patches, photographs
from reverie.data.ids import listed

source = sys.modules["reverie.data.photographs"]
cutting = sys.modules["reverie.data.patches"]


def _clear() -> None:
    source.opened.cache_clear()
    cutting._pyramid.cache_clear()


@pytest.fixture
def fresh() -> Iterator[None]:
    """Nothing remembered, before and after."""
    _clear()
    yield
    _clear()


def _bytes(x: Tensor) -> Tensor:
    return ((x + 1) * 127.5).round().to(torch.uint8)


def _places(patch: Tensor, picture: Tensor) -> int:
    """How often a patch `(3, S, S)` stands in a picture `(3, H, W)`, upright or mirrored."""
    size = patch.shape[1]
    windows = picture.unfold(1, size, 1).unfold(2, size, 1)
    starts = windows[:, :, :, 0, 0]  # candidates by their first pixel, so that few windows are compared whole
    count = 0
    for one in (patch, patch.flip(2)):
        rows, columns = (starts == one[:, None, None, 0, 0]).all(0).nonzero(as_tuple=True)
        count += sum(
            bool(torch.equal(windows[:, r, c], one)) for r, c in zip(rows.tolist(), columns.tolist(), strict=True)
        )
    return count


def test_a_patch_is_the_same_in_any_batch_order_and_subset(monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "heldout"):
        x = patches(70, seed=3, split=split)
        for ids in ([7], [69, 0, 13], list(range(69, -1, -1)), list(range(17, 53))):
            assert torch.equal(patches(ids, seed=3, split=split), x[ids])
        assert torch.equal(patches(torch.tensor([5, 2]), seed=3, split=split), x[[5, 2]])
        with monkeypatch.context() as patch:
            patch.setattr(cutting, "_CHUNK", 7 * 32**2)
            assert torch.equal(patches(70, seed=3, split=split), x)


def test_patches_are_as_promised() -> None:
    x = patches(400)
    assert x.shape == (400, 3, 32, 32)
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    assert x.min() == -1
    assert x.max() == 1
    assert torch.equal(_bytes(x).float() / 127.5 - 1, x)
    assert patches([]).shape == (0, 3, 32, 32)
    assert patches(3, size=300, split="heldout").shape == (3, 3, 300, 300)
    assert patches(3, size=1).shape == (3, 3, 1, 1)


def test_seeds_splits_and_numbers_are_different_draws() -> None:
    draws = [patches(100, seed=s, split=w) for s, w in ((0, "train"), (1, "train"), (0, "heldout"))]
    assert len({row for x in draws for row in map(tuple, _bytes(x).flatten(1).tolist())}) >= 299


def test_the_global_generators_are_left_alone() -> None:
    state = torch.get_rng_state()
    first = patches(4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    assert torch.equal(patches(4), first)


def test_no_photograph_is_in_both_splits() -> None:
    train, held = photographs("train"), photographs("heldout")
    assert held.keys() == {"chelsea", "coffee"}
    assert not train.keys() & held.keys()
    files = [(p.folder, p.file) for p in source.PHOTOGRAPHS.values()]
    assert len(set(files)) == len(files) == len(train) + len(held)
    assert not any("right" in file for _, file in files), "the right picture shows the scene of the left"
    for x in (*train.values(), *held.values()):
        assert x.dtype == torch.float32
        assert (x.ndim, x.shape[0]) == (3, 3)
        assert min(x.shape[1:]) >= 300
        assert -1 <= x.min() < -0.4 < 0.4 < x.max() <= 1


def test_held_out_patches_are_cut_from_held_out_photographs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "FACTORS", (1.0,))
    cutting._pyramid.cache_clear()
    got = {split: _bytes(patches(6, split=split)) for split in ("train", "heldout")}
    cutting._pyramid.cache_clear()
    upright = {name for name, p in source.PHOTOGRAPHS.items() if not p.texture}
    for split, other in (("train", "heldout"), ("heldout", "train")):
        own, others = ([_bytes(x) for n, x in photographs(s).items() if n in upright] for s in (split, other))
        found = [sum(_places(x, picture) for picture in own) for x in got[split]]
        assert sum(f >= 1 for f in found) >= 4  # all but those from textures, which may be turned
        assert not any(_places(x, picture) for x in got[split] for picture in others)
    assert all(sum(_places(x, _bytes(p)) for p in photographs("heldout").values()) for x in got["heldout"])


@pytest.fixture
def ramp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tensor]:
    """One picture whose pixels say where they are, (row, column, row of its size), 40 high and 60 wide."""
    from PIL import Image

    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(60), indexing="ij")
    x = torch.stack([rows * 4, columns * 4, torch.full_like(rows, 7)], dim=2).to(torch.uint8)
    monkeypatch.setattr(cutting, "opened", lambda split: {"only": Image.fromarray(x.numpy())})
    monkeypatch.setattr(cutting, "FACTORS", (1.0,))
    cutting._pyramid.cache_clear()
    yield x.permute(2, 0, 1)
    cutting._pyramid.cache_clear()


@pytest.mark.parametrize("texture", [False, True])
def test_corners_reach_every_place_and_turns_are_those_of_a_square(
    ramp: Tensor, monkeypatch: pytest.MonkeyPatch, texture: bool
) -> None:
    monkeypatch.setitem(source.PHOTOGRAPHS, "only", source.Photograph((), "", "train", 1, texture))
    monkeypatch.setattr(cutting, "_contrast", lambda x: torch.zeros(len(x)))  # the first corner always
    x = _bytes(patches(6000, size=8)).long()
    assert bool((x[:, 2] == 7).all())
    row, column = x[:, 0].flatten(1).amin(1) // 4, x[:, 1].flatten(1).amin(1) // 4
    assert (row.unique().tolist(), column.unique().tolist()) == (list(range(33)), list(range(53)))
    corners = {}
    for patch, r, c in zip(x, row.tolist(), column.tolist(), strict=True):
        piece = ramp[:, r : r + 8, c : c + 8].long()
        kinds = {
            (m, u, t): v
            for m in (0, 1)
            for u in (0, 1)
            for t in (0, 1)
            for v in [piece.flip([d for d, on in ((2, m), (1, u)) if on])]
            for v in [v.transpose(1, 2) if t else v]
        }
        kind = [k for k, v in kinds.items() if torch.equal(v, patch)]
        assert len(kind) == 1
        corners[kind[0]] = corners.get(kind[0], 0) + 1
    assert corners.keys() == (set(kinds) if texture else {(0, 0, 0), (1, 0, 0)})
    assert min(corners.values()) > 6000 / len(corners) * 0.85


def test_of_two_corners_the_one_of_more_contrast_is_taken(ramp: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(source.PHOTOGRAPHS, "only", source.Photograph((), "", "train", 1))
    u = torch.full((2, 8), 0.9, dtype=torch.float64)
    u[0, 1:5], u[1, 1:5] = torch.tensor([0.1, 0.1, 0.6, 0.6]).double(), torch.tensor([0.6, 0.6, 0.1, 0.1]).double()
    plain = cutting._pyramid("train")
    flat = plain.pixels.clone()
    flat[: 60 * 16] = 7  # the upper part
    upper = plain.pixels.clone()
    upper[60 * 16 :] = 7
    for pixels, upside in ((flat, False), (upper, True)):
        x = cutting._cut(dataclasses.replace(plain, pixels=pixels), u, 8)
        assert torch.equal(x[0], x[1])
        assert (x[0, 0].min() < 4 * 16) == upside
    v = Noise(0).uniform((50, 3, 8, 8), [0])[0].mul(255).to(torch.uint8)
    variance = v.double().flatten(2).var(2, correction=0).sum(1) * 64**2
    torch.testing.assert_close(cutting._contrast(v).double(), variance)


def test_photographs_are_drawn_by_their_share_in_all_their_sizes() -> None:
    pyramid = cutting._pyramid("train")
    names, factors = list(photographs("train")), cutting.FACTORS
    assert len(pyramid.first) == len(names) * len(factors)
    for k, name in enumerate(names):
        whole = _bytes(photographs("train")[name])
        for j, factor in enumerate(factors):
            at = k * len(factors) + j
            size = int(pyramid.height[at]), int(pyramid.width[at])
            assert size == (round(whole.shape[1] / factor), round(whole.shape[2] / factor))
            pixels = pyramid.pixels[int(pyramid.first[at]) :][: size[0] * size[1]].reshape(*size, 3).permute(2, 0, 1)
            if factor == 1:
                assert torch.equal(pixels, whole)
            share = source.PHOTOGRAPHS[name].share / factor**0.5
            assert pyramid.share[at].item() == pytest.approx(share)
            means = pixels.double().mean((1, 2)), whole.double().mean((1, 2))
            torch.testing.assert_close(*means, rtol=0, atol=2.0)


def test_what_is_finer_than_the_new_pixels_is_averaged_out(ramp: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255).to(torch.uint8)
    monkeypatch.setattr(cutting, "opened", lambda split: {"camera": Image.fromarray(board.numpy()).convert("RGB")})
    monkeypatch.setattr(cutting, "FACTORS", (2.0,))
    cutting._pyramid.cache_clear()
    pixels = cutting._pyramid("train").pixels
    assert len(pixels) == 32 * 32
    assert (pixels.float() - 127.5).abs().mean() < 2  # every second pixel alone would have been all black or all white


def test_splits_draw_from_different_streams(ramp: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(source.PHOTOGRAPHS, "only", source.Photograph((), "", "train", 1))
    train, held = (patches(50, split=split, size=8) for split in ("train", "heldout"))  # of the same picture
    assert (train == held).flatten(1).all(1).sum() <= 2


def test_large_patches_are_cut_where_they_fit() -> None:
    pictures = [_bytes(x) for x in photographs("heldout").values()]
    for x in _bytes(patches(30, split="heldout", size=300)):
        assert sum(_places(x, picture) for picture in pictures) == 1


def test_without_the_packages_the_extra_is_named(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for missing, name in (("skimage", "scikit-image"), ("sklearn", "scikit-learn"), ("PIL", "Pillow")):
        with monkeypatch.context() as patch:
            for module in [m for m in sys.modules if m.partition(".")[0] == missing]:
                patch.delitem(sys.modules, module)
            patch.setitem(sys.modules, missing, None)
            with pytest.raises(ArgumentError, match=rf"{name}.*reverie\[data\]"):
                patches(1)
            with pytest.raises(ArgumentError, match=rf"{name}.*reverie\[data\]"):
                photographs()
    monkeypatch.setitem(source.PHOTOGRAPHS, "gone", source.Photograph(("skimage", "data"), "gone.png", "train", 1))
    with pytest.raises(ArgumentError, match=r"installed scikit-image has no readable gone\.png.*reverie\[data\]"):
        photographs()


def test_nothing_is_downloaded(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(photographs("train")) + len(photographs("heldout")) == 11
    patches(1), patches(1, split="heldout")


def test_pictures_handed_out_are_the_callers_own() -> None:
    before = patches(2, split="heldout")
    for x in photographs("heldout").values():
        x.zero_()
    assert photographs("heldout")["chelsea"].abs().mean() > 0.1
    assert torch.equal(patches(2, split="heldout"), before)


def test_what_cannot_be_cut_is_named() -> None:
    for call in (lambda: patches(1, split="held"), lambda: photographs("held")):
        with pytest.raises(UnknownNameError, match="heldout"):
            call()
    for index in (-1, 1.5, True, torch.zeros(2, 2, dtype=torch.long), [-1], [0.5]):
        with pytest.raises(ArgumentError, match="index"):
            patches(index)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="how many patches"):
        patches(-1)
    with pytest.raises(ArgumentError, match="seed"):
        patches(1, seed=-1)
    for size in (0, -3, 428, 32.0, True):
        with pytest.raises(ArgumentError, match=rf"size is {size}.*in \[1, 427\]"):
            patches(1, size=size)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"in \[1, 300\]"):
        patches(1, size=301, split="heldout")


def test_numbers_are_listed() -> None:
    assert listed(0, "patches") == []
    assert listed(torch.tensor([4, 1]), "patches") == [4, 1]
    assert listed(iter([3, 1]), "patches") == [3, 1]
