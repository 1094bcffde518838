"""Bridges through several snapshots: the reference is found, and only a family that holds it helps."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment

import reverie as rv
from reverie.base import ArgumentError, NonFiniteError, ShapeError, TimeError, UnknownNameError
from reverie.solve.bridges import (
    Affine,
    Features,
    LearnedBridge,
    LinearSDE,
    Parametric,
    exponential,
    multimarginal_bridge,
)

TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]]).double()
SPIRAL = LinearSDE(1.2 * TURN, None, 0.2)
TIMES, MIDDLES = (0.0, 0.7, 1.4, 2.1, 2.8), (0.35, 1.05, 1.75, 2.45)
ROTATION = Affine(TURN[None])
NO_ROTATION = Affine(torch.stack([torch.eye(2), torch.diag(torch.tensor([1.0, -1.0])), TURN.float().abs()]))


def distance(a, b):
    """The earth mover's distance of clouds of one size."""
    cost = torch.cdist(a, b).numpy()
    return cost[linear_sum_assignment(cost)].mean()


def rotating(t, n, seed):
    g = torch.Generator().manual_seed(seed)
    x = 0.25 * torch.randn(n, 2, generator=g).double() + torch.tensor([1.0, 0.0])
    phi, m, q = SPIRAL.transition(t)
    return x @ phi.mT + m + torch.randn(n, 2, generator=g).double() @ (torch.linalg.cholesky(q).mT if t else 0 * q)


def clouds(make, times, n, seed):
    return [make(t, n, 1000 * seed + i) for i, t in enumerate(times)]


def missed(found, held):
    """Mean distance to the held-out clouds."""
    return sum(distance(found.sample(t, len(h), seed=1), h) for t, h in held) / len(held)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_rotation_is_found_and_nothing_else_helps(seed):
    """In three rounds: the rate within 5 %, held-out clouds within 10 % of the distance of two samples of the truth."""
    n = 300
    seen, held = (
        clouds(rotating, TIMES, n, seed),
        list(zip(MIDDLES, clouds(rotating, MIDDLES, n, seed + 10), strict=True)),
    )
    floor = sum(distance(h, rotating(t, n, 999 - i)) for i, (t, h) in enumerate(held)) / 4
    plain = multimarginal_bridge(seen, TIMES, ROTATION, 0.2, rounds=0)
    assert plain.theta is None
    assert missed(plain, held) > 1.25 * floor
    found = multimarginal_bridge(seen, TIMES, ROTATION, 0.2, rounds=3, steps=12)
    assert [len(found.history), found.history[2]] == [3, found.theta]
    assert found.theta.item() == pytest.approx(1.2, rel=0.05)
    assert missed(found, held) < 1.1 * floor
    excluded = multimarginal_bridge(seen, TIMES, NO_ROTATION, 0.2, rounds=1, steps=6)
    assert missed(excluded, held) > 0.95 * missed(plain, held)


def test_all_linear_dynamics_at_once():
    """A + b with six parameters: the fit goes to the truth; from the truth it stays there."""
    seen = clouds(rotating, TIMES, 150, 3)
    whole, truth = Affine.whole(2), torch.tensor([0.0, -1.2, 1.2, 0.0, 0.0, 0.0], dtype=torch.float64)
    assert torch.equal(whole.sde(truth, 0.2).A, SPIRAL.A)
    history = multimarginal_bridge(seen, TIMES, whole, 0.2, rounds=4, steps=8).history
    away = [(theta - truth).norm().item() for theta in history]
    assert away[3] < away[2] < away[1] < away[0]
    stays = multimarginal_bridge(seen, TIMES, whole, 0.2, rounds=1, steps=8, theta=truth).theta
    assert (stays - truth).norm() < min(0.25, away[3])


def test_paths_pass_through_the_snapshots():
    seen = [s[: 40 + 10 * i] for i, s in enumerate(clouds(rotating, TIMES[:4], 80, 4))]
    times = (0.0, 0.5, 1.4, 2.1)  # uneven
    for solver in ("auto", "ipfp"):
        found = multimarginal_bridge(
            seen,
            times,
            ROTATION,
            0.2,
            rounds=0,
            steps=5,
            solver=solver,
            ipfp_rounds=2,
            regressor=exponential(inducing=40),
        )
        paths, grid = found.paths(seed=7), found.grid
        assert paths.shape == (40 + 50 + 60 + 70, 16, 2)
        torch.testing.assert_close(grid[::5], torch.tensor(times).double())
        assert (grid.diff() > 0).all()
        starts = torch.tensor([0, 40, 90, 150])
        for i, s in enumerate(seen):
            assert torch.equal(paths[starts[i] : starts[i] + len(s), 5 * i], s)
            near = torch.cdist(paths[:, 5 * i], s).min(1).values.max()
            assert near < 1e-6 if solver == "auto" else near > 1e-3
        assert torch.equal(found.paths(seed=7), paths)
        assert not torch.equal(found.paths(seed=8), paths)
        steps = paths.diff(dim=1) / grid.diff().sqrt()[:, None]
        noise = (
            steps[:, 1::5] - steps[:, 0::5]
        ).square().mean() / 2  # of neighbours in one interval, whose drifts are alike
        assert noise == pytest.approx(0.2**2, rel=0.15)
        assert steps[:, 4::5].square().mean() < 1.5 * steps.square().mean()  # no jump where two bridges meet


def test_sample_at_any_time():
    seen = clouds(rotating, TIMES, 60, 5)
    found = multimarginal_bridge(seen, TIMES, ROTATION, 0.2, rounds=1)
    for t in TIMES:
        at = found.sample(t)
        assert torch.cdist(at, seen[TIMES.index(t)]).min(1).values.max() < 1e-6
        assert len(at.unique(dim=0)) == 60
    some = found.sample(0.3, 7, seed=2)
    assert some.shape == (7, 2)
    assert torch.equal(found.sample(0.3, 7, seed=2), some)
    assert found.sample(0.3, 150).shape == (150, 2)
    assert torch.cdist(found.sample(TIMES[1] - 1e-6, 40), seen[1]).min(1).values.max() < 0.01
    on = found.grid[4].item()  # a node of the paths
    assert found.sample(on + 1e-15).isfinite().all()
    assert abs(found.sample(on, 400).mean(0) - found.paths()[:, 4].mean(0)).max() < 0.06
    torch.testing.assert_close(found.drift(seen[0]), found.theta * seen[0] @ TURN.mT)
    shifted = multimarginal_bridge(seen, [t + 3 for t in TIMES], ROTATION, 0.2, rounds=1)
    torch.testing.assert_close(shifted.theta, found.theta, rtol=1e-9, atol=0)
    torch.testing.assert_close(shifted.sample(3.3, 7, seed=2), some)


def test_fits():
    """Weighted least squares by brute force; Adam and the closed form agree; positive stays positive."""
    g = torch.Generator().manual_seed(0)
    x, rate = torch.randn(200, 2, generator=g).double(), torch.randn(200, 2, generator=g).double()
    weight = torch.rand(200, generator=g).double()
    whole = Affine.whole(2)
    design = torch.cat([x, torch.ones(200, 1)], 1) * weight.sqrt()[:, None]
    wanted = torch.linalg.lstsq(design, rate * weight.sqrt()[:, None]).solution  # (3, 2): columns of A^T, then b
    theta = whole.fit(x, rate, weight)
    torch.testing.assert_close(theta, torch.cat([wanted[:2].mT.flatten(), wanted[2]]))
    f = Features(lambda x: torch.stack([x**2, x.sin()], 1))
    adam = Parametric(lambda theta, x: theta[0] * x**2 + theta[1] * x.sin(), torch.ones(2), lr=0.05, epochs=250)
    closed = f.fit(x, rate, weight)
    torch.testing.assert_close(adam.fit(x, rate, weight), closed, rtol=0, atol=1e-3)
    for h in (torch.tensor([1e-3, 0.0]), torch.tensor([0.0, 1e-3])):
        loss = lambda theta: (weight @ (rate - f.drift(theta, x)).square().sum(1)).item()  # noqa: E731
        assert loss(closed) < min(loss(closed + h), loss(closed - h))
    decay = Parametric(lambda theta, x: theta * x, torch.full((1,), 0.5), positive=True, epochs=60)
    assert decay.fit(x, -x, weight).item() == pytest.approx(0.0, abs=0.05)
    assert decay.fit(x, -x, weight).item() >= 0


def test_a_fit_is_told_increments_over_their_own_times():
    class Told(Affine):
        def fit(self, x, rate, weight, theta=None):
            self.pairs = x, x + rate * weight[:, None], weight
            return super().fit(x, rate, weight, theta)

    family, times = Told(TURN[None]), (0.0, 0.3, 1.4)
    seen = clouds(rotating, times, 20, 7)
    multimarginal_bridge(seen, times, family, 0.2, rounds=1, steps=4)
    x, then, weight = (v.reshape(60, 8, -1) for v in family.pairs)
    torch.testing.assert_close(then[:, :-1], x[:, 1:])
    torch.testing.assert_close(weight.sum((1, 2)), torch.full((60,), 1.4, dtype=torch.float64))
    assert torch.cdist(then[:, -1], seen[2]).min(1).values.max() < 1e-6


def prey(theta, x):
    a, b, c, d = theta
    return torch.stack([a * x[:, 0] - b * x[:, 0] * x[:, 1], c * x[:, 0] * x[:, 1] - d * x[:, 1]], 1)


def animals(t, n, seed):
    g, h = torch.Generator().manual_seed(seed), 0.02
    x = torch.tensor([1.8, 1.0]) + 0.15 * torch.randn(n, 2, generator=g).double()
    for _ in range(round(t / h)):
        x = x + h * prey(torch.ones(4), x) + 0.1 * math.sqrt(h) * torch.randn(n, 2, generator=g).double()
    return x


def test_predators_and_prey():
    """Learned bridges: the rates go towards 1, held-out clouds are nearer than by plain bridges; growth without eating is worse than those."""
    n, times, middles = 50, (0.0, 1.0, 2.0, 3.0), (0.5, 1.5, 2.5)
    seen, held = clouds(animals, times, n, 1), list(zip(middles, clouds(animals, middles, n, 2), strict=True))
    options = {"steps": 10, "ipfp_rounds": 4, "regressor": exponential(inducing=60)}
    family = Parametric(prey, torch.full((4,), 1e-5), positive=True, epochs=120)
    plain = multimarginal_bridge(seen, times, family, 0.1, rounds=0, **options)
    learned = multimarginal_bridge(seen, times, family, 0.1, rounds=0, solver="ipfp", **options)
    found = multimarginal_bridge(seen, times, family, 0.1, rounds=2, **options)
    assert all(isinstance(b, LearnedBridge) for b in found.bridges)
    first, last = ((theta - 1).abs().mean().item() for theta in found.history)
    assert last < first < 0.5
    assert missed(found, held) < 0.85 * missed(plain, held)
    assert missed(learned, held) == pytest.approx(missed(plain, held), rel=0.25)
    grow = Features(lambda x: torch.stack([x * torch.tensor([1.0, 0.0]), x * torch.tensor([0.0, 1.0])], 1))
    assert missed(multimarginal_bridge(seen, times, grow, 0.1, rounds=1, **options), held) > 0.95 * missed(plain, held)


def test_too_much_noise_is_taken_for_contraction():
    """sigma is not identifiable: given four times the true one, the fit contracts where the truth only turns."""
    seen = clouds(rotating, TIMES, 100, 6)
    found = [multimarginal_bridge(seen, TIMES, Affine.whole(2), s, rounds=3, steps=6).theta for s in (0.2, 0.8)]
    traces = [float(theta[0] + theta[3]) for theta in found]
    assert abs(traces[0]) < 0.3
    assert traces[1] < -1.0


def test_what_does_not_fit_is_refused():
    seen = clouds(rotating, TIMES[:3], 10, 0)

    def call(s=seen, t=(0.0, 1.0, 2.0), f=ROTATION, sigma=0.2, **options):
        return lambda: rv.solve.multimarginal_bridge(s, t, f, sigma, **options)

    twice = Affine(torch.stack([TURN, 2 * TURN]))
    made = call(rounds=0)()
    for error, of, message in (
        (ShapeError, call([*seen[:2], seen[2][:, :1]]), r"one dimension D; 0 has shape \(10, 2\), 2 \(10, 1\)"),
        (ShapeError, call([*seen[:2], seen[2][:0]]), r"2 \(0, 2\)"),
        (ArgumentError, call(seen[:2]), "a time each are needed, got 2 and 3 times"),
        (ArgumentError, call(seen[:1], (0.0,)), "at least two snapshots"),
        (NonFiniteError, call([*seen[:2], seen[2] / 0]), "snapshot 2 has numbers that are not finite"),
        (TimeError, call(t=(0.0, 2.0, 1.0)), r"times must rise and be finite, got \[0.0, 2.0, 1.0\]"),
        (TimeError, call(t=(0.0, 1.0, 1.0)), "times must rise"),
        (TimeError, call(t=(0.0, 1.0, math.inf)), "times must rise and be finite"),
        (ArgumentError, call(sigma=0.0), "sigma must be positive and finite, got 0.0"),
        (ArgumentError, call(sigma=-0.1), "sigma must be positive and finite, got -0.1"),
        (ArgumentError, call(rounds=-1), "rounds must be a whole number of at least 0, got -1"),
        (ArgumentError, call(steps=1), "steps must be a whole number of at least 2, got 1"),
        (UnknownNameError, call(solver="sinkhorn"), "unknown solver 'sinkhorn'"),
        (ArgumentError, call(f=twice, rounds=1), "the 2 features of the family are linearly dependent"),
        (ShapeError, call(f=Features(lambda x: x), rounds=1), r"must be \(B, K, D\)"),
        (TimeError, lambda: made.sample(2.5), r"in \[0, 2\], got 2.5"),
        (ArgumentError, lambda: made.sample(0.5, 0), "n must be at least 1, got 0"),
        (ShapeError, lambda: Affine(torch.zeros(2, 2)), r"matrices must be \(K, D, D\)"),
        (ShapeError, lambda: Affine(torch.zeros(1, 2, 2), torch.zeros(2)), r"offsets must be \(1, 2\)"),
        (ArgumentError, lambda: Parametric(prey, torch.tensor([-1.0]), positive=True), "finite non-negative numbers, got"),
        (ArgumentError, lambda: Parametric(prey, torch.ones(4), lr=0.0), "lr must be positive"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            of()
