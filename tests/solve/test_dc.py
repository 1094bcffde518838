"""DC-Solver: its table, the search of its ratios, and their prediction for other cells."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reverie as rv
from reverie.base import ArgumentError, FileError, NonFiniteError, ShapeError
from reverie.solve import Cascade, compensate
from reverie.solve.tuning.cascade import BOUNDS
from reverie.solve.tuning.compensate import _STREAM, least
from reverie.solve.unroll import unroll

from . import reference as ref

P = ref.PROCESSES["vp"]
RATIOS = (1.0, 1.0, 0.8, 1.3, 0.55, 1.2)
CLASSES = {"class_labels": torch.arange(4)}
GRID = [i / 20 for i in range(6, 35)]


def guided(scale: float = 5.0, p: Any = P) -> rv.Model:
    means = torch.randn(4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return rv.oracle.Mixture(means, 0.7, process=p) | rv.guide.CFG(scale)


@pytest.fixture(scope="module")
def found() -> rv.Plan:
    return compensate(guided(), 6, cond=CLASSES)


def terms(plan: rv.Plan) -> list[Any]:
    return [(s.t, s.to, s.step, s.inner, list(s.row.terms.items())) for s in plan.table]


# the table


@pytest.mark.parametrize("process", ref.PROCESSES)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("corrector", [True, False])
def test_ratios_of_one_are_unipc_to_the_bit(process: str, order: int, corrector: bool) -> None:
    p, more = ref.PROCESSES[process], {"variant": "bh1", "corrector": corrector}
    for n, end in ((2, "denoise"), (6, "sigma_min"), (12, "denoise")):
        base = rv.solve.plan(f"unipc-{order}", p, steps=n, grid="time", end=end, **more)
        for ratios in (None, 1, (1.0,) * n):
            one = rv.solve.plan("dc-solver", p, steps=n, grid="time", end=end, ratios=ratios, order=order, **more)
            assert terms(one) == terms(base)
            assert one.order == base.order


def loop(p: Any, m: rv.Model, x: torch.Tensor, times: list[float], ratios: Any) -> torch.Tensor:
    """The method of order 2, "bh2", with its buffer, step by step."""
    buffer: list[torch.Tensor] = []
    n, old, order = len(times) - 1, x, 0
    for i, (s, t) in enumerate(pairwise(times)):
        new = m(x, s).x0
        if i:  # correct, from the state before, with the order of the predictor that led here
            h, a, sg = p.lam(s) - p.lam(times[i - 1]), p.alpha(s), p.sigma(s)
            first = sg / p.sigma(times[i - 1]) * old - a * math.expm1(-h) * buffer[-1]
            if order == 1:
                x = first - a * math.expm1(-h) / 2 * (new - buffer[-1])
            else:
                r = (p.lam(times[i - 2]) - p.lam(times[i - 1])) / h
                b = [math.expm1(-h) / -h - 1, 2 * ((math.expm1(-h) / -h - 1) / -h - 0.5)]
                rows = torch.tensor([[1.0, 1.0], [r, 1.0]], dtype=torch.float64)
                c = torch.linalg.solve(rows, torch.tensor(b, dtype=torch.float64) / math.expm1(-h))
                x = first - a * math.expm1(-h) * (c[0] * (buffer[-2] - buffer[-1]) / r + c[1] * (new - buffer[-1]))
        buffer.append(new)
        if i >= 2:
            tau = ratios[i] * s + (1 - ratios[i]) * times[i - 1]
            value = torch.zeros_like(new)
            for j in (i, i - 1, i - 2):
                others = [k for k in (i, i - 1, i - 2) if k != j]
                value += buffer[j] * math.prod((tau - times[k]) / (times[j] - times[k]) for k in others)
            buffer[-1] = value
        order = min(2, i + 1, n - i)
        old = x
        if p.sigma(t) == 0:
            x = p.alpha(t) * buffer[-1]
            continue
        h, a = p.lam(t) - p.lam(s), p.alpha(t)
        x = p.sigma(t) / p.sigma(s) * x - a * math.expm1(-h) * buffer[-1]
        if order == 2:
            r = (p.lam(times[i - 1]) - p.lam(s)) / h
            x = x - a * math.expm1(-h) / 2 * (buffer[-2] - buffer[-1]) / r
    return x


@pytest.mark.parametrize("end", ["denoise", "sigma_min"])
def test_it_is_the_loop_of_the_paper(end: str) -> None:
    m = ref.model_of(P, "eps", ref.data_of(P, *ref.mixture(4, 3)))
    plan = rv.solve.plan("dc-solver", P, steps=6, ratios=RATIOS, end=end)
    times = [plan.start, *({s.step: s.to for s in plan.table}[i] for i in range(6))]
    assert plan.grid == "time"
    assert times[1] - times[2] == pytest.approx(times[3] - times[4])
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert (rv.run(plan, m, x) - loop(P, m, x, times, RATIOS)).abs().max() < 1e-12


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0.3, 1.7), min_size=4, max_size=4),
    st.sampled_from(["vp", "flow", "ddpm", "edm"]),
    st.tuples(*[st.floats(-1, 1)] * 3),
)
def test_a_parabola_in_time_is_read_exactly(ratios: list[float], process: str, parabola: tuple[float, ...]) -> None:
    """Of predictions a + b t + c t^2 the compensated one at node i is their value at tau_i."""
    p = ref.PROCESSES[process]
    grid = "time" if process in ("vp", "flow", "ddpm") else "karras"
    plan = rv.solve.plan(
        "dc-solver", p, steps=6, grid=grid, ratios=[1, 1, *ratios], order=1, corrector=False, end="denoise"
    )

    def value(t: float) -> float:
        u = t / p.t_max
        return parabola[0] + parabola[1] * u + parabola[2] * u * u

    read = [s.t for s in plan.table]
    for i in range(
        2, 6
    ):  # what is stored stays compensated, so only the first of the three steps is of the parabola itself
        r = [1.0, 1.0, *ratios][i]
        single = rv.solve.plan(
            "dc-solver",
            p,
            grid=[*read, p.t_clean],
            ratios=[*[1.0] * i, r, *[1.0] * (5 - i)],
            order=1,
            corrector=False,
        )
        row = single.table[i].row.terms
        weight = sum(c for key, c in row.items() if key[0] == "p")
        got = sum(c * value(read[key[1]]) for key, c in row.items() if key[0] == "p") / weight
        assert got == pytest.approx(value(r * read[i] + (1 - r) * read[i - 1]), abs=1e-9)


def test_the_compensated_prediction_stays_in_the_buffer() -> None:
    """Ratio 2 alone: the rows of steps 3 and 4 read the prediction of step 2 through all three that made it."""
    plan = rv.solve.plan("dc-solver", P, steps=6, ratios=[1, 1, 0.6, 1, 1, 1], corrector=False, lower_final=False)
    read = [sorted(key[1] for key in s.row.terms if key[0] == "p") for s in plan.table]
    assert read[2:] == [[0, 1, 2], [0, 1, 2, 3], [3, 4], [5]]


def test_it_unrolls_into_the_methods_of_n_evaluations(found: rv.Plan) -> None:
    own = unroll(found)
    plain = unroll(rv.solve.plan("unipc-2", P, steps=6, grid="time"))
    assert torch.equal(own.rows[:3], plain.rows[:3])  # x_T, and both before the first ratio
    assert own.distance(plain) > 1e-3
    for row, t in zip(own.rows, (*own.times, own.to), strict=True):  # weights of compensations sum to 1
        assert float(row[0]) * P.alpha(own.times[0]) + float(row[1:].sum()) == pytest.approx(P.alpha(t), abs=1e-9)


def test_another_ratio_costs_the_order() -> None:
    for corrector, order in ((True, 2), (False, 3)):
        check = rv.solve.check_order("dc-solver", P, ratios=0.8, corrector=corrector, order=order)
        assert check.declared == 1
        assert check.order == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratios": (1, 1, 0.9)}, "6 here, got 3 ratios"),
        ({"ratios": "none"}, "6 here, got 'none'"),
        ({"ratios": (1, 1, 0.9, 1, 1, "a")}, "ratio 5 of dc-solver must be a finite number, got 'a'"),
        ({"ratios": (1, 1, math.nan, 1, 1, 1)}, "ratio 2 of dc-solver must be a finite"),
        ({"ratios": (1, 0.9, 1, 1, 1, 1)}, "ratio 1 of dc-solver must be 1, got 0.9"),
        ({"order": 4}, "is 1, 2 or 3, got 4"),
    ],
)
def test_bad_ratios(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        rv.solve.plan("dc-solver", P, steps=6, **options)


def test_a_number_is_for_all_steps_from_the_third() -> None:
    one, two = (rv.solve.plan("dc-solver", P, steps=4, ratios=r) for r in (0.9, (1, 1, 0.9, 0.9)))
    assert terms(one) == terms(two)
    rv.solve.plan("dc-solver", P, steps=1, ratios=0.9)


def test_a_saved_plan_is_the_same(found: rv.Plan, tmp_path: Path) -> None:
    found.save(tmp_path / "plan.json")
    back = rv.Plan.load(tmp_path / "plan.json")
    assert back.options == found.options
    assert terms(back) == terms(found)
    assert back.provenance == found.provenance
    assert back.papers == ("dc-solver", "unipc")
    again = rv.solve.plan("dc-solver", P, steps=6, **back.options)
    assert terms(again) == terms(found)


# the search


def test_the_least_of_a_parabola_takes_ten_trials() -> None:
    a, b, c = torch.randn(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    asked = []

    def miss(r: float) -> torch.Tensor:
        asked.append(r)
        return a * 0.3 * (r - 0.83) ** 2 + b * (r - 0.83) + 0.2 * c

    losses = least(miss)
    assert sorted(asked[:9]) == [0.3, 0.475, 0.65, 0.825, 1.0, 1.175, 1.35, 1.525, 1.7]
    assert len(asked) == 10
    brute = min(GRID, key=lambda r: float(miss(r).square().mean()))
    best = min(losses, key=lambda r: losses[r])
    assert abs(best - brute) <= 0.0251
    assert losses[best] == pytest.approx(float(miss(best).square().mean()), rel=1e-12)


def test_the_least_keeps_to_its_bounds_and_survives_infinities() -> None:
    losses = least(lambda r: torch.tensor([r - 9.0]))
    assert min(losses, key=lambda r: losses[r]) == BOUNDS[1]
    losses = least(lambda r: torch.tensor([r - 0.9 if r < 1.5 else math.inf]))
    assert losses[BOUNDS[1]] == math.inf
    assert min(losses, key=lambda r: losses[r]) == 0.9
    assert least(lambda r: torch.tensor([math.nan])) == {1.0: math.inf}


@pytest.mark.parametrize("options", [{}, {"corrector": False}, {"order": 3, "variant": "bh1", "end": "sigma_min"}])
def test_every_ratio_is_that_of_brute_force(options: dict[str, Any]) -> None:
    """Of the paper's loss: the state at the next node, after the corrector there, against a fine solution of the same noise."""
    m, n, steps = guided(), 10, 5
    plan = compensate(m, steps, cond=CLASSES, **options)
    ratios = plan.options["ratios"]
    assert all(BOUNDS[0] <= r <= BOUNDS[1] for r in ratios)
    rows = {"class_labels": torch.arange(n) % 4}
    z = P.draw(rv.base.Noise(0), (6,), range(n), stage=0, stream=_STREAM)
    x = P.prior(z, plan.start)
    ends = {s.step: s.to for s in plan.table}
    for i in range(2, steps):
        stop = max(ends[i], P.t_min)
        target = rv.oracle.solve_ode(m, x, plan.start, stop, cond=rows, rtol=1e-5)
        target = target if ends[i] >= P.t_min else m(target, P.t_min, **rows).x0

        def loss(r: float, i: int = i, target: torch.Tensor = target) -> float:
            one = rv.solve.plan(
                "dc-solver", P, steps=steps, ratios=[*ratios[:i], r, *[1.0] * (steps - i - 1)], **options
            )
            last = max(k for k, s in enumerate(one.table) if s.to == ends[i])
            state = rv.run(one.replace(table=one.table[: last + 1]), m, x, cond=rows)
            return float((state - target).square().mean())

        brute = min(GRID, key=loss)
        assert abs(ratios[i] - brute) <= 0.0501
        assert loss(ratios[i]) <= loss(brute) * 1.01
        assert plan.provenance["squares"][i] == pytest.approx([loss(1.0), loss(ratios[i])], rel=1e-3, abs=1e-9)


def test_no_step_is_worse_than_with_ratio_one(found: rv.Plan) -> None:
    assert all(after <= before for before, after in found.provenance["squares"])
    assert found.options["ratios"][:2] == (1.0, 1.0)
    assert found.provenance["after"] < 0.5 * found.provenance["before"]
    assert found.provenance["calls"]["search"] < 6 * 15


def test_it_helps_on_noises_that_it_has_not_seen(found: rv.Plan) -> None:
    m, n = guided(), 200
    rows = {"class_labels": torch.arange(n) % 4}
    fine = rv.solve.fine.Fine(m, n, (6,), cond=rows, reference=1e-5, batch=n)

    def square(plan: rv.Plan) -> float:
        x = rv.sample(m, n, plan=plan, cond=rows, batch=n, dtype=torch.float64)
        return float((x - fine(plan.start, plan.times[-1])).square().mean())

    assert square(found) < 0.5 * square(rv.solve.plan("unipc-2", P, steps=6, grid="time"))


def test_a_ratio_knows_nothing_of_later_steps(found: rv.Plan) -> None:
    """The last node moved: all ratios whose next node stands are the same."""
    times = [found.start, *({s.step: s.to for s in found.table}[i] for i in range(6))]
    moved = compensate(guided(), 6, grid=[*times[:5], 0.7 * times[5], times[6]], cond=CLASSES)
    assert moved.options["ratios"][:4] == found.options["ratios"][:4]
    assert moved.options["ratios"][4:] != found.options["ratios"][4:]


def test_the_same_seed_gives_the_same_ratios_in_any_batch(found: rv.Plan) -> None:
    assert compensate(guided(), 6, cond=CLASSES).options == found.options
    some = compensate(guided(), 6, cond=CLASSES, batch=3).options["ratios"]
    assert some == pytest.approx(found.options["ratios"], abs=0.002)
    assert compensate(guided(), 6, cond=CLASSES, seed=1).options != found.options
    exact = compensate(guided(), 6, cond=CLASSES, reference=1e-5).options["ratios"]
    assert exact == pytest.approx(found.options["ratios"], abs=0.01)


def test_what_needs_no_compensation_gets_none() -> None:
    """Data at one point: the prediction is constant, every ratio gives the same."""
    o = rv.oracle.Mixture(torch.ones(1, 3), 1e-9, process=P)
    assert compensate(o, 4).options["ratios"] == (1.0,) * 4


@pytest.mark.parametrize("process", ["flow", "ddpm", "edm"])
def test_other_processes(process: str) -> None:
    plan = compensate(guided(4.0, ref.PROCESSES[process]), 5, cond=CLASSES, reference=60)
    assert plan.provenance["after"] <= plan.provenance["before"]


def test_progress_and_calls() -> None:
    m, said = guided(), list[tuple[str, float]]()
    plan = compensate(m, 4, cond=CLASSES, tell=lambda what, share: said.append((what, share)), reference=40)
    assert [share for _, share in said] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert said[3][0] == f"step 3: ratio {plan.options['ratios'][2]:g}"
    assert sum(plan.provenance["calls"].values()) + 4 == m.calls


@pytest.mark.parametrize(
    ("more", "kind", "words"),
    [
        ({"steps": 2}, ArgumentError, "steps must be a whole number of at least 3, got 2"),
        ({"samples": 0}, ArgumentError, "samples must be"),
        ({"batch": True}, ArgumentError, "batch must be"),
        ({"ratios": 0.9}, ArgumentError, "leave out ratios="),
        ({"reference": True}, ArgumentError, "reference is a number of calls"),
        ({"grid": [1.0, 0.5, 0.1]}, ArgumentError, "the grid has 2 steps, not 4"),
    ],
)
def test_bad_searches(more: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        compensate(guided(), **{"steps": 4, "cond": CLASSES, **more})


def test_models_without_a_shape_or_with_nan() -> None:
    with pytest.raises(ShapeError, match="give shape="):
        compensate(rv.Model(lambda x, t: x, P), 4)
    with pytest.raises(NonFiniteError):
        compensate(rv.Model(lambda x, t: x * math.nan, P, shape=(2,)), 4)


# the prediction for other cells


def made(w: float, n: int, a: torch.Tensor) -> tuple[float, ...]:
    """The formula, term by term."""
    out = [1.0, 1.0]
    for i in range(3, n + 1):
        u, c, long = i / n, w / 12, n / 50
        out.append(
            sum(
                float(a[k, j, e]) * u**k * c ** (2 - j) * long ** (2 - e)
                for k in range(4)
                for j in range(3)
                for e in range(3)
            )
        )
    return tuple(out)


@pytest.fixture(scope="module")
def cube() -> torch.Tensor:
    a = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a[0, 2, 2] += 1.0
    return 0.15 * a


@pytest.fixture(scope="module")
def fitted(cube: torch.Tensor) -> Cascade:
    return Cascade.fit({(w, n): made(w, n, cube) for w in (1.5, 3.0, 5.0, 7.5) for n in (5, 6, 8, 10, 15)})


def test_a_cascade_gives_back_what_its_form_made(cube: torch.Tensor, fitted: Cascade) -> None:
    assert fitted.error < 1e-9
    for w, n in ((1.5, 5), (4.0, 7), (6.6, 12), (7.5, 10)):
        wanted = [min(max(r, BOUNDS[0]), BOUNDS[1]) for r in made(w, n, cube)]
        assert fitted(w, n) == pytest.approx(wanted, abs=1e-5)
    assert torch.tensor(fitted.coefficients).sub(cube).abs().max() < 1e-2


def test_a_cascade_clamps() -> None:
    cells = {(w, n): (1.0, 1.0, *[9.0 * (-1) ** n] * (n - 2)) for w in (1.0, 2.0, 3.0) for n in (5, 6, 7)}
    assert set(Cascade.fit(cells)(2.0, 6)[2:]) == {BOUNDS[1]}
    assert set(Cascade.fit(cells)(2.0, 7)[2:]) == {BOUNDS[0]}


def test_few_cells_take_lower_degrees() -> None:
    one = Cascade.fit({(4.0, 5): (1.0, 1.0, 0.9, 0.8, 0.7)})
    assert one(4.0, 5) == pytest.approx((1, 1, 0.9, 0.8, 0.7), abs=1e-9)
    assert torch.tensor(one.coefficients)[:, :2].abs().max() == 0
    two = Cascade.fit({(w, 5): (1.0, 1.0, *[0.5 + 0.1 * w] * 3) for w in (2.0, 4.0)})
    assert two(3.0, 5)[2:] == pytest.approx([0.8] * 3, abs=1e-9)


@pytest.mark.parametrize(("w", "n"), [(9.5, 7), (-1.0, 7), (4.0, 20), (4.0, 2)])
def test_far_outside_is_refused(fitted: Cascade, w: float, n: int) -> None:
    fitted(8.5, 16), fitted(1.0, 4)
    with pytest.raises(ArgumentError, match="lies far outside those of the fit"):
        fitted(w, n)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({}, "give cells"),
        ({4.0: (1.0,)}, r"a cell is \(guidance scale, number of steps\), got 4.0"),
        ({(math.nan, 5): (1.0,) * 5}, "a guidance scale is a finite number"),
        ({(4.0, 5.0): (1.0,) * 5}, "a number of steps is whole"),
        ({(4.0, 5): (1.0,) * 4}, "needs 5 finite ratios"),
        ({(4.0, 2): (1.0, 1.0)}, "no cell has more than 2 steps"),
    ],
)
def test_bad_cells(cells: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Cascade.fit(cells)


def test_a_saved_cascade_is_the_same(fitted: Cascade, tmp_path: Path) -> None:
    fitted.save(tmp_path / "a.json")
    assert Cascade.load(tmp_path / "a.json") == fitted
    head = json.loads((tmp_path / "a.json").read_text())
    for change in (
        {"format": "other"},
        {"version": 2},
        {"coefficients": [[1.0]]},
        {"scales": [3.0, 1.0]},
        {"steps": None},
    ):
        (tmp_path / "b.json").write_text(json.dumps({**head, **change}))
        with pytest.raises(FileError, match="holds no cascade of ratios"):
            Cascade.load(tmp_path / "b.json")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(FileError, match="no cascade"):
        Cascade.load(tmp_path / "b.json")
    with pytest.raises(FileError):
        Cascade.load(tmp_path / "missing.json")
