"""Captions are true of their scenes, whatever is borderline in them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from many_scenes import MANY, PAIR, RED, many, true

from reverie.base import ArgumentError
from reverie.data import Scene, caption, demands, parse


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


def test_a_place_at_the_end_is_not_that_of_all() -> None:
    """ "a star and a cross on the left" would be read as both."""
    requests = [parse(c) for c in many()[1]]
    assert any(r.asks[0].place and len(r.asks) == 2 and not r.asks[1].place for r in requests)
    assert not any(r.asks[-1].place and not r.asks[0].place for r in requests)


def test_the_plainest_wording() -> None:
    assert caption(Scene((RED,))) == "a red circle"
    assert caption(PAIR) == "a red circle and a blue square"
    assert caption(Scene((replace(RED, colour="orange"),) * 3)) == "three orange circles"
    with pytest.raises(ArgumentError, match="has 0"):
        caption(Scene())
    with pytest.raises(ArgumentError, match="has 5"):
        caption(Scene((RED,) * 5))
