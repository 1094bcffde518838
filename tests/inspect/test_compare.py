"""The comparison of solvers against figures computed directly, and what it may and may not say."""

from __future__ import annotations

import json

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError, FileError, ShapeError, UnknownNameError
from reverie.inspect import Comparison, Figure, Row, compare, entry
from reverie.inspect.figures import distance, median
from reverie.solve import Fine
from reverie.solve.solver import SOLVERS

torch.set_num_threads(1)
VP = rv.process.vp()


def gaussian() -> rv.oracle.Gaussian:
    return rv.oracle.Gaussian([1.0, -0.5], [[0.5, 0.3], [0.3, 0.4]], process=VP)


def mixture() -> rv.oracle.Mixture:
    return rv.oracle.Mixture([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.5]], 0.15, process=VP)


def row(found: Comparison, solver: str, budget: int) -> Row:
    return next(r for r in found.rows if (r.solver, r.budget) == (solver, budget))


def test_oracle_figures_are_those_computed_directly() -> None:
    o, n = gaussian(), 64
    found = compare(o, ("ddim", "heun"), nfe=(6,), n=n, fine=40, reference=1e-8)
    z = VP.draw(rv.Noise(0), (2,), range(n))
    exact = o.solve(VP.prior(z))  # a formula
    exact = o(exact, VP.t_min).x0  # and the last row, to sigma = 0
    for name in ("ddim", "heun"):
        x = rv.sample(o, n, solver=name, nfe=6)
        want = ((x - exact)[:40].norm(dim=1) / exact[:40].square().sum(1).mean().sqrt()).median()
        assert row(found, name, 6).error.value == pytest.approx(want.item(), rel=1e-5)
        reference = o.sample(3000)
        frechet = rv.measure.frechet_distance(reference, x)
        assert row(found, name, 6).frechet.value == pytest.approx(frechet, rel=1e-6)
        sliced = rv.measure.sliced_wasserstein(x, reference, 64)
        assert row(found, name, 6).sliced.value == pytest.approx(sliced, rel=1e-6)
    assert found.floor.count == n
    held = o.sample(n, start=3000)
    assert found.floor.frechet.value == pytest.approx(rv.measure.frechet_distance(reference, held), rel=1e-9)
    assert row(found, "ddim", 6).switched is None  # one Gaussian has no modes


def test_order_shows_in_the_error() -> None:
    found = compare(gaussian(), ("ddim", "dpmpp-2m"), nfe=(10, 20, 40), n=32, fine=32, reference=1e-8, end="zero")
    for name, order in (("ddim", 1), ("dpmpp-2m", 2)):
        e = [row(found, name, b).error.value for b in (10, 20, 40)]
        assert e[0] > e[1] > e[2]
        assert torch.tensor(e[1] / e[2]).log2().item() > order - 0.35
    assert [found.best(b).solver for b in (10, 20, 40)] == ["dpmpp-2m"] * 3
    assert "error dpmpp-2m" in found.verdict()[0]


@pytest.mark.parametrize("stop", ["sigma_min", "zero"])
def test_both_fine_solutions_agree_and_are_the_exact_one(stop: str) -> None:
    o, n = mixture(), 24
    end = 0.0 if stop == "zero" else VP.t_min
    ode, plan = Fine(o, n, (2,), reference=1e-5, batch=10)(1.0, end), Fine(o, n, (2,), reference=400)(1.0, end)
    exact = o.solve(VP.prior(VP.draw(rv.Noise(0), (2,), range(n))))
    exact = o(exact, VP.t_min).x0 if stop == "zero" else exact
    assert torch.allclose(ode, exact, atol=1e-5)
    assert torch.allclose(plan, exact, atol=2e-4)


@pytest.mark.parametrize("process", [rv.process.flow(), rv.process.edm()])
def test_errors_fall_to_zero_on_other_processes(process: rv.process.Process) -> None:
    o = rv.oracle.Gaussian([1.0, -0.5], [[0.5, 0.3], [0.3, 0.4]], process=process)
    found = compare(o, ("dpmpp-2m",), nfe=(10, 300), n=20, fine=20, reference=1e-6)
    assert row(found, "dpmpp-2m", 300).error.value < min(2e-3, row(found, "dpmpp-2m", 10).error.value / 20)


def test_forwards_are_counted_and_guides_pay_twice() -> None:
    o = mixture()
    calls = []
    net = rv.Model(
        lambda x, t, class_labels=None: calls.append(len(x)) or o(x, t.double()).x0,
        VP,
        "x0",
        shape=(2,),
        null={"class_labels": 0},
    )
    cond = {"class_labels": torch.ones(20, dtype=torch.long)}
    for guide, cost in ((None, 1), (rv.guide.CFG(2.0), 2)):
        found = compare(net, ("ddim", "heun"), nfe=(4,), n=20, batch=20, guide=guide, cond=cond, reference=None)
        assert row(found, "ddim", 4).forwards == 4 * cost
        heun = row(found, "heun", 4)
        assert heun.calls == rv.solve.plan_for(net, "heun", nfe=4).nfe < 5
        assert heun.forwards == heun.calls * cost
        assert heun.within
        calls.clear()
        m = net if guide is None else net | guide
        rv.sample(m, 20, solver="heun", nfe=4, cond=cond, batch=20)
        assert sum(calls) == heun.forwards * 20
    assert found.metrics == ()  # no reference, no data


def test_by_steps_who_spends_more_is_not_ranked() -> None:
    found = compare(gaussian(), ("ddim", "heun"), steps=8, n=32, fine=32)
    heun = row(found, "heun", 8)
    assert (heun.steps, heun.within, row(found, "ddim", 8).within) == (8, False, True)
    assert heun.forwards > 8
    assert found.best(8) is None  # nobody left to be better than
    assert " >" in str(found)


def test_ties_are_no_wins() -> None:
    found = compare(gaussian(), ("ddim", "dpm-1", "ddim@time"), nfe=8, n=40, fine=40)
    same = row(found, "ddim", 8), row(found, "dpm-1", 8)
    assert same[0].error.value == pytest.approx(same[1].error.value, rel=1e-4)
    for metric in found.metrics:
        leaders = {r.solver for r in found.leaders(8, metric)}
        if "ddim" in leaders or "dpm-1" in leaders:
            assert {"ddim", "dpm-1"} <= leaders
            assert found.best(8, metric) is None
            assert found.mark(same[0], metric) == found.mark(same[1], metric) == "="


def test_null_control_two_noises_of_one_thing_are_rarely_told_apart() -> None:
    z = torch.randn(40, 2, 100, generator=torch.Generator().manual_seed(0)).abs()
    told = sum(median(a).less(median(b)) or median(b).less(median(a)) for a, b in z)
    assert told <= 6  # 5 % of 40 are 2
    assert median(z[0, 0]).less(median(z[0, 0] + 1e-3))  # a paired difference without noise


def test_the_interval_of_a_mean_is_the_textbooks() -> None:
    x = torch.randn(200, generator=torch.Generator().manual_seed(0)).double() + 5
    f = distance(x.mean().item(), lambda rows: x[rows].mean().item(), 200)
    assert (f.high - f.low) / 2 == pytest.approx(2.093 * x.std().item() / 200**0.5, rel=0.4)


def test_switched_modes_are_counted() -> None:
    o = mixture()
    found = compare(o, ("ddim",), nfe=(2, 40), n=60, fine=60, reference=1e-3)
    few, many = row(found, "ddim", 2), row(found, "ddim", 40)
    x, fine = rv.sample(o, 60, solver="ddim", nfe=2), Fine(o, 60, (2,), reference=1e-3)(1.0, 0.0)
    nearest = [torch.cdist(v.double(), o.means).argmin(1) for v in (x, fine)]
    assert few.switched == (nearest[0] != nearest[1]).double().mean().item()
    assert many.switched <= 0.02


def test_the_batch_changes_rounding_only() -> None:
    a, b = (compare(mixture(), ("dpmpp-2m",), nfe=6, n=21, fine=20, batch=batch, reference=200) for batch in (8, 21))
    for metric in a.metrics:
        assert a.rows[0].figure(metric).value == pytest.approx(b.rows[0].figure(metric).value, rel=1e-4)


def test_stochastic_solvers_have_no_error() -> None:
    found = compare(mixture(), ("ddim", "ddim:eta=1", ("ddpm", {})), nfe=6, n=40, fine=40)
    assert row(found, "ddim:eta=1", 6).error is None
    assert row(found, "ddpm", 6).error is None
    assert row(found, "ddpm", 6).frechet is not None
    line = next(line for line in str(found).splitlines() if line.strip().startswith("ddpm"))
    assert " - " in line


def test_by_default_all_that_draw_no_noise_once_each() -> None:
    found = compare(gaussian(), nfe=6, n=20, reference=None, data=torch.zeros(40, 2))
    names = [r.solver for r in found.rows]
    assert {"ddim", "dpmpp-2m", "heun"} <= set(names) <= set(SOLVERS)
    assert "ddpm" not in names
    assert "dpm-1" not in names
    assert any("dpm-1 is ddim" in note for note in found.notes)


def test_entries() -> None:
    e = entry("ddim@karras:5:eta=0.5:end=zero")
    assert (e.solver, e.grid, e.end, e.options) == ("ddim", "karras:5", "zero", {"eta": 0.5})
    plan = rv.solve.plan("dpmpp-2m", VP, steps=7)
    found = compare(gaussian(), ("ddim", plan), nfe=(5, 7), n=20, fine=20)
    assert [(r.budget, r.calls) for r in found.rows if "plan" in r.solver] == [(7, 7)]
    with pytest.raises(UnknownNameError, match="did you mean 'dpmpp-2m'"):
        compare(gaussian(), ("dpmpp2m",))
    with pytest.raises(UnknownNameError, match="did you mean 'karras'"):
        compare(gaussian(), ("ddim@karas",))
    with pytest.raises(ArgumentError, match="did you mean 'eta'"):
        compare(gaussian(), ("ddim:ets=1",))
    with pytest.raises(ArgumentError, match="NAME"):
        entry("ddim:eta")
    with pytest.raises(ArgumentError, match="given twice"):
        compare(gaussian(), ("ddim", "ddim"))


def test_real_data_are_held_out_for_the_floor() -> None:
    x = gaussian().sample(400)
    m = rv.Model(lambda x, t: 0 * x, VP, "x0", shape=(2,))
    found = compare(m, ("ddim",), nfe=3, n=60, data=x, reference=None)
    assert found.floor.count == 60
    assert "340 given samples" in found.settings["data"]
    held = torch.linspace(0, 399, 60).round().long()
    rest = torch.ones(400, dtype=torch.bool)
    rest[held] = False
    want = rv.measure.frechet_distance(x[rest], x[held])
    assert found.floor.frechet.value == pytest.approx(want, rel=1e-9)
    assert row(found, "ddim", 3).frechet.value > 10 * want
    pair = compare(m, ("ddim",), nfe=3, n=60, data=(x[rest], x[held]), reference=None)
    assert pair.floor.frechet.value == pytest.approx(want, rel=1e-9)
    assert compare(m, ("ddim",), nfe=3, n=60, data=x[:40], reference=None).floor is None  # too few to hold some out
    twice = compare(m, ("ddim",), nfe=3, n=60, data=x, reference=None, features=lambda v: 2 * v)
    assert twice.floor.frechet.value == pytest.approx(4 * want, rel=1e-6)


def test_files_resume_and_refuse(tmp_path) -> None:
    o, path = mixture(), tmp_path / "c.json"
    a = compare(o, ("ddim", "heun"), nfe=(4, 6), n=20, fine=20, reference=100, path=path)
    back = Comparison.load(path)
    assert str(back) == str(a)
    assert back.complete
    marks = json.loads(path.read_text())["best"]["6"]["error"]
    assert marks["best"] == (a.best(6) and a.best(6).solver)
    calls = o.calls
    b = compare(o, ("ddim", "heun"), nfe=(4, 6), n=20, fine=20, reference=100, path=path)
    assert o.calls == calls  # all rows were there
    assert [r.seconds for r in b.rows] == [r.seconds for r in a.rows]
    c = compare(o, ("ddim", "dpmpp-2m"), nfe=(4, 6), n=20, fine=20, reference=100, path=path)
    assert row(c, "ddim", 4).seconds == row(a, "ddim", 4).seconds
    fresh = compare(o, ("ddim", "dpmpp-2m"), nfe=(4, 6), n=20, fine=20, reference=100)
    for r, s in zip(c.rows, fresh.rows, strict=True):
        assert (r.solver, r.budget) == (s.solver, s.budget)
        assert r.error.value == pytest.approx(s.error.value, rel=1e-12)
        assert c.mark(r, "error") == fresh.mark(s, "error")
    other = compare(o, ("ddim",), nfe=4, n=20, fine=20, reference=100, seed=1, path=path)
    assert any("other settings" in note for note in other.notes)
    path.write_text("{}")
    with pytest.raises(FileError, match="is no comparison"):
        compare(o, ("ddim",), nfe=4, n=20, path=path)


def test_ctrl_c_keeps_finished_rows(tmp_path) -> None:
    o, path = mixture(), tmp_path / "c.json"

    def stop(what: str, share: float) -> None:
        assert 0 < share <= 1
        if what == "heun at 6":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(o, ("ddim", "heun"), nfe=(4, 6), n=20, fine=20, reference=100, path=path, progress=stop)
    kept = Comparison.load(path)
    assert [(r.solver, r.budget) for r in kept.rows] == [("ddim", 4), ("heun", 4), ("ddim", 6)]
    assert not kept.complete
    assert "(unfinished)" in str(kept)


def test_a_solver_that_diverges_does_not_stop_the_others() -> None:
    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.where((t > 0.49) & (t < 0.51), torch.nan, 0.5).reshape(-1, 1) * x

    m = rv.Model(net, VP, "x0", shape=(2,))
    found = compare(m, ("ddim@time", "dpmpp-2m@karras:7"), nfe=2, n=20, data=torch.randn(200, 2), reference=None)
    assert len(found.rows) + len(found.notes) == 2
    assert len(found.notes) == 1
    assert "failed" in found.notes[0]


@pytest.mark.parametrize("budgets", [(4, 6), (6,)])
@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_plots(tmp_path, budgets, ending) -> None:
    pytest.importorskip("matplotlib")
    found = compare(mixture(), ("ddim", "dpmpp-2m", "ddpm"), nfe=budgets, n=20, fine=20, reference=100)
    found.plot(tmp_path / f"c{ending}")
    content = (tmp_path / f"c{ending}").read_bytes()
    assert content[:4] == b"\x89PNG" if ending == ".png" else b"<svg" in content
    with pytest.raises(ArgumentError, match="ends with"):
        found.plot(tmp_path / "c.jpg")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"n": 5}, "n must be a whole number of at least 20, got 5"),
        ({"fine": 0}, "fine must be"),
        ({"nfe": (4,), "steps": (4,)}, "not both"),
        ({"nfe": ()}, "nfe holds whole numbers"),
        ({"nfe": 0}, "nfe holds whole numbers"),
        ({"reference": 0.0}, "reference is a tolerance"),
        ({"data": torch.zeros(1, 2)}, "at least 2"),
        ({"data": torch.zeros(50, 3)}, "samples of shape"),
        ({"solvers": ()}, "no solver to compare"),
        ({"solvers": ("heun",), "nfe": 1, "end": "zero"}, "zero|one step"),
    ],
)
def test_bad_arguments(words, said) -> None:
    with pytest.raises(ArgumentError, match=said):
        compare(gaussian(), **({"solvers": ("ddim",)} | words))
    with pytest.raises(ShapeError, match="give shape="):
        compare(rv.Model(lambda x, t: x, VP), ("ddim",))


def test_figures_read_well() -> None:
    assert str(Figure(0.0601, 0.05, 0.07, "median", ())) == "0.060 ± 0.010"
    assert str(Figure(0.0023, 0.0, 0.01, "distance", ())) == "0.0023 ± 0.0050"
    assert str(Figure(59.94, 51.0, 67.0, "distance", ())) == "59.9 ± 8.0"
