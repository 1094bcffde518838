"""Captions are understood in ordinary variants; what is not understood is named."""

from __future__ import annotations

import pytest

from reverie.base import ArgumentError
from reverie.data import parse
from reverie.data.request import Ask, Request


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


def test_a_caption_is_a_text() -> None:
    with pytest.raises(ArgumentError, match="str"):
        parse(3)  # type: ignore[arg-type]
