"""Fitting methods: derivatives against differences of the whole run, exact answers where a method can be exact, and what bounds keep."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError
from reverie.model import Model
from reverie.solve.fine import Fine
from reverie.solve.tuning.fitting import Bounds, Cases, Enough, Method, _places, fit
from reverie.solve.unroll import reroll, unroll

WIDE, VP = Bounds(-8.0, 8.0), Bounds(-5.0, 4.6)


def mixture(dim: int = 3, process: rv.process.Process | None = None) -> rv.oracle.Mixture:
    g = torch.Generator().manual_seed(0)
    means = torch.randn(4, dim, generator=g, dtype=torch.float64)
    return rv.oracle.Mixture(means, 0.5, process=process or rv.process.vp(), labels=torch.arange(4))


def cases(m: Model, n: int = 12, batch: int = 256, cond: dict[str, Tensor] | None = None) -> Cases:
    fine = Fine(m, n, m.shape or (), cond=cond, reference=1e-8)
    p = m.process
    return Cases(m, fine.begin(p.t_max), fine(p.t_max, p.t_clean), cond, batch)


def classical(m: Model, n: int, name: str = "dpmpp-2m", grid: str = "quadratic") -> Method:
    return Method.of(unroll(rv.solve.plan(name, m.process, n, grid=grid)))


def test_parameters_are_packed_in_the_order_of_a_run() -> None:
    method = classical(mixture(), 4)
    theta = method.pack()
    assert len(theta) == 4 * 9 // 2
    assert theta[_places(4)].tolist() == method.lams.tolist()
    again = Method.unpack(theta, 4)
    assert torch.equal(again.lams, method.lams)
    assert torch.equal(again.rows, method.rows)


def test_a_method_is_its_plan() -> None:
    m = mixture()
    plan = rv.solve.plan("unipc-3", m.process, 5)
    method, some = Method.of(unroll(plan)), cases(m)
    x = rv.run(plan, m, some.x)
    assert (some.answer(method) - x).abs().max() < 1e-10
    again = rv.run(reroll(method.unrolled(unroll(plan))), m, some.x)
    assert (again - x).abs().max() < 1e-8
    want = (x - some.star).norm(dim=1) / some.star.norm(dim=1)
    assert torch.allclose(some.errors(method), want)


@pytest.mark.parametrize("batch", [256, 5])
@pytest.mark.parametrize("n", [1, 3])
def test_tangents_are_derivatives_of_the_whole_run(n: int, batch: int) -> None:
    m = mixture() | rv.guide.CFG(1.7)
    cond = (
        {"labels": torch.arange(12) % 4}
        if "labels" in (m.null or {})
        else {next(iter(m.null or {})): torch.arange(12) % 4}
    )
    some = cases(m, cond=cond, batch=batch)
    theta = classical(m, n, grid="logsnr").pack()
    theta[0] = -2.0  # at the noise end the model's answer does not depend on the time
    block = torch.arange(2, 9)
    end, tangents = some._tangents(Method.unpack(theta, n), block)
    assert torch.equal(end, some.answer(Method.unpack(theta, n))[block])
    assert tangents.shape == (len(theta), 7, 3)
    for i in range(len(theta)):
        step = torch.zeros_like(theta)
        step[i] = 1e-4
        up, down = (some.answer(Method.unpack(theta + s, n))[block] for s in (step, -step))
        assert torch.allclose(tangents[i], (up - down) / 2e-4, atol=1e-4, rtol=1e-4), i


def test_a_guide_that_ends_between_the_points_of_a_difference_is_no_derivative() -> None:
    cond = {"class_labels": torch.arange(12) % 4}
    m, every = mixture(), torch.arange(12)
    edge = float(m.process.t_of_lam(-2.0 + 5e-7))
    whole, ends = (
        cases(m | guide, cond=cond) for guide in (rv.guide.CFG(1.7), rv.guide.CFG(1.7, interval=(edge, 1.0)))
    )
    now, then = (ends._ask(ends.x, lam, every) for lam in (-2.0, -2.0 + 1e-6))
    assert (then - now).abs().max() > 1e-3, "it ends between them"
    slopes = [c._by_lam(c.x, -2.0, c._ask(c.x, -2.0, every), every) for c in (whole, ends)]
    assert torch.allclose(*slopes, rtol=1e-3, atol=1e-4)


def test_normal_equations_are_means_of_weighted_squares() -> None:
    m = mixture()
    some, method = cases(m, batch=5), classical(m, 2)
    a, g, errors = some.normal(method, delta=0.1)
    end, tangents = some._tangents(method, torch.arange(12))
    miss = end - some.star
    r = miss.norm(dim=1) / some.star.norm(dim=1)
    w = 1 / (some.star.norm(dim=1).square() * (r.square() + 0.01).sqrt())
    assert torch.allclose(errors, r)
    assert torch.allclose(a, torch.einsum("pnd,qnd,n->pq", tangents, tangents, w) / 12, rtol=1e-5, atol=1e-10)
    assert torch.allclose(g, torch.einsum("pnd,nd,n->p", tangents, miss, w) / 12, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("process", [rv.process.vp(), rv.process.edm(), rv.process.flow()], ids=["vp", "edm", "flow"])
def test_one_evaluation_is_enough_for_a_gaussian(process: rv.process.Process) -> None:
    """Its flow is x* = mean + k x_T, which x_T and one prediction span."""
    o = rv.oracle.Gaussian(torch.tensor([1.0, -2.0, 0.5]), 0.49 * torch.eye(3), process=process)
    some = cases(o)
    start = classical(o, 1, "ddim", "logsnr" if process.name != "flow" else "time")
    before = some.errors(start).median()
    method, error = fit(some, Method(start.lams.clamp(-2.0, 2.0), start.rows), Bounds(-4.0, 4.0), iterations=40)
    assert before > 1e-2
    assert error < 1e-6
    assert some.errors(method).quantile(0.5) == pytest.approx(error)


def test_a_fit_gets_better_and_never_worse_than_its_start() -> None:
    m = mixture(8)
    some, start = cases(m, 24), classical(mixture(8), 3)
    said: list[tuple[int, float]] = []
    _, error = fit(some, start, VP, 15, tell=lambda i, e: said.append((i, e)))
    assert error < 0.3 * float(some.errors(start).median())
    assert [i for i, _ in said] == list(range(1, len(said) + 1))
    assert all(b <= a for (_, a), (_, b) in itertools.pairwise(said))
    held = Cases(m, some.x.flip(0)[:6], some.x.flip(0)[:6], batch=9)  # answers that no fit of the others leads to
    kept, least = fit(some, start, VP, 5, held=held)
    assert least <= float(held.errors(start).quantile(0.5))
    assert least == pytest.approx(float(held.errors(kept).quantile(0.5)))


def test_enough_ends_a_fit_with_the_best_so_far() -> None:
    m = mixture()
    some, start, said = cases(m), classical(m, 3), []

    def tell(iteration: int, error: float) -> None:
        said.append(error)
        if iteration == 2:
            raise Enough

    _, error = fit(some, start, VP, 20, tell=tell)
    assert len(said) == 2
    assert error == said[-1]


def test_bounds_keep_times_in_order_and_coefficients_small() -> None:
    theta = classical(mixture(), 4).pack()
    at = _places(4)
    theta[at] = torch.tensor([3.0, -9.0, 3.01, 9.0], dtype=torch.float64)
    theta[1] = 1e3
    kept = Bounds(-5.0, 4.0, gap=0.1, most=20.0).keep(theta, 4)
    lams = kept[at]
    assert lams.tolist() == pytest.approx([3.0, 3.1, 3.2, 4.0])
    assert float(kept[1]) == 20.0
    inside = classical(mixture(), 4).pack()
    assert torch.equal(Bounds(-8.0, 8.0).keep(inside, 4), inside)


def test_what_goes_astray_is_infinitely_far() -> None:
    m = mixture()
    some, start = cases(m), classical(m, 2)
    broken = Method(start.lams, start.rows * math.nan)
    assert bool(some.errors(broken).isinf().all())
    assert fit(some, broken, WIDE, 3)[0] is broken


def test_plans_with_labels_of_their_own_are_no_methods() -> None:
    u = unroll(rv.solve.plan("ddim", rv.process.vp(), 3))
    with pytest.raises(ArgumentError, match="labels"):
        Method.of(type(u)(u.process, u.times, (1.0, None, None), u.rows, u.kind, u.to))
