"""PFGM++: the law of its noise, its two limits, the bits of a sample, and what it refuses."""

from __future__ import annotations

import json
import math

import pytest
import torch
from scipy import stats

import reverie as rv
from reverie.base import PLAN, PRIOR, TRAIN, ArgumentError, Noise
from reverie.process.pfgmpp import chi_square


@pytest.mark.parametrize("D", [1, 2, 3, 64, 2048])
def test_the_radius_is_beta_prime(D: int) -> None:
    n, draws = 6, 20000
    eps = rv.process.pfgmpp(D).draw(Noise(1), (2, 3), range(draws), dtype=torch.float64)
    ratio = eps.square().sum((1, 2)) / D  # R^2 / r^2
    assert stats.kstest(ratio.numpy(), stats.betaprime(n / 2, D / 2).cdf).pvalue > 0.01


@pytest.mark.parametrize("D", [1, 2, 5, 100])
def test_the_divisor_is_chi_square_and_independent_of_the_direction(D: int) -> None:
    c = torch.tensor(chi_square(Noise(4), D, range(20000), 3, TRAIN), dtype=torch.float64)
    assert stats.kstest(c.numpy(), stats.chi2(D).cdf).pvalue > 0.01
    z = Noise(4).normal((2,), range(20000), stage=3, stream=TRAIN).double()
    for v in (z[:, 0], z.square().sum(1)):
        assert abs(stats.spearmanr(v.numpy(), c.numpy()).statistic) < 4 / math.sqrt(20000)


def test_one_dimension_of_pfgm_is_cauchy() -> None:
    """N = D = 1: the field lines of a line charge, density r / (pi (x^2 + r^2))."""
    p = rv.process.pfgmpp(1)
    x = p.perturb(torch.full((20000, 1), 2.0), 0.7, p.draw(Noise(3), (1,), range(20000)))
    assert stats.kstest(x[:, 0].double().numpy(), stats.cauchy(2.0, p.r(0.7)).cdf).pvalue > 0.01
    wanted = torch.from_numpy(stats.cauchy.logpdf(x[:9, 0].double().numpy()))
    torch.testing.assert_close(p.log_density(x[:9]), wanted, rtol=1e-12, atol=1e-12)


def test_many_dimensions_are_edm() -> None:
    p, q = rv.process.pfgmpp(10**7), rv.process.edm()
    mine, its = (v.draw(Noise(0), (8,), range(2000), dtype=torch.float64) for v in (p, q))
    assert (mine - its).abs().max() < 3e-3  # c / D = 1 +- sqrt(2 / D)
    assert mine.var(0).sub(its.var(0)).abs().max() < 0.01 * its.var(0).min()
    torch.testing.assert_close(
        p.log_density(its), -its.square().sum(1) / 2 - 4 * math.log(2 * math.pi), rtol=1e-5, atol=1e-4
    )
    assert rv.process.pfgmpp(math.inf, 0.01, 50.0) == rv.process.ve()


def test_the_density_is_that_of_scipy() -> None:
    eps = rv.process.pfgmpp(3).draw(Noise(0), (4,), range(7), dtype=torch.float64)
    wanted = torch.from_numpy(stats.multivariate_t(shape=torch.eye(4).numpy(), df=3).logpdf(eps.numpy()))
    torch.testing.assert_close(rv.process.pfgmpp(3).log_density(eps), wanted)


@pytest.mark.parametrize("D", [1, 2048])
def test_a_sample_s_noise_has_the_same_bits_anywhere(D: int) -> None:
    p = rv.process.pfgmpp(D)
    whole = p.draw(Noise(5), (3, 2), range(40), stage=2, stream=TRAIN)
    some = p.draw(Noise(5), (3, 2), torch.tensor([31, 7]), stage=2, stream=TRAIN)
    assert torch.equal(some, whole[[31, 7]])
    assert torch.equal(p.draw(Noise(5), (3, 2), range(40), stage=2, stream=TRAIN, dtype=torch.float64), whole.double())
    for other in (
        p.draw(Noise(6), (3, 2), range(40), stage=2, stream=TRAIN),
        p.draw(Noise(5), (3, 2), range(40), stage=3, stream=TRAIN),
        p.draw(Noise(5), (3, 2), range(40), stage=2, stream=PRIOR),
    ):
        assert not (other == whole).any()


def test_the_clock_is_edm_s() -> None:
    p, q = rv.process.pfgmpp(128), rv.process.edm()
    assert (p.t_min, p.t_max, p.lam_range) == (q.t_min, q.t_max, q.lam_range)
    assert p.r(2.0) == pytest.approx(2 * math.sqrt(128))
    plans = [rv.solve.plan("heun", v, steps=6) for v in (p, q)]
    assert [(s.row.terms, s.t) for s in plans[0].table] == [(s.row.terms, s.t) for s in plans[1].table]
    assert rv.process.from_spec(json.loads(json.dumps(p.spec()))) == p != rv.process.pfgmpp(64)


def test_clip_moves_the_radius_alone() -> None:
    p = rv.process.pfgmpp(2)
    eps = p.draw(Noise(0), (4,), range(4000), dtype=torch.float64)
    clipped = p.clip(eps, 0.1)
    square, after = (v.square().sum(1) for v in (eps, clipped))
    b, kept = square / (square + 2), after / (after + 2)
    torch.testing.assert_close(kept, b.clamp(0.1, 0.9))
    torch.testing.assert_close(clipped / after.sqrt()[:, None], eps / square.sqrt()[:, None])
    inside = (b > 0.1) & (b < 0.9)
    torch.testing.assert_close(clipped[inside], eps[inside])
    assert torch.equal(p.clip(torch.zeros(1, 4)), torch.zeros(1, 4))
    with pytest.raises(ArgumentError, match=r"edge must lie in \[0, 1/2\), got 0\.5"):
        p.clip(eps, 0.5)


@pytest.mark.parametrize(
    ("name", "options"),
    [("heun", {"churn": 4.0}), ("ddpm", {}), ("ddim", {"eta": 1.0}), ("dpmpp-2m-sde", {}), ("restart", {})],
)
def test_fresh_noise_is_refused(name: str, options: dict[str, float]) -> None:
    p = rv.process.pfgmpp(64)
    o = rv.oracle.Points([[-1.0], [1.0]], process=p)
    plan = rv.solve.plan(name, p, steps=12, **options)
    assert plan.noises
    with pytest.raises(ArgumentError, match=r"adds noise during the run, which is not exact on PFGMpp\(.*D=64\)"):
        rv.run(plan, o, p.prior(p.draw(Noise(0), (1,), range(3))))
    with pytest.raises(ArgumentError, match="no SDE"):
        rv.solve.plan("euler-maruyama", p, steps=4)
    with pytest.raises(ArgumentError, match="deterministic solver"):
        p.draw(Noise(0), (1,), [0], stream=PLAN)


@pytest.mark.parametrize("D", [0, -3, 2.5, math.nan, True, "64", 10**9])
def test_d_is_a_whole_number(D: object) -> None:
    with pytest.raises(ArgumentError, match="whole number from 1 to 1e8, got"):
        rv.process.pfgmpp(D)  # type: ignore[arg-type]
