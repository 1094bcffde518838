"""Tuned plans: better than every classical start on noises that no fit saw, on any process and model, and plans like any other."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reverie as rv
from reverie.base import ArgumentError, OriginWarning, ShapeError, UnknownNameError
from reverie.solve.tuning.tune import STARTS, Enough, _asked_later, _classical, _in_turn, _various, tune

SMALL: dict[str, Any] = {
    "calibration": 16,
    "heldout": 16,
    "iterations": 8,
    "starts": ("dpmpp-2m@logsnr", "unipc-2@quadratic", "ddim@time"),
}


def mixture(process: rv.process.Process | None = None, dim: int = 6, shift: float = 0.0) -> rv.oracle.Mixture:
    means = torch.randn(5, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + shift
    return rv.oracle.Mixture(means, 0.7, process=process or rv.process.vp(), labels=torch.arange(5))


class Fresh:
    """A model's exact answers from the noises of `sample`, with which plans are compared."""

    def __init__(self, m: rv.Model, cond: dict[str, Tensor] | None = None, n: int = 64) -> None:
        self.m, self.cond, self.n = m, cond, n
        self.star = rv.solve.Fine(m, n, m.shape or (), cond=cond, reference=1e-7)(1.0, 0.0)

    def error(self, plan: rv.Plan) -> float:
        """The median relative distance."""
        x = rv.sample(self.m, self.n, plan=plan, cond=self.cond, dtype=torch.float64, batch=64)
        return float(((x - self.star).norm(dim=1) / self.star.norm(dim=1)).median())

    def best(self, steps: int) -> float:
        """The least error of all starts."""
        names = [name.split("@") for name in STARTS]
        return min(self.error(rv.solve.plan(s, self.m.process, steps, grid=g)) for s, g in names)


@pytest.fixture(scope="module")
def tuned() -> rv.Plan:
    return tune(mixture(), 4, **SMALL)


def test_it_beats_every_classical_start_on_fresh_noises(tuned: rv.Plan) -> None:
    fresh = Fresh(mixture())
    found = fresh.error(tuned)
    assert tuned.nfe == 4
    assert found < 0.5 * fresh.best(4)
    assert found < fresh.best(6)
    assert found == pytest.approx(tuned.provenance["after"]["median"], rel=0.5)


@pytest.mark.parametrize(
    "process",
    [rv.process.edm(), rv.process.flow(), rv.process.vp("cosine"), rv.process.ddpm(torch.linspace(0.9995, 0.98, 200).double().cumprod(0))],
    ids=["edm", "flow", "cosine", "ddpm"],
)  # fmt: skip
def test_it_works_on_any_process(process: rv.process.Process) -> None:
    m = mixture(process)
    plan = tune(m, 3, **SMALL)
    assert plan.provenance["after"]["median"] < 0.6 * plan.provenance["before"]["median"]
    x = rv.sample(m, 8, plan=plan)
    assert bool(x.isfinite().all())


def test_the_same_seed_is_the_same_plan_and_batches_change_nothing(tuned: rv.Plan) -> None:
    again = tune(mixture(), 4, **SMALL)
    rows = [[(k, c) for s in p.table for k, c in s.row.terms.items()] for p in (tuned, again)]
    assert rows[0] == rows[1]
    assert again.provenance == tuned.provenance
    other = tune(mixture(), 4, **SMALL, seed=1)
    assert other.provenance["after"] != tuned.provenance["after"]
    split = tune(mixture(), 4, **SMALL, batch=7)
    assert split.provenance["after"]["median"] == pytest.approx(tuned.provenance["after"]["median"], rel=0.2)


def test_no_sample_begins_with_a_noise_of_the_fit() -> None:
    m = mixture()
    ours = rv.solve.Fine(m, 20, (6,), seed=0).begin(1.0)
    from reverie.solve.tuning.tune import _STREAM

    theirs = rv.solve.Fine(m, 20, (6,), seed=0, stream=_STREAM).begin(1.0)
    assert float((ours[:, None] - theirs[None]).norm(dim=2).min()) > 0.1


def test_guided_models_and_conditions_in_turn() -> None:
    m = mixture()
    key = next(iter(m.null or {}))
    guided, cond = m | rv.guide.CFG(3.0), {key: torch.arange(5)}
    plan = tune(guided, 3, cond=cond, **SMALL)
    fresh = Fresh(guided, {key: torch.arange(64) % 5})
    assert fresh.error(plan) < 0.6 * fresh.best(3)
    assert plan.provenance["model"] == guided.name
    assert plan.provenance["conditions"] == f"{key}: 5 in turn"
    assert plan.cost(guided) == 6


def test_a_network_is_only_asked_never_differentiated() -> None:
    class Black(nn.Module):
        """A denoiser that refuses gradients."""

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            return x * 0.5

    m = rv.Model(Black(), rv.process.vp(), predicts="x0", shape=(4,))
    plan = tune(m, 2, **SMALL | {"iterations": 3}, reference=60)
    assert plan.nfe == 2


def test_a_plan_like_any_other(tuned: rv.Plan, tmp_path: Path) -> None:
    m = mixture()
    tuned.save(tmp_path / "plan.json")
    read = rv.Plan.load(tmp_path / "plan.json")
    assert torch.equal(rv.sample(m, 4, plan=read), rv.sample(m, 4, plan=tuned))
    assert read.provenance == tuned.provenance
    text = str(read)
    assert "fitted, of no order" in text
    assert "fitted to mixture; error" in text
    with pytest.raises(ArgumentError, match="looks back beyond step 2"):
        read.repeat(2, length=2)
    assert rv.sample(m, 3, plan=tuned, index=[5, 1, 9])[1].equal(rv.sample(m, 2, plan=tuned)[1])


def test_another_model_or_scale_warns_once(tuned: rv.Plan) -> None:
    x = torch.randn(2, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rv.run(tuned, mixture(), x)
    other = mixture(shift=0.1)
    with pytest.warns(
        OriginWarning, match="fitted to mixture, and is run on the same name with other weights or settings"
    ):
        rv.run(tuned, other, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rv.run(tuned, other, x)  # said once
    with pytest.warns(OriginWarning, match=r"run on mixture \| CFG\(2\)"):
        rv.run(tuned, mixture() | rv.guide.CFG(2.0), x, cond={next(iter(mixture().null or {})): torch.arange(2)})


def test_where_no_fit_is_better_the_classical_plan_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    module = __import__("sys").modules["reverie.solve.tuning.tune"]
    monkeypatch.setattr(module, "fit", lambda cases, start, *a, **k: (start, float("inf")))
    m = mixture()
    plan = tune(m, 3, **SMALL)
    assert plan.provenance["from"] == "itself: no fit was better"
    assert plan.provenance["after"] == plan.provenance["before"]
    solver, _, grid = plan.provenance["begun"].partition("@")
    fresh = Fresh(m)
    assert fresh.error(plan) == pytest.approx(fresh.error(rv.solve.plan(solver, m.process, 3, grid=grid)), rel=1e-6)


def test_enough_gives_the_best_so_far() -> None:
    said: list[str] = []

    def tell(what: str, share: float) -> None:
        said.append(what)
        assert 0 <= share <= 1
        if what.startswith("error") and sum(s.startswith("error") for s in said) == 2:
            raise Enough

    plan = tune(mixture(), 3, **SMALL, tell=tell)
    assert sum(s.startswith("error") for s in said) == 2
    assert plan.provenance["after"]["median"] < plan.provenance["before"]["median"]


def test_enough_before_any_fit_gives_the_best_classical_plan() -> None:
    def tell(what: str, share: float) -> None:
        if what.startswith("from"):
            raise Enough

    plan = tune(mixture(), 3, **SMALL, tell=tell)
    assert plan.provenance["before"] == plan.provenance["after"]


def test_more_conditions_than_trajectories_are_shuffled_and_counted() -> None:
    cond, law = _in_turn({"label": torch.arange(100), "size": 3, "one": torch.ones(1, 2)}, 16, 48, seed=2)
    assert law == "label: 16 of 100, size: shared, one: 1 in turn"
    assert len(set(cond["label"].tolist())) == 48
    assert cond["label"].tolist() != list(range(48))
    assert cond["one"].shape == (48, 2)
    again, _ = _in_turn({"label": torch.arange(100)}, 16, 48, seed=2)
    other, _ = _in_turn({"label": torch.arange(100)}, 16, 48, seed=3)
    assert torch.equal(cond["label"], again["label"])
    assert not torch.equal(cond["label"], other["label"])
    few, law = _in_turn({"label": torch.arange(5)}, 16, 48, seed=2)
    assert few["label"].tolist() == [i % 5 for i in range(48)]
    assert law == "label: 5 in turn"


def test_figures_are_of_noises_that_neither_fit_nor_choice_has_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    module = __import__("sys").modules["reverie.solve.tuning.tune"]
    parts, seen = module._parts, []
    monkeypatch.setattr(module, "_parts", lambda cases, sizes: seen.extend(parts(cases, sizes)) or seen[-3:])
    plan = tune(mixture(), 3, **SMALL)
    some, held, last = seen
    assert [len(part) for part in seen] == [16, 16, 16]
    every = torch.cat([part.x for part in seen])
    assert len(every.unique(dim=0)) == 48
    from reverie.solve.tuning.fitting import Method
    from reverie.solve.unroll import unroll

    errors = last.errors(Method.of(unroll(plan.replace(start=plan.table[0].t))))
    assert plan.provenance["after"]["median"] == pytest.approx(float(errors.quantile(0.5)), rel=1e-6)
    assert float(held.errors(Method.of(unroll(plan))).quantile(0.5)) != plan.provenance["after"]["median"]
    assert some.spent > held.spent > last.spent


def test_a_network_in_a_function_needs_its_precision_said() -> None:
    inner = nn.Linear(4, 4)
    settings: dict[str, Any] = {"process": rv.process.vp(), "predicts": "x0", "shape": (4,)}
    with pytest.raises(ArgumentError, match=r"cannot be asked in float64.*dtype=torch.float32"):
        tune(rv.Model(lambda x, t: 0.1 * inner(x), **settings), 2, **SMALL, reference=40)
    m = rv.Model(lambda x, t: 0.1 * inner(x), **settings, dtype=torch.float32)
    assert tune(m, 2, **SMALL | {"iterations": 2}, reference=40).nfe == 2


def test_starts() -> None:
    m = mixture()
    found = _classical(m, 3, (*STARTS, "heun@karras"))
    assert set(found) == {*STARTS, "heun@karras"}
    assert "heun@karras" not in _classical(m, 4, ("heun@karras", "ddim@time"))  # it makes 3 or 5 calls
    with pytest.raises(UnknownNameError, match="dpmp-2m"):
        _classical(m, 3, ("dpmp-2m@logsnr",))
    method = found["unipc-2@quadratic"]
    from reverie.solve.tuning.fitting import Bounds

    later = _asked_later(method, -2.0, Bounds(-5.0, 4.6))
    assert later is not None
    assert float(later.lams[0]) == pytest.approx(min(-2.0, float(method.lams[1]) - 0.02))
    assert torch.equal(later.lams[1:], method.lams[1:])
    assert _asked_later(later, -2.0, Bounds(-5.0, 4.6)) is None
    ranked = [
        (0.1, "a@x", method),
        (0.2, "b@x", method),
        (0.3, "a@y", later),
        (0.4, "a@z", found["ddim@time"]),
        (float("inf"), "c@x", found["ddim@karras"]),
    ]
    assert [name for _, name, _ in _various(ranked, Bounds(-5.0, 4.6))] == ["a@x", "a@y"]


def test_bad_input() -> None:
    m = mixture()
    for name, value in (("steps", 0), ("calibration", 1), ("heldout", 0), ("iterations", 0), ("batch", 2.5)):
        with pytest.raises(ArgumentError, match=f"{name} must be a whole number"):
            tune(m, **{"steps": 3} | {name: value})
    with pytest.raises(ArgumentError, match="none of the starts heun@time"):
        tune(m, 4, **SMALL | {"starts": ("heun@time",)})
    with pytest.raises(UnknownNameError, match="no-such"):
        tune(m, 3, **SMALL | {"starts": ("no-such@time",)})
    with pytest.raises(ArgumentError, match="a reference of 11 calls is not exact"):
        tune(m, 3, **SMALL, reference=11)
    with pytest.raises(ArgumentError, match="has no rows"):
        tune(m, 3, **SMALL, cond={"class_labels": torch.zeros(0, dtype=torch.long)})

    def needs(x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return x

    speaks = rv.Model(needs, rv.process.vp(), null={"text": torch.zeros(1, 2)}, shape=(3,))
    with pytest.raises(ArgumentError, match="cannot be asked without the condition text; give cond="):
        tune(speaks, 3, **SMALL, reference=20)
    with pytest.raises(ShapeError, match="does not know its state's shape"):
        tune(rv.Model(lambda x, t: x, rv.process.vp()), 3)
