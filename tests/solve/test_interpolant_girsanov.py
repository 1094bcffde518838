"""What an error of the drift does to the law: of the SDE bounded by its size alone, of the ODE not.

With an error delta of the drift, d^2 = int E |delta(x_t, t)|^2 dt over the true law, Girsanov's theorem gives KL(true || sampled) <= d^2 / (4 e) for
the SDE of noise e. The laws on a line are solved for in float64: the SDE's by its Fokker-Planck equation (fluxes of Scharfetter and Gummel, in time
Crank and Nicolson), the ODE's along its paths. The plans' own samples are then held against these.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import solve_banded

import reverie as rv
from reverie.solve import interpolant_plan

ANY = rv.process.flow()
P = rv.process.interpolant(latent="parabola")
O = rv.oracle.Joined(
    rv.oracle.Mixture([[-1.5], [1.0]], [0.5, 0.5], [0.4, 0.6], process=ANY),
    rv.oracle.Mixture([[-1.0], [1.5]], [0.6, 0.5], process=ANY),
    process=P,
)
SIZE, WIDE, NODES, STEPS = 0.3, 8.0, 801, 200
GRID = torch.linspace(-WIDE, WIDE, NODES, dtype=torch.float64)
H = float(GRID[1] - GRID[0])


def wave(k):
    """An error of mean square about SIZE^2: SIZE itself, or a wave of frequency k."""
    return lambda x: (SIZE * math.sqrt(2) * torch.cos(k * x)) if k else torch.full_like(x, SIZE)


def erring(error):
    """The exact model with its drift, as a run towards the data follows it, off by `error`."""

    def net(x, t):
        drift, eta = O._net(x, t)
        return drift - error(x), eta

    return rv.Model(net, P, ("drift", "eps"), shape=(1,))


def exact(x, t):
    drift, eta = O._net(x[:, None], torch.full((len(x),), t, dtype=torch.float64))
    return -drift[:, 0], -eta[:, 0] / P.sigma(t)  # towards the data, and the score


def truth(t):
    return O.log_prob(GRID[:, None], t)


def divergence(log_density, every=1):
    """KL(data || what was sampled), on every node, or every second, third of the grid."""
    p = truth(0.0)[::every]
    return float((p.exp() * (p - log_density)).sum() * H * every)


def size(error):
    """d^2."""
    times = [(k + 0.5) / 50 for k in range(50)]
    return sum(float((truth(t).exp() * error(GRID) ** 2).sum() * H) for t in times) / len(times)


def fokker_planck(error, e):
    """The density at t = 0 of dX = (b + error + e score) ds + sqrt(2 e) dW from the other density."""
    faces, rho, ds = (GRID[1:] + GRID[:-1]) / 2, truth(1.0).exp().numpy(), 1 / STEPS
    for k in range(STEPS):
        t = 1 - (k + 0.5) * ds
        b, score = exact(faces, t)
        w = (b + error(faces) + e * score).numpy() * H / e
        right, left = (e / H**2 * z / np.expm1(z) for z in (np.where(w == 0, 1e-12, -w), np.where(w == 0, 1e-12, w)))
        stay = -(np.append(right, 0) + np.append(0, left))
        change = stay * rho
        change[:-1] += left * rho[1:]
        change[1:] += right * rho[:-1]
        bands = np.zeros((3, NODES))
        bands[0, 1:], bands[1], bands[2, :-1] = -ds / 2 * left, 1 - ds / 2 * stay, -ds / 2 * right
        rho = solve_banded((1, 1), bands, rho + ds / 2 * change)
    return torch.from_numpy(rho)


def along(x, error, first, last, steps=60):
    """Where the erring ODE carries x between two times, and log |dx' / dx|, by Runge and Kutta's fourth-order steps."""
    change, h = torch.zeros_like(x), (first - last) / steps

    def rates(x, t):
        near = torch.cat([x, x + 1e-5, x - 1e-5])
        at, more, less = (exact(near, min(max(t, 0.0), 1.0))[0] + error(near)).chunk(3)
        return at, (more - less) / 2e-5

    for k in range(steps):
        t = first - k * h
        a = rates(x, t)
        b = rates(x + h / 2 * a[0], t - h / 2)
        c = rates(x + h / 2 * b[0], t - h / 2)
        d = rates(x + h * c[0], t - h)
        x, change = (v + h / 6 * (a[i] + 2 * b[i] + 2 * c[i] + d[i]) for i, v in enumerate((x, change)))
    return x, change


def flow_density(error):
    """log density at t = 0 of the erring ODE: every second node of the grid, traced back."""
    x, change = along(GRID[::2], error, 0.0, 1.0)
    return O.log_prob(x[:, None], 1.0) + change


def test_without_an_error_both_laws_are_the_data_s():
    none = wave(0)
    assert divergence(fokker_planck(lambda x: 0 * x, 1.0).log()) == pytest.approx(0.0, abs=1e-5)
    assert divergence(flow_density(lambda x: 0 * x), 2) == pytest.approx(0.0, abs=1e-6)
    assert size(none) == pytest.approx(SIZE**2, rel=1e-6)


@pytest.mark.parametrize(("k", "e"), [(0, 0.1), (0, 1.0), (0, 5.0), (8, 0.1), (8, 1.0)])
def test_the_sde_obeys_girsanov_s_bound(k, e):
    """At k = 0 the bound is nearly reached, so that it is no empty one; a fast wave is all but forgotten."""
    kl, bound = divergence(fokker_planck(wave(k), e).clamp(min=1e-300).log()), size(wave(k)) / (4 * e)
    assert 0 < kl < bound
    assert kl > 0.2 * bound if k == 0 else kl < 0.2 * bound


def test_the_ode_has_no_such_bound():
    """An error of the same size exceeds the SDE's bound, and the more so the faster it is."""
    found = [divergence(flow_density(wave(k)), 2) for k in (0, 4, 8)]
    assert found == sorted(found)
    assert size(wave(8)) == pytest.approx(SIZE**2, rel=0.01)
    for e in (0.1, 1.0, 5.0):
        assert found[2] > 1.5 * size(wave(8)) / (4 * e)
    assert found[2] > 5 * found[0]


def test_the_plan_s_ode_is_this_ode():
    error, x = wave(8), torch.linspace(-3, 3, 13, dtype=torch.float64)
    found = rv.run(interpolant_plan(P, 100, order=2), erring(error), x[:, None])[:, 0]
    wanted, change = along(x, error, 1.0, 0.0)
    torch.testing.assert_close(found, wanted, rtol=0, atol=5e-3)
    at = wanted[6:7]
    start, back = along(at, error, 0.0, 1.0)
    torch.testing.assert_close(start, x[6:7], rtol=0, atol=1e-5)
    torch.testing.assert_close(back, -change[6:7], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("k", "e"), [(0, 1.0), (8, 0.1)])
def test_the_plan_s_sde_is_this_sde(k, e):
    y = O.other.sample(4000, seed=1, dtype=torch.float64)
    found = rv.run(interpolant_plan(P, 200, noise=e), erring(wave(k)), y, noise=2)[:, 0].numpy()
    laws = [fokker_planck(wave(k), e).numpy(), truth(0.0).exp().numpy()]
    erred, right = ((lambda x, c=np.cumsum(law) * H: np.interp(x, GRID.numpy() + H / 2, c)) for law in laws)
    assert stats.kstest(found, erred).pvalue > 1e-3
    if k == 0:
        assert stats.kstest(found, right).pvalue < 1e-6
