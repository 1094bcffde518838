"""The shapes: the same bits in any batch, the distribution that is promised, and captions that are true of their scenes."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import lru_cache

import pytest
import torch

from reverie.base import ArgumentError, Noise, UnknownNameError
from reverie.data import Scene, Thing, caption, demands, parse, render, scene, scenes, shapes
from reverie.data.captions import BACKGROUNDS, COLOURS, OUTLINED, PLACES, RELATIONS, SHAPES, Ask, Request
from reverie.data.shapes import box, coverage

MANY = 3000


@lru_cache(maxsize=1)
def many() -> tuple[list[Scene], list[str]]:
    drawn = scenes(MANY, seed=4)
    words = Noise(9).uniform((32,), range(MANY)).tolist()
    return drawn, [caption(s, w) for s, w in zip(drawn, words, strict=True)]


def true(text: str, s: Scene) -> bool:
    return all(d.met for d in demands(parse(text), s))


# The same bits.


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
    assert not any(name in names for name in ("scipy", "sklearn", "PIL", "matplotlib"))


# Shapes.


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", math.pi / 4),
        ("square", 1.0),
        ("triangle", 3 * math.sqrt(3) / 4 * 0.635**2),
        ("cross", 1 - 4 * 0.32**2),
        ("star", 5 * math.sin(math.radians(36)) * 0.45 * 0.58**2),
    ],
)
def test_a_shape_has_its_area_its_centre_and_its_box(shape: str, area: float) -> None:
    at = torch.arange(64) + 0.5
    for size, angle in ((12, 0), (17.3, 9), (24, -12)):
        thing = Thing(shape, "red", 30.3, 33.8, size, angle=angle)
        a = coverage([thing])[0]
        assert a.sum().item() == pytest.approx(area * size**2, rel=0.03)
        assert (a.sum(0) @ at / a.sum()).item() == pytest.approx(30.3, abs=0.12)
        assert (a.sum(1) @ at / a.sum()).item() == pytest.approx(33.8, abs=0.12)
        left, top, right, bottom = box(thing)
        seen = (a > 0.55).nonzero() + 0.5
        assert left - 0.5 <= seen[:, 1].min() <= left + 2.0
        assert right - 2.0 <= seen[:, 1].max() <= right + 0.5
        assert top - 0.5 <= seen[:, 0].min() <= top + 2.5
        assert bottom - 2.5 <= seen[:, 0].max() <= bottom + 0.5


@pytest.mark.parametrize("shape", OUTLINED)
def test_an_outline_is_hollow_and_lies_inside_the_shape(shape: str) -> None:
    thing = Thing(shape, "red", 32, 32, 20)
    full, ring = coverage([thing, replace(thing, filled=False)])
    assert ring[32, 32] == 0 < full[32, 32]
    assert (ring <= full + 1e-6).all()
    assert 0.2 < ring.sum() / full.sum() < 0.8


def test_a_turn_is_clockwise_and_later_objects_lie_above() -> None:
    a = coverage([Thing("square", "red", 32, 32, 20, angle=10)])[0]
    assert a[18:22, :32].sum() > 2 * a[18:22, 32:].sum()  # the top left corner went up and the top right one down
    below, above = Thing("square", "red", 32, 32, 20), Thing("circle", "blue", 32, 32, 10)
    x = render([Scene((below, above)), Scene((above, below))])
    assert (x[0, 2, 32, 32] > 0) & (x[1, 2, 32, 32] < 0)


# The distribution.


def test_objects_are_of_the_promised_size_and_do_not_overlap() -> None:
    drawn, _ = many()
    things = [t for s in drawn for t in s.things]
    assert all(10 <= t.size <= 24 and t.colour in COLOURS and abs(t.angle) <= 12 for t in things)
    assert min(t.size for t in things) < 10.5
    assert max(t.size for t in things) > 23.5
    for s in drawn:
        boxes = [box(t) for t in s.things]
        assert all(min(b) >= 1 and max(b) <= 63 for b in boxes)
        for k, a in enumerate(boxes):
            for b in boxes[:k]:  # 3 pixels apart, so the boxes' IoU is 0
                assert max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3]) >= 3 - 1e-9
    assert all(t.filled or t.shape in OUTLINED for t in things)


def test_everything_occurs_about_as_often_as_it_should() -> None:
    drawn, captions = many()
    things = [t for s in drawn for t in s.things]
    for values, names, low in (
        ([t.shape for t in things], SHAPES, 0.17),
        ([t.colour for t in things], COLOURS, 0.10),
        ([s.background for s in drawn], BACKGROUNDS, 0.17),
        ([len(s.things) for s in drawn], (1, 2, 3, 4), 0.10),
    ):
        share = Counter(values)
        assert set(share) == set(names)
        assert min(share.values()) > low * len(values)
    assert 0.1 < sum(not t.filled for t in things) / len(things) < 0.25
    requests = [parse(c) for c in captions]
    relations = Counter(r.relations[0][1] for r in requests if r.relations)
    places = Counter(ask.place for r in requests for ask in r.asks if ask.place)
    assert set(relations) == set(RELATIONS)
    assert set(places) == set(PLACES)
    assert min(relations.values()) > 0.03 * MANY
    assert min(places.values()) > 0.005 * MANY
    assert {ask.count for r in requests for ask in r.asks} == {1, 2, 3, 4}
    assert {ask.size for r in requests for ask in r.asks} == {None, "small", "large"}
    assert {ask.filled for r in requests for ask in r.asks} == {None, True, False}


def test_pairs_to_avoid_do_not_occur() -> None:
    barred = [("red", "circle"), ("blue", "star"), ("cyan", "cross")]
    kept, all_ = scenes(400, avoid=barred), scenes(400)
    assert not any((t.colour, t.shape) in barred for s in kept for t in s.things)
    clean = [not any((t.colour, t.shape) in barred for t in s.things) for s in all_]
    assert 0 < sum(clean) < 400
    assert all(a == b for a, b, ok in zip(kept, all_, clean, strict=True) if ok)  # the others are what they were


# Captions.


def test_every_caption_is_true_and_names_every_object() -> None:
    drawn, captions = many()
    for s, text in zip(drawn, captions, strict=True):
        request = parse(text)
        assert all(d.met for d in demands(request, s)), (text, s)
        colourless = all(ask.colour is None for ask in request.asks)
        asked = Counter((a.shape, a.colour) for a in request.asks for _ in range(a.count))
        assert asked == Counter((t.shape, None if colourless else t.colour) for t in s.things), text
    assert len(set(captions)) > MANY / 2


def test_a_borderline_object_makes_no_caption_wrong() -> None:
    """Whatever a caption says stays true when every object is moved by 1.5 pixels and grows or shrinks by 2.5."""
    drawn, captions = many()
    for s, text in zip(drawn, captions, strict=True):
        for k, (dx, dy, more) in enumerate(((1.5, -1.5, 2.5), (-1.5, 1.5, -2.5), (1.5, 1.5, 0), (-1.5, -1.5, 0))):
            things = tuple(
                replace(t, x=t.x + dx * (-1) ** (i * (k // 2)), y=t.y + dy, size=t.size + more)
                for i, t in enumerate(s.things)
            )
            assert true(text, replace(s, things=things)), (text, s)


RED, BLUE = Thing("circle", "red", 14, 12, 12), Thing("square", "blue", 16, 50, 22, filled=False)
PAIR = Scene((RED, BLUE), "dark")


@pytest.mark.parametrize(
    "text",
    [
        "a red circle above a blue square", "a blue square below a red circle", "a circle and a square", "one blue square and one red circle",
        "a small red circle and a large hollow blue square on a dark background", "a red circle in the top left", "two objects",
        "a circle on the left and a square on the left", "a red circle at the top, a blue square at the bottom", "a solid red circle",
    ],
)  # fmt: skip
def test_true_of_a_known_scene(text: str) -> None:
    shown = PAIR if text.count("circle") + text.count("square") != 1 else Scene((RED,), "dark")
    assert true(text, shown)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a red circle below a blue square", "relation"), ("a red circle to the left of a blue square", "relation"),
        ("a red circle and a red square", "colour"), ("a blue circle and a red square", "colour"), ("a red star and a blue square", "shape"),
        ("a large red circle and a blue square", "size"), ("a red circle and a small blue square", "size"),
        ("a red circle and a filled blue square", "filled"), ("a hollow red circle and a blue square", "filled"),
        ("a red circle on the right and a blue square", "place"), ("a red circle in the center and a blue square", "place"),
        ("a red circle and a blue square on a light background", "background"), ("a red circle", "count"),
        ("two red circles and a blue square", "count"),
    ],
)  # fmt: skip
def test_false_of_a_known_scene(text: str, kind: str) -> None:
    assert {d.kind for d in demands(parse(text), PAIR) if not d.met} >= {kind}


@pytest.mark.parametrize(
    "text", ["a green star above a pink cross", "a red circle above a cross", "a star above a square"]
)
def test_a_relation_of_other_objects_does_not_count(text: str) -> None:
    assert [d.met for d in demands(parse(text), PAIR) if d.kind == "relation"] == [False]


@pytest.mark.parametrize(
    ("dx", "dy", "met"), [(5, 0, True), (3, 0, False), (10, 19, True), (10, 21, False), (-5, 0, False)]
)
def test_how_far_left_of_reaches(dx: float, dy: float, met: bool) -> None:
    s = Scene((Thing("circle", "red", 30, 30, 12), Thing("square", "blue", 30 + dx, 30 + dy, 12)))
    assert true("a circle left of a square", s) == met


@pytest.mark.parametrize(
    ("word", "size", "met"),
    [("small", 15.9, True), ("small", 16.1, False), ("large", 17.1, True), ("large", 16.9, False)],
)
def test_how_far_small_and_large_reach(word: str, size: float, met: bool) -> None:
    assert true(f"a {word} circle", Scene((replace(RED, size=size),))) == met


def test_a_place_at_the_end_is_not_that_of_all() -> None:
    """ "a star and a cross on the left" would be read as both."""
    requests = [parse(c) for c in many()[1]]
    assert any(r.asks[0].place and len(r.asks) == 2 and not r.asks[1].place for r in requests)
    assert not any(r.asks[-1].place and not r.asks[0].place for r in requests)


def test_objects_are_assigned_in_the_best_way() -> None:
    a, b = Thing("circle", "red", 12, 12, 12), Thing("circle", "red", 52, 52, 22)
    for things in ((a, b), (b, a)):
        s = Scene(things)
        assert true("a red circle in the bottom right and a red circle in the top left", s)
        assert true("a small circle and a large circle", s)
        assert not true("a small circle in the bottom right and a circle", s)
    assert (
        sum(d.met for d in demands(parse("three red circles"), Scene((a, b)))) == 4
    )  # of 7: two have shape and colour
    crowd = Scene(tuple(Thing("circle", "red", 8 + 8 * k, 30, 10 + k / 10) for k in range(7)))
    assert [d for d in demands(parse("a red circle"), crowd) if not d.met] == [("count", False)]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("A Red Circle.", "a red circle"), ("red circle", "a red circle"), ("a photo of the red disc", "a red circle"),
        ("2 big violet boxes", "two large purple squares"), ("a pair of tiny teal plus", "two small cyan cross"),
        ("there are exactly three green triangles", "three green triangles"),
        ("a red circle and a blue square against a grey backdrop", "a red circle and a blue square on a gray background"),
        ("a red circle, a blue square, and a star", "a red circle, a blue square and a star"),
        ("a red circle on top of a blue square", "a red circle above a blue square"),
        ("a red circle underneath a blue square", "a red circle below a blue square"),
        ("a red circle on the left side of a blue square", "a red circle left of a blue square"),
        ("a red circle is to the right of a blue square", "a red circle right of a blue square"),
        ("a star in the upper left corner of the picture", "a star in the top left"), ("a star in the centre", "a star in the middle"),
        ("a star on the left of the image", "a star on the left"), ("a single star near the bottom-right corner", "a star in the bottom right"),
        ("a star on the right side, on a black background", "a star on the right on a dark background"),
    ],
)  # fmt: skip
def test_ordinary_variants_are_understood(text: str, same: str) -> None:
    assert parse(text) == parse(same)


def test_chains_of_relations() -> None:
    assert parse("a star above a cross and to the left of a circle").relations == ((0, "above", 1), (0, "left of", 2))
    assert parse("a star above a cross above a circle").relations == ((0, "above", 1), (1, "above", 2))
    got = parse("a star above a cross and a circle")
    assert (len(got.asks), got.relations) == (3, ((0, "above", 1),))
    assert parse("a square, two red circles at the top") == Request(
        (Ask(1, "square"), Ask(2, "circle", "red", place="top"))
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a crimson circle", "crimson"), ("a red hexagon", "hexagon"), ("a gray circle", "gray"), ("five red circles", "five"),
        ("a red circle beside a blue square", "beside"), ("a red circle on a blue square", "on"), ("a red blue circle", "blue"),
        ("a red circle on a pink background", "pink"), ("a cat", "cat"), ("a red", "a red"), ("red circles", "circles"),
        ("three circles and two squares", "5 objects"), ("", "0 objects"), ("a red circle and", "and"), ("a red circle above", "above"),
        ("an outlined star", "star"), ("a red circle circle", "circle"),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_named(text: str, named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        parse(text)


def test_the_plainest_wording() -> None:
    assert caption(Scene((RED,))) == "a red circle"
    assert caption(PAIR) == "a red circle and a blue square"
    assert caption(Scene((replace(RED, colour="orange"),) * 3)) == "three orange circles"
    with pytest.raises(ArgumentError, match="has 0"):
        caption(Scene())
    with pytest.raises(ArgumentError, match="has 5"):
        caption(Scene((RED,) * 5))


def test_errors_name_what_is_wrong() -> None:
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
    with pytest.raises(UnknownNameError, match="blob"):
        render([Scene((replace(RED, shape="blob"),))])
    with pytest.raises(UnknownNameError, match="other"):
        render([Scene((replace(RED, colour="other"),))])
    with pytest.raises(ArgumentError, match="str"):
        parse(3)  # type: ignore[arg-type]
