"""Schrödinger bridges: linear ones against brute force and closed forms, learned ones against exact ones."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.special import ndtri

from reverie.base import ArgumentError, NonFiniteError, ShapeError, TimeError
from reverie.solve.bridges import LearnedBridge, LinearSDE, couple, exponential, ipfp, sinkhorn
from reverie.solve.bridges.linear import Draws

A = torch.tensor([[-0.4, -1.1, 0.0], [0.9, 0.2, 0.3], [0.0, 0.5, -0.7]]).double()
B = torch.tensor([0.3, -0.2, 1.0]).double()
SDE = LinearSDE(A, B, 0.7)
TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]]).double()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def covariance(x, y):
    return (x - x.mean(0)).mT @ (y - y.mean(0)) / len(x)


def test_transition_solves_its_equations():
    """dm = A m + b, dQ = A Q + Q A^T + sigma^2 I, by fine Euler steps of second order; and two transitions make one."""
    phi, m, q = (v.clone() for v in SDE.transition(0.0))
    eye, n = torch.eye(3).double(), 1000
    torch.testing.assert_close(torch.cat([phi, q]), torch.cat([eye, 0 * eye]))
    for _ in range(n):
        h = 0.9 / n
        for rate, of in (
            (lambda v: A @ v, phi),
            (lambda v: A @ v + B, m),
            (lambda v: A @ v + v @ A.mT + 0.49 * eye, q),
        ):
            of += h * rate(of + h / 2 * rate(of))
    for found, wanted in zip(SDE.transition(0.9), (phi, m, q), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    (p0, m0, q0), (p1, m1, q1), (p2, m2, q2) = (SDE.transition(t) for t in (0.3, 0.6, 0.9))
    torch.testing.assert_close(p1 @ p0, p2)
    torch.testing.assert_close(p1 @ m0 + m1, m2)
    torch.testing.assert_close(p1 @ q0 @ p1.mT + q1, q2)


def test_density_is_the_normal_s():
    x, y = normal(4, 3), normal(5, 3, seed=1)
    phi, m, q = SDE.transition(0.8)
    wanted = [torch.distributions.MultivariateNormal(phi @ a + m, q).log_prob(y) for a in x]
    torch.testing.assert_close(SDE.log_density(x, y, 0.8), torch.stack(wanted))


def test_between_is_conditioning_of_the_joint_normal():
    """The states at 0.2, 0.5 and 1 given the first are jointly normal; condition it on the last by its blocks."""
    x, y, at = normal(1, 3), normal(1, 3, seed=1), (0.2, 0.5, 1.0)
    parts = [SDE.transition(t) for t in at]
    mean = torch.cat([phi @ x[0] + m for phi, m, _ in parts])
    blocks = [[None] * 3 for _ in at]
    for i in range(3):
        for j in range(i, 3):
            lag = SDE.transition(at[j] - at[i])[0]
            blocks[j][i] = lag @ parts[i][2]
            blocks[i][j] = blocks[j][i].mT
    joint = torch.cat([torch.cat(row, 1) for row in blocks])
    gain = joint[:6, 6:] @ joint[6:, 6:].inverse()
    given = mean[:6] + gain @ (y[0] - mean[6:])
    left = joint[:6, :6] - gain @ joint[6:, :6]
    for k, s in enumerate(at[:2]):
        m, c = SDE.between(x, y, s, 1.0)
        torch.testing.assert_close(m[0], given[3 * k : 3 * k + 3])
        torch.testing.assert_close(c, left[3 * k : 3 * k + 3, 3 * k : 3 * k + 3])
    n = 20_000
    path = SDE.walk(x.repeat(n, 1), y.repeat(n, 1), torch.tensor([0.0, *at]).double(), Draws(3))
    assert torch.equal(path[:, 0], x.repeat(n, 1))
    assert torch.equal(path[:, -1], y.repeat(n, 1))
    both = path[:, 1:3].flatten(1)
    error = left.diagonal().max().sqrt() / math.sqrt(n)
    assert (both.mean(0) - given).abs().max() < 5 * error
    assert (covariance(both, both) - left).abs().max() < 8 * left.diagonal().max() / math.sqrt(n)


def test_coupling_is_the_one_of_sinkhorn():
    """Marginals 1/n and 1/m, and log P less the log-density is f_i + g_j: together these determine the bridge."""
    x, y = normal(40, 3), normal(25, 3, seed=1)
    bridge = couple(SDE, x, y, 0.8, tolerance=1e-10)
    p = bridge.coupling
    torch.testing.assert_close(p.sum(1), torch.full((40,), 1 / 40, dtype=torch.float64), rtol=1e-9, atol=0)
    torch.testing.assert_close(p.sum(0), torch.full((25,), 1 / 25, dtype=torch.float64), rtol=1e-9, atol=0)
    rest = p.log() - SDE.log_density(x, y, 0.8)
    torch.testing.assert_close(rest - rest[:, :1] - rest[:1] + rest[0, 0], 0 * rest, rtol=0, atol=1e-9)
    clock = torch.tensor([0.0, 0.8]).double()
    for ends in (bridge.forward(x.repeat(500, 1), clock, Draws(1)), bridge.backward(y.repeat(800, 1), clock, Draws(1))):
        i, j = (torch.cdist(ends[:, k], of).argmin(1) for k, of in ((0, x), (1, y)))
        seen = torch.zeros(40, 25).double().index_put_((i, j), torch.tensor(1 / len(ends)).double(), accumulate=True)
        assert (seen - p).abs().max() < 6 * (p.max() / len(ends)).sqrt()


def test_sinkhorn_where_plain_exponentials_underflow():
    x, y = 3 * normal(30, 2), 3 * normal(30, 2, seed=1)
    kernel = -torch.cdist(x, y).square() / 0.1
    assert kernel.min() < -1000
    f, g = sinkhorn(kernel, tolerance=1e-3, limit=100_000)
    p = (f[:, None] + g + kernel).exp()
    torch.testing.assert_close(p.sum(0), torch.full((30,), 1 / 30, dtype=torch.float64), rtol=2e-3, atol=0)
    torch.testing.assert_close(p.sum(1), torch.full((30,), 1 / 30, dtype=torch.float64), rtol=1e-9, atol=0)
    cost = (p * kernel).sum()
    best = kernel.numpy()
    assert cost == pytest.approx(best[linear_sum_assignment(-best)].mean(), rel=0.02)  # cold: nearly optimal transport


@pytest.mark.parametrize(("sigma", "time"), [(0.5, 1.0), (1.2, 0.6)])
def test_bridge_between_two_normals(sigma, time):
    """N(0, a) to N(1, b) under Brownian motion: the covariance of the ends is (sqrt(4 a b + e^2) - e) / 2, e = sigma^2 T."""
    n = 400
    z = torch.from_numpy(ndtri((torch.arange(n).double() + 0.5).numpy() / n))[:, None]
    x, y = 0.8 * z, 1.0 + 0.5 * z
    a, b, e = float(x.var(correction=0)), float(y.var(correction=0)), sigma**2 * time
    cross = (math.sqrt(4 * a * b + e**2) - e) / 2
    bridge = couple(LinearSDE(torch.zeros(1, 1), None, sigma), x, y, time)
    found = float((bridge.coupling * (x @ (y - y.mean()).mT)).sum())
    assert found == pytest.approx(cross, rel=5e-3)
    s, at = 0.35 * time, torch.linspace(-1, 1, 5)[:, None].double()
    var, mean = 0.65**2 * a + 0.35**2 * b + 2 * 0.35 * 0.65 * cross + 0.35 * 0.65 * e, 0.35
    rate = (
        (-0.65 * a + 0.35 * b + (0.65 - 0.35) * cross + (0.65 - 0.35) * e / 2 - e / 2) / time / var
    )  # (var' - sigma^2) / (2 var)
    torch.testing.assert_close(bridge.drift(at, s), 1 / time + rate * (at - mean), rtol=0, atol=0.02)


def test_clouds_of_the_reference_itself():
    """Clouds that the SDE joins already: the bridge's drift is the SDE's."""
    x = normal(600, 2) * 0.5 + 1
    sde = LinearSDE(TURN, None, 0.6)
    phi, m, q = sde.transition(0.5)
    y = x @ phi.mT + m + normal(600, 2, seed=1) @ torch.linalg.cholesky(q).mT
    bridge = couple(sde, x, y, 0.5)
    mid, _ = sde.between(x, x @ phi.mT + m, 0.2, 0.5)
    off = (bridge.drift(mid, 0.2) - sde.drift(mid)).norm(dim=1).median()
    away = (couple(LinearSDE(0 * TURN, None, 0.6), x, y, 0.5).drift(mid, 0.2) - sde.drift(mid)).norm(dim=1).median()
    assert off < 0.15
    assert away > 2 * off


def test_forward_and_backward_are_one_law_and_so_is_the_drift():
    x, y = normal(120, 2) * 0.4, normal(120, 2, seed=1) * torch.tensor([0.3, 0.6]) + 1
    bridge = couple(LinearSDE(TURN, None, 0.5), x, y, 0.8)
    clock, many = torch.linspace(0, 0.8, 41).double(), 20
    one = bridge.forward(x.repeat(many, 1), clock, Draws(1))[:, 20]
    two = bridge.backward(y.repeat(many, 1), clock, Draws(2))[:, 20]
    three = LearnedBridge(bridge.drift, bridge.drift, 0.5, 0.8).forward(x.repeat(many, 1), clock[:21], Draws(3))[:, -1]
    for other in (two, three):
        assert (one.mean(0) - other.mean(0)).abs().max() < 0.05
        assert (covariance(one, one) - covariance(other, other)).abs().max() < 0.03


def test_regressor_with_all_points_is_the_whole_process():
    """y' (K + s I)^-1 k by brute force, after the line."""
    u, y, noise = normal(60, 3), normal(60, 2, seed=1) * 2, 0.3
    at, scale = normal(7, 3, seed=2), u.std(0)

    def line(v):
        one = torch.cat([torch.ones(len(v), 1).double(), v[:, 1:]], 1)
        return torch.cat([one, v[:, :1] * one], 1)

    w = torch.linalg.pinv(line(u)) @ y
    rest = y - line(u) @ w
    a = rest.square().mean() - noise
    k = lambda v: a * (-torch.cdist(v / scale, u / scale) / 1.5).exp()  # noqa: E731
    wanted = line(at) @ w + k(at) @ torch.linalg.solve(k(u) + noise * torch.eye(60), rest)
    torch.testing.assert_close(exponential(1.5, inducing=60)(u, y, noise)(at), wanted, rtol=1e-5, atol=1e-6)
    few = exponential(1.5, inducing=30)(u, y, noise)(at)
    assert 1e-3 < (few - wanted).abs().max() < 2


def test_ipfp_agrees_with_the_exact_bridge():
    """150 points a cloud under a rotation: means within 0.1 and covariances within 0.08; one half round alone is far from it."""
    sde = LinearSDE(1.2 * TURN, None, 0.3)
    x = normal(150, 2) * 0.4 + torch.tensor([1.0, 0.0])
    y = normal(150, 2, seed=1) * torch.tensor([0.3, 0.6]) + torch.tensor([0.3, 1.2])
    exact, clock = couple(sde, x, y, 0.7), torch.linspace(0, 0.7, 21).double()
    far = []
    for rounds in (1, 10):
        found = ipfp(sde.drift, 0.3, x, y, 0.7, rounds=rounds, regressor=exponential(inducing=100))
        worst = torch.zeros(2).double()
        for way, start in (("forward", x), ("backward", y)):
            a, b = (getattr(of, way)(start.repeat(8, 1), clock, Draws(1)) for of in (exact, found))
            for k in (0, 10, 20):
                worst[0] = max(worst[0], (a[:, k].mean(0) - b[:, k].mean(0)).abs().max())
            for i, j in ((10, 10), (0, 20)):
                worst[1] = max(worst[1], (covariance(a[:, i], a[:, j]) - covariance(b[:, i], b[:, j])).abs().max())
        far.append(worst)
    assert far[1][0] < 0.1
    assert far[1][1] < 0.08
    assert far[0][0] > 2.5 * far[1][0]


def test_a_drift_has_a_clock_of_its_own():
    """Backwards from 0 with drift 1 + t and hardly any noise: 0.9 of a step at t = 0, then 0.1 at t = 0.9."""
    bridge = LearnedBridge(lambda x, t: x, lambda x, t: torch.full_like(x, 1 + t), 1e-12, 1.0)
    path = bridge.backward(torch.zeros(2, 1).double(), torch.tensor([0.0, 0.1, 1.0]).double(), Draws(0))
    torch.testing.assert_close(path[0, :, 0], torch.tensor([1.09, 0.9, 0.0], dtype=torch.float64), rtol=0, atol=1e-6)


def test_what_does_not_fit_is_refused():
    x = normal(5, 3)
    for error, call, message in (
        (ShapeError, lambda: LinearSDE(torch.zeros(2, 3), None, 1.0), r"A must be a square matrix \(D, D\), got \(2, 3\)"),
        (ShapeError, lambda: LinearSDE(torch.zeros(2, 2), torch.zeros(3), 1.0), r"b must be \(2,\) as A has it, got \(3,\)"),
        (ArgumentError, lambda: LinearSDE(A, B, 0.0), "sigma must be positive and finite, got 0.0"),
        (ShapeError, lambda: couple(SDE, x, x[:, :2], 1.0), r"y must be points \(n, 3\), got \(5, 2\)"),
        (TimeError, lambda: couple(SDE, x, x, 0.0), "time between the clouds must be positive and finite, got 0.0"),
        (TimeError, lambda: couple(SDE, x, x, 1.0).drift(x, 1.0), "defined for 0 <= s < 1, got 1.0"),
        (NonFiniteError, lambda: couple(SDE, x / 0, x, 1.0), "look for NaN in the snapshots"),
        (ArgumentError, lambda: sinkhorn(-300 * torch.cdist(x, x.flip(1)), limit=21), "in 21 sweeps: sigma is small"),
        (ArgumentError, lambda: exponential(0.0), "length must be positive"),
        (ArgumentError, lambda: ipfp(SDE.drift, 0.1, x, x, 1.0, steps=1), "steps >= 2"),
        (ArgumentError, lambda: ipfp(SDE.drift, -1.0, x, x, 1.0), "sigma must be positive and finite, got -1.0"),
        (NonFiniteError, lambda: ipfp(lambda v: v**9, 0.1, 9 * x, x, 9.0), "left finite numbers: take more steps"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()
