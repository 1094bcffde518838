"""Trials: the null control, what a run may return, and what is left of a trial that stops half-way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from reverie.base import ArgumentError
from reverie.papers import BUDGETS, Case, ControlError, Record, outcome, trial, trials

from . import fakes

PARTIAL = ".deis.quick.partial.json"


def same(one: Record, other: Record) -> bool:
    """All but the clock's part of two records."""
    return replace(one, seconds=0.0, day="") == replace(other, seconds=0.0, day="")


class Run:
    """Counts the seeds that are measured; raises `error` in that of seed `at`."""

    def __init__(self, at: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.at, self.error, self.seeds = at, error, []
        self.__qualname__ = "run"  # as functions have

    def __call__(self, arms: Any, seed: int, budget: Any) -> Any:
        self.seeds.append(seed)
        if seed == self.at:
            raise self.error
        return fakes.errors(arms, seed, budget)


@pytest.mark.parametrize("budget", ["quick", "full"])
@pytest.mark.parametrize("make", [fakes.superiority, fakes.saving, fakes.identity])
def test_the_three_kinds_hold_and_their_nulls_do_not(make, budget):
    found = trial(make(), budget)
    assert (found.kind, found.verdict, found.null) == (make.__name__, "holds", "does not hold here")
    assert len(found.seeds) == BUDGETS[budget].seeds
    assert all(case["outcome"]["verdict"] == "holds" for case in found.cases)
    assert any(case["null"] and case["null"]["verdict"] == "does not hold here" for case in found.cases)


@pytest.mark.parametrize(
    "claim",
    [
        fakes.superiority(null=1.0),
        fakes.superiority(cases=(Case("error/8", factor=0.5),)),  # a margin that the baseline itself keeps
        fakes.saving(null=(1.0, 20)),
        fakes.identity(sign=1.0),
    ],
    ids=["superiority", "margin", "saving", "identity"],
)
@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_a_null_that_passes_gives_no_verdict(claim, seeds, tmp_path):
    """At one seed and at two it passes weakly, which is too much already."""
    with pytest.raises(
        ControlError, match=rf"the null control of '{claim.slug}' holds.* on '.*: the predicate cannot tell"
    ):
        trial(claim, seeds=seeds, folder=tmp_path)


def test_the_null_fails_in_every_setting_but_what_things_cost():
    """That it fails on one says nothing of the other; that the cheap baseline is as cheap is no fault of the claim."""
    cases = (Case("error/8", factor=2.0), Case("score", gain=-100.0, better="higher"))
    with pytest.raises(ControlError, match=r"the null control of 'deis' holds on 'score'"):
        trial(fakes.superiority(cases=cases))
    costly = (Case("error/8", factor=2.0), Case("score", gain=-100.0, better="higher", cost=True))
    assert trial(fakes.superiority(cases=costly)).verdict == "holds"


def test_a_positive_control_that_fails_gives_no_verdict():
    """Not even what is ideal is far enough from a baseline that lies on the floor."""
    assert trial(fakes.superiority(ideal=0.9)).verdict == "holds"
    found = trial(fakes.superiority(ideal=0.9)).cases
    assert [case["ideal"] and case["ideal"]["verdict"] for case in found] == ["holds", "holds", None, "holds"]
    with pytest.raises(
        ControlError, match=r"the positive control of 'deis' fails at 'error/8'.*not even ideal samples"
    ):
        trial(fakes.superiority(ideal=3.0))


def test_a_control_that_nothing_measures_is_none():
    claim = fakes.superiority(
        lambda arms, seed, budget: {"score": {"method": 1.0, "baseline": 2.0}},
        cases=(Case("score", factor=1.0, arm="baseline", against="method"), Case("error/8", factor=1.0)),
    )
    with pytest.raises(ControlError, match="takes no part in what was measured"):
        trial(claim, "tiny")


def test_code_that_changes_meanwhile_is_told(monkeypatch, tmp_path):
    resting = iter([{"reverie.solve.deis": "1"}, {"reverie.solve.deis": "2"}])
    monkeypatch.setattr(trials, "rests_on", lambda slug, anew=False: next(resting))
    with pytest.raises(ArgumentError, match=r"reverie\.solve\.deis changed while 'deis' ran"):
        trial(fakes.superiority(), folder=tmp_path)


def test_a_null_must_fail_in_what_is_asked_of_the_method(tmp_path):
    """A case between two other arms is the same with the null in the method's place: that it fails is no control."""
    cases = (Case("error/8", factor=0.5), Case("error/8", factor=2.0, arm="baseline", against="other"))
    with pytest.raises(ControlError):
        trial(fakes.superiority(cases=cases))


def test_the_figures_and_the_outcomes_are_kept():
    claim = fakes.superiority()
    found = trial(claim)
    assert list(found.figures) == list(fakes.FIGURES)
    for figure, arms in found.figures.items():
        assert list(arms) == ["method", "baseline", "other", "null"]
        for seed in found.seeds:
            want = fakes.errors(claim.everything, seed, BUDGETS["quick"])[figure]
            assert {a: v[seed] for a, v in arms.items()} == want
    for case, entry in zip(claim.cases, found.cases, strict=True):
        values = [{a: v[s] for a, v in found.figures[case.figure].items()} for s in found.seeds]
        assert (entry["null"] is None) == (case.arm != "method")
        for arm in (None, "null") if case.arm == "method" else (None,):
            got, want = entry["outcome" if arm is None else "null"], outcome(case, values, arm)
            assert (got["mean"], got["low"], got["high"]) == (want.mean, want.low, want.high)
            assert got["verdict"] == want.verdict
            assert tuple(got["effects"]) == want.effects


def test_how_it_was_measured_is_kept():
    found = trial(fakes.superiority())
    assert found.versions["torch"] == torch.__version__
    assert found.threads == torch.get_num_threads()
    assert found.rests_on == trials.rests_on("deis")
    assert {"reverie.papers.claims.deis", "reverie.papers.verdict", "reverie.solve.deis"} <= set(found.rests_on)
    assert (found.statement, found.axis, found.units["error"]) == ("The fake is better.", "evaluations", "distance")


@pytest.mark.parametrize(("own", "found"), [({}, 5), ({"quick": 7}, 7)])
def test_the_number_of_seeds(own, found):
    assert trial(fakes.superiority(seeds=own)).seeds == tuple(range(found))
    assert trial(fakes.superiority(seeds=own), seeds=3).seeds == (0, 1, 2)
    with pytest.raises(ArgumentError, match="at least one seed, got 0"):
        trial(fakes.superiority(seeds=own), seeds=0)


def test_an_unknown_budget_is_named():
    with pytest.raises(ArgumentError, match="unknown budget 'quik'; did you mean 'quick'"):
        trial(fakes.superiority(), "quik")


def test_cases_whose_figure_is_missing_are_left_out_at_tiny_only():
    found = trial(fakes.superiority(), "tiny")
    assert [case["figure"] for case in found.cases] == ["error/8", "error/8"]
    claim = fakes.superiority(cases=(Case("error/8", factor=2.0), Case("error/32", factor=2.0)))
    assert len(trial(claim, "tiny").cases) == 1
    with pytest.raises(ArgumentError, match="'deis' asks about 'error/32', which its run did not measure"):
        trial(claim, "quick")
    with pytest.raises(ArgumentError, match="measured no figure that a case asks about"):
        trial(fakes.superiority(cases=(Case("score", gain=1.0, better="higher"),)), "tiny")


def test_a_figure_that_is_missing_is_told_after_the_first_seed():
    run = Run()
    with pytest.raises(ArgumentError, match="error/32"):
        trial(fakes.superiority(run, cases=(Case("error/32", factor=2.0),)))
    assert run.seeds == [0], "not after minutes"


def spoiled(change: Callable[[dict[str, dict[str, float]]], Any]) -> Callable[..., Any]:
    """A run that goes wrong at seed 2."""

    def run(arms, seed, budget):
        found = fakes.errors(arms, seed, budget)
        if seed == 2:
            change(found)
        return found

    return run


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f["error/8"].pop("method"), "'deis' did not measure 'error/8' of method"),
        (lambda f: f["error/8"].pop("null"), "'deis' did not measure 'error/8' of null"),
        (lambda f: f["error/8"].pop("other"), "'deis' did not measure 'error/8' of other"),
        (lambda f: f["score"].pop("baseline"), "'deis' did not measure 'score' of baseline"),
        (lambda f: f["error/8"].update(othr=1.0), "'deis' measured 'error/8' of 'othr', which is no arm of it"),
        (lambda f: f["error/16"].update(method=math.nan), "'error/16' of the arm 'method' of 'deis' is nan at seed 2"),
        (lambda f: f["score"].update(null=-math.inf), "'score' of the arm 'null' of 'deis' is -inf at seed 2"),
        (lambda f: f.pop("score"), "'deis' asks about 'score', which its run did not measure"),
        (lambda f: f["error/8"].update(method=0.0), "'error/8' is 0 and .*a factor needs positive figures"),
    ],
)
def test_a_run_that_goes_wrong_is_named(change, said, tmp_path):
    with pytest.raises(ArgumentError, match=said):
        trial(fakes.superiority(spoiled(change)), folder=tmp_path)


def test_figures_that_no_case_asks_about_may_differ_between_seeds():
    def run(arms, seed, budget):
        return fakes.errors(arms, seed, budget) | ({"more": {"method": 1.0}} if seed == 0 else {})

    assert "more" not in trial(fakes.superiority(run)).figures, "a curve has a value a seed"


def test_progress_is_told():
    heard: list[tuple[str, float]] = []
    trial(fakes.superiority(), progress=lambda what, share: heard.append((what, share)))
    assert [share for _, share in heard] == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert heard[0][0] == "seed 1 of 5"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_an_interrupted_trial_goes_on_where_it_stopped(tmp_path, error):
    first, second = Run(3, error), Run()
    with pytest.raises(error):
        trial(fakes.superiority(first), folder=tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == [PARTIAL], "no record, and no half of a file"
    assert sorted(json.loads((tmp_path / PARTIAL).read_text())["seeds"]) == ["0", "1", "2"]
    found = trial(fakes.superiority(second), folder=tmp_path)
    assert second.seeds == [3, 4]
    assert same(found, trial(fakes.superiority()))
    assert list(tmp_path.iterdir()) == [], "nothing is left of it"


def test_the_seconds_before_an_interruption_count(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trial(fakes.superiority(Run(3)), folder=tmp_path)
    kept = json.loads((tmp_path / PARTIAL).read_text())
    kept = {k: v for k, v in kept.items() if k != "seal"} | {"seconds": 1000.0}
    (tmp_path / PARTIAL).write_text(json.dumps(kept | {"seal": trials._digest(kept)}))
    assert 1000 <= trial(fakes.superiority(Run()), folder=tmp_path).seconds < 1010


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        trial(fakes.superiority(Run(3)))
    assert list(tmp_path.iterdir()) == []


def test_a_null_that_passes_leaves_nothing_that_another_trial_would_use(tmp_path, monkeypatch):
    """The seeds that were found stay valid while the code is the same; with other code they are measured again."""
    with pytest.raises(ControlError):
        trial(fakes.superiority(null=1.0), folder=tmp_path)
    monkeypatch.setattr(trials, "rests_on", lambda slug, anew=False: {"reverie.papers.claims.deis": "other"})
    run = Run()
    assert trial(fakes.superiority(run), folder=tmp_path).verdict == "holds"
    assert run.seeds == [0, 1, 2, 3, 4]


def stopped(folder: Path) -> dict[str, Any]:
    with pytest.raises(KeyboardInterrupt):
        trial(fakes.superiority(Run(3)), folder=folder)
    return json.loads((folder / PARTIAL).read_text())


def test_seeds_of_other_code_are_not_used(tmp_path, monkeypatch):
    stopped(tmp_path)
    resting = trials.rests_on("deis")
    monkeypatch.setattr(trials, "rests_on", lambda slug, anew=False: resting | {"reverie.solve.deis": "0" * 12})
    run = Run()
    trial(fakes.superiority(run), folder=tmp_path)
    assert run.seeds == [0, 1, 2, 3, 4]


def test_seeds_of_another_torch_are_not_used(tmp_path, monkeypatch):
    stopped(tmp_path)
    monkeypatch.setattr(torch, "__version__", "0.1")
    run = Run()
    trial(fakes.superiority(run), folder=tmp_path)
    assert run.seeds == [0, 1, 2, 3, 4]


def test_seeds_of_another_budget_are_not_used(tmp_path):
    kept = stopped(tmp_path)
    run = Run()
    trial(fakes.superiority(run), "full", seeds=5, folder=tmp_path)
    assert run.seeds == [0, 1, 2, 3, 4]
    (tmp_path / ".deis.full.partial.json").write_text(json.dumps(kept))  # under the other's name
    run = Run()
    trial(fakes.superiority(run), "full", seeds=5, folder=tmp_path)
    assert run.seeds == [0, 1, 2, 3, 4]


def test_seeds_of_another_claim_are_not_used(tmp_path):
    kept = stopped(tmp_path)
    (tmp_path / ".pndm.quick.partial.json").write_text(json.dumps(kept))
    run = Run()
    trial(fakes.superiority(run, slug="pndm"), folder=tmp_path)
    assert run.seeds == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda kept: json.dumps(kept)[:-40],
        lambda kept: "",
        lambda kept: "[]",
        lambda kept: "\0\0",
        lambda kept: "5",
        lambda kept: json.dumps({k: v for k, v in kept.items() if k != "seconds"}),
        lambda kept: json.dumps(kept | {"seconds": "long"}),
        lambda kept: json.dumps(kept | {"seeds": 5}),
        lambda kept: json.dumps(kept | {"seeds": {"0": 5}}),
        lambda kept: json.dumps(kept | {"seeds": {"0": {"error/8": [1.0]}}}),
        lambda kept: "[" * 100000,
        lambda kept: json.dumps(kept | {"key": "x"}),
        lambda kept: json.dumps(kept).replace("1.0", "1.1", 1),
        lambda kept: json.dumps(kept) + " " * (17 << 20),
    ],
)
def test_a_spoiled_file_is_not_used(tmp_path, spoil):
    (tmp_path / PARTIAL).write_text(spoil(stopped(tmp_path)))
    run = Run()
    assert same(trial(fakes.superiority(run), folder=tmp_path), trial(fakes.superiority()))
    assert run.seeds == [0, 1, 2, 3, 4]


def test_a_kept_file_that_is_a_folder_is_told(tmp_path):
    (tmp_path / PARTIAL).mkdir()
    with pytest.raises(OSError, match="partial"):
        trial(fakes.superiority(), folder=tmp_path)


def test_a_folder_that_is_missing_is_told_before_the_work(tmp_path):
    run = Run()
    with pytest.raises(OSError, match="none"):
        trial(fakes.superiority(run), folder=tmp_path / "none")
    assert run.seeds == []
