"""What Reverie has of a paper: computed from the code and from the records, never written down."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reverie.base import UnknownNameError
from reverie.papers import STATES, VERDICTS, Paper, find, implementations, papers, records, state, status, trial, write
from reverie.papers.state import counts, file_name, record_of

from . import fakes


@pytest.fixture
def folder(tmp_path: Path, record) -> Path:
    """Records: deis holds, pndm holds weakly, dpm-solver does not."""
    write(record, tmp_path / "deis.json")
    write(trial(fakes.superiority(slug="pndm"), seeds=2), tmp_path / "pndm.json")
    arms = {"method": 3.0, "baseline": 4.0, "other": 3.5}
    write(trial(fakes.superiority(slug="dpm-solver", arms=arms)), tmp_path / "dpm-solver.json")
    return tmp_path


def test_planned_implemented_claimed(folder, monkeypatch):
    assert STATES == ("planned", "implemented", "claimed")
    assert (status("deis", folder).state, status("deis", folder).verdict) == ("claimed", "holds")
    assert (status("pndm", folder).state, status("pndm", folder).verdict) == ("claimed", "holds weakly")
    assert status("dpm-solver", folder).verdict == "does not hold here"
    found = status("dpm-solver-pp", folder)
    assert (found.state, found.verdict, found.record, found.has_claim) == ("implemented", None, None, True)
    assert found.places == implementations()["dpm-solver-pp"]
    without = {k: v for k, v in implementations().items() if k not in ("dpm-solver-pp", "deis")}
    monkeypatch.setattr(state, "implementations", lambda: without)
    assert status("dpm-solver-pp", folder).state == "planned"
    assert status("deis", folder).state == "planned", "a record without code is of something that was"


def test_every_state_follows_from_code_and_records():
    for s in find():
        slug = s.paper.slug
        assert (s.state == "planned") == (slug not in implementations())
        assert (s.state == "claimed") == (s.record is not None and bool(s.places))
        assert not s.problem


def test_an_unknown_paper_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'dpm-solver'"):
        status("dpmsolver")


def test_a_broken_record_is_a_problem_and_no_verdict(folder):
    text = (folder / "deis.json").read_text()
    (folder / "deis.json").write_text(text.replace('"verdict": "holds"', '"verdict": "holds weakly"', 1))
    s = status("deis", folder)
    assert (s.state, s.verdict, s.record, s.stale) == ("implemented", None, None, False)
    assert "deis.json' was edited" in s.problem
    assert s.entry()["problem"] == s.problem
    assert [x.paper.slug for x in find(folder=folder) if x.problem] == ["deis"]
    assert [x.paper.slug for x in find(state="claimed", folder=folder)] == ["dpm-solver", "pndm"]


def test_a_record_under_another_name_is_a_problem(folder):
    (folder / "dpm-solver-pp.json").write_text((folder / "deis.json").read_text())
    assert "dpm-solver-pp.json' is the quick record of 'deis'" in status("dpm-solver-pp", folder).problem
    (folder / "deis.full.json").write_text((folder / "deis.json").read_text())
    assert "deis.full.json' is the quick record of 'deis'" in status("deis", folder).problem


def test_the_full_record_comes_first(folder):
    assert file_name("deis", "quick") == "deis.json"
    assert file_name("deis", "full") == "deis.full.json"
    write(
        trial(fakes.superiority(arms={"method": 3.0, "baseline": 4.0, "other": 3.5}), "full"), folder / "deis.full.json"
    )
    assert (status("deis", folder).verdict, status("deis", folder).record.budget) == ("does not hold here", "full")
    (folder / "deis.full.json").unlink()
    assert status("deis", folder).record.budget == "quick"
    (folder / "deis.json").unlink()
    assert record_of("deis", folder) is None


def test_a_record_that_is_up_to_date_comes_before_a_fuller_one_that_is_not(folder, record):
    full = trial(fakes.superiority(), "full")
    write(full, folder / "deis.full.json")
    assert status("deis", folder).record.budget == "full"
    write(replace(full, rests_on={**full.rests_on, "reverie.solve.deis": "0"}), folder / "deis.full.json")
    assert (status("deis", folder).record.budget, status("deis", folder).stale) == ("quick", False)
    write(replace(record, rests_on={}), folder / "deis.json")
    assert (status("deis", folder).record.budget, status("deis", folder).stale) == ("full", True)


def test_records_made_here_come_before_those_of_the_package(folder, tmp_path, monkeypatch, record):
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setattr(state, "FOLDER", folder)
    monkeypatch.setattr(state, "own_folder", lambda: own)
    assert status("deis").record.day == record.day
    write(replace(record, day="2020-01-01"), own / "deis.json")
    assert status("deis").record.day == "2020-01-01"
    write(replace(record, day="2020-01-01", rests_on={}), own / "deis.json")
    assert status("deis").record.day == record.day, "unless they are stale"


def test_where_records_are_written(tmp_path, monkeypatch):
    """With the package where it is a checkout; else among the user's data."""
    checkout = tmp_path / "src" / "reverie" / "papers" / "verdicts"
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(records, "FOLDER", checkout)
    assert records.own_folder() == checkout
    (tmp_path / "pyproject.toml").unlink()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert records.own_folder() == tmp_path / "data" / "reverie" / "claims"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert records.own_folder() == tmp_path / ".local" / "share" / "reverie" / "claims"


def test_a_folder_that_does_not_exist_has_no_records(tmp_path):
    assert status("deis", tmp_path / "none").state == "implemented"


def test_a_record_of_this_code_is_not_stale(folder):
    s = status("deis", folder)
    assert (s.stale, s.changed) == (False, ())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r: r | {"reverie.solve.deis": "0" * 12}, ("reverie.solve.deis",)),
        (lambda r: r | {"reverie.gone": "0" * 12}, ("reverie.gone",)),
        (lambda r: {k: v for k, v in r.items() if k != "reverie.solve.grids"}, ("reverie.solve.grids",)),
        (lambda r: dict.fromkeys(r, "x") | {"z": "y"}, None),
    ],
)
def test_what_changed_since_is_named(folder, record, change, named):
    write(replace(record, rests_on=change(record.rests_on)), folder / "deis.json")
    s = status("deis", folder)
    assert s.stale
    assert s.changed == (tuple(sorted([*record.rests_on, "z"])) if named is None else named)
    assert (s.state, s.verdict) == ("claimed", "holds"), "stale is no other verdict"
    assert s.entry()["stale"] is True


def test_find_filters(folder):
    def slugs(**wanted) -> list[str]:
        return [s.paper.slug for s in find(folder=folder, **wanted)]

    assert slugs() == [*papers()]
    assert slugs(room="guide") == [p.slug for p in papers().values() if p.room == "guide"]
    assert slugs(state="claimed") == ["dpm-solver", "deis", "pndm"]
    assert slugs(state="claimed", room="guide") == []
    assert set(slugs(state="planned")) == set(papers()) - set(implementations())
    assert set(slugs(state="implemented")) == set(implementations()) - {"deis", "pndm", "dpm-solver"}
    assert [slugs(verdict=v) for v in VERDICTS] == [["deis"], ["pndm"], ["dpm-solver"]]
    assert len(slugs(verdict="none")) == 191
    assert slugs(verdict="none", state="claimed") == []


def test_find_by_words(folder):
    def slugs(*words: str) -> set[str]:
        return {s.paper.slug for s in find(text=words, folder=folder)}

    assert slugs("exponential", "integrator") >= {"deis"}
    assert slugs("EXPONENTIAL") == slugs("exponential")
    assert slugs("exponential", "integrator") == slugs("exponential") & slugs("integrator")
    assert slugs("2206.00927") == {"dpm-solver"}
    assert "deis" in slugs("zhang, qinsheng")
    assert slugs("no such word at all") == set()
    assert {s.paper.slug for s in find(text="integrator", folder=folder)} == slugs("integrator")
    p = papers()["deis"]
    for text in (p.title, p.idea, p.claim):
        assert "deis" in slugs(*text.split())


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"room": "guides"}, "unknown room 'guides'; did you mean 'guide'"),
        ({"state": "claim"}, "unknown state 'claim'; did you mean 'claimed'"),
        ({"verdict": "hold"}, "unknown verdict 'hold'; did you mean 'holds'"),
        ({"room": ""}, "unknown room ''"),
    ],
)
def test_an_unknown_filter_is_refused(wanted, said):
    with pytest.raises(UnknownNameError, match=said):
        find(**wanted)


def test_counts(folder):
    by = counts(find(folder=folder))
    assert sum(by[s] for s in STATES) == 194
    assert (by["claimed"], by["holds"], by["holds weakly"], by["does not hold here"], by["stale"]) == (3, 1, 1, 1, 0)
    assert counts([])["planned"] == 0


def test_an_entry_is_plain_values(folder):
    for slug in ("deis", "dpm-solver-pp", "dc-solver"):
        entry = status(slug, folder).entry()
        assert json.loads(json.dumps(entry)) == entry
        p: Paper = papers()[slug]
        assert (entry["id"], entry["slug"], entry["title"], entry["room"]) == (p.id, slug, p.title, p.room)
    where = status("deis", folder).entry()["where"]
    assert where == [f"{p.module}.{p.name}" for p in implementations()["deis"]]
    assert "reverie.solve.deis.deis_4" in where
