"""One Gaussian: against dense linear algebra, the mixture of one component, and the optimal map."""

from __future__ import annotations

import pytest
import torch
from oracle_problems import covariance, middle, normal, start

import reverie as rv
from reverie.base import ArgumentError, ShapeError


def gaussian(process, d=4):
    """A Gaussian of full covariance."""
    return rv.oracle.Gaussian(normal(d, seed=3), covariance(d), process=process)


def test_mean_score_and_density_against_dense_algebra(process):
    o, t = gaussian(process), middle(process)
    alpha, sigma = process.alpha(t), process.sigma(t)
    law = torch.distributions.MultivariateNormal(
        alpha * o.mean, alpha**2 * o.cov + sigma**2 * torch.eye(4, dtype=torch.float64)
    )
    x = normal(6, 4, seed=4)
    pull = torch.linalg.solve(law.covariance_matrix, (x - law.loc).T).T
    torch.testing.assert_close(o(x, t).x0, o.mean + alpha * pull @ o.cov, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(o(x, t).score, -pull, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(o.log_prob(x, t), law.log_prob(x), rtol=1e-11, atol=1e-11)


def test_isotropic_is_the_mixture_of_one_component(process):
    eye = torch.eye(3, dtype=torch.float64)
    o = rv.oracle.Gaussian(normal(3), 0.49 * eye, process=process)
    m = rv.oracle.Mixture(normal(3)[None], 0.7, process=process)
    x, t = start(process, 4, 3), middle(process)
    torch.testing.assert_close(o(x, t).x0, m(x, t).x0, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(o.log_prob(x, t), m.log_prob(x, t), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(o.solve(x), m.solve(x), rtol=0, atol=1e-9)


def test_the_flow_is_a_group_and_moves_the_law(process):
    o, x = gaussian(process), start(process, 5, 4)
    t, end = middle(process), process.t_clean
    direct = o.solve(x, t_end=end)
    torch.testing.assert_close(o.solve(o.solve(x, t_end=t), t, end), direct, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(o.solve(direct, end, process.t_max), x, rtol=1e-9, atol=1e-9)
    # The log density changes by minus the log determinant of the map, the same for all states.
    change = o.log_prob(direct) - o.log_prob(x, process.t_max)
    torch.testing.assert_close(change, change[:1].expand(5), rtol=1e-9, atol=1e-9)


def test_the_flow_is_the_optimal_map(process):
    """From C_s to C_t with common eigenvectors: x -> A x + b with A symmetric, positive, and A C_s A = C_t."""
    o, t, end = gaussian(process), middle(process), process.t_min
    eye = torch.eye(4, dtype=torch.float64)
    a = o.solve(eye, t, end) - o.solve(0 * eye, t, end)  # row i is A e_i
    c_t, c_end = (process.alpha(u) ** 2 * o.cov + process.sigma(u) ** 2 * eye for u in (t, end))
    torch.testing.assert_close(a, a.T, rtol=0, atol=1e-10)
    assert torch.linalg.eigvalsh(a)[0] > 0
    torch.testing.assert_close(a @ c_t @ a, c_end, rtol=1e-9, atol=1e-9)


def test_event_shape():
    p = rv.process.flow()
    o = rv.oracle.Gaussian(normal(2, 2), covariance(4), process=p)
    flat = rv.oracle.Gaussian(normal(2, 2).reshape(4), covariance(4), process=p)
    x = normal(3, 4)
    assert torch.equal(o.solve(x.reshape(3, 2, 2)).reshape(3, 4), flat.solve(x))
    assert o.mean.shape == (2, 2)
    torch.testing.assert_close(o.cov, covariance(4), rtol=1e-12, atol=1e-12)


def test_what_cannot_be_a_gaussian():
    p = rv.process.vp()
    with pytest.raises(ShapeError, match=r"\(1, 2, 2\)"):
        rv.oracle.Gaussian([0.0, 0.0], torch.eye(3), process=p)
    with pytest.raises(ArgumentError, match=r"eigenvalue -0\.5"):
        rv.oracle.Gaussian([0.0, 0.0], torch.diag(torch.tensor([1.0, -0.5])), process=p)
    with pytest.raises(ArgumentError, match="finite"):
        rv.oracle.Gaussian([0.0, float("inf")], torch.eye(2), process=p)
    flat = rv.oracle.Gaussian([0.0, 0.0], torch.diag(torch.tensor([1.0, 0.0])), process=p)
    with pytest.raises(ArgumentError, match="no flow starts at sigma = 0"):
        flat.solve(torch.zeros(1, 2), 0.0, 1.0)
    with pytest.raises(ArgumentError, match="class label 3"):
        flat.solve(torch.zeros(1, 2), class_labels=3)
