"""What a caption asks for is met by the scenes that it is true of, and by no others."""

from __future__ import annotations

import pytest
from many_scenes import PAIR, RED, true

from reverie.data import Scene, Thing, demands, parse


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
