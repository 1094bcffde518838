"""The optimal start: on a Gaussian inverse problem the choice is known, with its gain and correlation; by chance there is none; what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import PRIOR, ArgumentError, Noise, ShapeError
from reverie.restore import FixedStart, OptimalStart, optimal_start
from reverie.restore.optimal_start import spearman

torch.set_num_threads(1)
P = rv.process.flow()  # alpha = 0 at its first time: h = E[x0 | y] + A x_T exactly, for every plan
PLAN = rv.solve.plan("ddim", P, steps=5, grid="time")


def squared(made: Tensor, targets: Tensor) -> Tensor:
    return (made - targets).square().mean(1)


class Inverse:
    """x0 ~ N(0, C), y = B x0 + std n: a restorer with the exact conditional score, told y."""

    def __init__(self, d: int, m: int, std: float = 0.5, cov: Tensor | None = None) -> None:
        g = torch.Generator().manual_seed(d)
        root = torch.randn(d, d, generator=g, dtype=torch.float64) / math.sqrt(d)
        self.cov = root @ root.mT + 0.1 * torch.eye(d) if cov is None else cov
        self.B, self.std = torch.randn(m, d, generator=g, dtype=torch.float64), std
        prior = rv.oracle.Gaussian(torch.zeros(d), self.cov, process=P)
        posterior = prior.posterior(self.B, torch.zeros(m), std)
        s = self.B @ self.cov @ self.B.mT + std**2 * torch.eye(m)
        self.gain = torch.linalg.solve(s, self.B @ self.cov).mT
        self.spread = torch.linalg.cholesky(posterior.cov)

        def net(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            mean = (y.double() @ self.gain.mT).to(x)
            time = float(t[0])
            return posterior(x - P.alpha(time) * mean, time).x0 + mean

        self.model = rv.Model(net, P, "x0", shape=(d,))
        self.A = torch.stack([self.end(e) for e in torch.eye(d, dtype=torch.float64)], 1)

    def end(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        y = torch.zeros(1, len(self.B), dtype=torch.float64) if y is None else y
        return rv.run(PLAN, self.model, x[None], cond={"y": y})[0]

    def pairs(self, n: int, seed: int, even: bool) -> tuple[Tensor, Tensor]:
        """Inputs and targets; `even`: residuals cancel two by two in each half, so that the scores are exact."""
        g = torch.Generator().manual_seed(seed)
        y = torch.randn(n, len(self.B), generator=g, dtype=torch.float64)
        r = torch.randn(n, len(self.cov), generator=g, dtype=torch.float64) @ self.spread.mT
        if even:
            for k in range(0, n, 4):
                r[k + 2 : k + 4] = -r[k : k + 2]
        return y, y @ self.gain.mT + r


def test_the_posterior_restorer_is_exact() -> None:
    """Its runs are E[x0 | y] + A x_T, as the oracle's posterior has them."""
    task = Inverse(4, 2)
    o = rv.oracle.Gaussian(torch.zeros(4), task.cov, process=P)
    y, x = torch.tensor([[0.7, -1.2]], dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    q = o.posterior(task.B, y[0], task.std)
    assert (y[0] @ task.gain.mT - q.mean).abs().max() < 1e-12
    assert (rv.run(PLAN, q, x[None])[0] - task.end(x, y)).abs().max() < 1e-12
    assert (task.end(x, y) - (q.mean + task.A @ x)).abs().max() < 1e-12


@pytest.mark.parametrize("seed", [0, 1])
def test_the_scores_and_the_choice_are_the_predicted_ones(seed: int) -> None:
    """q_k = const + |A x_T^k|^2 / d in each half, where the residuals of a half sum to zero."""
    task = Inverse(6, 3)
    y, z = task.pairs(32, seed, even=True)
    pool = Noise(seed).normal((6,), index=range(60), stream=PRIOR, dtype=torch.float64)
    found = optimal_start(
        task.model, PLAN, z, squared, cond={"y": y}, candidates=60, draws=60, seed=seed, dtype=torch.float64
    )
    size = (pool @ task.A.mT).square().mean(1)
    for half, at in ((0, slice(0, None, 2)), (1, slice(1, None, 2))):
        const = (y[at] @ task.gain.mT - z[at]).square().mean()
        assert (found.draws[half] - const - size).abs().max() < 1e-10
    assert found.candidate == int(size.argmin())
    assert torch.equal(found.noise, pool[found.candidate])
    assert found.spearman == pytest.approx(1.0)
    assert found.zero == pytest.approx(float((y[1::2] @ task.gain.mT - z[1::2]).square().mean()))
    assert found.zero < found.score < found.mean
    assert found.gain == pytest.approx(float((size.mean() - size.min()) / size.std()))
    assert found.selected_gain == pytest.approx(found.gain)
    assert [r[:2] for r in found.rounds] == [(60, 4), (15, 8), (4, 16)]
    assert found.runs == 60 * 4 + 15 * 8 + 4 * 16 + 60 * 32 + 32 + 16


def test_residuals_that_do_not_cancel_cost_the_correlation_one_in_half_the_pairs() -> None:
    """With n pairs a half the cross term 2 <A x, mean r> / d has 2 / n of the variance over draws: a correlation of 1 / (1 + 2 / n)."""
    task = Inverse(6, 3)
    y, z = task.pairs(1200, 5, even=False)
    settings: dict[str, Any] = {"candidates": 40, "draws": 40, "batch": 1000, "dtype": torch.float64}
    found = optimal_start(task.model, PLAN, z, squared, cond={"y": y}, **settings)
    few = optimal_start(task.model, PLAN, z[:16], squared, cond={"y": y[:16]}, **settings)
    straight = [float(torch.corrcoef(f.draws)[0, 1]) for f in (found, few)]
    assert straight[0] == pytest.approx(1 / (1 + 2 / 600), abs=0.005)
    assert found.spearman > 0.98 > few.spearman
    assert straight[1] < 0.95
    assert found.gain > 0.5


def test_the_gain_follows_the_order_statistics_of_the_pool() -> None:
    """In two dimensions with A = a I, |A x|^2 / d is exponential of mean a^2: the least of K has mean a^2 / K."""
    o = rv.oracle.Gaussian(torch.zeros(2), 0.25 * torch.eye(2), process=P)
    a2 = float(rv.run(PLAN, o, torch.tensor([[1.0, 0.0]], dtype=torch.float64))[0, 0]) ** 2
    found = optimal_start(o, PLAN, torch.zeros(4, 2), squared, candidates=2400, draws=2400, batch=600)
    scores = found.draws[1] / a2
    for k in (1, 4, 8, 24):
        groups = scores.reshape(-1, k)
        assert float(groups.min(1).values.mean()) == pytest.approx(1 / k, abs=4 / k / math.sqrt(len(groups)))
    assert found.score == float(found.draws[1].min())
    assert found.gain == pytest.approx(1.0, abs=0.1)  # mean and deviation of an exponential are one: no pool gains more


def test_a_metric_that_knows_nothing_gains_nothing_on_held_out_pairs() -> None:
    """Scores are pure chance, a number a picture: the winner leads where it was chosen, not elsewhere, and the halves do not agree."""
    o = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=P)
    g = torch.Generator().manual_seed(0)
    found = [
        optimal_start(
            o, PLAN, torch.zeros(16, 2), lambda made, z: torch.rand(len(made), generator=g), candidates=40, seed=k
        )
        for k in range(8)
    ]
    assert sum(f.rounds[-1][2] for f in found) / 8 < 0.4  # the best of chance
    assert abs(sum(f.gain for f in found) / 8) < 1.2
    assert abs(sum(f.spearman for f in found) / 8) < 0.25


def test_a_fixed_start_is_one_of_the_jobs_samples() -> None:
    m = rv.load("digits")
    for model in (m, m | rv.guide.CFG(3.0), m.with_net(rv.load("digits").net.bfloat16())):
        plan = rv.solve.plan("dpmpp-2m", m.process, steps=4)
        noise = Noise(0).normal((1, 8, 8), index=[5])[0]
        made = rv.sample(model, 3, plan=plan, cond={"class_labels": torch.tensor([3, 7, 3])}, hooks=FixedStart(noise))
        own = rv.sample(model, 1, plan=plan, cond={"class_labels": 7}, start=5)
        tolerance = 1e-4 if model.dtype != torch.bfloat16 else 0.2
        assert (made[1] - own[0]).abs().max() < tolerance
        assert (made[0] - made[2]).abs().max() < tolerance
        assert (made[0] - made[1]).abs().max() > 0.3


def test_it_starts_at_a_lower_time_and_with_a_degraded_input() -> None:
    p, noise = rv.process.mean_reverting(), torch.tensor([0.5, -1.0])
    seen: list[Tensor] = []

    class Look:
        def start(self, ctx: rv.solve.Run) -> None:
            seen.append(ctx.x.clone())

    y = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    m = rv.Model(lambda x, t: x, p, "x0", shape=(2,))
    rv.sample(m, 2, nfe=3, hooks=[FixedStart(noise), Look()], inputs={"y": y}, batch=2)
    torch.testing.assert_close(seen[0], y + p.sigma_inf * noise)
    scores = optimal_start(m, rv.solve.plan("ddim", p, steps=2), y.repeat(2, 1), squared, inputs={"y": y.repeat(2, 1)})
    assert isinstance(scores, OptimalStart)
    edm = rv.process.edm()
    low = rv.solve.plan("ddim", edm, steps=2, span=(0.5, 0.0))
    rv.sample(rv.Model(lambda x, t: x, edm, "x0", shape=(2,)), 2, plan=low, hooks=[FixedStart(noise), Look()], batch=2)
    torch.testing.assert_close(seen[-1][1], low.start * noise)


def test_the_batch_and_the_draws_do_not_change_the_choice() -> None:
    task = Inverse(4, 2)
    y, z = task.pairs(10, 0, even=False)
    made = [
        optimal_start(
            task.model, PLAN, z, squared, cond={"y": y}, candidates=30, draws=draws, batch=batch, dtype=torch.float64
        )
        for batch, draws in ((7, 5), (64, 30))
    ]
    assert made[0].candidate == made[1].candidate
    assert made[0].score == pytest.approx(made[1].score, rel=1e-12)
    assert [r[:2] for r in made[0].rounds] == [(30, 4), (8, 5)]
    assert "held-out pairs; random draws" in str(made[0])


def test_the_rank_correlation() -> None:
    from scipy.stats import spearmanr

    g = torch.Generator().manual_seed(0)
    a, b = torch.randint(6, (25,), generator=g).double(), torch.randn(25, generator=g)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert spearman(a, -a) == pytest.approx(-1.0)
    assert math.isnan(spearman(a, torch.ones(25)))


@pytest.mark.parametrize(
    ("name", "options"), [("ddim", {"eta": 1.0}), ("euler-a", {}), ("dpmpp-2m-sde", {}), ("pc", {}), ("lcm", {})]
)
def test_a_stochastic_plan_has_no_boundary_condition(name: str, options: dict[str, Any]) -> None:
    p = rv.process.vp()
    o, plan = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=p), rv.solve.plan(name, p, steps=4, **options)
    with pytest.raises(ArgumentError, match=f"{name!r} draws noise on its way"):
        optimal_start(o, plan, torch.zeros(4, 2), squared)
    with pytest.raises(ArgumentError, match="take a deterministic plan"):
        rv.sample(o, 2, plan=plan, hooks=FixedStart(torch.zeros(2)))


@pytest.mark.parametrize("name", ["ode-adaptive", "evodiff", "shifted"])
def test_plans_that_decide_their_steps_without_noise_are_taken(name: str) -> None:
    p = rv.process.vp()
    plan = rv.solve.plan("ddim" if name == "shifted" else name, p, **({} if name == "ode-adaptive" else {"steps": 4}))
    plan = rv.solve.time_shift(plan, 0.05, 0.3) if name == "shifted" else plan
    o = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=p)
    made = rv.sample(o, 2, plan=plan, hooks=FixedStart(torch.ones(2)))
    assert torch.equal(made[0], made[1])


def test_what_it_refuses() -> None:
    o = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=P)
    z = torch.zeros(8, 2)
    for options, match in (
        ({"candidates": 1}, "candidates must be a whole number of at least 2, got 1"),
        ({"draws": 1.5}, "draws must be a whole number"),
        ({"first": 0}, "first must be"),
        ({"batch": 0}, "batch must be"),
        ({"keep": 1.0}, r"in \(0, 1\), got 1.0"),
    ):
        with pytest.raises(ArgumentError, match=match):
            optimal_start(o, PLAN, z, squared, **options)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="3 reference pairs; at least 4"):
        optimal_start(o, PLAN, z[:3], squared)
    with pytest.raises(ShapeError, match="one number each is needed"):
        optimal_start(o, PLAN, z, lambda made, target: squared(made, target).mean())
    with pytest.raises(ShapeError, match="for a batch of 8"):
        optimal_start(o, PLAN, z, squared, cond={"y": torch.zeros(5)})
    with pytest.raises(ShapeError, match="give shape="):
        optimal_start(rv.Model(lambda x, t: x, P), PLAN, z, squared)
    with pytest.raises(ShapeError, match=r"noise of shape \(3,\) for states \(1, 2\)"):
        rv.run(PLAN, o, torch.zeros(1, 2), hooks=FixedStart(torch.zeros(3)))
