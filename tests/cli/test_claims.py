"""`reverie claims`: run, list, report; interrupted, killed, mixed up, edited."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import reverie as rv
from reverie.papers import Claim, claims, read, state, trial, write

FAKE = """
import math, os, time
from reverie.papers import Case, Claim

def run(arms, seed, budget):
    if seed == 3 and os.environ.get("SLOW"):
        time.sleep(60)
    return {f"error/{n}": {a: v / n * (1 + 0.01 * math.sin(seed + 7 * len(a))) for a, v in arms.items()} for n in (8, 16)}

def fake(slug="deis", method=1.0, null=None, run=run):
    return Claim(slug, "superiority", "The fake is better.", {"method": method, "baseline": 4.0}, run,
        (Case("error/8", factor=2.0), Case("error/16", factor=2.0)), null=null, axis="evaluations", units={"error": "distance"})
"""
SPACE: dict[str, Any] = {}
exec(FAKE, SPACE)
fake = SPACE["fake"]
RESTS = {"reverie.papers.verdict": "1", "reverie.papers.claims.deis": "2"}
WORDS = ("claims", "run", "deis", "--records", "records", "-o", "plots")


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    """Fakes in the place of the claims; what they rest on is read once."""
    made: dict[str, Claim] = {}

    def claim_of(slug: str) -> Claim:
        claims.claim_of(slug)  # for its errors
        return made.get(slug) or fake(slug)

    monkeypatch.setattr(rv.papers, "claim_of", claim_of)
    for module in (rv.papers.trials, state):
        monkeypatch.setattr(module, "rests_on", lambda slug, anew=False: RESTS)
    return made


@pytest.fixture
def records(tmp_path, monkeypatch) -> Path:
    """The package's folder of records, in the place of the real one."""
    folder = tmp_path / "records"
    folder.mkdir()
    monkeypatch.setattr(state, "FOLDER", folder)
    monkeypatch.setattr(state, "own_folder", lambda: folder)
    return folder


def test_a_run_writes_the_record_and_the_plot_and_tells_the_verdict(call, tmp_path):
    done = call(*WORDS)
    assert done.exit_code == 0, done.output
    assert "deis  The fake is better." in done.output
    assert "error, 8: baseline / method ≥ 2" in done.output
    assert "\n  holds  (superiority, quick budget, 5 seeds, " in done.output
    assert "the null control does not hold here)" in done.output
    assert "records/deis.json, plots/deis.png" in done.output
    assert [f.name for f in Path("records").iterdir()] == ["deis.json"]
    assert [f.name for f in Path("plots").iterdir()] == ["deis.png"]
    assert read("records/deis.json").verdict == "holds"


def test_a_changed_verdict_is_told(call, fakes):
    call(*WORDS)
    fakes["deis"] = fake(method=3.0)
    done = call(*WORDS)
    assert done.exit_code == 0, "that a claim does not hold is no error"
    assert "does not hold here" in done.output
    assert ", holds before" in done.output
    assert read("records/deis.json").verdict == "does not hold here"
    assert ", does not hold here before" not in call(*WORDS).output, "the same as before"


def test_many_at_once(call):
    done = call("claims", "run", "deis", "pndm", "deis", "--records", "records", "-o", "plots")
    assert done.exit_code == 0, done.output
    assert sorted(f.name for f in Path("records").iterdir()) == ["deis.json", "pndm.json"]
    assert done.output.count("The fake is better.") == 2


@pytest.mark.parametrize(("words", "seeds"), [(("--budget", "tiny"), 2), (("--seeds", 3), 3)])
def test_another_budget_or_number_of_seeds_is_not_recorded(call, words, seeds):
    done = call(*WORDS, *words)
    assert done.exit_code == 0, done.output
    assert "not recorded, for it is not the claim's own budget and seeds" in done.output
    assert not Path("records").exists()
    assert len(read("plots/deis.trial.json").seeds) == seeds


def test_the_full_budget_has_its_own_record(call):
    assert call(*WORDS, "--budget", "full").exit_code == 0
    assert [f.name for f in Path("records").iterdir()] == ["deis.full.json"]
    assert len(read("records/deis.full.json").seeds) == 20


def test_a_null_that_passes_gives_no_verdict_and_exit_code_1(call, fakes):
    call(*WORDS, "pndm")
    before = Path("records/deis.json").read_bytes()
    fakes["deis"] = fake(null=1.0)
    Path("records/pndm.json").unlink()
    done = call(*WORDS, "pndm")
    assert done.exit_code == 1
    assert "no verdict: the null control of 'deis' holds" in done.output
    assert Path("records/deis.json").read_bytes() == before
    assert read("records/pndm.json").verdict == "holds", "the others are run"


def test_rooms_all_and_what_is_stale(call, records):
    words = ("--records", "records", "-o", "plots")
    of_room = {p.slug for p in rv.papers.papers().values() if p.room == "solve"} & set(rv.papers.claimed())
    assert call("claims", "run", "--room", "solve", *words).exit_code == 0
    assert {f.stem for f in records.iterdir()} == of_room
    done = call("claims", "run", "--room", "solve", "--stale", *words)
    assert "nothing to run: all records are up to date" in done.output
    write(_touched(read("records/deis.json")), "records/deis.json")
    Path("records/pndm.json").write_text("{}")
    done = call("claims", "run", "--room", "solve", "--stale", *words)
    assert done.exit_code == 0
    assert done.output.count("The fake is better.") == 2
    assert call("claims", "run", "--all", *words).output.count("The fake is better.") == len(rv.papers.claimed())


def _touched(record):
    return replace(record, rests_on={**record.rests_on, "reverie.papers.verdict": "0"})


def test_nothing_to_run(call):
    done = call("claims", "run", "--room", "audio", "--records", "records")
    assert done.exit_code == 0
    assert "nothing to run: no paper of 'audio' has a claim yet" in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("deis", "--room", "solve"), "give slugs (deis), or --room, --stale, --all, not both"),
        (("deis", "--all"), "not both"),
        (("deis", "--stale"), "not both"),
        ((), "name a claim ("),
        (("dpmsolver",), "unknown paper 'dpmsolver'; did you mean 'dpm-solver'"),
        (("dc-solver",), "'dc-solver' has no claim yet; those that have one: "),
        (("--room", "solv"), "unknown room 'solv'; did you mean 'solve'"),
        (("deis", "--budget", "quik"), "unknown budget 'quik'; did you mean 'quick'"),
        (("deis", "-o", "file/x"), "cannot make the folder 'file/x'"),
        (("deis", "--records", "file"), "cannot make the folder 'file'"),
    ],
)
def test_what_cannot_be_run_is_told(call, words, said, monkeypatch, tmp_path):
    monkeypatch.setattr(rv.papers.claims, "claimed", lambda: ["score-sde", "deis"])
    (tmp_path / "file").touch()
    done = call("claims", "run", *words, *(() if "--records" in words else ("--records", "records")))
    assert done.exit_code == 2
    assert done.output.startswith("error: ")
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_a_seed_less_run_is_refused(call):
    assert call(*WORDS, "--seeds", 0).exit_code == 2


def test_a_record_that_cannot_be_written_is_told_before_the_work(call, fakes):
    def never(arms, seed, budget):
        raise AssertionError

    fakes["deis"] = fake(run=never)
    Path("records/deis.json").mkdir(parents=True)
    done = call(*WORDS)
    assert done.exit_code == 2
    assert "it is a folder" in done.output


def test_an_interrupted_run_goes_on(call, fakes):
    seeds = []

    def run(arms, seed, budget):
        seeds.append(seed)
        if len(seeds) == 4:
            raise KeyboardInterrupt
        return SPACE["run"](arms, seed, budget)

    fakes["deis"] = fake(run=run)
    done = call(*WORDS)
    assert done.exit_code == 130
    assert "stopped: nothing was recorded of deis; the same command goes on after its last finished seed" in done.output
    assert list(Path("records").iterdir()) == []
    assert call(*WORDS).exit_code == 0
    assert seeds == [0, 1, 2, 3, 3, 4]
    assert read("records/deis.json").figures == trial(fake()).figures


def test_without_matplotlib_there_is_a_note_and_no_plot(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = call(*WORDS)
    assert done.exit_code == 0
    assert "note: the plot needs matplotlib" in done.output
    assert read("records/deis.json").verdict == "holds"
    assert list(Path("plots").iterdir()) == []


KILLED = (
    FAKE
    + f"RESTS = {RESTS}"
    + """
import reverie.papers, torch
torch.set_num_threads(1)
reverie.papers.claim_of = fake
reverie.papers.trials.rests_on = reverie.papers.state.rests_on = lambda slug, anew=False: RESTS
from reverie.cli.app import app
app(["claims", "run", "deis", "--records", "records", "-o", "plots"], prog_name="reverie")
"""
)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_leaves_the_record_before_it(call, tmp_path, stop):
    (tmp_path / "records").mkdir()
    write(trial(fake(method=1.5)), tmp_path / "records" / "deis.json")
    before = (tmp_path / "records" / "deis.json").read_bytes()
    env = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    command = [sys.executable, "-c", KILLED]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=env | {"SLOW": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    partial, until = tmp_path / "plots" / ".deis.quick.partial.json", time.monotonic() + 60
    while not partial.exists() or '"2"' not in partial.read_text():
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(stop)
    said = process.communicate(timeout=30)[0]
    if stop == signal.SIGINT:
        assert process.returncode == 130
        assert "nothing was recorded of deis" in said
        assert "Traceback" not in said
    else:
        assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "records" / "deis.json").read_bytes() == before
    assert [f.name for f in (tmp_path / "records").iterdir()] == ["deis.json"]
    assert [f.name for f in (tmp_path / "plots").iterdir()] == [partial.name]
    kept = json.loads(partial.read_text())
    assert sorted(kept["seeds"]) == ["0", "1", "2"]
    done = call(*WORDS)
    assert done.exit_code == 0, done.output
    assert read("records/deis.json").figures == trial(fake()).figures
    assert json.loads(Path("records/deis.json").read_text())["seal"] != json.loads(before)["seal"]
    assert not partial.exists()


# What is listed and reported.


def test_the_list(call, records):
    call(*WORDS)
    done = call("claims", "list")
    assert done.exit_code == 0, done.output
    lines = {line.split()[0]: line for line in done.output.splitlines()}
    assert set(lines) - {"claim"} == set(rv.papers.claimed())
    record = read(records / "deis.json")
    for part in ("holds", "superiority", record.day, "quick", "5 seeds"):
        assert part in lines["deis"]
    assert lines["pndm"].split()[:3] == ["pndm", "not", "run"]


def test_the_list_of_another_folder(call, records):
    assert call("claims", "run", "deis", "--records", "other", "-o", "plots").exit_code == 0
    listed = {
        e["slug"]: e["verdict"] for e in json.loads(call("claims", "list", "--records", "other", "--json").output)
    }
    assert (listed["deis"], listed["pndm"]) == ("holds", None)
    assert {e["verdict"] for e in json.loads(call("claims", "list", "--json").output)} == {None}


def test_the_list_for_programs(call, records):
    call(*WORDS)
    found = {e["slug"]: e for e in json.loads(call("claims", "list", "--json").output)}
    assert list(found) == rv.papers.claimed()
    assert (found["deis"]["verdict"], found["deis"]["kind"], found["deis"]["statement"]) == (
        "holds", "superiority", "The fake is better.",
    )  # fmt: skip
    assert found["pndm"]["verdict"] is None


def test_what_is_stale_is_told(call, records):
    call(*WORDS)
    write(_touched(read(records / "deis.json")), records / "deis.json")
    assert "holds (stale)" in call("claims", "list").output
    assert "holds (stale)" in call("papers", "--state", "claimed").output
    assert "1 stale" in call("papers").output.splitlines()[-1]
    said = "stale: reverie.papers.verdict changed since; reverie claims run deis"
    assert said in call("papers", "show", "deis").output
    assert said in call("claims", "report").output


@pytest.mark.parametrize(
    "edit", [lambda t: t.replace('"verdict": "holds"', '"verdict": "holds weakly"', 1), lambda t: "{}"]
)
def test_an_edited_record_is_named_and_exit_code_1(call, records, edit):
    call(*WORDS, "pndm")
    (records / "deis.json").write_text(edit((records / "deis.json").read_text()))
    for words in (
        ("claims", "list"),
        ("claims", "list", "--json"),
        ("claims", "report"),
        ("claims", "report", "-o", "x.md"),
    ):
        done = call(*words)
        assert done.exit_code == 1, words
        assert "broken record: '" in done.output
        assert "records/deis.json' " in done.output
        assert "reverie claims run deis" in done.output
    assert "record broken" in call("claims", "list").output
    assert [json.loads(call("claims", "list", "--json").stdout)[k]["slug"] for k in range(2)] == rv.papers.claimed()[:2]
    shown = call("papers", "show", "deis")
    assert shown.exit_code == 0
    assert "record broken" in shown.output
    assert "broken record: '" in shown.output
    assert "broken record: '" in call("papers", "--room", "solve").output
    assert "Record broken." in Path("x.md").read_text()
    assert "## pndm: holds" in Path("x.md").read_text()


def test_a_record_of_whatever_shape_does_not_break_the_index(call, records):
    """Sealed, but not as this version writes it."""
    call(*WORDS)
    body = json.loads((records / "deis.json").read_text())
    body = {k: v for k, v in body.items() if k != "seal"} | {"cases": [{}]}
    (records / "deis.json").write_text(json.dumps({**body, "seal": rv.papers.records._seal(body)}))
    done = call("papers", "--room", "solve")
    assert done.exit_code == 0, done.exception
    assert "broken record: '" in done.output


def test_a_report(call, records):
    call(*WORDS, "pndm")
    done = call("claims", "report")
    assert done.exit_code == 0
    assert done.output.count("The fake is better.") == 2
    done = call("claims", "report", "-o", "claims.md")
    assert done.exit_code == 0, done.output
    assert "claims.md" in done.output
    assert "2 claims" in done.output
    text = Path("claims.md").read_text()
    assert text.count("## ") == 2
    assert "2 holds, 0 holds weakly, 0 does not hold here" in text
    assert Path("deis.png").exists()
    assert Path("pndm.png").exists()


def test_a_report_that_cannot_be_written_is_told(call, records):
    call(*WORDS)
    done = call("claims", "report", "-o", "none/claims.md")
    assert done.exit_code == 2
    assert "cannot write 'none/" in done.output


def test_a_paper_shows_its_record(call, records):
    call(*WORDS)
    done = call("papers", "show", "deis")
    assert "What is claimed here" in done.output
    assert "error, 8: baseline / method ≥ 2" in done.output
    entry = json.loads(call("papers", "show", "deis", "--json").output)
    assert entry["verdict"] == "holds"
    assert entry["record"]["statement"] == "The fake is better."
    assert set(entry["record"]["figures"]) == {"error/8", "error/16"}


def test_a_real_claim_from_end_to_end(call, fakes):
    fakes["deis"] = claims.claim_of("deis")
    done = call(*WORDS, "--budget", "tiny")
    assert done.exit_code == 0, done.output
    assert fakes["deis"].statement in " ".join(done.output.split())
    assert "not recorded" in done.output
    assert read("plots/deis.trial.json").statement == fakes["deis"].statement
