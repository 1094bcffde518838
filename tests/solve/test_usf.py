"""USF: known solvers as choices, to rounding; what each choice does; orders; input that cannot be."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reverie as rv
from reverie.base import ArgumentError, UnknownNameError
from reverie.solve.exponential import Step, derivatives
from reverie.solve.grids import nodes
from reverie.solve.line import prediction
from reverie.solve.tuning.genome import known
from reverie.solve.unroll import Unrolled, unroll

from . import reference as ref

P = ref.PROCESSES["vp"]


def usf(steps: int, grid: Any = "logsnr", p: Any = P, end: str = "denoise", **options: Any) -> Unrolled:
    return unroll(rv.solve.plan("usf", p, steps=steps, grid=grid, end=end, **options))


def other(name: str, steps: int, grid: Any = "logsnr", p: Any = P, end: str = "denoise", **options: Any) -> Unrolled:
    return unroll(rv.solve.plan(name, p, steps=steps, grid=grid, end=end, **options))


SAME = {
    "ddim": ("ddim", {}),
    "dpm-2m": ("dpm-2m", {}),
    "dpmpp-2m": ("dpmpp-2m", {}),
    "dpmpp-3m": ("dpmpp-3m", {}),
    "dpm-2s": ("dpm-2s", {"inner": "grid"}),
    "dpmpp-2s": ("dpmpp-2s", {"inner": "grid"}),
    **{f"unipc-{k}": (f"unipc-{k}", {}) for k in (1, 2, 3)},
    **{f"deis-{k}": (f"deis-{k}", {"variable": "log-rho"}) for k in (1, 2, 3, 4)},
}


@pytest.mark.parametrize("end", ["denoise", "sigma_min"])
@pytest.mark.parametrize("process", ["vp", "edm", "flow3", "ddpm"])
@pytest.mark.parametrize("name", SAME)
def test_known_solvers_are_tables_of_choices(name: str, process: str, end: str) -> None:
    p, (solver, options) = ref.PROCESSES[process], SAME[name]
    for n, grid in ((7, "logsnr"), (11, "quadratic" if process in ("vp", "ddpm") else "karras")):
        zero = nodes(p, grid, n, end)[-1].sigma == 0
        ours, theirs = usf(n, grid, p, end, **known(name, n, zero)), other(solver, n, grid, p, end, **options)
        assert ours.distance(theirs) < 1e-10 * max(1.0, theirs.rows.abs().max().item()), (n, grid)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("kind", ["x0", "eps"])
@pytest.mark.parametrize("top", [1, 2, 3])
def test_unipc_in_all_its_forms(top: int, kind: str, variant: str) -> None:
    choices = known(f"unipc-{top}", 8)
    for name in ("scale", "corrector_scale"):
        choices[name] = tuple(variant if s == "bh2" else s for s in choices[name])
    theirs = other(f"unipc-{top}", 8, kind=kind, variant=variant)
    assert usf(8, **{**choices, "kind": kind}).distance(theirs) < 1e-10


def test_singlestep_of_order_3_is_a_row_with_a_low_order_slope() -> None:
    """dpm-3s estimates one derivative, from its last inner node, and never the second: order 2 rows from two nodes back."""
    theirs = rv.solve.plan("dpm-3s", P, steps=3, end="sigma_min")
    grid = [theirs.start, *(s.to for s in theirs.table)]
    ours = unroll(
        rv.solve.plan(
            "usf",
            P,
            grid=grid,
            kind="eps",
            order=(1, 2, 2) * 3,
            start=(0, 1, 2) * 3,
            nodes=(None, ((0,),), ((0,),)) * 3,
        )
    )
    assert ours.distance(unroll(theirs)) < 1e-10


def test_the_two_kinds_are_one_at_first_order_and_differ_above() -> None:
    assert usf(6, order=1, kind="eps").distance(usf(6, order=1)) < 1e-12
    assert usf(6, order=2, kind="eps").distance(usf(6, order=2)) > 1e-3


@pytest.mark.parametrize("name", ["scale", "corrector_scale"])
def test_the_linear_scaling_is_that_of_the_first_derivative(name: str) -> None:
    more = {"corrector": "pseudo", "order": 1} if name == "corrector_scale" else {}
    plain = usf(6, **more)
    assert usf(6, **{name: 0.0}, **more).distance(plain) == 0
    up, twice = (usf(6, **{name: c}, **more) for c in (0.1, 0.2))
    assert up.distance(plain) > 1e-4
    at = nodes(P, "logsnr", 6)
    i = 2 if name == "scale" else 1
    step = Step(at[i - 1], at[i], "x0")
    if name == "scale":  # by hand: row 2 -> step from node 1, slope through nodes 1 and 0
        slope = step.weight(1) / (at[1].lam - at[0].lam)
        change = up.rows[2, 2] - plain.rows[2, 2]
        assert float(change) == pytest.approx(0.1 * step.h * slope, rel=1e-9)
        assert float(twice.rows[2, 2] - plain.rows[2, 2]) == pytest.approx(0.2 * step.h * slope, rel=1e-9)


def test_active_nodes_are_those_named() -> None:
    """A slope through the node two back only leaves the prediction of the one between out of the row."""
    at = nodes(P, "logsnr", 6)
    u = usf(6, order=2, nodes=(None, None, ((2,),), None, None, None))
    step = Step(at[2], at[3], "x0")
    slope = step.weight(1) / (at[2].lam - at[0].lam)
    before = u.rows[2] * step.carry
    before[3] = before[3] + step.weight(0) + slope
    before[1] = before[1] - slope
    assert (u.rows[3] - before).abs().max() < 1e-12


def test_a_corrected_row_has_the_new_node_in_every_derivative() -> None:
    """By hand: order 3 with a slope from one node, at step 3; corrected, from nodes {2, new}, {2, 1, new} and {2, 1, new}."""
    at = nodes(P, "logsnr", 6)
    own = ((1,), (1, 2))
    options = {"order": (1, 1, 1, 3, 1, 1), "nodes": (None, None, None, own, None, None)}
    u = usf(6, corrector=("none",) * 3 + ("pseudo",) + ("none",) * 2, **options)
    step, after = Step(at[3], at[4], "x0"), Step(at[4], at[5], "x0")
    row = u.rows[3] * step.carry
    row[4] = row[4] + step.weight(0)
    for k, active in enumerate(((2, 4), (2, 1, 4), (2, 1, 4)), 1):
        where = [at[j].lam - at[3].lam for j in (3, *active)]
        for key, c in derivatives(where, [prediction(j) for j in (3, *active)])[k].terms.items():
            row[key[1] + 1] = row[key[1] + 1] + step.weight(k) * float(c)
    row = row * after.carry
    row[5] = row[5] + after.weight(0)
    assert (u.rows[5] - row).abs().max() < 1e-10


def test_more_nodes_than_the_derivative_needs_make_its_estimate_exact_for_higher_degrees() -> None:
    """A slope from m nodes is exact on predictions that are polynomials of degree m in lam."""
    at = nodes(P, "logsnr", 6, "sigma_min")
    lam = torch.tensor([n.lam for n in at], dtype=torch.float64)
    for m in (1, 2, 3):
        near = tuple(range(1, m + 1))
        u = usf(6, end="sigma_min", order=2, nodes=((near,),) * 6)
        i = 4
        step = Step(at[i], at[i + 1], "x0")
        for degree in range(1, m + 1):
            said = (lam[:6] - lam[i]) ** degree
            made = float(u.rows[i + 1, 1:] @ said) - step.carry * float(u.rows[i, 1:] @ said)
            assert made == pytest.approx(step.weight(1) if degree == 1 else 0.0, abs=1e-9)


def test_an_implicit_corrector_asks_again_and_a_pseudo_one_does_not() -> None:
    plans = {c: rv.solve.plan("usf", P, steps=6, corrector=c) for c in ("none", "pseudo", "implicit")}
    assert [plan.nfe for plan in plans.values()] == [6, 6, 11]
    revised = [s for s in plans["pseudo"].table if s.inner]
    assert len(revised) == 5, "never at the last step"
    assert all(s.t == s.to for s in revised)
    twice = [s.t for s in plans["implicit"].table if s.t is not None]
    assert twice[1::2] == twice[2::2], "asked again at the same times"


def test_an_implicit_corrector_uses_the_answer_at_the_corrected_state() -> None:
    o = rv.oracle.Gaussian(torch.zeros(2), 0.2 * torch.eye(2), process=P)
    exact = (
        (0.2**0.5)
        * P.prior(torch.ones(1, 2, dtype=torch.float64))
        / (P.alpha(1.0) ** 2 * 0.2 + P.sigma(1.0) ** 2) ** 0.5
    )
    error = {
        c: float(
            (
                rv.run(
                    rv.solve.plan("usf", P, steps=12, order=1, corrector=c),
                    o,
                    P.prior(torch.ones(1, 2, dtype=torch.float64)),
                )
                - exact
            )
            .abs()
            .max()
        )
        for c in ("none", "pseudo", "implicit")
    }
    assert error["implicit"] < error["none"] / 3
    assert error["pseudo"] < error["none"] / 1.5
    assert error["implicit"] != error["pseudo"]


def test_afs_is_the_same_table_with_the_answer_in_pure_noise() -> None:
    plain, short = usf(5, order=2, kind="eps"), usf(5, order=2, kind="eps", afs=True)
    assert len(short.times) == 4
    # the full table with prediction 0 set to x0 = 0
    rows = torch.cat([plain.rows[:, :1], plain.rows[:, 2:]], 1)[1:]
    assert (rows - short.rows).abs().max() < 1e-12


@pytest.mark.parametrize("process", ["vp", "edm", "flow", "flow3", "ddpm"])
def test_every_table_is_exact_on_constant_data(process: str) -> None:
    """x_t = alpha_t c + sigma_t eps with P = c is followed whatever the choices: the rows' sum rule."""
    p = ref.PROCESSES[process]
    for kind, order, corrector, scale, start in itertools.product(
        ("x0", "eps"), (1, 3), ("none", "pseudo", "implicit"), ("none", "bh1", 0.3), (0, 1)
    ):
        options = {"kind": kind, "order": order, "corrector": corrector, "scale": scale, "start": start}
        u = unroll(rv.solve.plan("usf", p, grid="time" if process == "flow" else "logsnr", steps=5, **options))
        first = p.alpha(u.times[0]), p.sigma(u.times[0])
        for row, t in zip(u.rows, (*u.times, u.to), strict=True):
            size = 1e-9 * (1 + float(row.abs().sum()) * first[1])
            assert float(row[0]) * first[1] == pytest.approx(p.sigma(t), abs=size), options
            assert float(row[0]) * first[0] + float(row[1:].sum()) == pytest.approx(p.alpha(t), abs=size), options


ORDERS = [
    ({"order": 1}, 1), ({"order": 2}, 2), ({"order": 3}, 3), ({"order": 4}, 4), ({"order": 3, "kind": "eps"}, 3),
    ({"order": 2, "scale": "bh1"}, 2), ({"order": 3, "scale": "bh2"}, 2), ({"order": 2, "scale": 0.3}, 2), ({"order": 3, "start": 1}, 3),
    ({"order": 1, "corrector": "pseudo"}, 2), ({"order": 2, "corrector": "pseudo"}, 3), ({"order": 2, "corrector": "implicit"}, 3),
    ({"order": 2, "corrector": "pseudo", "corrector_scale": "bh2"}, 2),
]  # fmt: skip


@pytest.mark.parametrize(("options", "order"), ORDERS)
def test_the_declared_order_is_measured(options: dict[str, Any], order: int) -> None:
    found = rv.solve.check_order("usf", P, **options)
    assert found.declared == order
    if options.get("start") != 1:  # one step alone starts from elsewhere
        assert found.order == order, found


def test_a_slope_from_one_node_lowers_the_third_order() -> None:
    options = {"order": (1, 2, 3, 3, 3), "nodes": (None, None, *(((1,), (1, 2)),) * 3)}
    found = rv.solve.check_order("usf", P, **options)
    assert (found.declared, found.order) == (2, 2)
    full = rv.solve.check_order("usf", P, order=(1, 2, 3, 3, 3))
    assert (full.declared, full.order) == (3, 3)


def test_a_table_is_saved_and_comes_back(tmp_path: Any) -> None:
    plan = rv.solve.plan(
        "usf", P, steps=4, kind=("x0", "eps", "x0", "x0"), order=(1, 2, 3, 1), nodes=(None, None, ((1,), (1, 2)), None),
        scale=("none", 0.25, "bh1", "none"), corrector=("pseudo", "none", "implicit", "none"),
    )  # fmt: skip
    plan.save(tmp_path / "p.json")
    again = rv.Plan.load(tmp_path / "p.json")
    assert again.options == plan.options
    assert unroll(again).distance(unroll(plan)) == 0
    compiled = rv.solve.plan("usf", P, steps=4, **again.options)
    assert unroll(compiled).distance(unroll(plan)) == 0


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(2, 6), data=st.data(), process=st.sampled_from(["vp", "edm", "flow", "ddpm"]), afs=st.booleans(),
    end=st.sampled_from(["denoise", "sigma_min"]),
)  # fmt: skip
def test_any_choices_make_a_finite_table(n: int, data: Any, process: str, afs: bool, end: str) -> None:
    def each(choice: Any) -> tuple[Any, ...]:
        return tuple(data.draw(st.lists(choice, min_size=n, max_size=n)))

    options = {
        "kind": each(st.sampled_from(["x0", "eps"])),
        "order": each(st.integers(1, 4)),
        "start": each(st.integers(0, 3)),
        "scale": each(st.one_of(st.sampled_from(["none", "bh1", "bh2"]), st.floats(-1, 1))),
        "corrector": each(st.sampled_from(["none", "pseudo", "implicit"])),
    }
    u = unroll(rv.solve.plan("usf", ref.PROCESSES[process], steps=n, end=end, afs=afs, **options))
    assert u.rows.isfinite().all()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"kind": "v"}, "'v'"),
        ({"kind": ("x0", "x0")}, "2 entries for 4 steps"),
        ({"order": 0}, "got 0"),
        ({"order": 2.0}, "2.0"),
        ({"order": (1, 2, 7, 1)}, "order of step 2"),
        ({"start": -1}, "-1"),
        ({"scale": "bh3"}, "bh3"),
        ({"scale": math.nan}, "nan"),
        ({"scale": True}, "True"),
        ({"corrector": "explicit"}, "explicit"),
        ({"corrector_scale": "x"}, "corrector_scale of step 0"),
        ({"nodes": (None, ((0,),), None, None)}, "nodes of step 1"),
        ({"nodes": (None, ((),), None, None)}, "nodes of step 1"),
        ({"nodes": (None, ((1, 1),), None, None)}, "nodes of step 1"),
        ({"nodes": (None, (), None, None)}, "nodes of step 1"),
        ({"order": 3, "nodes": (None, None, ((1,), (1,)), None)}, "nodes of step 2"),
        ({"afs": "zero"}, "zero"),
        ({"orders": 2}, "did you mean 'order'"),
    ],
)
def test_choices_that_cannot_be_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises((ArgumentError, UnknownNameError), match=named):
        rv.solve.plan("usf", P, steps=4, **options)


def test_afs_takes_two_steps() -> None:
    with pytest.raises(ArgumentError, match="at least 2 steps"):
        rv.solve.plan("usf", P, steps=1, afs=True)


def test_a_name_that_is_no_table() -> None:
    with pytest.raises(UnknownNameError, match="heun"):
        known("heun", 5)
