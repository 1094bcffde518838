"""The register of papers."""

import pytest

import reverie as rv
from reverie.base import ArgumentError, cites, implements
from reverie.base.registry import _IMPLEMENTATIONS


@pytest.fixture
def register():
    saved = {k: list(v) for k, v in _IMPLEMENTATIONS.items()}
    yield _IMPLEMENTATIONS
    _IMPLEMENTATIONS.clear()
    _IMPLEMENTATIONS.update(saved)


def test_implements_registers_where_an_object_lives(register):
    @implements("paper-one", "paper-2")
    def method():
        return 5

    assert method() == 5
    assert method.__papers__ == ("paper-one", "paper-2")
    (entry,) = rv.implementations()["paper-one"]
    assert entry.obj is method
    assert entry.module == __name__
    assert entry.qualname.endswith("method")
    assert rv.implementations()["paper-2"][0].obj is method


def test_many_objects_a_paper_and_an_object_registered_again_replaces_itself(register):
    def make():
        @implements("paper-one")
        def method(): ...

        return method

    @implements("paper-one")
    class Other: ...

    make()
    last = make()
    found = [e.obj for e in rv.implementations()["paper-one"]]
    assert found == [Other, last]


def test_a_subclass_does_not_inherit_into_its_parents_mark(register):
    @implements("paper-one")
    class Parent: ...

    @implements("paper-two")
    class Child(Parent): ...

    assert Parent.__papers__ == ("paper-one",)
    assert Child.__papers__ == ("paper-two",)


@pytest.mark.parametrize("slug", ["", "DPM", "a--b", "a_b", "-a", "a-", 5])
def test_what_is_no_slug_is_refused(slug):
    with pytest.raises(ArgumentError, match="no slug"):
        implements(slug)
    with pytest.raises(ArgumentError, match="no slug"):
        cites(slug)
    with pytest.raises(ArgumentError, match="at least one"):
        implements()
