"""Posteriors of linear measurements: against Bayes' rule on a grid, and their limits."""

from __future__ import annotations

import pytest
import torch
from oracle_problems import covariance, normal

import reverie as rv
from reverie.base import ArgumentError, ShapeError

F64 = torch.float64
P = rv.process.flow()


def mixture(d=2):
    """Three components, two classes."""
    covs = torch.stack([covariance(d, seed=k) for k in range(3)])
    return rv.oracle.Mixture(normal(3, d), weights=[1, 2, 3], labels=[0, 1, 1], covs=covs, process=P)


@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize("label", [-1, 1])
def test_against_bayes_on_a_grid(isotropic, label):
    o = rv.oracle.Mixture(normal(3, 2), [0.5, 0.9, 0.7], labels=[0, 1, 1], process=P) if isotropic else mixture()
    A, y, std = torch.tensor([[1.0, -0.5]], dtype=F64), torch.tensor([0.7], dtype=F64), 0.4
    q = o.posterior(A, y, std)
    axis = torch.linspace(-9, 9, 361, dtype=F64)
    grid = torch.cartesian_prod(axis, axis)
    log_joint = o.log_prob(grid, class_labels=label) - ((y - grid @ A.T)[:, 0] / std).square() / 2
    log_posterior = log_joint - log_joint.logsumexp(0) - 2 * (axis[1] - axis[0]).log()
    near = log_posterior > log_posterior.max() - 20
    torch.testing.assert_close(q.log_prob(grid[near], class_labels=label), log_posterior[near], rtol=0, atol=1e-8)


def test_the_whole_state_measured_by_a_gaussian():
    """A = I: precisions add."""
    cov, mean, y = covariance(3), normal(3), normal(3, seed=1)
    eye = torch.eye(3, dtype=F64)
    q = rv.oracle.Gaussian(mean, cov, process=P).posterior(eye, y, 0.6)
    precision = torch.linalg.inv(cov) + eye / 0.36
    torch.testing.assert_close(q.cov, torch.linalg.inv(precision), rtol=1e-10, atol=1e-10)
    expected = torch.linalg.solve(precision, torch.linalg.solve(cov, mean) + y / 0.36)
    torch.testing.assert_close(q.mean, expected, rtol=1e-10, atol=1e-10)


def test_a_useless_measurement_gives_back_the_prior():
    o, x = mixture(), normal(5, 2, seed=2)
    q = o.posterior(normal(1, 2), torch.tensor([3.0]), 1e9)
    torch.testing.assert_close(q.log_prob(x), o.log_prob(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(q(x, 0.5).x0, o(x, 0.5).x0, rtol=0, atol=1e-10)


@pytest.mark.parametrize("std", [1e-7, 0.0])
def test_an_exact_measurement_pins_the_state(std):
    o, A, y = mixture(3), normal(2, 3, seed=7), normal(2, seed=8)
    q = o.posterior(A, y, std)
    x = q.sample(50, dtype=F64)
    torch.testing.assert_close(x @ A.T, y.expand(50, 2), rtol=0, atol=1e-5 if std else 1e-7)
    assert float(x.std(0).max()) > 0.05  # what A does not see is still free
    torch.testing.assert_close(q(x, 0.3).x0 @ A.T, y.expand(50, 2), rtol=0, atol=1e-5)


def test_two_measurements_at_once_or_in_turn():
    o, A, y = mixture(3), normal(2, 3, seed=7), normal(2, seed=8)
    once = o.posterior(A, y, 0.3)
    turn = o.posterior(A[:1], y[:1], 0.3).posterior(A[1:], y[1:], 0.3)
    x = normal(6, 3, seed=4)
    torch.testing.assert_close(once.log_prob(x), turn.log_prob(x), rtol=1e-9, atol=1e-9)


def test_one_component_is_the_gaussian_and_a_class_is_its_mixture():
    o = rv.oracle.Gaussian(normal(2), covariance(2), process=P)
    m = rv.oracle.Mixture(normal(2)[None], covs=covariance(2)[None], process=P)
    A, y = normal(1, 2), torch.tensor([0.3])
    x = normal(4, 2, seed=3)
    assert isinstance(o.posterior(A, y, 0.2), rv.oracle.Gaussian)
    assert torch.equal(o.posterior(A, y, 0.2)(x, 0.5).x0, m.posterior(A, y, 0.2)(x, 0.5).x0)


def test_a_class_that_the_measurement_rules_out_keeps_its_conditional():
    """Its weight underflows, its conditional posterior does not."""
    o = rv.oracle.Mixture([[0.0], [100.0]], 0.1, process=P)
    q = o.posterior([[1.0]], [0.0], 0.1)
    assert float(q.weights[1]) == 0.0
    alone = rv.oracle.Mixture([[100.0]], 0.1, process=P).posterior([[1.0]], [0.0], 0.1)
    x = torch.tensor([[49.0], [51.0]], dtype=F64)
    torch.testing.assert_close(q.log_prob(x, class_labels=1), alone.log_prob(x), rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(q.sample(3, class_labels=1), alone.sample(3), rtol=0, atol=1e-5)


def test_an_image_state():
    o = rv.oracle.Mixture(normal(2, 1, 2, 2), 0.5, process=P)
    q = o.posterior(torch.eye(4)[:1], [0.2], 1e-3)
    assert q.shape == (1, 2, 2)
    assert abs(float(q.sample(8)[:, 0, 0, 0].mean()) - 0.2) < 5e-3


def test_bad_measurements():
    o = mixture()
    with pytest.raises(ShapeError, match=r"\(2, 3\); states of size 2"):
        o.posterior(torch.zeros(2, 3), [0.0, 0.0], 1.0)
    with pytest.raises(ShapeError, match="y has 2 entries"):
        o.posterior(torch.zeros(1, 2), [0.0, 0.0], 1.0)
    with pytest.raises(ArgumentError, match=r"-0\.1"):
        o.posterior(torch.ones(1, 2), [0.0], -0.1)
    with pytest.raises(ArgumentError, match="singular for component 0"):
        o.posterior(torch.zeros(1, 2), [0.0], 0.0)
    with pytest.raises(ArgumentError, match="y must be finite"):
        o.posterior(torch.ones(1, 2), [float("nan")], 1.0)
