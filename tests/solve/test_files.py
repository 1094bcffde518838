"""Plans on disk: what is saved comes back to the bit, and nothing malformed gets through."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import reverie as rv
from reverie.base import FileError
from reverie.solve import Plan, Stage, given, noise, prediction, state
from reverie.solve.plan import DYNAMICS

from . import reference as ref

P = ref.PROCESSES["vp"]
X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def model(p: Any = P) -> rv.Model:
    return rv.Model(lambda x, t, **cond: x.sin(), p)


@pytest.mark.parametrize("process", ref.PROCESSES)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dpmpp-3m", {"released": True}),
        ("ddim", {"eta": 0.5}),
        ("heun", {"churn": 3.0}),
        ("dpm-fast", {"orders": (3, 2, 1)}),
    ],
)
def test_a_run_of_the_saved_plan_is_bit_equal(name: str, options: dict[str, Any], process: str, tmp_path: Path) -> None:
    p = ref.PROCESSES[process]
    plan = rv.solve.plan(name, p, steps=3, **options)
    plan.save(tmp_path / "plan.json")
    back = rv.Plan.load(tmp_path / "plan.json")
    assert [f.name for f in tmp_path.iterdir()] == ["plan.json"]
    keys = (
        "solver",
        "process",
        "start",
        "kinds",
        "order",
        "grid",
        "end",
        "options",
        "rule",
        "bound",
        "papers",
        "provenance",
    )
    assert {k: getattr(back, k) for k in keys} == {k: getattr(plan, k) for k in keys}
    assert str(back) == str(plan)
    assert torch.equal(rv.run(back, model(p), X), rv.run(plan, model(p), X))


def wide() -> Plan:
    """A plan with everything a stage may have; one tensor is used twice and one is a view."""
    c = torch.randn(3, 4, dtype=torch.float64)
    return Plan(
        "hand",
        P,
        (
            Stage(c * state(0) + c * prediction(0), 0.9, 0.5, 0, True, 7.0, {"w": 2.0}, "a"),
            Stage(c[:1].expand(3, 4) * state(1) + 1.0 * noise(0) + 0.1 * given("y"), None, 0.3, 1),
            Stage(1.0 * state(2) + 0.1 * prediction(0), 0.3, 0.1, 2),
        ),
        0.9,
        provenance={"fitted": "by hand", "steps": [1, 2]},
    )


def test_tensors_lie_beside(tmp_path: Path) -> None:
    plan, models = wide(), {"a": model(), "b": model()}
    plan.save(tmp_path / "p.json")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["p.json", "p.json.safetensors"]
    back = Plan.load(tmp_path / "p.json")
    assert [(s.t, s.to, s.step, s.inner, s.label, s.args, s.net) for s in back.table] == [
        (s.t, s.to, s.step, s.inner, s.label, s.args, s.net) for s in plan.table
    ]
    assert back.provenance == plan.provenance
    one, two = (rv.run(q, models, X, inputs={"y": X}) for q in (plan, back))
    assert torch.equal(one, two)


def test_files_beside_that_do_not_belong(tmp_path: Path) -> None:
    path, beside = tmp_path / "p.json", tmp_path / "p.json.safetensors"
    wide().save(path)
    text = path.read_text()
    wide().save(path)  # other numbers under the same names
    path.write_text(text)
    with pytest.raises(FileError, match="does not belong"):
        Plan.load(path)
    wide().save(path)
    beside.write_bytes(beside.read_bytes()[:-8])
    with pytest.raises(FileError, match="damaged"):
        Plan.load(path)
    beside.unlink()
    with pytest.raises(FileError, match="missing"):
        Plan.load(path)


def test_dynamic_plans_and_rules(tmp_path: Path) -> None:
    DYNAMICS["saved"] = lambda run, plan, h: iter(())
    plan = Plan("d", P, (), 1.0, rule=("saved", {"h": 0.5}), bound=7)
    plan.save(tmp_path / "d.json")
    back = Plan.load(tmp_path / "d.json")
    assert (back.rule, back.nfe, back.table) == (("saved", {"h": 0.5}), 7, ())
    assert "saved(h=0.5), at most 7 calls" in str(back)
    del DYNAMICS["saved"]
    with pytest.raises(FileError, match="dynamic rule"):
        Plan.load(tmp_path / "d.json")
    learned = rv.solve.plan("ddpm", ref.PROCESSES["ddpm"], steps=3, variance="learned")
    learned.save(tmp_path / "l.json")
    assert Plan.load(tmp_path / "l.json").table[0].rule == learned.table[0].rule


Edit = Callable[[dict[str, Any]], Any]
BROKEN: dict[str, Edit] = {
    "format": lambda h: h.update(format="something"),
    "newer version": lambda h: h.update(version=2),
    "version 0": lambda h: h.update(version=0),
    "version text": lambda h: h.update(version="1"),
    "no process": lambda h: h.pop("process"),
    "unknown process": lambda h: h["process"].update(name="vpp"),
    "process argument": lambda h: h["process"].update(t_min="a"),
    "stages a dict": lambda h: h.update(stages={}),
    "no stages": lambda h: h.update(stages=[]),
    "a stage a number": lambda h: h["stages"].__setitem__(0, 3),
    "no row": lambda h: h["stages"][0].pop("row"),
    "empty row": lambda h: h["stages"][0].update(row=[]),
    "row of text": lambda h: h["stages"][0].update(row="abc"),
    "unknown symbol": lambda h: h["stages"][0].update(row=[["q", 0, 1.0]]),
    "symbol a list": lambda h: h["stages"][0].update(row=[[[], 0, 1.0]]),
    "too few indices": lambda h: h["stages"][0].update(row=[["p", 0, 1.0]]),
    "index a float": lambda h: h["stages"][0].update(row=[["x", 0.0, 1.0]]),
    "index a bool": lambda h: h["stages"][0].update(row=[["x", False, 1.0]]),
    "negative index": lambda h: h["stages"][0].update(row=[["x", -1, 1.0]]),
    "negative noise": lambda h: h["stages"][0].update(row=[["n", -1, 1.0]]),
    "two of a term": lambda h: h["stages"][0].update(row=[["x", 0, 1.0], ["x", 0, 2.0]]),
    "future state": lambda h: h["stages"][0].update(row=[["x", 1, 1.0]]),
    "future prediction": lambda h: h["stages"][0].update(row=[["p", 1, 0, 1.0]]),
    "prediction not asked": lambda h: h["stages"][0].update(t=None),
    "no such head": lambda h: h["stages"][0].update(row=[["p", 0, 1, 1.0]]),
    "NaN coefficient": lambda h: h["stages"][0]["row"][0].__setitem__(-1, float("nan")),
    "infinite coefficient": lambda h: h["stages"][0]["row"][0].__setitem__(-1, float("inf")),
    "huge coefficient": lambda h: h["stages"][0]["row"][0].__setitem__(-1, 10**400),
    "coefficient a bool": lambda h: h["stages"][0]["row"][0].__setitem__(-1, True),
    "coefficient of no tensor": lambda h: h["stages"][0]["row"][0].__setitem__(-1, "stage9"),
    "NaN time": lambda h: h["stages"][0].update(t=float("nan")),
    "time outside": lambda h: h["stages"][0].update(t=1.5),
    "to outside": lambda h: h["stages"][0].update(to=-0.5),
    "start outside": lambda h: h.update(start=2.0),
    "NaN label": lambda h: h["stages"][0].update(label=float("nan")),
    "net a number": lambda h: h["stages"][0].update(net=3),
    "step a text": lambda h: h["stages"][0].update(step="0"),
    "args a number": lambda h: h["stages"][0].update(args=3),
    "unknown stage rule": lambda h: h["stages"][0].update(rule=["os.system", {"x": "ls"}]),
    "rule a number": lambda h: h["stages"][0].update(rule=5),
    "unknown kind": lambda h: h.update(kinds=["x1"]),
    "kind a number": lambda h: h.update(kinds=[1]),
    "kinds a text": lambda h: h.update(kinds="x0"),
    "order a bool": lambda h: h.update(order=True),
    "bound a text": lambda h: h.update(bound="3"),
    "papers a number": lambda h: h.update(papers=3),
    "tensors of text": lambda h: h.update(tensors="00"),
    "tensors a list": lambda h: h.update(tensors=[[1]]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_malformed_plans(case: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    rv.solve.plan("dpmpp-2m", P, steps=3).save(path)
    head = json.loads(path.read_text())
    BROKEN[case](head)
    path.write_text(json.dumps(head))
    with pytest.raises(FileError, match=r"plan\.json"):
        Plan.load(path)


def test_files_that_are_no_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.json"
    plan = rv.solve.plan("dpmpp-2m", P, steps=3)
    plan.save(path)
    whole = path.read_bytes()
    for raw in (whole[: len(whole) // 2], b"", b"[]", b"3", b"\xff\xfe\x00", b"[" * 200_000, b"1" * 5000):
        path.write_bytes(raw)
        with pytest.raises(FileError, match="not a plan"):
            Plan.load(path)
    with pytest.raises(FileError, match="cannot read"):
        Plan.load(tmp_path / "none.json")
    path.write_bytes(whole)
    monkeypatch.setattr("reverie.solve.files.LIMIT", 100)
    with pytest.raises(FileError, match="at most 100"):
        Plan.load(path)
    monkeypatch.setattr("reverie.solve.files.LIMIT", 1 << 20)
    monkeypatch.setattr("reverie.solve.files.MAX_STAGES", 2)
    with pytest.raises(FileError, match="at most 2"):
        Plan.load(path)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    plan = rv.solve.plan("ddim", P, steps=2)
    with pytest.raises(FileError, match="cannot write"):
        plan.save(tmp_path / "none" / "plan.json")
    bad = plan.replace(provenance={"model": object()})
    with pytest.raises(FileError, match="provenance"):
        bad.save(tmp_path / "plan.json")
    assert list(tmp_path.iterdir()) == []
