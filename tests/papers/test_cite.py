"""Citations that come from the code: of papers, of works outside the index, and of whatever was used."""

from __future__ import annotations

import re
import tomllib
from importlib import resources

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError, UnknownNameError, cites, implements
from reverie.base.registry import _IMPLEMENTATIONS
from reverie.papers import bibliography, cite, papers

WORKS = tomllib.loads((resources.files("reverie.papers") / "works.toml").read_text(encoding="utf-8"))


def keys(text: str) -> list[str]:
    return [line.split("{")[1].rstrip(",") for line in text.splitlines() if line.startswith("@")]


def test_every_solver_names_its_sources_and_all_are_in_the_bibliography():
    for name, entry in rv.solve.SOLVERS.items():
        sources = getattr(entry.build, "__papers__", ()) + getattr(entry.build, "__cites__", ())
        assert sources, name
        assert set(sources) <= set(bibliography()), name


def test_cite_collects_from_plans_guides_models_and_keys_once_and_in_order():
    p = rv.process.vp()
    guide = rv.guide.CFG(2.0)
    model = rv.oracle.Mixture(torch.zeros(2, 1), 1.0, labels=[0, 1], process=p) | guide
    text = rv.cite(rv.solve.plan("heun", p, 4), ["ddim", rv.solve.plan("ddim", p, 4)], model, guide)
    assert keys(text) == ["edm", "ddim", "cfg", "cfg-interval", "cfg-rescale"]
    assert "Karras, Tero and Aittala, Miika" in text
    assert "eprint = {2206.00364}" in text


def test_cite_takes_what_is_marked():
    try:

        @implements("deis")
        @cites("ddim")
        def method(): ...
    finally:
        _IMPLEMENTATIONS["deis"] = [e for e in _IMPLEMENTATIONS["deis"] if e.module != __name__]
    assert keys(cite(method, (["pndm"], "deis"))) == ["deis", "ddim", "pndm"]


def test_every_work_is_whole():
    for key, work in bibliography().items():
        assert work["title"], key
        assert work["authors"], key
        assert all(", " in author for author in work["authors"]), key
        assert 1900 < work["year"] < 2100, key
        assert ("eprint" in work) or ("venue" in work), key
    assert rv.cite("philox").startswith("@inproceedings{philox,")


def test_the_bibliography_is_the_index_and_the_works_beside_it():
    assert set(bibliography()) == {*WORKS, *papers()}
    assert not set(WORKS) & set(papers()), "the work would be hidden"
    eprints = [work["eprint"] for work in bibliography().values() if "eprint" in work]
    assert len(set(eprints)) == len(eprints), "one work, one key: what is in the index needs @implements, not @cites"


def test_an_entry_of_a_conference_of_a_journal_and_of_neither():
    assert cite("dpm-solver") == (
        "@inproceedings{dpm-solver,\n"
        "  title = {{DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps}},\n"
        "  author = {Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu, Jun},\n"
        "  year = {2022},\n"
        "  booktitle = {NeurIPS},\n"
        "  eprint = {2206.00927},\n"
        "  archivePrefix = {arXiv}\n"
        "}"
    )
    journal = next(p for p in papers().values() if p.venue == "TMLR")
    assert cite(journal.slug).startswith(f"@article{{{journal.slug},")
    assert "  journal = {TMLR}" in cite(journal.slug)
    neither = next(p for p in papers().values() if not p.venue)
    assert cite(neither.slug).startswith(f"@misc{{{neither.slug},")


def test_every_entry_is_bibtex():
    """Balanced braces, and none of the characters that TeX takes for its own."""
    text = cite(list(bibliography()))
    assert keys(text) == list(bibliography())
    for entry in text.split("\n\n"):
        assert re.fullmatch(r"@(article|inproceedings|misc)\{[a-z0-9-]+,\n(  \w+ = \{.+\},?\n)+\}", entry), entry
        assert entry.count("{") == entry.count("}"), entry
        assert not re.search(r"(?<!\\)[&%#_$]", entry), f"not escaped: {entry}"


def test_nothing_cites_nothing():
    assert cite() == cite([]) == ""


def test_unknown_works_and_things_without_a_source_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'dpm-solver'"):
        rv.cite("dpm-solvr")
    with pytest.raises(ArgumentError, match="names no source"):
        rv.cite(object())
    with pytest.raises(ArgumentError, match="names no source"):
        rv.cite("deis", [5])
