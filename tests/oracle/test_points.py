"""Finite data sets: against sums over the points, the mixture of components without width, and the laws that the flow must carry."""

from __future__ import annotations

import math

import pytest
import torch
from oracle_problems import normal
from scipy import stats

import reverie as rv
from reverie.base import ArgumentError, Noise
from reverie.data.digits import digits

POINTS = normal(7, 2, 3, seed=2)
WEIGHTS = torch.arange(1, 8).double()


def test_gaussian_noise_gives_the_mixture(process):
    o = rv.oracle.Points(POINTS, WEIGHTS, process=process)
    m = rv.oracle.Mixture(POINTS, 0.0, WEIGHTS, process=process)
    x, t = normal(5, 2, 3, seed=1), process.t_of_lam(-0.5)
    assert torch.equal(o(x, t).x0, m(x, t).x0)
    assert torch.equal(o.log_prob(x, t), m.log_prob(x, t))


@pytest.mark.parametrize("D", [1, 5, 2048])
def test_against_a_sum_over_the_points(D):
    p = rv.process.pfgmpp(D)
    o = rv.oracle.Points(POINTS, WEIGHTS, process=p)
    x, t = normal(5, 2, 3, seed=1), 1.3
    square = (x[:, None] - POINTS).flatten(2).square().sum(2)
    weights = WEIGHTS * (square / p.r(t) ** 2 + 1) ** (-(6 + D) / 2)
    mean = torch.einsum("bk,kij->bij", weights / weights.sum(1, keepdim=True), POINTS)
    torch.testing.assert_close(o(x, t).x0, mean, rtol=1e-11, atol=1e-12)
    law = stats.multivariate_t(shape=t**2 * torch.eye(6).double().numpy(), df=D)
    logs = torch.from_numpy(law.logpdf((x[:, None] - POINTS).flatten(2).numpy())) + (WEIGHTS / WEIGHTS.sum()).log()
    torch.testing.assert_close(o.log_prob(x, t), logs.logsumexp(1), rtol=1e-10, atol=1e-10)
    far = o(1e8 * x, 1e-3).x0  # ratios of weights are finite where the weights are not
    assert far.isfinite().all()


def test_labels_batches_and_posteriors():
    p = rv.process.pfgmpp(3)
    labels = [0, 0, 0, 1, 1, 1, 1]
    o, x = rv.oracle.Points(POINTS, WEIGHTS, labels, process=p), normal(6, 2, 3, seed=1)
    one = rv.oracle.Points(POINTS[3:], WEIGHTS[3:], process=p)
    torch.testing.assert_close(o(x, 0.8, class_labels=1).x0, one(x, 0.8).x0, rtol=1e-13, atol=1e-13)
    assert torch.equal(o(x, 0.8).x0[2:3], o(x[2:3], 0.8).x0)
    A, y = torch.eye(6)[:2], torch.tensor([0.2, -0.4], dtype=torch.float64)
    q = o.posterior(A, y, 0.5)
    wanted = WEIGHTS * torch.exp(-(POINTS.flatten(1)[:, :2] - y).square().sum(1) / 2 / 0.25)
    torch.testing.assert_close(q.weights, wanted / wanted.sum())
    torch.testing.assert_close(q(x, 0.8).x0, rv.oracle.Points(POINTS, wanted, process=p)(x, 0.8).x0)


def test_many_dimensions_are_the_gaussian_points():
    p, q = rv.process.pfgmpp(10**7), rv.process.edm()
    mine, its = (rv.oracle.Points(POINTS, WEIGHTS, process=v) for v in (p, q))
    x = normal(5, 2, 3, seed=1)
    torch.testing.assert_close(mine(x, 0.9).x0, its(x, 0.9).x0, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.log_prob(x, 0.9), its.log_prob(x, 0.9), rtol=1e-5, atol=1e-5)
    ends = []
    for o in (mine, its):
        start = o.process.prior(o.process.draw(Noise(3), (2, 3), range(64), dtype=torch.float64))
        ends.append(rv.run(rv.solve.plan("heun", o.process, steps=40, end="sigma_min"), o, start))
    assert ((ends[0] - ends[1]).flatten(1).abs().amax(1) < 1e-3).double().mean() >= 0.98


@pytest.mark.parametrize("D", [1, 4])
def test_the_flow_carries_the_marginals(D):
    """Two points on a line: states of p_2 moved to sigma = 0.4 by the ODE have the law of p_0.4, a mixture of two t laws."""
    p = rv.process.pfgmpp(D)
    o = rv.oracle.Points([[-1.0], [1.0]], [0.3, 0.7], process=p)
    n = 4000
    x = p.perturb(o.sample(n, dtype=torch.float64), 2.0, p.draw(Noise(7), (1,), range(n), dtype=torch.float64))
    end = o.solve(x, 2.0, 0.4)[:, 0].numpy()

    def cdf(v):
        return 0.3 * stats.t(D, -1.0, 0.4).cdf(v) + 0.7 * stats.t(D, 1.0, 0.4).cdf(v)

    assert stats.kstest(end, cdf).pvalue > 0.01
    gaussian = rv.oracle.Points([[-1.0], [1.0]], [0.3, 0.7], process=rv.process.edm())
    assert stats.kstest(gaussian.solve(x, 2.0, 0.4)[:, 0].numpy(), cdf).pvalue < 0.01  # another field does not


def test_the_likelihood_takes_the_density_of_the_prior():
    p = rv.process.pfgmpp(5, 0.01, 20.0)
    o = rv.oracle.Points(normal(4, 2, seed=5), process=p)
    x = o.sample(3, dtype=torch.float64) + 0.3
    with pytest.raises(ArgumentError, match="does not start from Gaussian noise"):
        rv.solve.log_likelihood(o, x, t=0.5)
    found = rv.solve.log_likelihood(o, x, t=0.5, prior=lambda z: o.log_prob(z, p.t_max))
    torch.testing.assert_close(found.nats, o.log_prob(x, 0.5), rtol=0, atol=1e-4)
    near = rv.solve.log_likelihood(o, x, t=0.5, prior=lambda z: p.log_density(z / 20.0) - 2 * math.log(20.0))
    assert (near.nats - found.nats).abs().max() < 0.5


@pytest.mark.parametrize("D", [1, 64, 2048])
def test_samples_are_data_points(D):
    """The record's check: 40 Heun steps from the prior land within 0.05 root mean square of one of 500 digits, 95 % of the time."""
    p = rv.process.pfgmpp(D)
    o = rv.oracle.Points(digits()[0][:500], process=p)
    start = p.prior(p.draw(Noise(1), (1, 8, 8), range(24), dtype=torch.float64))
    end = rv.run(rv.solve.plan("heun", p, steps=40), o, start)
    away = torch.cdist(end.flatten(1), o.means.flatten(1)).amin(1) / 8
    assert (away < 0.05).double().mean() >= 0.95


@pytest.mark.parametrize("solver", ["heun", "dpmpp-3m", "unipc-2", "deis-2"])
def test_solvers_run_unchanged(solver):
    """All deterministic solvers approach the exact flow; none knows of D."""
    p = rv.process.pfgmpp(8)
    o = rv.oracle.Points(normal(5, 3, seed=6), process=p)
    x = p.prior(p.draw(Noise(2), (3,), range(48), dtype=torch.float64))
    exact = o.solve(x, t_end=0.5)
    errors = [
        (rv.run(rv.solve.plan(solver, p, steps=n, grid="logsnr", end="sigma_min", span=(1.0, p_at(p, 0.5))), o, x) - exact)
        .flatten(1).norm(dim=1).median()
        for n in (24, 96)
    ]  # fmt: skip
    assert errors[1] < 1e-2
    assert errors[1] < errors[0] / 4


def p_at(p, sigma):
    """Where on the logsnr curve a sigma lies."""
    lo, hi = p.lam_range
    return (hi - p.lam(sigma)) / (hi - lo)


def test_other_oracles_refuse_what_they_do_not_know():
    for make in (
        lambda p: rv.oracle.Mixture([[0.0]], 1.0, process=p),
        lambda p: rv.oracle.Gaussian([0.0], [[1.0]], process=p),
    ):
        with pytest.raises(ArgumentError, match=r"the noise of PFGMpp\(.*is not Gaussian; rv\.oracle\.Points"):
            make(rv.process.pfgmpp(64))
        with pytest.raises(ArgumentError, match="has a second input y, of which this oracle knows nothing"):
            make(rv.process.mean_reverting())
    with pytest.raises(ArgumentError, match="has a second input y"):
        rv.oracle.Points([[0.0]], process=rv.process.interpolant())
