"""The distribution of scenes is the promised one."""

from __future__ import annotations

from collections import Counter

from many_scenes import MANY, many

from reverie.data import parse
from reverie.data.bands import PLACES, RELATIONS
from reverie.data.coverage import box
from reverie.data.things import BACKGROUNDS, COLOURS, OUTLINED, SHAPES


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
