"""`reverie tune`: a plan for one model, its figures, and what is said of bad words."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reverie as rv
from reverie.cli import tuning

QUICK = ("--calibration", 6, "--heldout", 6, "--iterations", 2, "--reference", 30)


def test_a_plan_is_fitted_saved_and_used(call: Callable[..., Any], tiny: str, tmp_path: Path) -> None:
    answer = call("tune", tiny, "1,2", "--steps", 2, "-o", "two.json", *QUICK)
    assert answer.exit_code == 0, answer.output
    assert "2 calls of tiny" in answer.output
    assert "on 6 noises that had no part in the fit" in answer.output
    plan = rv.Plan.load(tmp_path / "two.json")
    assert plan.provenance["conditions"] == "class_labels: 2 in turn"
    assert (plan.provenance["calibration"], plan.provenance["reference"]) == (6, 30)
    for key in ("before", "after"):
        assert f"{plan.provenance[key]['median']:.3g}" in answer.output
    done = call("sample", tiny, "1", "-n", 2, "--plan", "two.json", "-o", "out.png")
    assert done.exit_code == 0, done.output
    assert "2 calls and 2 network forwards each" in done.output


def test_the_guide_is_part_of_what_is_fitted(call: Callable[..., Any], scenic: str, tmp_path: Path) -> None:
    answer = call("tune", scenic, "a red circle", "two stars", "--steps", 1, "-o", "one.json", *QUICK)
    assert answer.exit_code == 0, answer.output
    assert rv.Plan.load(tmp_path / "one.json").provenance["model"] == "scenic | CFG(3)"
    done = call("sample", scenic, "a red circle", "-n", 1, "--plan", "one.json", "--guide", "none", "-o", "out.png")
    assert done.output.count("note: this 'tuned' plan was fitted to scenic | CFG(3), and is run on scenic") == 1
    assert "OriginWarning" not in done.output
    call("tune", scenic, "a red circle", "--steps", 1, "--guide", "none", "-o", "one.json", *QUICK)
    assert rv.Plan.load(tmp_path / "one.json").provenance["model"] == "scenic"


def test_ctrl_c_saves_the_best_so_far(
    call: Callable[..., Any], tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reverie.solve.tuning import fitting

    fit, calls = fitting.fit, []

    def interrupted(cases: Any, start: Any, *more: Any, tell: Any = lambda i, e: None, **other: Any) -> Any:
        def noted(iteration: int, error: float) -> None:
            calls.append(iteration)
            os.kill(os.getpid(), signal.SIGINT)
            tell(iteration, error)

        return fit(cases, start, *more, tell=noted if other or len(more) > 2 else tell, **other)

    monkeypatch.setattr("reverie.solve.tuning.tune.fit", interrupted)
    answer = call("tune", tiny, "1", "--steps", 2, "-o", "two.json", *QUICK[:-4], "--iterations", 9, "--reference", 30)
    assert answer.exit_code == 0, answer.output
    assert "stopped: the fit was ended early; the plan is the best so far" in answer.output
    assert calls == [1]
    assert rv.Plan.load(tmp_path / "two.json").nfe == 2


def test_bad_words(call: Callable[..., Any], tiny: str, scenic: str) -> None:
    assert "unknown guide 'pag'" in call("tune", tiny, "--guide", "pag").output
    assert "'11'" in call("tune", tiny, "11").output
    assert call("tune", tiny, "--steps", 0).exit_code == 2
    assert "nothing said is what guides compare with" in call("tune", scenic).output
    assert "reference is a tolerance" in call("tune", tiny, "--reference", "fine").output
    assert call("tune", tiny, "-o", "nowhere/plan.json").exit_code == 2


def test_only_the_first_ctrl_c_is_noted() -> None:
    import threading

    event = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    with tuning._noted(event):
        os.kill(os.getpid(), signal.SIGINT)
        assert event.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
