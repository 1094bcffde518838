"""Stochastic interpolants: the path, the exact drift and score, the two laws that the ODE and every SDE must carry."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from oracle_problems import covariance, normal
from scipy import stats

import reverie as rv
from reverie.base import ArgumentError, ShapeError, UnknownNameError
from reverie.model import DRIFT
from reverie.process.interpolant import LATENTS, PATHS, interpolant, regression
from reverie.solve import interpolant_plan

ANY = rv.process.flow()  # of the mixtures; plays no part
PAIRS = [
    (p, g)
    for p, g in itertools.product(PATHS, LATENTS)
    if (p, g) not in {("trig", "sine"), ("encode-decode", "none"), ("mirror", "none")}
]
every = pytest.mark.parametrize(("path", "latent"), PAIRS)
T = torch.tensor([0.03, 0.21, 0.37, 0.62, 0.9], dtype=torch.float64)


def joined(p, d=2, head="drift"):
    data = rv.oracle.Mixture(
        normal(2, d, seed=1), covs=torch.stack([covariance(d), covariance(d, 1)]), weights=[0.3, 0.7], process=ANY
    )
    other = rv.oracle.Mixture(2 * normal(3, d, seed=2), [0.5, 1.0, 0.4], process=ANY)
    return rv.oracle.Joined(data, other, process=p, head=head)


def line(p):
    """On a line: 0.4 N(-2, 0.3^2) + 0.6 N(1, 0.5^2) is the data, 0.5 N(-1, 0.6^2) + 0.5 N(2, 0.3^2) the other end."""
    data = rv.oracle.Mixture([[-2.0], [1.0]], [0.3, 0.5], [0.4, 0.6], process=ANY)
    return rv.oracle.Joined(data, rv.oracle.Mixture([[-1.0], [2.0]], [0.6, 0.3], process=ANY), process=p)


def cdf(o, t):
    """The exact distribution function of x_t on a line."""
    p, a, b = o.process, o.data, o.other
    parts = [
        (wa * wb, p.alpha(t) * ma + p.gamma(t) * mb, math.sqrt(p.alpha(t) ** 2 * va + p.gamma(t) ** 2 * vb + p.sigma(t) ** 2))
        for wa, ma, va in zip(a.weights.tolist(), a.means.flatten().tolist(), a.components.var.flatten().tolist(), strict=True)
        for wb, mb, vb in zip(b.weights.tolist(), b.means.flatten().tolist(), b.components.var.flatten().tolist(), strict=True)
    ]  # fmt: skip
    return lambda x: sum(w * stats.norm.cdf(x, m, s) for w, m, s in parts)


@every
def test_the_path(path, latent):
    p = interpolant(path, latent)
    assert (p.sigma(0.0), p.sigma(1.0)) == (0.0, pytest.approx(0.0, abs=1e-15))
    if path != "mirror":
        ends = (p.alpha(0.0), p.gamma(0.0), p.alpha(1.0), p.gamma(1.0))
        assert ends == pytest.approx((1.0, 0.0, 0.0, 1.0), abs=1e-15)
        torch.testing.assert_close(p.alpha(T), p.gamma(1 - T))
    h = 1e-6
    quantities = (p.alpha, p.gamma, lambda t: p.sigma(t) ** 2 / 2)
    for rate, f in zip(p.rates(T), quantities, strict=True):
        torch.testing.assert_close(rate, (f(T + h) - f(T - h)) / (2 * h), rtol=1e-6, atol=1e-8)
    assert all(math.isfinite(r) for t in (0.0, 1.0) for r in p.rates(t))
    assert p.slope(0.37) * p.sigma(0.37) == pytest.approx(p.rates(0.37)[2], abs=1e-14)
    x0, y, eps = normal(3, 5, 4)
    moved = [p.perturb(x0, T + e, eps, y) for e in (-h, h)]
    torch.testing.assert_close(p.targets(x0, T, eps, y)[0], (moved[1] - moved[0]) / (2 * h), rtol=1e-6, atol=1e-6)
    still = [p.perturb(x0, T + e, 0 * eps, y) for e in (-h, h)]
    torch.testing.assert_close(p.targets(x0, T, eps, y)[1], (still[1] - still[0]) / (2 * h), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(DRIFT.of(p, T, x0, eps, y), p.targets(x0, T, eps, y)[0])
    assert rv.process.from_spec(p.spec()) == p


@every
def test_drift_and_score_obey_the_continuity_equation(path, latent):
    """d log rho / dt + div b + b . grad log rho = 0, and grad log rho = -eta / sigma."""
    p, x = interpolant(path, latent), normal(4, 2, seed=3)
    o = joined(p)
    for t in (0.12, 0.4, 0.83):
        u = x.clone().requires_grad_()
        (score,) = torch.autograd.grad(o.log_prob(u, t).sum(), u)
        told = torch.full((4,), t, dtype=torch.float64)
        drift, eta = o._net(x, told)
        torch.testing.assert_close(eta, -p.sigma(t) * score, rtol=1e-9, atol=1e-10)
        h = 1e-5
        rate = (o.log_prob(x, t + h) - o.log_prob(x, t - h)) / (2 * h)
        steps = h * torch.eye(2, dtype=torch.float64)
        divergence = sum((o._net(x + e, told)[0] - o._net(x - e, told)[0])[:, i] / (2 * h) for i, e in enumerate(steps))
        torch.testing.assert_close(
            rate + divergence + (drift * score).sum(1), torch.zeros(4).double(), rtol=0, atol=2e-6
        )
        velocity = joined(p, head="velocity")._net(x, told)[0]
        torch.testing.assert_close(drift, velocity + p.slope(t) * eta, rtol=1e-10, atol=1e-12)


def test_one_sided_is_flow_matching():
    """y standard normal, no latent: the drift is E[eps - x0 | x] of `flow`, and the plan is its Euler method."""
    f, p = rv.process.flow(), interpolant(latent="none")
    data = rv.oracle.Mixture(normal(3, 2, seed=1), 0.4, [0.2, 0.3, 0.5], process=f)
    o = rv.oracle.Joined(data, rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=f), process=p)
    x = normal(6, 2, seed=5)
    for t in (1.0, 0.7, 0.2, 0.05):
        torch.testing.assert_close(o(x, t).raw, data(x, t).flow, rtol=0, atol=1e-12)
    torch.testing.assert_close(p.perturb(x, 0.3, 0 * x, x.flip(0)), f.perturb(x, 0.3, x.flip(0)), rtol=0, atol=1e-15)
    for order, name in ((1, "euler"), (2, "heun")):
        mine = rv.run(interpolant_plan(p, 8, order=order, span=(1.0, 0.1)), o, x)
        times = [1.0 - 0.9 * i / 8 for i in range(8)] + [0.1]
        torch.testing.assert_close(mine, rv.run(rv.solve.plan(name, f, grid=times), data, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("path", "latent"), [("linear", "root"), ("trig", "parabola"), ("encode-decode", "sine"), ("mirror", "root")]
)
@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0, 5.0])
def test_ode_and_sde_carry_the_law(path, latent, noise):
    p, n = interpolant(path, latent), 2000
    o = line(p)
    y = (o.data if path == "mirror" else o.other).sample(n, seed=1, dtype=torch.float64)
    middle = rv.run(interpolant_plan(p, 80, noise=noise, span=(1.0, 0.5)), o, y, noise=2)
    end = rv.run(interpolant_plan(p, 80, noise=noise, span=(0.5, 0.0)), o, middle, noise=3)
    assert stats.kstest(middle[:, 0].numpy(), cdf(o, 0.5)).pvalue > 1e-3
    assert stats.kstest(end[:, 0].numpy(), cdf(o, 0.0)).pvalue > 1e-3


def test_backwards_and_a_noise_that_varies():
    """From data to y; and with the score's sign turned the law is missed."""
    p, n = interpolant(), 3000
    o = line(p)
    x = o.data.sample(n, seed=4, dtype=torch.float64)
    plan = interpolant_plan(p, 120, noise=lambda t: 2 * p.sigma(t), span=(0.0, 1.0))
    end = rv.run(plan, o, x, noise=5)
    assert stats.kstest(end[:, 0].numpy(), cdf(o, 1.0)).pvalue > 1e-3
    stages = [s.row.terms | {("p", k, 1): -s.row.terms.get(("p", k, 1), 0.0)} for k, s in enumerate(plan.table)]
    turned = plan.replace(
        table=tuple(
            rv.solve.Stage(rv.solve.Line(t), s.t, s.to, s.step) for t, s in zip(stages, plan.table, strict=True)
        )
    )
    assert stats.kstest(rv.run(turned, o, x, noise=5)[:, 0].numpy(), cdf(o, 1.0)).pvalue < 1e-6


def test_small_steps_are_euler_maruyama_s():
    p = interpolant(latent="parabola")
    plan = interpolant_plan(p, 2000, noise=0.7, span=(0.6, 0.4))
    row, h = plan.table[900].row.terms, 0.2 / 2000
    t = plan.table[900].t
    assert row["p", 900, 0] == pytest.approx(-h)
    assert row["p", 900, 1] == pytest.approx(-0.7 * h / p.sigma(t), rel=1e-2)
    assert row["n", 900] == pytest.approx(math.sqrt(2 * 0.7 * h), rel=1e-2)


@pytest.mark.parametrize(("order", "least"), [(1, 0.85), (2, 1.8)])
def test_order_of_the_ode(order, least):
    for head in ("drift", "velocity"):
        o, x = joined(interpolant(latent="parabola"), head=head), normal(6, 2, seed=6)
        ends = [rv.run(interpolant_plan(o.process, n, order=order, head=head), o, x) for n in (20, 40, 160)]
        errors = [(e - ends[-1]).norm(dim=1).median() for e in ends[:-1]]
        assert math.log2(errors[0] / errors[1]) > least


def test_regressions_find_the_conditional_means():
    """At the exact model the losses are stationary: in any direction the derivative is zero within its standard error."""
    p, n = interpolant(), 20000
    o = joined(p)
    x0, y, z = (
        o.data.sample(n, dtype=torch.float64),
        o.other.sample(n, seed=1, dtype=torch.float64),
        normal(n, 2, seed=8),
    )
    t = torch.full((n,), 0.3, dtype=torch.float64)
    sigma = p.sigma(0.3)
    for sign in (1, -1):
        x = p.perturb(x0, t, sign * z, y)
        (drift, eta), goal = o._net(x, t), p.targets(x0, t, sign * z, y)
        velocity = joined(p, head="velocity")._net(x, t)[0]
        cases = (
            (drift, goal[0], 1.0),
            (velocity, goal[1], 1.0),
            (eta, sign * z, 1.0),
            (-eta / sigma, sign * z, -1 / sigma),
        )
        for said, target, weight in cases:
            for direction in (torch.ones_like(x), x, x.sin()):
                change = ((said - weight * target) * direction).sum(1)
                assert abs(change.mean()) < 4.5 * change.std() / math.sqrt(n)
                s = torch.zeros((), dtype=torch.float64, requires_grad=True)
                loss = regression(said + s * direction, target, weight)
                torch.testing.assert_close(torch.autograd.grad(loss, s)[0], change.mean())
    per_sample = regression(eta, z, -torch.ones(n, dtype=torch.float64))
    torch.testing.assert_close(per_sample, regression(eta, z, -1.0))


def test_sample_starts_at_y(tmp_path):
    o = line(interpolant(latent="parabola"))
    y = o.other.sample(5, dtype=torch.float64)
    plan = interpolant_plan(o.process, 12, noise=0.5)
    plan.save(tmp_path / "plan.json")
    again = rv.Plan.load(tmp_path / "plan.json")
    x = rv.sample(o, n=5, plan=plan, inputs={"y": y}, seed=3, dtype=torch.float64)
    assert torch.equal(rv.sample(o, n=5, plan=again, inputs={"y": y}, seed=3, dtype=torch.float64), x)
    assert torch.equal(rv.sample(o, n=1, start=2, plan=plan, inputs={"y": y[2:3]}, seed=3, dtype=torch.float64), x[2:3])
    with pytest.raises(ArgumentError, match="starts from a sample of the other density"):
        rv.sample(o, n=5, plan=plan)


def test_what_does_not_fit_is_refused():
    p = interpolant()
    for call, message in (
        (lambda: rv.solve.plan("dpmpp-2m", p, steps=4), "is no clock of Interpolant"),
        (lambda: rv.solve.plan("ddim", p, steps=4, grid="time"), "is no clock of Interpolant"),
        (lambda: p.drift(0.3), "a model predicts it"),
        (lambda: p.diffusion(0.3), "fixes no SDE"),
        (lambda: p.prior(torch.zeros(1, 1), 0.5, torch.zeros(1, 1)), "only at t = 1"),
        (lambda: interpolant("trig", "sine"), "needs sigma < 1 at all times"),
        (lambda: interpolant("trig", "root", 4.0), "take a < 4"),
        (lambda: interpolant("mirror", "none"), "it does not mix"),
        (lambda: interpolant(a=0.0), "a must be positive"),
        (lambda: interpolant_plan(ANY, 4), "needs rv.process.interpolant"),
        (lambda: interpolant_plan(p, 0), "at least 1"),
        (lambda: interpolant_plan(p, 4, noise=-1.0), "noise must be finite and at least 0, got -1.0"),
        (lambda: interpolant_plan(p, 4, noise=1.0, order=2), "order=2 is Heun"),
        (lambda: interpolant_plan(p, 4, order=3), "order must be 1 or 2"),
        (lambda: interpolant_plan(p, 4, head="b"), "head must be 'drift' or 'velocity'"),
        (lambda: interpolant_plan(p, 4, span=(0.5, 0.5)), "span goes from t to another t"),
        (lambda: interpolant_plan(p, 4, head="velocity"), "sigma' is infinite at t = 1.0"),
        (lambda: rv.model.DRIFT.to("x0", ANY, 0.5), "there 'flow' is the like"),
        (lambda: joined(p)(normal(2, 2), 0.5).x0, "needs the degraded input"),
        (lambda: rv.run(interpolant_plan(p, 4, head="velocity", span=(0.9, 0.1)), joined(p), normal(2, 2)), "needs inputs"),
        (lambda: joined(p, head="b"), "head must be"),
        (lambda: rv.oracle.Joined(joined(p).data, joined(p).other, process=ANY), "process must be"),
        (lambda: rv.oracle.Joined(*[rv.oracle.Mixture([[0.0]], 0.0, process=ANY)] * 2, process=p), "give every component a width"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=message):
            call()
    with pytest.raises(UnknownNameError, match="unknown path"):
        interpolant("line")
    with pytest.raises(UnknownNameError, match="unknown latent"):
        interpolant(latent="gauss")
    with pytest.raises(ShapeError, match="differ in shape"):
        p.targets(torch.zeros(2, 1), torch.full((2,), 0.5), torch.zeros(2, 1), torch.zeros(1, 1))
    with pytest.raises(ShapeError, match="the mixtures have shapes"):
        rv.oracle.Joined(joined(p).data, joined(p, d=3).other, process=p)
