from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import reverie as rv
from reverie.inspect import Comparison
from reverie.nets import UNet

torch.set_num_threads(1)
FAST = ("-n", 20, "--fine", 20, "--reference", 20, "--batch", 20)


@pytest.fixture
def count(monkeypatch):
    """How often the network was called; `count.stop = k` presses Ctrl-C at the k-th call."""

    class Count:
        calls, stop = 0, None

    forward = UNet.forward

    def counted(self, *args, **kwargs):
        Count.calls += 1
        if Count.calls == Count.stop:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(UNet, "forward", counted)
    return Count


def test_a_table_and_a_plot_that_are_the_librarys(call, tiny):
    np.save("real.npy", np.random.default_rng(0).normal(size=(120, 1, 8, 8)).astype("float32"))
    words = (
        *FAST,
        "--nfe",
        "2,4",
        "--solvers",
        "ddim,heun@karras:5,ddim:eta=1",
        "--guide",
        "cfg:2",
        "--data",
        "real.npy",
    )
    done = call("compare", tiny, "7,3", *words, "-o", "out")
    assert done.exit_code == 0, done.output
    assert Path("out/compare.png").read_bytes()[:4] == b"\x89PNG"
    found = Comparison.load("out/compare.json")
    want = rv.compare(
        rv.load(tiny), ("ddim", "heun@karras:5", "ddim:eta=1"), nfe=(2, 4), n=20, fine=20, reference=20, batch=20,
        guide=rv.guide.CFG(2.0), cond={"class_labels": torch.tensor([7, 3] * 10)}, data=torch.from_numpy(np.load("real.npy")),
    )  # fmt: skip
    assert [r.solver for r in found.rows] == [r.solver for r in want.rows]
    for mine, theirs in zip(found.rows, want.rows, strict=True):
        assert mine.forwards == theirs.forwards == 2 * mine.calls
        assert mine.sliced.value == pytest.approx(theirs.sliced.value, rel=1e-6)
        assert (mine.error is None) == (mine.solver == "ddim:eta=1")
    assert str(found).splitlines()[0] in done.output
    for words in (
        "noise floor",
        "20 real samples",
        "4 calls",
        "heun@karras:5",
        "out/compare.json, compare.png  6 rows",
    ):
        assert words in done.output


def test_an_interrupted_comparison_resumes(call, tiny, count):
    words = ("compare", tiny, *FAST, "--nfe", "2,3", "--solvers", "ddim,dpmpp-2m", "-o")
    assert call(*words, "whole").exit_code == 0
    whole = count.calls
    count.calls, count.stop = 0, whole - 1  # in the last row
    stopped = call(*words, "out")
    assert stopped.exit_code == 130
    assert "stopped: 3 rows are in out/compare.json; the same command goes on from there" in stopped.output
    assert not Comparison.load("out/compare.json").complete
    assert not Path("out/compare.png").exists()
    count.calls, count.stop = 0, None
    done = call(*words, "out")
    assert done.exit_code == 0
    assert count.calls < whole
    a, b = Comparison.load("out/compare.json"), Comparison.load("whole/compare.json")
    assert a.complete
    assert [(r.solver, r.budget, r.error) for r in a.rows] == [(r.solver, r.budget, r.error) for r in b.rows]


def test_stopped_before_a_row_is_finished(call, tiny, count):
    count.stop = 8
    stopped = call("compare", tiny, *FAST, "--nfe", "2", "--solvers", "ddim", "-o", "out")
    assert stopped.exit_code == 130
    assert "no row was finished yet" in stopped.output


def test_steps_instead_of_calls(call, tiny):
    done = call("compare", tiny, "-n", 20, "--reference", "none", "--steps", "3", "--solvers", "ddim,heun")
    assert done.exit_code == 0, done.output
    found = json.loads(Path("out/compare/compare.json").read_text())
    assert found["by"] == "steps"
    assert [(r["steps"], r["within"]) for r in found["rows"]] == [(3, True), (3, False)]
    assert "note: there is nothing to plot" in " ".join(done.output.split())  # neither a fine solution nor data


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--solvers", "dpmpp2m"), "did you mean 'dpmpp-2m'"),
        (("--solvers", "ddim:ets=1"), "did you mean 'eta'"),
        (("--solvers", "ddim@karas"), "did you mean 'karras'"),
        (("--solvers", "no.json"), "no.json"),
        (("--nfe", "5,x"), "--nfe takes whole numbers with commas"),
        (("--nfe", "0"), "nfe holds whole numbers of at least 1"),
        (("--nfe", "5", "--steps", "5"), "not both"),
        (("--reference", "fine"), "--reference takes a tolerance"),
        (("--guide", "cfg"), "lacks its scale"),
        (("--data", "x.txt"), "--data takes a .npy or .safetensors file"),
        (("--data", "missing.npy"), "cannot read 'missing.npy'"),
        (("--device", "tpu9"), "device 'tpu9' cannot be used here"),
        (("-o", "file/x"), "cannot make the folder"),
    ],
)
def test_bad_input_is_found_before_sampling(call, tiny, count, words, said):
    Path("file").write_text("")
    done = call("compare", tiny, *words)
    assert done.exit_code == 2
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert count.calls == 0


def test_a_file_of_another_kind_is_not_replaced(call, tiny):
    Path("out").mkdir()
    Path("out/compare.json").write_text('{"mine": 1}')
    done = call("compare", tiny, *FAST, "--nfe", 2, "--solvers", "ddim", "-o", "out")
    assert done.exit_code == 2
    assert "is no comparison" in done.output
    assert Path("out/compare.json").read_text() == '{"mine": 1}'


def test_help_teaches(call):
    done = call("compare", "--help")
    assert done.exit_code == 0
    assert "  reverie compare digits" in done.output
    options = "--solvers --nfe --steps --count --seed --grid --end --guide --batch --reference --fine --data --out"
    for option in options.split():
        assert option in done.output
