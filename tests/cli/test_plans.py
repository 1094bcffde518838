from __future__ import annotations

import json

import pytest

import reverie as rv
from reverie.solve import SOLVERS


def test_every_solver_is_listed(call):
    shown = call("solvers").output
    for name, entry in SOLVERS.items():
        assert f"\n{name} " in shown
        assert entry.summary[:40] in shown


def test_some_solvers_are_listed(call):
    assert [e["name"] for e in json.loads(call("solvers", "unipc-2", "ddim", "--json").output)] == ["ddim", "unipc-2"]
    done = call("solvers", "unipc2")
    assert done.exit_code == 2
    assert "unipc-2" in done.output


def test_the_list_for_programs(call):
    entries = {e["name"]: e for e in json.loads(call("solvers", "--json").output)}
    assert list(entries) == list(SOLVERS)
    assert [entries[s]["calls_a_step"] for s in ("ddim", "heun", "dpm-3s")] == [1, 2, 3]
    assert [entries[s]["order"] for s in ("ddim", "dpmpp-2m", "dpmpp-3m")] == [1, 2, 3]
    assert [entries[s]["noise"] for s in ("dpmpp-2m", "ddim", "ddpm")] == ["none", "option", "always"]
    assert entries["ddim"]["options"] == {"eta": 0.0}
    assert entries["euler"]["options"]["churn_max"] == "inf"
    assert entries["dpm-2s"]["papers"] == ["dpm-solver"]
    assert entries["dpmpp-2m"]["papers"] == ["dpm-solver-pp"]


def test_a_plan_is_printed_and_saved(call):
    done = call(
        "plan", "heun", "--process", "flow:3", "--nfe", 5, "--grid", "time", "--option", "churn=2", "-o", "plan.json"
    )
    want = rv.solve.plan("heun", rv.process.flow(3.0), nfe=5, grid="time", churn=2)
    assert done.exit_code == 0
    assert done.output.startswith(str(want) + "\n")
    assert "saved as plan.json" in done.output
    assert str(rv.Plan.load("plan.json")) == str(want)


def test_the_default_is_eight_steps_on_vp(call):
    assert call("plan", "dpmpp-2m").output == str(rv.solve.plan("dpmpp-2m", rv.process.vp(), steps=8)) + "\n"


def test_a_model_gives_its_process(call, tiny):
    assert (
        call("plan", "ddim", "--process", tiny, "--steps", 2).output
        == str(rv.solve.plan("ddim", rv.process.vp(), steps=2)) + "\n"
    )


def test_the_order_is_checked(call):
    done = call("plan", "ddim", "--steps", 2, "--check-order")
    assert done.exit_code == 0
    assert done.output.strip().endswith("as declared")
    assert "order 0.97 measured" in done.output


def test_an_order_that_does_not_hold_is_told(call):
    done = call("plan", "dpm-3s", "--steps", 2, "--option", "r2=0.5", "--check-order")
    assert done.exit_code == 1
    assert "but 3 is declared" in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("dpmpp-4m",), "unknown solver 'dpmpp-4m'; did you mean"),
        (("ddim", "--process", "vq"), "unknown process or model 'vq'; did you mean"),
        (("ddim", "--process", "flow:x"), "flow:SHIFT takes a number, got 'x'"),
        (("ddim", "--steps", 0), "steps must be a whole number of at least 1, got 0"),
        (("ddim", "--steps", 3, "--nfe", 3), "give --steps or --nfe, not both (got 3 and 3)"),
        (("ddim", "--option", "et=1"), "did you mean 'eta'"),
        (("ddim", "--option", "eta=-1"), "eta must be finite and at least 0, got -1"),
        (("ddim", "--end", "clean"), "unknown end 'clean'"),
        (("ddim", "-o", "missing/plan.json"), "cannot write"),
    ],
)
def test_bad_input(call, words, said):
    done = call("plan", *words)
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output
