"""`reverie papers`, `reverie papers show`, `reverie cite`."""

from __future__ import annotations

import functools
import json

import pytest

import reverie as rv
from reverie.papers import claim_of, claims, implementations, papers, sources, state
from reverie.papers.show import formulas


@pytest.fixture(autouse=True, scope="module")
def _quick_digests():
    """The code does not change while its tests run: what a claim rests on is read once."""
    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(lambda roots: sources.digests(roots))
        patch.setattr(claims, "digests", lambda roots, anew=False: dict(once(tuple(roots))))
        yield


@pytest.fixture
def nothing_written(monkeypatch):
    """As if no code implemented anything."""
    for module in ("state", "show"):
        monkeypatch.setattr(f"reverie.papers.{module}.implementations", dict)


@pytest.fixture
def no_records(monkeypatch, tmp_path):
    monkeypatch.setattr(state, "FOLDER", tmp_path / "records")
    monkeypatch.setattr(state, "own_folder", lambda: tmp_path / "own")


def listed(done) -> list[str]:
    assert done.exit_code == 0, done.output
    return [line.split()[0] for line in done.output.splitlines() if line.split() and line.split()[0] in papers()]


def test_the_table(call):
    done = call("papers")
    assert listed(done) == [*papers()]
    assert done.output.splitlines()[0].split() == ["paper", "room", "state", "title"]
    for p in papers().values():
        assert f"{p.slug} " in done.output
        assert p.title[:40] in done.output
    assert "194 papers: " in done.output.splitlines()[-1]
    assert f"{194 - len(implementations())} planned" in done.output.splitlines()[-1]


def test_filters(call, no_records):
    solve = [p.slug for p in papers().values() if p.room == "solve"]
    assert listed(call("papers", "--room", "solve")) == solve
    assert sorted(listed(call("papers", "--state", "implemented"))) == sorted(implementations())
    assert listed(call("papers", "--state", "claimed")) == []
    found = listed(call("papers", "-t", "exponential", "--text", "INTEGRATOR", "--room", "solve"))
    assert found == [s.paper.slug for s in rv.papers.find(room="solve", text=["exponential", "integrator"])]
    assert "deis" in found
    assert "dpm-solver" not in found
    assert listed(call("papers", "--verdict", "none")) == [*papers()]
    assert listed(call("papers", "--verdict", "holds")) == []
    done = call("papers", "-t", "2204.13902")
    assert done.output.splitlines()[-1].startswith("1 paper: 1 implemented")


def test_nothing_found_names_the_rooms(call):
    done = call("papers", "--text", "no such word")
    assert done.exit_code == 0
    assert "0 papers" in done.output
    assert "rooms: process, solve, data" in done.output


def test_for_programs(call):
    found = json.loads(call("papers", "--json").output)
    assert [(e["id"], e["slug"], e["title"], e["room"]) for e in found] == [
        (p.id, p.slug, p.title, p.room) for p in papers().values()
    ]
    assert len(found) == 194
    for e in found:
        s = rv.papers.status(e["slug"])
        assert (e["state"], e["verdict"]) == (s.state, s.verdict)
    few = json.loads(call("papers", "--room", "solve", "--state", "planned", "--json").output)
    assert {e["room"] for e in few} <= {"solve"}
    assert {e["state"] for e in few} <= {"planned"}
    assert json.loads(call("papers", "-t", "no such word", "--json").output) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--room", "solv"), "error: unknown room 'solv'; did you mean 'solve'"),
        (("--state", "plan"), "error: unknown state 'plan'; did you mean 'planned'"),
        (("--verdict", "held"), "error: unknown verdict 'held'"),
        (("show", "dpmsolver"), "error: unknown paper 'dpmsolver'; did you mean 'dpm-solver'"),
    ],
)
def test_what_does_not_exist_is_one_line_with_the_nearest_names(call, words, said):
    done = call("papers", *words)
    assert done.exit_code == 2
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_show_of_an_implemented_paper(call, no_records):
    done = call("papers", "show", "deis")
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    p = papers()["deis"]
    for part in (
        p.title, "Qinsheng Zhang", "https://arxiv.org/abs/2204.13902", f"paper {p.id} of the index, room solve, adds plan: implemented",
        p.idea, p.claim, "reverie.solve.deis.deis_4 (solver deis-4): ", "Its claim has not run yet: reverie claims run deis",
    ):  # fmt: skip
        assert part in said
    for block in (block for blocks in formulas("deis").values() for block in blocks):
        for line in block.splitlines():
            assert line.strip() in done.output
    for line in claim_of("deis").use.splitlines():
        assert f"  {line}\n" in done.output


PLANNED = next(slug for slug in papers() if slug not in implementations())


def test_show_of_a_planned_paper(call, no_records, nothing_written):
    done = call("papers", "show", PLANNED)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    p = papers()[PLANNED]
    assert f"of the index, room {p.room}" in said
    assert ": planned" in said
    assert "not in the code yet" in said
    assert " ".join(p.idea.split()) in said
    assert "Formula" not in said
    assert "Use" not in done.output.split()


@pytest.mark.parametrize("slug", [*implementations(), PLANNED])
def test_show_for_programs(call, slug):
    entry = json.loads(call("papers", "show", slug, "--json").output)
    p = papers()[slug]
    assert (entry["id"], entry["slug"], entry["idea"], entry["claim"]) == (p.id, slug, p.idea, p.claim)
    assert entry["formulas"] == formulas(slug)
    assert entry["where"] == [f"{x.module}.{x.name}" for x in implementations().get(slug, ())]
    assert (entry["record"] is None) == (entry["verdict"] is None)


def test_every_paper_can_be_shown(call, no_records):
    for slug in [*papers()][::9]:
        done = call("papers", "show", slug)
        assert done.exit_code == 0, done.output
        assert papers()[slug].url in done.output


def keys(done) -> list[str]:
    assert done.exit_code == 0, done.output
    return [line.split("{")[1].rstrip(",") for line in done.output.splitlines() if line.startswith("@")]


def test_cite(call):
    assert call("cite", "dpm-solver-pp", "deis").output == rv.cite("dpm-solver-pp", "deis") + "\n"
    assert keys(call("cite", "ddim", "deis", "ddim")) == ["ddim", "deis"], "each once"
    assert keys(call("cite", "unipc-2")) == keys(call("cite", "unipc-3")) != []
    assert keys(call("cite", "dpmpp-2m")) == ["dpm-solver-pp"]


def test_cite_a_saved_plan(call):
    assert call("plan", "heun", "--steps", 2, "-o", "plan.json").exit_code == 0
    assert keys(call("cite", "plan.json", "deis")) == ["edm", "deis"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("dpmsolver", "unknown paper, solver or plan 'dpmsolver'; did you mean 'dpm-solver'"),
        ("none.json", "none.json"),
        ("folder", "folder"),
        ("text.txt", "text.txt"),
    ],
)
def test_what_cannot_be_cited_is_told(call, word, said, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.txt").write_text("x")
    done = call("cite", word)
    assert done.exit_code == 2
    assert done.output.startswith("error: ")
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_cite_nothing_is_a_mistake(call):
    assert call("cite").exit_code == 2
