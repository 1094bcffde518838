"""Unrolled plans: the same computation for every solver that has one, and what has none."""

from __future__ import annotations

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError, ShapeError
from reverie.solve import SOLVERS
from reverie.solve.unroll import Unrolled, reroll, unroll

RULED = {"evodiff"}
"""Solvers whose stages have rules, which no table of numbers holds."""
ODE = [n for n, s in SOLVERS.items() if not s.stochastic and not s.dynamic and n not in RULED]


@pytest.fixture(scope="module")
def mixture() -> rv.oracle.Mixture:
    g = torch.Generator().manual_seed(0)
    return rv.oracle.Mixture(torch.randn(4, 6, generator=g), 0.6, process=rv.process.vp())


@pytest.mark.parametrize("name", ODE)
@pytest.mark.parametrize("kind", ["x0", "v"])
def test_every_ode_solver_unrolls_and_computes_the_same(name: str, kind: str, mixture: rv.oracle.Mixture) -> None:
    plan = rv.solve.plan(name, mixture.process, nfe=9)
    u = unroll(plan, kind)
    assert len(u.times) == plan.nfe
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    again = rv.run(reroll(u), mixture, x)
    assert (again - rv.run(plan, mixture, x)).abs().max() < 1e-9
    assert unroll(reroll(u), kind).distance(u) < 1e-12


def test_on_constant_data_every_row_lies_on_the_path(mixture: rv.oracle.Mixture) -> None:
    p = mixture.process
    for name in ("ddim", "dpmpp-3m", "unipc-3", "deis-3"):
        u = unroll(rv.solve.plan(name, p, nfe=6))
        start = p.alpha(u.times[0])
        for row, t in zip(u.rows, (*u.times, u.to), strict=True):
            # x_T = alpha_T c + sigma_T eps with P = c: the factor of eps is sigma, that of c is alpha, whatever the order
            assert float(row[0]) * p.sigma(u.times[0]) == pytest.approx(p.sigma(t), abs=1e-9)
            assert float(row[0]) * start + float(row[1:].sum()) == pytest.approx(p.alpha(t), abs=1e-9)


def test_other_steps_are_another_method(mixture: rv.oracle.Mixture) -> None:
    one, two = (unroll(rv.solve.plan(name, mixture.process, steps=5)) for name in ("ddim", "dpmpp-2m"))
    assert one.distance(two) > 1e-2
    with pytest.raises(ShapeError, match="5 and 4 evaluations"):
        one.distance(unroll(rv.solve.plan("ddim", mixture.process, steps=4)))


def test_what_has_no_such_form(mixture: rv.oracle.Mixture) -> None:
    p = mixture.process
    for name in ("ddpm", "dpmpp-2m-sde"):
        with pytest.raises(ArgumentError, match="cannot be unrolled"):
            unroll(rv.solve.plan(name, p, steps=4))
    dynamic = next(name for name, s in SOLVERS.items() if s.dynamic)
    with pytest.raises(ArgumentError, match="cannot be unrolled"):
        unroll(rv.solve.plan(dynamic, p))
    u = unroll(rv.solve.plan("ddim", p, steps=3))
    moved = Unrolled(u.process, u.times, u.labels, u.rows + 0.1, u.kind, u.to)
    with pytest.raises(ArgumentError, match="initial state itself"):
        reroll(moved)


@pytest.mark.parametrize("name", sorted(RULED))
def test_rules_cannot_be_unrolled(name: str) -> None:
    with pytest.raises(ArgumentError, match="stages with rules"):
        unroll(rv.solve.plan(name, rv.process.vp(), steps=4))
