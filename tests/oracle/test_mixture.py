"""The mixture: its answers against integrals, gradients, other routes and itself in another batch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_problems import PROCESSES, covariance, middle, normal, start

import reverie as rv
from reverie.base import ArgumentError, ShapeError, TimeError

F64 = torch.float64


def five(process, d=3):
    """Five overlapping components of three classes."""
    return rv.oracle.Mixture(
        normal(5, d), [0.5, 0.3, 0.8, 0.4, 0.6], [1, 2, 3, 2, 1], labels=[0, 1, 1, 2, 0], process=process
    )


def full(process, d=3):
    """Three components with full covariances."""
    covs = torch.stack([covariance(d, seed=k) for k in range(3)])
    return rv.oracle.Mixture(normal(3, d), weights=[1, 2, 3], covs=covs, labels=[0, 1, 1], process=process)


def noisy(o, t, n=6):
    """n states of time t that the process really visits."""
    x0 = o.sample(n, dtype=F64)
    return o.process.perturb(x0, t, normal(*x0.shape, seed=5))


# -- the posterior mean and the score


def test_posterior_mean_against_numerical_integration_in_one_dimension(process):
    o = rv.oracle.Mixture([[-1.0], [0.5], [2.0]], [0.3, 0.5, 0.2], [1, 2, 3], process=process)
    t = middle(process)
    alpha, sigma = process.alpha(t), process.sigma(t)
    x = torch.linspace(-3, 3, 7, dtype=F64)[:, None] * math.hypot(alpha, sigma)
    grid = torch.linspace(-8, 8, 40_001, dtype=F64)
    prior = sum(
        w * torch.exp(-((grid - m) ** 2) / (2 * s * s)) / s
        for m, s, w in [(-1.0, 0.3, 1.0), (0.5, 0.5, 2.0), (2.0, 0.2, 3.0)]
    )
    joint = prior * torch.exp(-((x - alpha * grid) ** 2) / (2 * sigma**2))
    expected = (joint * grid).sum(1) / joint.sum(1)
    torch.testing.assert_close(o(x, t).x0[:, 0], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("make", [five, full])
@pytest.mark.parametrize("label", [-1, 1])
def test_score_is_the_gradient_of_log_prob(process, make, label):
    o = make(process)
    for u in (0.0, 0.9):
        t = process.t_of_lam(4.0 - 7.0 * u)
        x = noisy(o, t).requires_grad_()
        (gradient,) = torch.autograd.grad(o.log_prob(x, t, class_labels=label).sum(), x)
        score = o(x.detach(), t, class_labels=label).score
        torch.testing.assert_close(score, gradient, rtol=1e-10, atol=1e-10)


def test_log_prob_integrates_to_one_and_agrees_with_torch_distributions(process):
    o = rv.oracle.Mixture([[-1.0], [2.0]], [0.3, 0.5], [1, 3], process=process)
    t = middle(process)
    width = 12 * math.hypot(process.alpha(t), process.sigma(t))
    grid = torch.linspace(-width, width, 20_001, dtype=F64)[:, None]
    for time in (None, t):
        mass = o.log_prob(grid, time).exp().sum() * (grid[1] - grid[0])
        torch.testing.assert_close(mass.item(), 1.0, rtol=0, atol=1e-9)
    o = full(process)
    family = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(o.weights),
        torch.distributions.MultivariateNormal(o.means, o.components.covs),
    )
    x = normal(9, 3, seed=2)
    torch.testing.assert_close(o.log_prob(x), family.log_prob(x), rtol=1e-11, atol=1e-11)


def test_both_ends_of_time(process):
    o = five(process)
    x = normal(4, 3, seed=3)
    torch.testing.assert_close(o(x, process.t_clean).x0, x, rtol=1e-12, atol=1e-12)
    at_end = o(x * process.sigma(process.t_max), process.t_max)
    assert at_end.x0.isfinite().all()
    assert at_end.eps.isfinite().all()
    if process.alpha(process.t_max) < 1e-12:
        torch.testing.assert_close(at_end.x0, (o.weights @ o.means).expand(4, 3), rtol=0, atol=1e-9)


def test_components_far_apart_keep_their_own_answer():
    p = rv.process.flow()
    o = rv.oracle.Mixture([[-1e6, 0.0], [1e6, 0.0]], 1.0, process=p)
    one = rv.oracle.Mixture([[1e6, 0.0]], 1.0, process=p)
    x = p.perturb(one.sample(5, dtype=F64), 0.3, normal(5, 2))
    torch.testing.assert_close(o(x, 0.3).x0, one(x, 0.3).x0, rtol=0, atol=0)
    torch.testing.assert_close(o.log_prob(x, 0.3), one.log_prob(x, 0.3) - math.log(2), rtol=1e-12, atol=0)


def test_answers_are_differentiable_in_time_and_finite_at_sigma_zero():
    o = five(rv.process.flow())
    t = torch.tensor([0.3, 0.6], dtype=F64, requires_grad=True)
    x = normal(2, 3)
    (slope,) = torch.autograd.grad(o(x, t).raw.sum(), t)
    up, down = (o(x, t.detach() + h).raw.sum(1) for h in (1e-5, -1e-5))
    torch.testing.assert_close(slope, (up - down) / 2e-5, rtol=1e-7, atol=1e-7)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(o(x, 0.0).x0.sum(), x)
    torch.testing.assert_close(gradient, torch.ones_like(x), rtol=0, atol=0)


# -- classes


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_class_is_the_mixture_of_its_components(process, label):
    o, t = five(process), middle(process)
    mine = o.labels == label
    stds = torch.tensor([0.5, 0.3, 0.8, 0.4, 0.6], dtype=F64)
    part = rv.oracle.Mixture(o.means[mine], stds[mine], o.weights[mine], process=process)
    x = noisy(o, t)
    torch.testing.assert_close(o(x, t, class_labels=label).x0, part(x, t).x0, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(o.log_prob(x, t, label), part.log_prob(x, t), rtol=1e-12, atol=1e-12)


def test_labels_are_per_sample_and_null_means_all():
    o = five(rv.process.vp())
    x, labels = normal(4, 3), torch.tensor([0, -1, 2, 1])
    together = o(x, 0.4, class_labels=labels).x0
    for i, c in enumerate(labels.tolist()):
        assert torch.equal(together[i], o(x[i : i + 1], 0.4, class_labels=c).x0[0])
    assert torch.equal(o(x, 0.4).x0, o(x, 0.4, **o.null).x0)
    assert not torch.equal(together, o(x, 0.4).x0)


def test_bayes_over_classes():
    """p(x) = sum_c p(c) p(x | c), and the unconditional score is the posterior-weighted sum of the conditional ones."""
    o, t = five(rv.process.vp()), 0.5
    x = noisy(o, t)
    prior = torch.stack([o.weights[o.labels == c].sum() for c in range(3)])
    logs = torch.stack([prior[c].log() + o.log_prob(x, t, c) for c in range(3)])
    torch.testing.assert_close(logs.logsumexp(0), o.log_prob(x, t), rtol=1e-12, atol=1e-12)
    scores = torch.stack([o(x, t, class_labels=c).score for c in range(3)])
    torch.testing.assert_close((logs.softmax(0)[:, :, None] * scores).sum(0), o(x, t).score, rtol=1e-10, atol=1e-10)


# -- bits


@pytest.mark.parametrize("make", [five, full])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("d", [1, 17])
def test_a_row_has_the_same_bits_alone_in_a_batch_and_elsewhere(process, make, dtype, d):
    o = make(process, d)
    x = start(process, 16, d).to(dtype)
    times = torch.linspace(process.t_min, process.t_max, 16, dtype=F64)
    labels = torch.tensor([-1, 0, 1, -1] * 4)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    for t in (times, times[5].expand(16)):
        together = o(x, t, class_labels=labels).raw
        assert torch.equal(o(x[order], t[order], class_labels=labels[order]).raw, together[order])
        for i in (0, 5, 15):
            row = slice(i, i + 1)
            assert torch.equal(o(x[row], t[row], class_labels=labels[row]).raw[0], together[i])
            assert torch.equal(o(x[row], float(t[i]), class_labels=labels[row]).raw[0], together[i]) or dtype != F64


def test_chunks_do_not_change_bits(monkeypatch):
    o = full(rv.process.vp())
    x = normal(16, 3)
    whole, density = o(x, 0.4).x0, o.log_prob(x, 0.4)
    monkeypatch.setattr("reverie.oracle.components.CHUNK", 5 * 27)
    assert o.components.rows() == 5
    assert torch.equal(o(x, 0.4).x0, whole)
    assert torch.equal(o.log_prob(x, 0.4), density)


def test_the_answer_has_the_dtype_of_the_state():
    o = five(rv.process.vp())
    x = normal(2, 3)
    assert o(x.float(), 0.5).x0.dtype == torch.float32
    torch.testing.assert_close(o(x.float(), 0.5).x0.double(), o(x, 0.5).x0, rtol=0, atol=1e-6)


# -- samples


@pytest.mark.parametrize("make", [five, full])
def test_sample_i_is_a_function_of_seed_and_i(make):
    o = make(rv.process.vp())
    x, labels = o.sample(12, seed=7, return_labels=True)
    part, part_labels = o.sample(5, seed=7, start=4, return_labels=True)
    assert torch.equal(part, x[4:9])
    assert torch.equal(part_labels, labels[4:9])
    assert not torch.equal(o.sample(12, seed=8), x)
    assert torch.equal(o.sample(12, seed=7, dtype=F64).float(), x)
    assert o.sample(0).shape == (0, 3)


@pytest.mark.parametrize("make", [five, full])
def test_samples_have_the_moments_of_the_mixture(make):
    o, n = make(rv.process.vp()), 20_000
    x, labels = o.sample(n, dtype=F64, return_labels=True)
    mean = o.weights @ o.means
    centred = o.means - mean
    cov = torch.einsum("k,kij->ij", o.weights, o.components.covs + centred[:, :, None] * centred[:, None, :])
    bound = 5 * (cov.diagonal() / n).sqrt()
    assert ((x.mean(0) - mean).abs() < bound).all()
    torch.testing.assert_close(torch.cov(x.T), cov, rtol=0, atol=5 * float(cov.max()) * math.sqrt(2 / n))
    for c in set(o.labels.tolist()):
        share = float(o.weights[o.labels == c].sum())
        assert abs(float((labels == c).double().mean()) - share) < 5 * math.sqrt(share * (1 - share) / n)


def test_conditional_samples_come_from_their_class():
    o = five(rv.process.vp())
    x, labels = o.sample(300, class_labels=1, return_labels=True)
    assert set(labels.tolist()) == {1}
    mine = o.labels == 1
    weights = o.weights[mine] / o.weights[mine].sum()
    assert ((x.double().mean(0) - weights @ o.means[mine]).abs() < 0.35).all()
    wanted = torch.tensor([0, 1, 2] * 4)
    assert torch.equal(o.sample(12, class_labels=wanted, return_labels=True)[1], wanted)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 10**6), st.sampled_from(sorted(PROCESSES)))
def test_any_mixture_is_consistent(k, d, seed, name):
    """E[eps | x] = -sigma score and x = alpha E[x0 | x] + sigma E[eps | x], for mixtures of any size."""
    p = PROCESSES[name]
    o = rv.oracle.Mixture(
        normal(k, d, seed=seed), normal(k, seed=seed + 1).abs() + 0.1, normal(k, seed=seed + 2).exp(), process=p
    )
    t = middle(p)
    x = start(p, 3, d, seed=seed).requires_grad_()
    (gradient,) = torch.autograd.grad(o.log_prob(x, t).sum(), x)
    expected = (x.detach() + p.sigma(t) ** 2 * gradient) / p.alpha(t)  # Tweedie
    torch.testing.assert_close(o(x.detach(), t).x0, expected, rtol=1e-9, atol=1e-9)


def test_event_shapes_and_scalars():
    p = rv.process.vp()
    flat = rv.oracle.Mixture(normal(3, 12), 0.4, process=p)
    image = rv.oracle.Mixture(normal(3, 12).reshape(3, 3, 2, 2), 0.4, process=p)
    x = normal(5, 12)
    shaped = x.reshape(5, 3, 2, 2)
    assert image.shape == (3, 2, 2)
    assert torch.equal(image(shaped, 0.3).x0.reshape(5, 12), flat(x, 0.3).x0)
    assert torch.equal(image.sample(2).reshape(2, 12), flat.sample(2))
    per_sample = torch.full((5, 1, 1, 1), 0.3, dtype=F64)
    assert torch.equal(image(shaped, per_sample).x0, image(shaped, 0.3).x0)
    scalar = rv.oracle.Mixture([0.0, 1.0], 0.4, process=p)
    assert scalar(normal(5), 0.3).x0.shape == (5,)
    assert scalar.sample(4).shape == scalar.log_prob(normal(4)).shape == (4,)


# -- bad input


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"means": [[0.0]]}, ArgumentError, "one of the two"),
        ({"means": [[0.0]], "stds": 1.0, "covs": [[[1.0]]]}, ArgumentError, "one of the two"),
        ({"means": 1.0, "stds": 1.0}, ShapeError, r"\(K, \*shape\)"),
        ({"means": [[math.nan]], "stds": 1.0}, ArgumentError, r"means must be finite; entry \(0, 0\)"),
        ({"means": "many", "stds": 1.0}, ArgumentError, "means must be numbers"),
        ({"means": [[0.0], [1.0]], "stds": [1.0, 2.0, 3.0]}, ShapeError, r"stds have shape \(3,\); 2 components"),
        ({"means": [[0.0]], "stds": -0.5}, ArgumentError, "-0.5"),
        ({"means": [[0.0], [1.0]], "stds": 1.0, "weights": [1.0]}, ShapeError, r"weights have shape \(1,\)"),
        ({"means": [[0.0], [1.0]], "stds": 1.0, "weights": [1.0, 0.0]}, ArgumentError, "weight 1 is 0"),
        ({"means": [[0.0], [1.0]], "stds": 1.0, "labels": [0]}, ShapeError, r"labels have shape \(1,\)"),
        ({"means": [[0.0], [1.0]], "stds": 1.0, "labels": [0, -1]}, ArgumentError, "integers >= 0"),
        ({"means": [[0.0], [1.0]], "stds": 1.0, "labels": [0, 0.5]}, ArgumentError, "integers >= 0"),
        ({"means": [[0.0, 0.0]], "covs": [[[1.0]]]}, ShapeError, r"need \(1, 2, 2\)"),
        ({"means": [[0.0, 0.0]], "covs": [[[1.0, 2.0], [2.0, 1.0]]]}, ArgumentError, "eigenvalue -1"),
        ({"means": [[0.0, 0.0]], "covs": [[[1.0, 0.5], [0.0, 1.0]]]}, ArgumentError, "covariance 0 is not symmetric"),
    ],
)
def test_what_cannot_be_a_mixture(arguments, kind, words):
    with pytest.raises(kind, match=words):
        rv.oracle.Mixture(**arguments, process=rv.process.vp())


def test_what_cannot_be_asked():
    o = five(rv.process.vp("linear"))
    x = torch.zeros(2, 3)
    for t in (1.5, -0.1, math.nan):
        with pytest.raises(TimeError, match=f"t = {t:g} is outside"):
            o(x, t)
        with pytest.raises(TimeError, match="outside"):
            o.solve(x, t)
    with pytest.raises(TimeError, match="t = 2"):
        o.log_prob(x, torch.tensor([0.5, 2.0]))
    with pytest.raises(ShapeError, match=r"\(B, \*\(3,\)\), got \(2, 4\)"):
        o(torch.zeros(2, 4), 0.5)
    with pytest.raises(ShapeError, match="got list"):
        o.log_prob([0.0, 0.0, 0.0])
    with pytest.raises(ShapeError, match="batch of 2"):
        o.log_prob(x, torch.tensor([0.1, 0.2, 0.3]))
    with pytest.raises(ArgumentError, match=r"class label 9; known: \[0, 1, 2\]"):
        o(x, 0.5, class_labels=9)
    with pytest.raises(ShapeError, match="3 class_labels for a batch of 2"):
        o.log_prob(x, class_labels=torch.tensor([0, 1, 2]))
    with pytest.raises(ArgumentError, match="-1"):
        o.sample(-1)
    with pytest.raises(ArgumentError, match="rtol"):
        o.solve(x, rtol=0.0)
    points = rv.oracle.Mixture([[0.0]], 0.0, process=rv.process.flow())
    with pytest.raises(ArgumentError, match="no density at sigma = 0"):
        points.log_prob(torch.zeros(1, 1))
    with pytest.raises(ArgumentError, match="no flow starts"):
        points.solve(torch.zeros(1, 1), 0.0, 1.0)
    assert points.log_prob(torch.zeros(1, 1), 0.5).isfinite().all()


def test_a_float32_label_beyond_a_bound_by_rounding_is_the_bound():
    p = rv.process.vp("cosine", t_max=0.6)
    assert float(torch.tensor(0.6)) > p.t_max
    o = five(p)
    assert o(torch.zeros(1, 3), 0.6).x0.isfinite().all()
