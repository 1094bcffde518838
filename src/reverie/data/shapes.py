"""Shapes: drawn 64x64 pictures of 1 to 4 coloured shapes, with captions that are true of them.

Scene i of a seed is a pure function of (seed, split, i): its numbers come from `reverie.base.Noise`, so it is the same in any
batch,

    scene_i = layout(u_k),   k the first attempt at which layout gives one,   u_k = Noise(seed).uniform(i, stage k),

and so are its picture, drawn pixel by pixel, and its caption, whose words are chosen by numbers of their own.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from reverie.base import ArgumentError, Noise, unknown
from reverie.data.drawing import render
from reverie.data.ids import listed
from reverie.data.layout import NUMBERS, layout
from reverie.data.things import COLOURS, SHAPES, Scene
from reverie.data.wording import caption

__all__ = ["scene", "scenes", "shapes"]

SPLITS = ("train", "heldout")
_SCENE, _WORDING = 0x5A0, 0x5A2  # streams, to which a split's number is added


def scenes(
    index: int | Iterable[int] | Tensor,
    seed: int = 0,
    split: str = "train",
    avoid: Iterable[tuple[str, str]] = (),
) -> list[Scene]:
    """The scenes of some numbers: scene i is the same whatever else is asked for.

    Args:
        index: how many (0 to index - 1), or their numbers, in [0, 2^48). seed: in [0, 2^64). split: "train" or "heldout", which
            share nothing but the distribution. avoid: pairs (colour, shape) that no scene may show, for tests of new combinations;
            a scene that has one is drawn again.

    Raises:
        UnknownNameError: another split, colour or shape. ArgumentError: an index or seed outside its range, or nothing left to show.

    >>> scenes([7, 3])[1] == scenes(4)[3]
    True
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    barred = frozenset(avoid)
    for colour, shape in barred:
        if colour not in COLOURS:
            raise unknown("colour", colour, COLOURS)
        if shape not in SHAPES:
            raise unknown("shape", shape, SHAPES)
    if len(barred) > len(COLOURS) * len(SHAPES) // 2:
        raise ArgumentError(f"avoid bars {len(barred)} of {len(COLOURS) * len(SHAPES)} pairs; bar half of them at most")
    ids = listed(index, "scenes")
    out: list[Scene | None] = [None] * len(ids)
    noise, stream, attempt = Noise(seed), _SCENE + SPLITS.index(split), 0
    left = list(range(len(ids)))
    while left:
        numbers = noise.uniform((NUMBERS,), [ids[k] for k in left], stage=attempt, stream=stream).tolist()
        for k, row in zip(left, numbers, strict=True):
            out[k] = layout(row, barred)
        left, attempt = [k for k in left if out[k] is None], attempt + 1
    return out  # type: ignore[return-value]


def scene(i: int, seed: int = 0, split: str = "train") -> Scene:
    """Scene i of a seed and split.

    >>> 1 <= len(scene(5).things) <= 4
    True
    """
    return scenes([i], seed, split)[0]


def shapes(
    index: int | Iterable[int] | Tensor,
    seed: int = 0,
    split: str = "train",
    avoid: Iterable[tuple[str, str]] = (),
) -> tuple[Tensor, list[str]]:
    """Pictures of shapes and their captions; number i is the same whatever else is asked for.

    Args: as of `scenes`.

    Returns:
        Pictures `(N, 3, 64, 64)`, float32 in [-1, 1], and N captions, each true of its picture.

    Raises:
        UnknownNameError: another split, colour or shape. ArgumentError: an index or seed outside its range.

    >>> x, captions = shapes(3)
    >>> x.shape, bool((shapes([2])[0] == x[2:]).all())
    (torch.Size([3, 3, 64, 64]), True)
    """
    ids = listed(index, "scenes")
    drawn = scenes(ids, seed, split, avoid)
    wording = Noise(seed).uniform((32,), ids, stream=_WORDING + SPLITS.index(split)).tolist()
    return render(drawn), [caption(s, words) for s, words in zip(drawn, wording, strict=True)]
