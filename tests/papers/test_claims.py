"""The claims themselves: every one belongs to a paper, can fail, is used as it says, and has a record that its figures bear out."""

from __future__ import annotations

import functools
import re
import time
from pathlib import Path

import pytest

import reverie as rv
from reverie.base import ArgumentError, UnknownNameError
from reverie.papers import BUDGETS, Claim, Record, claim_of, claimed, claims, outcome, paper, papers, read, trial
from reverie.papers.claim import place
from reverie.papers.claims import _stem, strays
from reverie.papers.records import FOLDER, case_of
from reverie.papers.state import file_name, implementations, record_of
from reverie.papers.verdict import NOT, together

RECORDS = sorted(FOLDER.glob("*.json"))


@functools.cache
def tiny(slug: str) -> tuple[Record, float]:
    """A trial on the tiny budget, and the seconds it took of this process."""
    claim = claim_of(slug)
    began = time.process_time()
    return trial(claim, "tiny"), time.process_time() - began


def test_every_file_of_claims_belongs_to_a_paper():
    assert strays() == []
    folder = Path(claims.__file__).parent
    assert {f.stem for f in folder.glob("*.py")} - {"__init__"} == {_stem(slug) for slug in claimed()}


def test_stems_are_modules_and_unique():
    stems = [_stem(slug) for slug in papers()]
    assert len(set(stems)) == len(stems)
    assert all(stem.isidentifier() for stem in stems)
    assert _stem("3d-thing") == "p3d_thing"


def test_a_stray_is_seen(tmp_path, monkeypatch):
    for name in ("__init__.py", "deis.py", "dies.py"):
        (tmp_path / name).touch()
    monkeypatch.setattr(claims, "__file__", str(tmp_path / "__init__.py"))
    assert strays() == ["dies"]
    assert claimed() == ["deis"]
    with pytest.raises(ArgumentError, match="'pndm' has no claim yet; those that have one: deis"):
        claim_of("pndm")


def test_a_claim_of_another_paper_or_of_none_is_refused(monkeypatch):
    module = __import__("reverie.papers.claims.deis", fromlist=["CLAIM"])
    for wrong in (claim_of("pndm"), None):
        monkeypatch.setattr(module, "CLAIM", wrong)
        with pytest.raises(ArgumentError, match=r"papers/claims/deis\.py holds no claim of 'deis'"):
            claim_of("deis")


def test_an_unknown_slug_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'dpm-solver'"):
        claim_of("dpmsolver")


@pytest.mark.parametrize("slug", claimed())
def test_a_claim_is_of_its_paper_and_says_one_thing(slug):
    claim = claim_of(slug)
    assert isinstance(claim, Claim)
    assert claim.slug == slug
    assert implementations()[slug], "what is claimed is implemented"
    statement = claim.statement
    assert statement.endswith(".")
    assert ". " not in statement, "one sentence"
    assert statement[0].isupper()
    assert len(statement) < 400
    assert statement == " ".join(statement.split())
    assert set(claim.names) <= set(claim.everything)
    assert set(claim.names) >= {"method", "null"}
    settings = {place(case.figure)[0] for case in claim.cases}
    assert settings <= set(claim.units)
    if any(place(case.figure)[1] is not None for case in claim.cases):
        assert claim.axis
    assert set(claim.seeds) <= set(BUDGETS)
    assert claim.seeds_of(BUDGETS["quick"]) >= 3


@pytest.mark.parametrize("slug", claimed())
def test_the_null_control_of_a_claim_does_not_hold(slug):
    """Its figures at seeds 0 and 1; a trial that its null passes would have raised."""
    found, seconds = tiny(slug)
    assert found.null == NOT
    assert seconds < 6, f"{slug} takes {seconds:.1f} s on the tiny budget, which is for tests"
    own = [case for case in found.cases if case["arm"] == "method"]
    assert own, "the tiny budget measures something of the method"
    assert any(case["null"]["verdict"] == NOT for case in own if not case.get("cost")), "of what is asked of the method"
    assert {case["figure"] for case in found.cases} == set(found.figures) & {c.figure for c in claim_of(slug).cases}


@pytest.mark.parametrize("slug", claimed())
def test_the_method_is_better_than_its_null_where_it_holds(slug):
    record = record_of(slug)
    if record is None or record.verdict != "holds":
        return
    own = [case for case in tiny(slug)[0].cases if case["arm"] == "method"]
    assert all(case["outcome"]["mean"] >= case["null"]["mean"] for case in own)
    assert any(case["outcome"]["mean"] > case["null"]["mean"] for case in own)


def test_all_claims_together_are_quick():
    seconds = [tiny(slug)[1] for slug in claimed()]
    assert sum(seconds) < 3 * len(seconds)
    assert sum(seconds) < 90


@pytest.mark.parametrize("slug", claimed())
def test_a_trial_gives_the_same_figures_again(slug):
    claim = claim_of(slug)
    again = claim.run(claim.everything, 1, BUDGETS["tiny"])
    for figure, arms in tiny(slug)[0].figures.items():
        assert {a: v[1] for a, v in arms.items()} == pytest.approx(dict(again[figure]), rel=1e-9)


@pytest.mark.parametrize("slug", claimed())
def test_the_lines_of_use_run(slug):
    lines = claim_of(slug).use
    assert 1 <= len(lines.splitlines()) <= 5
    names: dict[str, object] = {"rv": rv}
    exec(compile(lines, slug, "exec"), names)
    x = names["x"]
    assert x.shape[0] == 16  # type: ignore[attr-defined]
    assert x.isfinite().all()  # type: ignore[attr-defined]
    planned = any(slug in value.papers for value in names.values() if isinstance(value, rv.Plan))
    named = any(re.search(rf"\b{place.name}\b", lines) for place in implementations()[slug])  # hooks and functions
    assert planned or named, "it uses the paper"


@pytest.mark.parametrize("slug", claimed())
def test_a_claim_has_a_record(slug):
    assert (FOLDER / file_name(slug, "quick")).exists(), f"reverie claims run {slug}"


@pytest.mark.parametrize("file", RECORDS, ids=lambda f: f.name)
def test_a_record_is_borne_out_by_its_figures(file):
    """Judged again from the figures alone; the bounds of what is asked are those of the claim as it is now, where the record is not stale."""
    record = read(file)
    claim = claim_of(record.slug)
    assert file.name == file_name(record.slug, record.budget)
    assert record.budget in ("quick", "full")
    assert len(record.seeds) >= min(5, claim.seeds_of(BUDGETS[record.budget]))
    assert record.seeds == tuple(range(len(record.seeds)))
    if record.budget == "quick":
        assert record.seconds < 180
    verdicts: list[str] = []
    nulls: dict[str, list[str]] = {}
    for case, entry in zip(claim.cases, record.cases, strict=True):
        assert (case.figure, case.arm, case.against) == (entry["figure"], entry["arm"], entry["against"])
        assert case_of(entry) == case
        values = [{a: v[k] for a, v in record.figures[case.figure].items()} for k in range(len(record.seeds))]
        for part, arm in (("outcome", None), ("null", "null"), ("ideal", "ideal")):
            if entry[part] is None:
                continue
            again, kept = outcome(case, values, arm), entry[part]
            assert kept["effects"] == pytest.approx(list(again.effects), rel=1e-9, abs=1e-9)
            for name in ("mean", "low", "high", "threshold"):
                assert kept[name] == pytest.approx(getattr(again, name), rel=1e-9, abs=1e-9)
            assert kept["verdict"] == again.verdict
        verdicts.append(entry["outcome"]["verdict"])
        assert (entry["null"] is None) == (case.arm != "method")
        if case.arm == "method" and not case.cost:
            nulls.setdefault(case.setting, []).append(entry["null"]["verdict"])
        assert entry["ideal"] is None or case.cost or entry["ideal"]["verdict"] != NOT
    assert record.verdict == together(verdicts)
    assert record.null == NOT
    assert all(together(found) == NOT for found in nulls.values()), "in every setting"
    assert record.statement == claim.statement
    assert all(len(v) == len(record.seeds) for arms in record.figures.values() for v in arms.values())
    assert paper(record.slug)
