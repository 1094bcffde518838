"""Shapes: drawn 64x64 pictures of 1 to 4 coloured shapes, with captions that are true of them.

Scene i of a seed is a pure function of (seed, split, i): its numbers come from `reverie.base.Noise`, so it is the same in any
batch. A shape is the set where its signed distance d (pixels, negative inside) is negative; a pixel is covered by

    clamp(1/2 - d, 0, 1)  if filled,      clamp(1/2 - (|d + w/2| - w/2), 0, 1)  for an outline of width w inside the shape,

which is anti-aliasing to first order. Pixels are made by IEEE operations (+, -, *, sqrt, min, max) one at a time, which round alike
wherever a value stands in a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from reverie.base import ArgumentError, Noise, unknown
from reverie.data.captions import COLOURS, OUTLINED, RGB, SHAPES, Scene, Thing, caption

__all__ = ["box", "coverage", "render", "scene", "scenes", "shapes"]

SIDE = 64
SPLITS = ("train", "heldout")
_SCENE, _WORDING, _TEXTURE = 0x5A0, 0x5A2, 0x5A4  # streams; a split's number is added to the first two
_CLOUDS = 5  # the texture's coarse grid
_GAP, _MARGIN = 3.0, 1.5  # pixels between the boxes of two objects, and to the frame
_TRIES = 20  # places tried for an object before the whole scene is drawn again
_LARGEST = (24.0, 24.0, 20.0, 17.0)  # by number of objects
_TONES: dict[str, tuple[RGB, ...]] = {
    "dark": ((0.17, 0.18, 0.22), (0.14, 0.18, 0.26), (0.21, 0.17, 0.23), (0.14, 0.21, 0.20), (0.22, 0.19, 0.17)),
    "gray": ((0.50, 0.51, 0.53), (0.45, 0.48, 0.53), (0.54, 0.51, 0.48), (0.47, 0.51, 0.48)),
    "light": ((0.93, 0.90, 0.84), (0.88, 0.89, 0.91), (0.83, 0.87, 0.91), (0.86, 0.90, 0.84), (0.92, 0.87, 0.85)),
}


# A shape's signed distance, from coordinates (M, H, W) turned with it and its half size (M, 1, 1). Its centre of mass is 0.

_CROSS, _TRIANGLE, _STAR, _INNER = 0.36, 1.27, 1.16, 0.45
"""A cross's arm, a triangle's and a star's circumradius, all over half the size; a star's inner radius over its outer."""


def _circle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return (x * x + y * y).sqrt() - r


def _square(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - r


def _triangle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.maximum(y, x.abs() * (math.sqrt(3) / 2) - y * 0.5) - r * (_TRIANGLE / 2)


def _cross(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    x, y = x.abs(), y.abs()
    return torch.maximum(torch.maximum(x, y) - r, torch.minimum(x, y) - r * _CROSS)


def _star(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Folded by reflections into the half wedge of one point; there it is bounded by a line (Quilez, "distance functions")."""
    c, s = math.cos(math.radians(36)), math.sin(math.radians(36))
    x, y = x.abs(), -y
    for k in (c, -c):
        over = (x * k - y * s).clamp_min(0.0) * 2
        x, y = x - over * k, y + over * s
    along, down = _INNER * s, _INNER * c - 1  # from the tip to the inner corner
    norm = math.hypot(along, down)
    return (y - r * _STAR) * (along / norm) - x.abs() * (down / norm)


_DISTANCE = {"circle": _circle, "square": _square, "triangle": _triangle, "star": _star, "cross": _cross}
_CORNERS: dict[str, tuple[tuple[float, float], ...]] = {
    "square": ((1, 1), (-1, 1), (1, -1), (-1, -1)),
    "triangle": ((0, -_TRIANGLE), (_TRIANGLE * math.sqrt(3) / 2, _TRIANGLE / 2), (-_TRIANGLE * math.sqrt(3) / 2, _TRIANGLE / 2)),
    "star": tuple((_STAR * math.sin(2 * math.pi * k / 5), -_STAR * math.cos(2 * math.pi * k / 5)) for k in range(5)),
    "cross": tuple((a, b) for a in (1, -1) for b in (_CROSS, -_CROSS)) + tuple((b, a) for a in (1, -1) for b in (_CROSS, -_CROSS)),
}  # fmt: skip


def box(thing: Thing) -> tuple[float, float, float, float]:
    """The box around an object: left, top, right, bottom, in pixels.

    >>> box(Thing("circle", "red", x=20, y=12, size=10))
    (15.0, 7.0, 25.0, 17.0)
    """
    r = thing.size / 2
    if thing.shape == "circle":
        return thing.x - r, thing.y - r, thing.x + r, thing.y + r
    c, s = math.cos(math.radians(thing.angle)) * r, math.sin(math.radians(thing.angle)) * r
    xs = [c * a - s * b for a, b in _CORNERS[thing.shape]]
    ys = [s * a + c * b for a, b in _CORNERS[thing.shape]]
    return thing.x + min(xs), thing.y + min(ys), thing.x + max(xs), thing.y + max(ys)


# Scenes: what is drawn, with which probability.


def _painted(rgb: RGB, u: Iterator[float], hue: float, light: float) -> RGB:
    """A colour with a little jitter of each channel and of all together."""
    shift = light * (2 * next(u) - 1)
    return tuple(min(1.0, max(0.0, c + shift + hue * (2 * next(u) - 1))) for c in rgb)  # type: ignore[return-value]


def _kinds(u: Iterator[float]) -> list[tuple[str, str]]:
    """The shapes and colours of a scene: one object, a pair, a group of 2 to 4 alike, or a mixture of 2 to 4."""

    def colour() -> str:
        return tuple(COLOURS)[int(next(u) * len(COLOURS))]

    def shape() -> str:
        return SHAPES[int(next(u) * len(SHAPES))]

    which, first = next(u), (shape(), colour())
    if which < 0.22:
        return [first]
    if which < 0.62:  # a pair that differs in shape, in colour, or mostly in both
        alike, s, c = next(u), shape(), colour()
        return [first, (first[0] if alike < 0.12 else s, first[1] if alike > 0.85 else c)]
    if which < 0.81:
        return [first] * (2 + int(next(u) * 3))
    second = (shape(), colour())
    if which < 0.89:
        return [[first, first, second], [first, first, second, second], [first] * 3 + [second]][int(next(u) * 3)]
    third = (shape(), colour())
    return [first, second, third, (shape(), colour())][: 3 + (next(u) < 0.3)]


def _scene(numbers: list[float], avoid: frozenset[tuple[str, str]]) -> Scene | None:
    """The scene of some uniform numbers, or None if an object found no place or a pair is to be avoided."""
    u = iter(numbers)
    kinds = _kinds(u)
    if avoid and any((colour, shape) in avoid for shape, colour in kinds):
        return None
    contrast, brightness = 1 + 0.10 * (2 * next(u) - 1), 0.04 * (2 * next(u) - 1)

    def seen(rgb: RGB) -> RGB:
        return tuple(min(1.0, max(0.0, 0.5 + (c - 0.5) * contrast + brightness)) for c in rgb)  # type: ignore[return-value]

    background = ("dark", "light", "gray")[int(next(u) * 2.5)]  # gray half as often
    tones = _TONES[background]
    tone = tones[int(next(u) * len(tones))]
    ends = tuple(seen(_painted(tone, u, 0.012, 0.05)) for _ in range(2))
    turn, strength = 2 * math.pi * next(u), next(u)
    slope = (strength * math.cos(turn), strength * math.sin(turn))
    texture, clouds = int(next(u) * 2**23), 0.03 * next(u)

    largest = _LARGEST[len(kinds) - 1]
    alike, one_size = next(u) < 0.8, next(u) < 0.5  # in a group, objects are mostly of one style and often of one size
    fill, scale = next(u), next(u)
    drafts = []
    for shape, colour in kinds:
        draw = (next(u), next(u))
        filled = (fill if alike and kinds.count((shape, colour)) > 1 else draw[0]) > 0.3 or shape not in OUTLINED
        low = 10.0 if filled and shape != "star" else 13.0
        size = low + (largest - low) * (scale if one_size and kinds.count((shape, colour)) > 1 else draw[1])
        angle = 0.0 if shape == "circle" else 12 * (2 * next(u) - 1)
        drafts.append(Thing(shape, colour, 0, 0, size, filled, angle, seen(_painted(COLOURS[colour], u, 0.025, 0.04))))
    drafts.sort(key=lambda thing: -thing.size)

    central = len(drafts) == 1 and next(u) < 0.2
    things: list[Thing] = []
    taken: list[tuple[float, float, float, float]] = []
    for draft in drafts:
        left, top, right, bottom = box(draft)
        for _ in range(_TRIES):
            x = _MARGIN - left + (SIDE - 2 * _MARGIN - right + left) * next(u)
            y = _MARGIN - top + (SIDE - 2 * _MARGIN - bottom + top) * next(u)
            if central:  # so that "in the center" is heard of
                x, y = (SIDE / 2 + (v - SIDE / 2) * 0.2 for v in (x, y))
            here = (x + left - _GAP, y + top - _GAP, x + right + _GAP, y + bottom + _GAP)
            if all(here[0] > b[2] or here[2] < b[0] or here[1] > b[3] or here[3] < b[1] for b in taken):
                break
        else:
            return None
        taken.append((x + left, y + top, x + right, y + bottom))
        things.append(Thing(draft.shape, draft.colour, x, y, draft.size, draft.filled, draft.angle, draft.rgb))
    return Scene(tuple(things), background, ends, slope, texture, clouds)  # type: ignore[arg-type]


_NUMBERS = 72 + 4 * 2 * _TRIES  # uniform numbers that a scene may use


def _ids(index: int | Iterable[int] | Tensor) -> list[int]:
    if isinstance(index, int) and not isinstance(index, bool) and index >= 0:
        return list(range(index))
    if isinstance(index, Tensor) and index.ndim == 1:
        return index.tolist()
    if isinstance(index, Tensor) or not isinstance(index, Iterable):
        raise ArgumentError(f"index is {index!r}; give how many scenes, from 0, or the scenes' numbers (N,)")
    return list(index)


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
    ids = _ids(index)
    out: list[Scene | None] = [None] * len(ids)
    noise, stream, attempt = Noise(seed), _SCENE + SPLITS.index(split), 0
    left = list(range(len(ids)))
    while left:
        numbers = noise.uniform((_NUMBERS,), [ids[k] for k in left], stage=attempt, stream=stream).tolist()
        for k, row in zip(left, numbers, strict=True):
            out[k] = _scene(row, barred)
        left, attempt = [k for k in left if out[k] is None], attempt + 1
    return out  # type: ignore[return-value]


def scene(i: int, seed: int = 0, split: str = "train") -> Scene:
    """Scene i of a seed and split.

    >>> 1 <= len(scene(5).things) <= 4
    True
    """
    return scenes([i], seed, split)[0]


# Pictures.

_AT = torch.arange(SIDE) + 0.5


def _background(some: Sequence[Scene]) -> Tensor:
    """(N, 3, 64, 64) in [0, 1]: a gradient between two tones, times faint clouds."""
    slope = torch.tensor([s.slope for s in some])[:, :, None, None]
    t = slope[:, :1] * ((_AT - SIDE / 2) / SIDE) + slope[:, 1:] * ((_AT[:, None] - SIDE / 2) / SIDE) + 0.5
    tones = torch.tensor([s.tones for s in some])[..., None, None]
    ids = torch.tensor([s.texture for s in some])
    coarse = Noise(0).uniform((_CLOUDS, _CLOUDS), ids, stream=_TEXTURE)
    at = _AT / SIDE * (_CLOUDS - 1)
    cell = at.floor().long()
    w = at - cell
    w = w * w * (3 - 2 * w)  # smoothly from one node of the grid to the next
    rows = coarse[:, cell] * (1 - w)[:, None] + coarse[:, cell + 1] * w[:, None]
    fine = rows[:, :, cell] * (1 - w) + rows[:, :, cell + 1] * w
    clouds = torch.tensor([s.clouds for s in some])[:, None, None]
    return tones[:, 0] * (1 - t) + tones[:, 1] * t + ((fine * 2 - 1) * clouds)[:, None]


def coverage(things: Sequence[Thing]) -> Tensor:
    """How much of each pixel an object covers, `(M, 64, 64)` in [0, 1].

    >>> round(coverage([Thing("square", "red", x=20, y=12, size=10)]).sum().item())
    100
    """
    out = torch.empty(len(things), SIDE, SIDE)
    for shape, distance in _DISTANCE.items():
        rows = [k for k, thing in enumerate(things) if thing.shape == shape]
        if not rows:
            continue
        x, y, r, c, s = torch.tensor(
            [
                (t.x, t.y, t.size / 2, math.cos(math.radians(t.angle)), math.sin(math.radians(t.angle)))
                for t in (things[k] for k in rows)
            ]
        ).T[:, :, None, None]
        dx, dy = _AT - x, _AT[:, None] - y
        d = distance(dx * c + dy * s, dy * c - dx * s, r)
        half = torch.tensor([math.inf if things[k].filled else stroke(things[k].size) / 2 for k in rows])[:, None, None]
        ring = (d + half).abs() - half
        out[rows] = (0.5 - torch.where(half.isinf(), d, ring)).clamp(0, 1)
    return out


def stroke(size: float) -> float:
    """The width of an outline, in pixels, of an object of that size."""
    return max(2.0, 0.15 * size)


def render(scenes: Sequence[Scene], chunk: int = 32) -> Tensor:
    """Scenes as pictures `(N, 3, 64, 64)`, float32 in [-1, 1]; objects later in a scene lie over earlier ones.

    Args:
        scenes: N of them. chunk: how many are worked on at a time, which changes no bit.

    Raises:
        UnknownNameError: a shape that cannot be drawn, or a colour that is not known and has no rgb.

    >>> x = render([Scene((Thing("circle", "red", x=20, y=12, size=14),))])
    >>> x.shape, [round(v, 2) for v in x[0, :, 12, 20].tolist()]
    (torch.Size([1, 3, 64, 64]), [0.66, -0.6, -0.58])
    """
    for thing in (t for s in scenes for t in s.things):
        if thing.shape not in SHAPES:
            raise unknown("shape", thing.shape, SHAPES)
        if thing.rgb is None and thing.colour not in COLOURS:
            raise unknown("colour", thing.colour, COLOURS)
    out = torch.empty(len(scenes), 3, SIDE, SIDE)
    for start in range(0, len(scenes), chunk):
        some = scenes[start : start + chunk]
        x = _background(some)
        for layer in range(max(len(s.things) for s in some)):  # one object of each scene
            rows = [k for k, s in enumerate(some) if len(s.things) > layer]
            things = [some[k].things[layer] for k in rows]
            alpha = coverage(things)[:, None]
            paint = torch.tensor([t.rgb or COLOURS[t.colour] for t in things])[:, :, None, None]
            x[rows] = x[rows] * (1 - alpha) + paint * alpha
        out[start : start + chunk] = (x * 2 - 1).clamp(-1, 1)
    return out


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
    >>> x.shape, torch.equal(shapes([2])[0], x[2:])
    (torch.Size([3, 3, 64, 64]), True)
    """
    ids = _ids(index)
    drawn = scenes(ids, seed, split, avoid)
    wording = Noise(seed).uniform((32,), ids, stream=_WORDING + SPLITS.index(split)).tolist()
    return render(drawn), [caption(s, words) for s, words in zip(drawn, wording, strict=True)]
