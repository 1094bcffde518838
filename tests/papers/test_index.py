"""The index: 194 records of one form, whose names never change, and code that names no other paper."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable

import pytest

from reverie.base import ArgumentError, UnknownNameError, implements
from reverie.base import implementations as registered
from reverie.base.registry import _IMPLEMENTATIONS
from reverie.papers import ADDS, ROOMS, Paper, implementations, paper, papers
from reverie.papers.index import COUNT, load

PAPERS = [*papers().values()]
# Links, files, records and citations of others hang on a paper's number, slug and arXiv id: they are never changed. A paper that is added gets the
# next number, and this digest is then computed anew from a list of which the first 194 lines are the same.
NAMES = "4c7e002ff238adcb3cf1510af8d6a3721eb9ff111283e2977800c9278d815dd9"
MARKERS = re.compile(
    r"(?i)unconfirmed|(?<!from )\bscratch\b|\(code\)|measured here|not sure|\bverify\b|\?\?|\btbd\b|\bfixme\b|\bxxx\b|(?-i:TODO)"
)


def test_there_are_194_of_them():
    assert len(PAPERS) == COUNT == 194
    assert sorted(p.id for p in PAPERS) == list(range(1, 195))
    assert len({p.arxiv for p in PAPERS}) == len({p.title.lower() for p in PAPERS}) == 194
    assert [*papers()] == [p.slug for p in PAPERS]


def test_number_slug_and_arxiv_id_never_change():
    lines = "\n".join(sorted(f"{p.id} {p.slug} {p.arxiv}" for p in PAPERS))
    assert hashlib.sha256(lines.encode()).hexdigest() == NAMES


def test_they_are_in_the_order_of_rooms_and_numbers():
    assert len(ROOMS) == 24
    order = [([*ROOMS].index(p.room), p.id) for p in PAPERS]
    assert order == sorted(order)
    assert {p.room for p in PAPERS} == set(ROOMS)


@pytest.mark.parametrize("p", PAPERS, ids=lambda p: p.slug)
def test_a_record_is_whole(p: Paper):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", p.slug)
    assert re.fullmatch(r"\d{4}\.\d{4,5}", p.arxiv)
    assert 1 <= int(p.arxiv[2:4]) <= 12
    assert len(p.arxiv) == (9 if p.arxiv < "1501" else 10), "five digits since January 2015"
    assert p.url == f"https://arxiv.org/abs/{p.arxiv}"
    assert p.room in ROOMS
    assert p.adds
    assert set(p.adds) <= set(ADDS)
    assert len(set(p.adds)) == len(p.adds)
    assert p.authors
    assert len(set(p.authors)) == len(p.authors)
    for author in p.authors:
        assert re.fullmatch(r"[^,\s][^,]*, [^,]*[^,\s]", author), author
    assert 2000 + int(p.arxiv[:2]) - 1 <= p.year <= 2026, "a venue's year may be a little earlier than arXiv's"
    assert not p.repo or re.fullmatch(r"[\w.-]+/[\w.-]+", p.repo)
    assert len(p.title) > 5
    assert not p.title.endswith(".")
    for text in (p.title, p.idea, p.claim):
        assert not MARKERS.search(text), text
        assert text == " ".join(text.split())
        assert "\ufffd" not in text
    for text in (p.idea, p.claim):
        assert len(text) > 40
        assert text[0].isupper() or not text[0].islower() or text[0].isalpha()
        assert text.endswith((".", ")"))


@pytest.mark.parametrize("text", ["unconfirmed", "a scratch file", "x (code)", "measured here: 2", "TODO", "why??"])
def test_markers_are_seen(text):
    assert MARKERS.search(text)
    assert not MARKERS.search("trained from scratch to do better")


def test_the_nearest_slugs_are_named():
    assert paper("dpm-solver").id == 14
    with pytest.raises(
        UnknownNameError, match=r"unknown paper 'dpmsolver'; did you mean 'dpm-solver'.*`reverie papers`"
    ):
        paper("dpmsolver")
    with pytest.raises(UnknownNameError, match="'dpm-solver-pp'"):
        paper("dpm-solverpp")


TOML = """[one]
id = 5
title = "One"
arxiv = "2101.00001"
authors = ["Family, Given"]
adds = ["plan", "guide"]
idea = '''
An idea
over   two lines.'''
claim = "It works."
"""


def test_a_record_is_read():
    (p,) = load(TOML, "solve")
    assert p == Paper(
        5, "one", "One", "2101.00001", "solve", ("plan", "guide"), "An idea over two lines.", "It works.",
        authors=("Family, Given",), year=2021,
    )  # fmt: skip
    (p,) = load(TOML + 'year = 2020\nvenue = "ICML"\nrepo = "a/b"\n', "solve")
    assert (p.year, p.venue, p.repo) == (2020, "ICML", "a/b")


def test_records_are_sorted_by_number():
    assert [p.id for p in load(TOML + TOML.replace("[one]", "[two]").replace("id = 5", "id = 3"), "solve")] == [3, 5]


@pytest.mark.parametrize("name", ["id", "title", "arxiv", "adds", "idea", "claim"])
def test_a_missing_field_is_refused(name):
    text = re.sub(rf"(?ms)^{name} = ('''.*?'''|.*?)\n", "", TOML, count=1)
    with pytest.raises(ArgumentError, match=rf"the record of 'one' in solve\.toml.*{name}"):
        load(text, "solve")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("stars = 5", "stars"),
        ('room = "solve"', "room"),
        ('slug = "two"', "slug"),
    ],
)
def test_an_unknown_field_is_refused(line, said):
    with pytest.raises(ArgumentError, match=rf"'one' in solve\.toml.*{said}"):
        load(TOML + line + "\n", "solve")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"guide"', '"guid"', "adds 'guid', which is none of process, model, plan"),
        ('["plan", "guide"]', "[]", "has an empty field"),
        ('"It works."', '""', "has an empty field"),
        ('"One"', '"  "', "has an empty field"),
    ],
)
def test_a_wrong_field_is_refused(old, new, said):
    with pytest.raises(ArgumentError, match=rf"'one' in solve\.toml {said}"):
        load(TOML.replace(old, new), "solve")


@pytest.mark.parametrize(
    ("old", "new"),
    [("id = 5", 'id = "5"'), ('"2101.00001"', '"abc"'), ('["plan", "guide"]', "5"), ('"One"', "1"), ("[one]", "")],
)
def test_a_field_of_a_wrong_kind_is_refused(old, new):
    with pytest.raises(ArgumentError, match=r"solve\.toml"):
        load(TOML.replace(old, new), "solve")


# What the code says that it implements.

EVERYTHING = """
import importlib, json, pkgutil
import reverie
for found in pkgutil.walk_packages(reverie.__path__, "reverie."):
    if found.name != "reverie.cli.__main__":
        importlib.import_module(found.name)
print(json.dumps([[e.slug, e.module, e.qualname] for entries in reverie.base.implementations().values() for e in entries]))
"""


@pytest.fixture(scope="module")
def everywhere() -> list[tuple[str, str, str]]:
    """(slug, module, name) of all that the running package registers, in a process that imports every module of it."""
    run = subprocess.run([sys.executable, "-c", EVERYTHING], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return [(slug, module, name) for slug, module, name in json.loads(run.stdout.splitlines()[-1])]


def strangers(entries: Iterable[tuple[str, str, str]]) -> list[str]:
    """What code of Reverie says that it implements, and the index does not know."""
    return [
        f"{module}.{name} implements {slug!r}"
        for slug, module, name in entries
        if module.split(".")[0] == "reverie" and slug not in papers()
    ]


def test_code_registers_no_slug_that_the_index_does_not_know(everywhere):
    assert len(everywhere) > 20
    assert strangers(everywhere) == []


def test_such_a_slug_would_be_seen(everywhere):
    fake = ("dpm-solvr", "reverie.solve.singlestep", "dpm_2s")
    assert strangers([*everywhere, fake]) == ["reverie.solve.singlestep.dpm_2s implements 'dpm-solvr'"]
    assert strangers([("dpm-solvr", "tests.somewhere", "f")]) == [], "a user's own papers are no business of ours"

    def solver(): ...

    solver.__module__, solver.__qualname__ = "reverie.solve.fake", "solver"
    try:
        implements("no-such-paper")(solver)
        running = [(e.slug, e.module, e.qualname) for entries in registered().values() for e in entries]
        assert strangers(running) == ["reverie.solve.fake.solver implements 'no-such-paper'"]
    finally:
        del _IMPLEMENTATIONS["no-such-paper"]


def test_the_text_of_the_package_says_what_the_running_registry_says(everywhere):
    written = [(slug, p.module, p.name) for slug, places in implementations().items() for p in places]
    assert sorted(written) == sorted(e for e in everywhere if e[1].split(".")[0] == "reverie")
