"""The figure of a claim and its cases in words, and what is told of a paper."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise

import pytest

from reverie.base import ArgumentError, FileError
from reverie.papers import VERDICTS, Case, Claim, trial
from reverie.papers.claim import place
from reverie.papers.figure import COLOURS, curves, draw, rows, save, shown, svg

from . import fakes


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", text)]


@pytest.mark.parametrize(
    ("figure", "want"),
    [
        ("digits/8", ("digits", 8.0)),
        ("digits, cost/20", ("digits, cost", 20.0)),
        ("a/b/0.5", ("a/b", 0.5)),
        ("deviation", ("deviation", None)),
        ("digits/fid", ("digits/fid", None)),
    ],
)
def test_the_place_of_a_figure(figure, want):
    assert place(figure) == want


def test_curves_are_of_settings_with_two_places_and_without_the_null_that_is_the_baseline(record):
    found = curves(record)
    assert list(found) == ["error"]
    assert list(found["error"]) == ["method", "baseline", "other", "null"]
    assert [at for at, _ in found["error"]["method"]] == [8.0, 16.0]
    assert found["error"]["method"][0][1] == record.figures["error/8"]["method"]
    same = {f: {**arms, "null": arms["baseline"]} for f, arms in record.figures.items()}
    assert list(curves(replace(record, figures=same))["error"]) == ["method", "baseline", "other"]
    assert curves(trial(fakes.saving())) == {}
    assert curves(trial(fakes.identity())) == {}


def test_cases_in_words(record):
    assert [shown(record, case) for case in record.cases] == [
        "error, 8: slow / Fast & new ≥ 2",
        "error, 16: slow / Fast & new ≥ 2",
        "error, 8: slow / other > 1",
        "score: Fast & new − slow ≥ 1",
    ]
    (case,) = trial(fakes.identity()).cases
    assert shown(trial(fakes.identity()), case) == "deviation: method ≤ 1e-12"


def test_rows_say_what_was_found_with_its_interval_and_the_null_control(record):
    found = rows(record)
    assert {row[3] for row in found} == {"holds"}
    for case, (_, said, control, _) in zip(record.cases, found, strict=True):
        own, null, ratio = case["outcome"], case["null"], "factor" in case
        want = [own["mean"], own["low"], own["high"]]
        assert numbers(said) == pytest.approx([2**v for v in want] if ratio else want, rel=0.01)
        if case["arm"] == "method":
            assert numbers(control) == pytest.approx(
                [2 ** null["mean"] if ratio else null["mean"]], rel=0.01, abs=1e-12
            )
            assert control.endswith(", fails")
        else:
            assert control == "–"


@pytest.mark.parametrize("bound", ["at_most", "at_least"])
def test_a_bound_is_told_in_the_figures_own_unit_from_low_to_high(bound):
    def run(arms, seed, budget):
        return {"d": {a: v + 0.01 * seed for a, v in arms.items()}}

    worse, limit = (2.0, 1.0) if bound == "at_most" else (0.1, 0.3)
    claim = Claim("deis", "identity", "It is.", {"method": 0.5}, run, (Case("d", **{bound: limit}),), null=worse)
    ((asked, said, control, verdict),) = rows(trial(claim))
    mean, low, high = numbers(said)
    assert asked == f"d: method {'≤' if bound == 'at_most' else '≥'} {limit:g}"
    assert mean == pytest.approx(0.52, rel=0.01)
    assert numbers(control) == pytest.approx([worse + 0.02], rel=0.01)
    assert verdict == "holds"
    assert low < mean < high


def test_one_seed_has_no_interval():
    assert "[" not in rows(trial(fakes.superiority(), seeds=1))[0][1]


def test_every_verdict_has_its_colour():
    assert tuple(COLOURS) == VERDICTS


@pytest.mark.parametrize("make", [fakes.superiority, fakes.saving, fakes.identity])
@pytest.mark.parametrize("seeds", [1, 5])
def test_every_kind_of_record_is_drawn(make, seeds):
    found = trial(make(), seeds=seeds)
    figure = draw(found)
    panels = [axes for part in figure.subfigs for axes in part.axes] or figure.axes
    row = {t.get_text(): axes for axes in panels[len(curves(found)) :] for t in axes.get_yticklabels()}
    assert set(row) == {shown(found, case) for case in found.cases}
    for case in found.cases:
        low, high = row[shown(found, case)].get_xlim()
        for effect in (*case["outcome"]["effects"], case["outcome"]["mean"]):
            assert low <= effect - case["outcome"]["threshold"] <= high


def test_the_lines_are_medians_over_seeds(record):
    upper = draw(record).subfigs[0].axes[0]
    line = next(part for part in upper.get_lines() if part.get_label() == "Fast & new")
    want = [sorted(record.figures[f"error/{at}"]["method"])[2] for at in (8, 16)]
    assert list(line.get_ydata()) == want
    assert list(line.get_xdata()) == [8.0, 16.0]
    assert upper.get_xlabel() == "evaluations"
    assert upper.get_ylabel() == "distance"
    (legend,) = draw(record).subfigs[0].legends
    assert [t.get_text() for t in legend.get_texts()] == [
        "Fast & new", "slow, as ever", "other", "slow in its place",
    ]  # fmt: skip


def test_many_settings_stand_two_beside_each_other_under_one_legend(record):
    settings = {f"{name}/{at}": record.figures[f"error/{at}"] for name in ("error", "two", "three") for at in (8, 16)}
    upper = draw(replace(record, figures=record.figures | settings)).subfigs[0]
    shown = [axes for axes in upper.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in shown] == ["error", "two", "three"]
    assert shown[0].get_position().y0 == pytest.approx(shown[1].get_position().y0)
    assert shown[2].get_position().y1 < shown[0].get_position().y0
    assert len(upper.legends) == 1


def test_ranks_are_even_and_budgets_in_logarithms(record):
    budgets = draw(record).subfigs[0].axes[0]
    assert budgets.get_xscale() == "log"
    ranks = {f"error/{k}": record.figures["error/8"] for k in (1, 2, 3)}
    assert draw(replace(record, figures=record.figures | ranks)).subfigs[0].axes[0].get_xscale() == "log"
    own = {k: v for k, v in record.figures.items() if not k.startswith("error/")} | ranks
    assert draw(replace(record, figures=own), forest=False).axes[0].get_xscale() == "linear"


def test_an_svg_for_the_page(record):
    text = svg(record)
    root = ET.fromstring(text)
    assert root.tag.endswith("svg")
    assert "width" not in root.attrib
    assert "height" not in root.attrib
    assert "viewBox" in root.attrib
    assert "currentColor" in text
    assert "#010203" not in text
    assert "<metadata" not in text
    said = "".join(root.itertext())
    assert "Fast & new" in said, "text is text"
    ids = re.compile(r"\b[a-z][0-9a-f]{10}\b")  # of clips: of their corners, which the layout finds to 13 digits or so
    assert ids.sub("", svg(record)) == ids.sub("", text), "the same picture for the same record"


@pytest.mark.parametrize(("kind", "head"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_file(tmp_path, record, kind, head):
    save(record, tmp_path / f"x.{kind}")
    assert (tmp_path / f"x.{kind}").read_bytes().startswith(head)
    assert [f.name for f in tmp_path.iterdir()] == [f"x.{kind}"]


def test_a_file_that_cannot_be_written_is_told(tmp_path, record):
    with pytest.raises(FileError, match="cannot write"):
        save(record, tmp_path / "none" / "x.png")


@pytest.mark.parametrize("name", ["x.txt", "x"])
def test_a_kind_of_file_that_is_no_picture_is_refused(tmp_path, record, name):
    with pytest.raises(ArgumentError, match=name):
        save(record, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_it_says_what_to_install(record, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for make in (draw, svg, lambda r: save(r, tmp_path / "x.png")):
        with pytest.raises(ArgumentError, match=r"pip install 'reverie\[plot\]'"):
            make(record)


def test_places_are_drawn_in_the_order_in_which_they_were_measured(record):
    for setting in curves(record).values():
        for points in setting.values():
            assert all(a[0] < b[0] for a, b in pairwise(points))
