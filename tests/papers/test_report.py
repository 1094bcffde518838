"""Claims as Markdown, and what of a paper the code itself says."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

import reverie as rv
from reverie.base import FileError, UnknownNameError
from reverie.papers import claim_of, implementations, papers, status, write
from reverie.papers.figure import table
from reverie.papers.report import markdown, section
from reverie.papers.show import formulas, lesson, use
from reverie.papers.state import Status


@pytest.fixture
def found(tmp_path, record) -> Status:
    write(record, tmp_path / "deis.json")
    return status("deis", tmp_path)


def test_a_table_has_a_row_a_case(record):
    lines = table(record).split("\n")
    assert len(lines) == 2 + len(record.cases)
    assert {line.count(" | ") for line in lines[2:]} == {3}
    assert lines[2].startswith("| error, 8: slow / Fast & new ≥ 2 | 3.9")
    assert lines[2].endswith("| holds |")


def test_a_section_says_all(found, record):
    text = section(found, "![x](x.png)", 3)
    assert text.startswith(
        "### deis: holds\n\n*Fast Sampling of Diffusion Models with Exponential Integrator* ([2204.13902](https"
    )
    for part in (
        record.statement,
        "![x](x.png)",
        table(record),
        "quick budget, 5 seeds",
        record.day,
        "torch",
        *lesson("deis"),
    ):
        assert part in text
    assert "Stale" not in text


def test_what_is_stale_or_broken_is_said(found, record, tmp_path):
    write(replace(record, rests_on={**record.rests_on, "reverie.solve.deis": "0"}), tmp_path / "deis.json")
    assert "**Stale**: `reverie.solve.deis` changed since." in section(status("deis", tmp_path))
    (tmp_path / "deis.json").write_text("{}")
    broken = section(status("deis", tmp_path))
    assert broken.startswith("## deis\n\n**Record broken.** ")
    assert "deis.json' is not the record of a claim" in broken


def test_a_report_has_its_pictures_beside_it(found, tmp_path):
    (tmp_path / "to").mkdir()
    markdown([found], tmp_path / "to" / "claims.md")
    text = (tmp_path / "to" / "claims.md").read_text()
    assert text.startswith("# Claims\n\n1 claim")
    assert "1 holds, 0 holds weakly, 0 does not hold here." in text
    assert "![deis](deis.png)" in text
    assert sorted(f.name for f in (tmp_path / "to").iterdir()) == ["claims.md", "deis.png"]


def test_a_report_without_matplotlib_has_no_pictures(found, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (tmp_path / "to").mkdir()
    markdown([found], tmp_path / "to" / "claims.md")
    assert [f.name for f in (tmp_path / "to").iterdir()] == ["claims.md"]
    assert "png" not in (tmp_path / "to" / "claims.md").read_text()


def test_a_report_that_cannot_be_written_is_told(found, tmp_path):
    with pytest.raises(FileError, match="cannot write"):
        markdown([found], tmp_path / "none" / "claims.md")


def test_formulas_are_the_indented_blocks_of_the_modules_docstrings():
    found = formulas("deis")
    assert set(found) <= {place.module for place in implementations()["deis"]}
    for module, blocks in found.items():
        about = next(p.about for p in implementations()["deis"] if p.module == module)
        assert blocks
        for block in blocks:
            for line in block.splitlines():
                assert line.strip() in about
    with pytest.raises(UnknownNameError):
        formulas("dies")


def test_a_paper_without_code_has_no_formula_and_no_use(monkeypatch):
    slug = next(s for s in papers() if s not in ("deis",))
    monkeypatch.setattr("reverie.papers.show.implementations", dict)
    monkeypatch.setattr("reverie.papers.show.claimed", list)
    assert formulas(slug) == {}
    assert use(slug) == ""


def test_lines_of_use_are_the_claims_or_the_first_example(monkeypatch):
    assert use("deis") == claim_of("deis").use
    monkeypatch.setattr("reverie.papers.show.claimed", list)
    for slug in implementations():
        lines = use(slug)
        if lines:
            compile(lines, slug, "exec")
    with pytest.raises(UnknownNameError):
        use("dies")


def test_what_was_learned_is_the_rest_of_the_claims_docstring():
    paragraphs = lesson("deis")
    assert paragraphs
    assert all(p == " ".join(p.split()) for p in paragraphs)
    doc = rv.papers.claims.deis.__doc__
    assert paragraphs[0] == " ".join(doc.split("\n\n")[1].split())
