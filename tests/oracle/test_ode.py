"""The probability flow: against the Gaussian's closed form, other tolerances, other routes, and the order of the method."""

from __future__ import annotations

import math

import pytest
import torch
from oracle_problems import PROCESSES, covariance, normal, start

import reverie as rv
from reverie.base import ArgumentError, NonFiniteError, ShapeError, TimeError
from reverie.oracle.dop853 import E3, E5, A, B, C
from reverie.oracle.ode import integrate

F64 = torch.float64


def pair(process, d=4):
    """A Gaussian with its closed form, and the same law as a mixture, which integrates."""
    mean, cov = normal(d, seed=3), covariance(d)
    return (
        rv.oracle.Gaussian(mean, cov, process=process),
        rv.oracle.Mixture(mean[None], covs=cov[None], process=process),
    )


@pytest.mark.parametrize("end", ["t_min", "t_clean"])
def test_mixture_solve_reaches_1e8_both_ways(process, end):
    closed, o = pair(process)
    x, stop = start(process, 8, 4), getattr(process, end)
    x0 = closed.solve(x, t_end=stop)
    torch.testing.assert_close(o.solve(x, t_end=stop), x0, rtol=0, atol=1e-8)
    scale = math.hypot(process.alpha(process.t_max), process.sigma(process.t_max))
    back = o.solve(x0, stop, process.t_max)
    torch.testing.assert_close(back / scale, x / scale, rtol=0, atol=1e-8)


def test_solve_ode_of_a_model_reaches_the_closed_form(process):
    """A network of x0 has no eps at sigma = 0; the last stretch to t_clean must not show."""
    closed, m = pair(process)
    x = start(process, 4, 4)
    answer = rv.oracle.solve_ode(m, x, t_end=process.t_clean)
    torch.testing.assert_close(answer, closed.solve(x, t_end=process.t_clean), rtol=0, atol=2e-8)


def test_a_velocity_model_is_asked_at_both_ends():
    """The straight path's velocity is regular at sigma = 0 and alpha = 0: Gaussian data of std s, E[flow | x] in closed form."""
    p, s = rv.process.flow(), 0.3

    def net(x, t):
        a, b = 1 - t[:, None], t[:, None]
        return x * (b - a * s * s) / (a * a * s * s + b * b)

    m = rv.Model(net, p, predicts="flow")
    x = normal(3, 2)
    torch.testing.assert_close(rv.oracle.solve_ode(m, x), s * x, rtol=0, atol=1e-9)
    torch.testing.assert_close(rv.oracle.solve_ode(m, s * x, 0.0, 1.0), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["vp-linear", "edm", "flow"])
@pytest.mark.parametrize(("k", "d", "spread", "std"), [(4, 16, 1.0, 1.0), (8, 8, 3.0, 0.05)])
def test_tolerances_agree_on_mixtures(name, k, d, spread, std):
    p = PROCESSES[name]
    o = rv.oracle.Mixture(spread * normal(k, d), std, process=p)
    x = start(p, 8, d)
    fine = o.solve(x, rtol=1e-11)  # 1e-14 a step
    error = (o.solve(x) - fine).abs().amax(1)
    assert float(error.median()) < 1e-9
    assert float(error.max()) < 1e-7  # a state near the border between two modes is amplified
    coarse = (o.solve(x, rtol=1e-4) - fine).abs().amax(1)
    assert 1e-10 < float(coarse.median()) < 1e-4  # the tolerance is used


def test_there_and_back(process):
    o = rv.oracle.Mixture(normal(3, 2), [0.5, 0.3, 0.8], process=process)
    x0 = o.sample(6, dtype=F64)
    noise = o.solve(x0, process.t_clean, process.t_max)
    torch.testing.assert_close(o.solve(noise, t_end=process.t_clean), x0, rtol=0, atol=1e-7)


def test_classes_and_guided_models():
    p = rv.process.vp()
    o = rv.oracle.Mixture(normal(4, 2), 0.3, labels=[0, 0, 1, 1], process=p)
    part = rv.oracle.Mixture(normal(4, 2)[2:], 0.3, process=p)
    x = start(p, 5, 2)
    torch.testing.assert_close(o.solve(x, class_labels=1), part.solve(x), rtol=0, atol=1e-9)
    torch.testing.assert_close(rv.oracle.solve_ode(o, x, cond={"class_labels": 1}), part.solve(x), rtol=0, atol=1e-7)
    labels = torch.tensor([0, 1, -1, 1, 0])
    mixed = o.solve(x, class_labels=labels)
    generic = rv.oracle.solve_ode(o, x, cond={"class_labels": labels})
    torch.testing.assert_close(generic, mixed, rtol=0, atol=1e-7)
    assert torch.equal(mixed[1:2], o.solve(x[1:2], class_labels=1))


def test_points_are_reached():
    """A mixture of points sends every state onto one of them; the nearest, for two, by symmetry."""
    for p in (rv.process.flow(), rv.process.edm()):
        o = rv.oracle.Mixture([[-1.0, 0.0], [1.0, 0.0]], 0.0, process=p)
        x = start(p, 6, 2)
        expected = torch.stack([x[:, 0].sign(), torch.zeros(6, dtype=F64)], 1)
        torch.testing.assert_close(o.solve(x, t_end=p.t_clean), expected, rtol=0, atol=1e-12)


def test_the_answer_for_a_sample_does_not_depend_on_the_batch():
    o = rv.oracle.Mixture(normal(3, 5), 0.2, process=rv.process.edm())
    x = start(o.process, 7, 5)
    together = o.solve(x)
    assert torch.equal(o.solve(x[4:5])[0], together[4])
    assert torch.equal(o.solve(x.flip(0)).flip(0), together)
    assert o.solve(x[:0]).shape == (0, 5)


def test_nothing_to_do_and_nothing_changed():
    o = rv.oracle.Mixture(normal(2, 3), 0.4, process=rv.process.vp())
    x = normal(2, 3)
    kept = x.clone()
    torch.testing.assert_close(o.solve(x, 0.5, 0.5), x, rtol=0, atol=1e-15)
    o.solve(x)
    assert torch.equal(x, kept)


# -- the integrator


def test_the_tableau_meets_the_order_conditions():
    """sum b c^(q-1) = 1/q to order 8, sum b = 1, the errors vanish on constants, and sum_ij b_i a_ij c_j^(q-2) = 1/(q (q-1))."""
    c, b = (0.0, *C), B
    rows = ({}, *A)
    for q in range(1, 9):
        assert math.fsum(w * c[i] ** (q - 1) for i, w in b.items()) == pytest.approx(1 / q, abs=1e-13)
    for q in range(2, 9):
        tall = math.fsum(w * a * c[j] ** (q - 2) for i, w in b.items() for j, a in rows[i].items())
        assert tall == pytest.approx(1 / (q * (q - 1)), abs=1e-12)
    e = (6 - math.sqrt(6)) / 30  # the sums of the rows are known in closed form
    nodes = [4 * e / 9, 2 * e / 3, e, (6 + math.sqrt(6)) / 30, 1 / 3, 1 / 4, 4 / 13, 127 / 195, 3 / 5, 6 / 7, 1.0]
    assert list(C) == pytest.approx(nodes, abs=3e-14)
    for e, order in ((E5, 5), (E3, 3)):
        for q in range(1, order + 1):
            assert math.fsum(w * c[i] ** (q - 1) for i, w in e.items()) == pytest.approx(0, abs=1e-13)


def test_one_step_has_local_error_of_order_nine(monkeypatch):
    """With an infinite tolerance the first step spans all: y' = y cos s, y = exp(sin s)."""
    monkeypatch.setattr("reverie.oracle.ode.FIRST", 1.0)
    errors = []
    for h in (1.6, 0.8):
        y = integrate(lambda y, s, rows: y * s.cos()[:, None], torch.ones(1, 1, dtype=F64), 0.0, h, 1e30)
        errors.append(abs(y.item() - math.exp(math.sin(h))))
    assert math.log2(errors[0] / errors[1]) > 8.0


def test_every_row_keeps_its_own_steps():
    """y' = w y: rows with slow and fast w, and the number of rows evaluated falls as they finish."""
    w = torch.tensor([0.1, 1.0, 60.0], dtype=F64)
    counts = []

    def f(y, s, rows):
        counts.append(len(rows))
        return -w[rows][:, None] * y * torch.sin(w[rows] * s)[:, None]

    y = integrate(f, torch.ones(3, 1, dtype=F64), 0.0, 1.0, 1e-12)
    torch.testing.assert_close(y[:, 0], (torch.cos(w) - 1).exp(), rtol=0, atol=1e-9)
    assert counts[0] == 3
    assert counts[-1] == 1
    assert sum(counts) < 0.5 * 3 * len(counts)


# -- bad input


def test_what_cannot_be_solved():
    p = rv.process.flow()
    x = torch.zeros(3, 2)
    o = rv.oracle.Mixture(normal(2, 2), 0.4, process=p)
    with pytest.raises(TimeError, match=r"t = 1.5 is outside"):
        rv.oracle.solve_ode(o, x, 1.5)
    with pytest.raises(TimeError, match="outside"):
        rv.oracle.solve_ode(o, x, t_end=-0.5)
    with pytest.raises(ShapeError, match="batch of 3"):
        rv.oracle.solve_ode(o, x, cond={"class_labels": torch.tensor([0, 1])})
    with pytest.raises(ShapeError, match="a state is a tensor"):
        rv.oracle.solve_ode(o, 1.0)
    for rtol in (0.0, -1.0, 2.0, math.nan, "fine"):
        with pytest.raises(ArgumentError, match="rtol"):
            rv.oracle.solve_ode(o, x, rtol=rtol)
    with pytest.raises(ArgumentError, match="cannot be derived from a prediction of eps"):
        rv.oracle.solve_ode(rv.Model(lambda x, t: x, p, predicts="eps"), x)

    def broken(x, t):
        return torch.where((torch.arange(len(x)) == 1)[:, None], torch.nan, x)

    with pytest.raises(NonFiniteError, match=r"samples \[1\]") as caught:
        rv.oracle.solve_ode(rv.Model(broken, p, predicts="flow"), x + 1)
    assert caught.value.samples == (1,)


def test_a_rough_model_is_refused():
    m = rv.Model(lambda x, t: 1e3 * torch.sign(torch.sin(1e4 * x)), rv.process.flow(), predicts="flow")
    with pytest.raises(ArgumentError, match="not smooth"):
        rv.oracle.solve_ode(m, torch.ones(1, 1), rtol=1e-12)
