"""Momentum: no momentum is the base solver, tables against plain loops, orders by algebra, and regions of stability against roots and runs."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError, UnknownNameError
from reverie.solve.ghvb import METHODS, weights
from reverie.solve.unroll import unroll

from . import reference as ref
from .problem import DATA, MEANS, STD, P, oracle, x_of

ADAMS = {
    1: (1,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
    5: (1901 / 720, -2774 / 720, 2616 / 720, -1274 / 720, 251 / 720),
}
"""Adams-Bashforth, from a textbook."""


# -- limits and tables


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("process", ["vp", "edm", "flow3", "ddpm"])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_without_momentum_it_is_ipndm(k: int, process: str, method: str) -> None:
    p = ref.PROCESSES[process]
    for end in ("denoise", "sigma_min"):
        base = unroll(rv.solve.plan("ipndm", p, steps=9, order=k, end=end))
        for options in ({"order": k}, {"order": k, "beta": 1.0}):
            assert unroll(rv.solve.plan("ghvb", p, steps=9, method=method, end=end, **options)).distance(base) < 1e-12


@pytest.mark.parametrize("k", ADAMS)
def test_the_weights_without_momentum_are_adams_bashforth(k: int) -> None:
    assert weights(k, 1.0) == pytest.approx(ADAMS[k], abs=1e-14)


@pytest.mark.parametrize("process", ["vp", "edm", "flow3"])
def test_heavy_ball_without_momentum_is_dpmpp_2m(process: str) -> None:
    p = ref.PROCESSES[process]
    for options in ({}, {"lower_final": False}, {"end": "sigma_min"}):
        one = unroll(rv.solve.plan("dpmpp-2m-hb", p, steps=7, beta=1.0, **options))
        assert one.distance(unroll(rv.solve.plan("dpmpp-2m", p, steps=7, **options))) < 1e-12
    assert (
        unroll(rv.solve.plan("dpmpp-2m-hb", p, steps=7)).distance(unroll(rv.solve.plan("dpmpp-2m", p, steps=7))) > 1e-3
    )


def test_the_fraction_of_the_order_is_beta() -> None:
    for order, k, beta in ((1.8, 2, 0.8), (3.5, 4, 0.5), (0.7, 1, 0.7), (2.0, 2, 1.0)):
        one, two = (rv.solve.plan("ghvb", P, steps=6, **o) for o in ({"order": order}, {"order": k, "beta": beta}))
        assert unroll(one).distance(unroll(two)) < 1e-12
        assert one.order == min(k, 2)


def loop(p: Any, data: Any, times: Any, x: torch.Tensor, k: int, b: float, method: str) -> torch.Tensor:
    """The record's recipe with tensors and a velocity that is carried along."""
    y, said, velocities, v = x / p.alpha(times[0]), [], [], None
    for s, t in itertools.pairwise(times):
        alpha, sigma = p.alpha(s), p.sigma(s)
        e = (y - data(alpha * y, s)) * alpha / sigma
        said.append(e)
        v = e if v is None else v
        if method == "ghvb":
            v = (1 - b) * v + b * e
            velocities.append(v)
            n = min(k, len(velocities))
            u = sum(c * w for c, w in zip(weights(n, b), reversed(velocities), strict=False)) / b
        else:
            bashforth = sum(c * w for c, w in zip(ADAMS[min(k, len(said))], reversed(said), strict=False))
            v = (1 - b) * v + b * bashforth
            u = v if method == "hb" else (1 - b) * v + b * bashforth
        y = y + (p.sigma(t) / p.alpha(t) - sigma / alpha) * u
    return y * p.alpha(times[-1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("k", "b"), [(1, 0.5), (2, 0.8), (3, 0.5), (4, 0.9), (5, 0.7), (2, 0.15)])
def test_the_table_is_the_recipe(k: int, b: float, method: str) -> None:
    for steps in (6, 60):
        plan = rv.solve.plan("ghvb", P, steps=steps, order=k, beta=b, method=method)
        want = loop(P, DATA, plan.times, x_of(), k, b, method)
        torch.testing.assert_close(rv.run(plan, oracle(), x_of()), want, rtol=1e-9, atol=1e-9)


def test_faded_predictions_are_forgotten() -> None:
    table = rv.solve.plan("ghvb", P, steps=200, order=2, beta=0.8).table
    assert max(len(s.row.terms) for s in table) < 35
    plan = rv.solve.plan("ghvb", P, steps=200, order=2, beta=0.8)
    want = loop(P, DATA, plan.times, x_of(), 2, 0.8, "ghvb")
    torch.testing.assert_close(rv.run(plan, oracle(), x_of()), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lower", [True, False])
def test_heavy_ball_on_dpmpp_2m_is_the_released_loop(lower: bool) -> None:
    beta, plan = 0.6, rv.solve.plan("dpmpp-2m-hb", P, steps=8, beta=0.6, lower_final=lower, end="sigma_min")
    at, x, said, v = plan.times, x_of(), [], None
    for i, (s, t) in enumerate(itertools.pairwise(at)):
        said.append(DATA(x, s))
        h, u = P.lam(t) - P.lam(s), said[-1]
        if i and not (lower and i == 7):
            d = (said[-1] - said[-2]) * h / (P.lam(s) - P.lam(at[i - 1]))
            u = said[-1] + 0.5 * d
            v = u if v is None else (1 - beta) * v + beta * u
            u = v
        x = P.sigma(t) / P.sigma(s) * x - P.alpha(t) * math.expm1(-h) * u
    torch.testing.assert_close(rv.run(plan, oracle(), x_of()), x, rtol=1e-9, atol=1e-9)


def test_guidance_half_precision_and_other_batches() -> None:
    torch.manual_seed(0)
    net = torch.nn.Linear(6, 6)
    m = rv.Model(
        lambda x, t, shift: net(x) + shift[:, None], P, null={"shift": torch.zeros(())}, shape=(6,)
    ) | rv.guide.CFG(15.0)
    cond = {"shift": torch.linspace(0, 1, 5)}
    for name in ("ghvb", "dpmpp-2m-hb"):
        x = rv.sample(m, 5, solver=name, steps=6, cond=cond, batch=4)
        assert x.isfinite().all()
        one = rv.sample(m, 1, start=3, solver=name, steps=6, cond={"shift": cond["shift"][3:4]}, batch=4)
        assert torch.equal(one[0], x[3])
        half = rv.Model(torch.nn.Linear(6, 6).bfloat16(), P)
        half.net.forward = lambda x, t: torch.tanh(x)
        assert rv.run(rv.solve.plan(name, P, steps=6), half, torch.randn(2, 6)).dtype == torch.float32


# -- orders


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("b", [0.3, 0.5, 0.8])
def test_the_average_keeps_the_order(k: int, b: float) -> None:
    """The recurrence integrates polynomials of degree below k exactly on even steps, whatever b; the order conditions of a multistep method."""
    found = {method: rv.solve.linear_multistep("ghvb", order=k, beta=b, method=method) for method in METHODS}
    for method, m in found.items():
        order = k if method == "ghvb" else 1
        for q in range(order + 2):  # y = x^q, y' = q x^{q-1}, from x = 0, -1, ... to x = 1
            back = [-float(j) for j in range(m.steps)]
            made = sum(c * x**q for c, x in zip(m.a, back, strict=False))
            made += sum(c * q * x ** (q - 1) for c, x in zip(m.b, back, strict=False)) if q else 0
            assert (made == pytest.approx(1.0, abs=1e-10)) == (q <= order), (method, q)


@pytest.mark.parametrize(
    ("options", "order"),
    [({"order": 1.8}, 2), ({"order": 0.8}, 1), ({"order": 3, "beta": 0.8, "method": "hb"}, 1), ({"order": 2}, 2)],
)
def test_the_order_is_measured(options: dict[str, Any], order: int) -> None:
    found = rv.solve.check_order("ghvb", P, **options)
    assert (found.declared, found.order) == (order, order), found


@pytest.mark.parametrize(("options", "least", "most"), [
    ({"order": 1.8}, 1.9, 2.3), ({"order": 2.5}, 1.9, 3.3), ({"order": 3.5}, 1.9, 3.5),
    ({"order": 2, "beta": 0.5, "method": "hb"}, 0.85, 1.15), ({"order": 2, "beta": 0.5, "method": "nesterov"}, 0.8, 1.2),
])  # fmt: skip
def test_the_error_falls_with_the_order(options: dict[str, Any], least: float, most: float) -> None:
    """Over a whole interval, where the start's own error counts, too: second order, and first for averages of what was extrapolated."""
    p = rv.process.edm(0.5, 4.0)
    o = rv.oracle.Mixture(MEANS, STD, process=p)
    x = 4.0 * x_of()
    exact = rv.oracle.solve_ode(o, x, 4.0, 0.5, rtol=1e-9)
    errors = []
    for n in (40, 80):
        plan = rv.solve.plan("ghvb", p, grid=[4.0 - 3.5 * i / n for i in range(n + 1)], **options)
        errors.append(float((rv.run(plan, o, x) - exact).abs().max()))
    assert least < math.log2(errors[0] / errors[1]) < most, errors


# -- stability

INTERVALS = [
    ("ipndm", {"order": 2}, 1.0),
    ("ipndm", {"order": 4}, 0.3),
    ("ghvb", {"order": 4, "beta": 0.8, "method": "hb"}, 0.45),
    ("ghvb", {"order": 4, "beta": 0.5, "method": "hb"}, 0.9),
    ("ghvb", {"order": 2, "beta": 0.5, "method": "hb"}, 3.0),
    ("ghvb", {"order": 1.5}, 1.5),
    ("ghvb", {"order": 2.5}, 18 / 23),
    ("ghvb", {"order": 3.5}, 3 / 7),
    ("ddim", {}, 2.0),
]


@pytest.mark.parametrize(("name", "options", "want"), INTERVALS)
def test_the_longest_stable_step(name: str, options: dict[str, Any], want: float) -> None:
    """Where a root passes -1: z = P(-1) / S(-1), a fraction by hand; and a run of the plan grows beyond it and falls below it."""
    m = rv.solve.linear_multistep(name, **options)
    assert m.interval() == pytest.approx(want, abs=1e-5)
    p, n = rv.process.edm(1.0, 1000.0), 200
    grid = [900.0 - k for k in range(n + 1)]
    for factor, grows in ((1.15, True), (0.85, False)):
        damped = rv.Model(lambda x, t, c=want * factor: c * x, p)  # eps = c y, steps of -1
        plan = rv.solve.plan(name, p, grid=grid, **options)
        ratio = rv.run(plan, damped, torch.ones(1, 1, dtype=torch.float64)).abs().item()
        assert (ratio > 1e2) == grows, ratio
        assert (ratio < 1e-2) != grows, ratio


@pytest.mark.parametrize(("k", "b"), [(1, 0.5), (2, 0.8), (3, 0.5), (4, 0.8), (5, 0.9)])
def test_the_recurrence_is_the_one_by_hand(k: int, b: float) -> None:
    """(1 - (1 - b) B) u in closed form, from the definitions."""
    adams, q = ADAMS[k], 1 - b
    nesterov = [b * ((2 - b) * new - q * old) for new, old in zip((*adams, 0), (0, *adams), strict=True)]
    for method, want in (("ghvb", weights(k, b)), ("hb", [b * c for c in adams]), ("nesterov", nesterov)):
        m = rv.solve.linear_multistep("ghvb", order=k, beta=b, method=method)
        assert m.a == pytest.approx((2 - b, -(1 - b)), abs=1e-8)
        assert m.b == pytest.approx(want, abs=1e-8), method


@pytest.mark.parametrize(("name", "options", "want"), INTERVALS)
def test_boundary_points_have_a_root_on_the_circle(name: str, options: dict[str, Any], want: float) -> None:
    m = rv.solve.linear_multistep(name, **options)
    z = m.boundary(73)
    assert z[0].abs() < 1e-9  # w = 1
    assert z[36].real == pytest.approx(-want, abs=1e-9)  # w = -1
    assert (m.roots(z).abs() - 1).abs().amin(-1).max() < 1e-7
    polynomial = m.polynomial(-0.1 + 0.2j)
    for root in m.roots(-0.1 + 0.2j):
        assert sum(c * root ** (m.steps - i) for i, c in enumerate(polynomial)).abs() < 1e-12
    near = torch.tensor([0.0, -0.01, 0.01, -want * 0.9, -want * 1.1])
    assert m.stable(near).tolist() == [True, True, False, True, False]


def test_less_momentum_number_is_more_stable() -> None:
    """The dial of the paper: between AB3 at beta = 1 and AB2 as beta goes to 0, the interval grows monotonically."""
    found = [rv.solve.linear_multistep("ghvb", order=3, beta=b).interval() for b in (1.0, 0.9, 0.6, 0.3, 0.1)]
    assert found == sorted(found)
    assert found[0] == pytest.approx(6 / 11, abs=1e-5)
    assert 0.94 < found[-1] < 1.0


# -- input that cannot be


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"order": 0}, "above 0 and at most 5, got 0"),
        ({"order": 5.5}, "at most 5"),
        ({"order": 1.5, "beta": 0.5}, "already says beta = 0.5"),
        ({"order": 2, "beta": 0.0}, "beta must be above 0"),
        ({"order": 2, "beta": 1.2}, "at most 1"),
        ({"order": float("nan")}, "order must be above 0"),
        ({"order": "2"}, "must be a number"),
    ],
)
def test_bad_numbers(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        rv.solve.plan("ghvb", P, steps=5, **options)


def test_bad_names_and_solvers_without_a_recurrence() -> None:
    with pytest.raises(UnknownNameError, match="nesterov"):
        rv.solve.plan("ghvb", P, steps=5, method="nestorov")
    with pytest.raises(ArgumentError, match="beta must be above 0"):
        rv.solve.plan("dpmpp-2m-hb", P, steps=5, beta=0.0)
    for name, match in (
        ("heun", "more than one evaluation"),
        ("ddpm", "draws noise"),
        ("dpmpp-2m", "other coefficients"),
    ):
        with pytest.raises(ArgumentError, match=match):
            rv.solve.linear_multistep(name)
    with pytest.raises(UnknownNameError, match="ipndm"):
        rv.solve.linear_multistep("ipnd")
