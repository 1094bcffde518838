"""The register of papers, and citations that come from the code."""

import pytest

import reverie as rv
from reverie.base import ArgumentError, UnknownNameError, cites, implements
from reverie.base.registry import _IMPLEMENTATIONS
from reverie.papers import bibliography


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


def test_every_solver_names_its_sources_and_all_are_in_the_bibliography():
    for name, entry in rv.solve.SOLVERS.items():
        sources = getattr(entry.build, "__papers__", ()) + getattr(entry.build, "__cites__", ())
        assert sources, name
        assert set(sources) <= set(bibliography()), name


def test_cite_collects_from_plans_guides_models_and_keys_once_and_in_order():
    p = rv.process.vp()
    guide = rv.guide.CFG(2.0)
    model = rv.oracle.Mixture(__import__("torch").zeros(2, 1), 1.0, labels=[0, 1], process=p) | guide
    text = rv.cite(rv.solve.plan("heun", p, 4), ["ddim", rv.solve.plan("ddim", p, 4)], model, guide)
    keys = [line.split("{")[1].rstrip(",") for line in text.splitlines() if line.startswith("@")]
    assert keys == ["edm", "ddim", "cfg", "cfg-interval", "cfg-rescale"]
    assert "Karras, Tero and Aittala, Miika" in text
    assert "eprint = {2206.00364}" in text


def test_entries_are_whole():
    for key, work in bibliography().items():
        assert work["title"], key
        assert all(", " in author for author in work["authors"]), key
        assert 1900 < work["year"] < 2100, key
        assert ("eprint" in work) or ("venue" in work), key
    assert rv.cite("philox").startswith("@inproceedings{philox,")


def test_unknown_works_and_things_without_a_source_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'dpm-solver'"):
        rv.cite("dpm-solvr")
    with pytest.raises(ArgumentError, match="names no source"):
        rv.cite(object())
