"""Denoising MCMC: moves and levels by hand, what the chain leaves invariant, plans from a start a sample, and samples by themselves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError, NonFiniteError, ShapeError, UnknownNameError
from reverie.measure import sliced_wasserstein
from reverie.solve import denoising_langevin, denoising_mcmc, exact_levels, level_loss, noise_levels, own_starts

from . import reference as ref

VE = rv.process.ve(0.05, 20.0)
MEANS = torch.tensor([[-1.5, 0.0], [1.5, 0.5], [0.0, 2.0]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


def oracle(p: Any = VE, std: float = 0.4) -> rv.oracle.Mixture:
    return rv.oracle.Mixture(MEANS, std, WEIGHTS, process=p)


def chi_square(counts: Tensor, shares: Tensor) -> float:
    expected = shares * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def even(batch: int = 6, d: int = 2, seed: int = 3) -> Tensor:
    return torch.randn(batch, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- plans from a start a sample


@pytest.mark.parametrize("name", ["heun", "dpmpp-2m", "unipc-3", "dpm-3s", "deis-2", "dpmpp-2m-sde", "euler-a"])
@pytest.mark.parametrize("process", ["edm", "vp", "flow", "ddpm"])
def test_side_by_side_is_each_plan_alone(name: str, process: str) -> None:
    p = ref.PROCESSES[process]
    o, spans = oracle(p), [0.9, 0.31, 0.6]
    grid = None if name.startswith("deis") else "karras"
    plans = [rv.solve.plan(name, p, 4, grid=grid, span=(u, 0)) for u in spans]
    together = own_starts(name, p, [plan.start for plan in plans], 4, grid=grid)
    assert together.nfe == plans[0].nfe
    x = even(3) * torch.tensor([[p.sigma(plan.start)] for plan in plans])
    made = rv.run(together, o, x)
    for i, plan in enumerate(plans):
        alone = rv.run(plan, o, x[i : i + 1], index=[i])
        torch.testing.assert_close(made[i : i + 1], alone, rtol=1e-8, atol=1e-8)


def test_karras_nodes_between_each_level_and_the_end() -> None:
    p, seen = rv.process.edm(0.01, 50.0), []
    net = rv.Model(lambda x, t: seen.append(t.clone()) or 0 * x, p, predicts="x0", label="t", shape=(1,))
    for end, count in (("zero", 4), ("denoise", 3)):
        seen.clear()
        rv.run(own_starts("euler", p, [0.7, 9.0], 4, grid="karras", end=end), net, torch.ones(2, 1))
        for row, top in enumerate((0.7, 9.0)):
            a, b, last = top ** (1 / 7), 0.01 ** (1 / 7), count - 1 if end == "zero" else 4
            wanted = [(a + i / last * (b - a)) ** 7 for i in range(4)]
            torch.testing.assert_close([float(t[row]) for t in seen], wanted, rtol=1e-5, atol=1e-6)


def test_a_start_a_sample_is_saved_and_depends_on_no_other(tmp_path: Any) -> None:
    o, starts = oracle(), [0.3, 2.0, 11.0]
    plan = own_starts("ddim", VE, starts, 3, eta=0.5)
    plan.save(tmp_path / "plan.json")
    again, x = rv.Plan.load(tmp_path / "plan.json"), even(3).float()
    whole = rv.run(plan, o, x)
    assert torch.equal(rv.run(again, o, x), whole)
    for i in range(3):
        one = rv.run(own_starts("ddim", VE, [starts[i]], 3, eta=0.5), o, x[i : i + 1], index=[i])
        assert torch.equal(one[0], whole[i])


def test_starts_that_cannot_be() -> None:
    with pytest.raises(UnknownNameError, match="unknown solver 'heum'"):
        own_starts("heum", VE, [1.0], 2)
    with pytest.raises(ArgumentError, match="chooses its steps during the run"):
        own_starts("ode-adaptive", VE, [1.0], 2)
    with pytest.raises(ArgumentError, match="places its own nodes; take a curve"):
        own_starts("heun", VE, [1.0], 2, grid="linspace")
    with pytest.raises(ArgumentError, match=r"must lie above 0.05, where the grid 'karras' ends, up to 20, got 0.05"):
        own_starts("heun", VE, [1.0, 0.05], 2)
    with pytest.raises(ArgumentError, match="starts must hold a time for every sample"):
        own_starts("heun", VE, [], 2)
    with pytest.raises(ArgumentError, match="2 starts; the batch has 3"):
        rv.run(own_starts("heun", VE, [1.0, 2.0], 2), oracle(), even(3))
    churn = own_starts("heun", VE, [0.2, 9.0], 3, churn=2.0, churn_max=1.0)
    with pytest.raises(ArgumentError, match="differ in more than numbers"):
        rv.run(churn, oracle(), even(2))


# -- the moves


@pytest.mark.parametrize("process", ["edm", "vp", "flow", "ddpm"])
def test_a_move_by_hand(process: str) -> None:
    """y + (eta / 2) score + sqrt(eta) z, by autograd of the density of y, and the drawn level by its quantile."""
    o = oracle(ref.PROCESSES[process])
    levels, level = torch.tensor([5.0, 1.0, 0.3, 0.1], dtype=torch.float64), torch.tensor([0, 1, 2, 3, 2, 1])
    classify, y, eta = exact_levels(o, levels), even(), 0.04
    moved, now = denoising_langevin(o, y, level, 1, classify=classify, levels=levels, eta=eta, seed=8, first=5)
    z = rv.base.Noise(8).normal((2,), range(6), 5, 0xD3C).double()
    u = rv.base.Noise(8).uniform((1,), range(6), 5, 0xD3C).double()
    var = 0.4**2 + levels[level][:, None] ** 2
    x = y.clone().requires_grad_()
    logits = WEIGHTS.log() - ((x[:, None] - MEANS) ** 2).sum(2) / (2 * var)
    (score,) = torch.autograd.grad(logits.logsumexp(1).sum(), x)
    torch.testing.assert_close(moved, y + eta / 2 * score + math.sqrt(eta) * z, rtol=1e-6, atol=1e-6)
    spread = 0.4**2 + levels**2  # and Bayes' rule for the level
    log_p = (WEIGHTS.log()[:, None] - ((moved[:, None] - MEANS) ** 2).sum(2)[..., None] / (2 * spread)).logsumexp(1)
    shares = (log_p - spread.log()).softmax(1)
    torch.testing.assert_close(classify(moved).softmax(1), shares, rtol=1e-6, atol=1e-9)
    assert torch.equal(now, (shares.cumsum(1) < u).sum(1))
    best = denoising_langevin(o, y, level, 1, classify=classify, levels=levels, eta=eta, seed=8, first=5, pick="argmax")
    assert torch.equal(best[1], shares.argmax(1))
    own = denoising_langevin(o, y, level, 1, classify=classify, levels=levels, eta=eta, seed=8, first=5, relative=True)[
        0
    ]
    e = eta * levels[level][:, None] ** 2
    torch.testing.assert_close(own, y + e / 2 * score + e.sqrt() * z, rtol=1e-6, atol=1e-6)


def test_a_chain_is_the_same_on_every_process() -> None:
    """Levels are sigma / alpha and states x / alpha: vp, flow and labels make the chain of the variance-exploding process."""
    levels, made = [3.0, 1.0, 0.4, 0.2], []
    for name in ("edm", "vp", "flow", "ddpm"):
        o, p = oracle(ref.PROCESSES[name]), ref.PROCESSES[name]
        made.append(
            denoising_mcmc(
                o, 8, classify=exact_levels(o, levels), levels=levels, chains=4, init=MEANS[[0, 1, 2, 0]], batch=4,
                burn_in=5, solver="ddim", grid="time", steps=1, tweedie=0.15, dtype=torch.float64, kick=1.0,
            )
        )  # fmt: skip
        assert p.t_min < p.t_of_ratio(0.15) < p.t_max
    for other in made[1:]:
        torch.testing.assert_close(other.x, made[0].x, rtol=1e-6, atol=1e-6)
        assert torch.equal(other.level, made[0].level)


@pytest.mark.parametrize("relative", [True, False])
def test_small_steps_leave_the_levels_even_and_a_constant_one_does_not(relative: bool) -> None:
    o, n = oracle(), 1500
    levels = noise_levels(VE, 24)
    level = torch.arange(n) % 24
    y = o.sample(n, seed=1) + levels[level][:, None].float() * even(n, 2, 4).float()
    eta = 0.05 if relative else 0.5
    y, level = denoising_langevin(
        o, y, level, 50, classify=exact_levels(o, levels), levels=levels, eta=eta, relative=relative
    )
    found = chi_square(level.bincount(minlength=24), torch.full((24,), 1 / 24))
    assert found < 41.6 if relative else found > 120  # 41.6: the 99th percentile for 23 degrees of freedom


def test_chains_find_modes_and_their_weights() -> None:
    """All begin in one mode, the lightest; the outputs are denoised samples of the mixture."""
    o, levels = oracle(), noise_levels(rv.process.ve(0.05, 4.0), 16)
    given = {"chains": 400, "batch": 400, "steps": 6, "skip": 1, "eta": 0.05, "init": MEANS[:1].expand(400, 2).float()}
    given |= {"classify": exact_levels(o, levels), "levels": levels}
    made = denoising_mcmc(o, 400, burn_in=[(160, 0.2), (20, 0.05)], **given)  # one output a chain: all independent
    counts = torch.cdist(made.x.double(), MEANS).argmin(1).bincount(minlength=3)
    assert chi_square(counts, shares_by_region()) < 9.21
    assert sliced_wasserstein(made.x, o.sample(400, seed=7)) < 0.15
    early = denoising_mcmc(o, 400, burn_in=5, **given).x  # the test can tell
    counts = torch.cdist(early.double(), MEANS).argmin(1).bincount(minlength=3)
    assert chi_square(counts, shares_by_region()) > 100


def test_the_choice_of_the_least_noisy_state_widens_and_none_does_not() -> None:
    """One Gaussian, chains that begin in their joint law: the state that a move makes is a fair draw, the least noisy of many is not."""
    o, n = rv.oracle.Mixture(torch.zeros(1, 2), 0.4, process=VE), 3000
    levels = noise_levels(rv.process.ve(0.05, 1.5), 16)
    classify, level = exact_levels(o, levels), torch.arange(n) % 16
    y = (0.16 + levels[level][:, None] ** 2).sqrt() * even(n, 2, 4)
    states = [denoising_langevin(o, y, level, 1, classify=classify, levels=levels, eta=0.05, relative=True)]
    for k in range(2, 7):
        states.append(
            denoising_langevin(o, *states[-1], 1, classify=classify, levels=levels, eta=0.05, relative=True, first=k)
        )
    ys, which = torch.stack([s[0] for s in states]), torch.stack([s[1] for s in states])
    fair = (ys[-1].square().mean(1) / (0.16 + levels[which[-1]] ** 2)).mean()
    least = which.argmax(0)  # levels fall
    chosen = ys[least, torch.arange(n)].square().mean(1) / (0.16 + levels[which.amax(0)] ** 2)
    assert float(fair) == pytest.approx(1, abs=0.06)
    assert float(chosen.mean()) > 1.15


def shares_by_region() -> Tensor:
    x = oracle().sample(200_000, seed=3)
    return torch.cdist(x.double(), MEANS).argmin(1).bincount(minlength=3) / len(x)


def test_at_equal_evaluations_it_is_nearer_to_the_data_than_heun() -> None:
    g = torch.Generator().manual_seed(0)
    o = rv.oracle.Mixture(torch.randn(6, 8, generator=g), 0.3, process=rv.process.ve(0.01, 50.0))
    levels = noise_levels(o.process, 40)
    made = denoising_mcmc(o, 1024, classify=exact_levels(o, levels), levels=levels, chains=256, batch=256, skip=5)
    plain = rv.sample(o, 1024, plan=rv.solve.plan("heun", o.process, nfe=9, grid="karras"), batch=256)
    data = o.sample(1024, seed=99)
    assert (made.nfe, made.calls["moves"], made.calls["denoising"]) == (8, 20, 12)
    assert sliced_wasserstein(made.x, data, 64) < 0.5 * sliced_wasserstein(plain, data, 64)


# -- outputs


def test_the_least_noisy_state_is_denoised_and_the_chain_goes_on_from_the_last() -> None:
    """A classifier that says which level comes when; a network whose x0 is the state's own y, so that outputs are chain states."""
    script = [3, 1, 2, 0, 2, 3, 1]  # after the kick, then after each of six moves
    levels, heard = [4.0, 2.0, 1.0, 0.5], []

    def classify(y: Tensor, **_: Any) -> Tensor:
        heard.append(y.clone())
        return -50.0 * torch.nn.functional.one_hot(torch.tensor([script[len(heard) - 1]] * len(y)), 4).logical_not()

    m = rv.Model(lambda x, t: x, VE, predicts="x0", shape=(2,))
    made = denoising_mcmc(
        m, 2, classify=classify, levels=levels, chains=1, batch=1, init=torch.ones(1, 2), burn_in=0, skip=3, pick="argmax"
    )  # fmt: skip
    assert made.level.tolist() == [1.0, 0.5]  # moves 1, 2, 3 make 1, 2, 0; moves 4, 5, 6 make 2, 3, 1
    torch.testing.assert_close(made.x[0], heard[2][0])
    torch.testing.assert_close(made.x[1], heard[5][0])
    z = rv.base.Noise(0).normal((2,), [0], 4, 0xD3C)
    torch.testing.assert_close(heard[4], heard[3] + math.sqrt(0.2) * z)  # x0 = y: no score
    assert made.output.tolist() == [0, 1]


def test_counts() -> None:
    o, levels = oracle(), noise_levels(VE, 20)
    made = denoising_mcmc(
        o, 20, classify=exact_levels(o, levels), levels=levels, chains=8, batch=5, skip=4, solver="dpmpp-2m", steps=3,
        tweedie=0.06, burn_in=[(2, 0.5), (3, 0.2)], begin=rv.solve.plan("ddim", VE, 7),
    )  # fmt: skip
    assert made.calls == {"start": 7, "burn-in": 5, "moves": 12, "denoising": 9, "tweedie": 3}
    assert made.forwards == made.calls
    assert (made.nfe, made.nfe_whole, made.outputs) == (8, 12, 3)
    assert made.chain.tolist() == [*range(8), *range(8), *range(4)]
    assert made.output.tolist() == [0] * 8 + [1] * 8 + [2] * 4
    g = o | rv.guide.CFG(2.0)
    c = torch.arange(8) % 3
    told = denoising_mcmc(
        g, 8, classify=exact_levels(o, levels), levels=levels, chains=8, skip=1, burn_in=0, cond={"class_labels": c}
    )
    assert told.calls["moves"], told.forwards["moves"] == (1, 2)


@pytest.mark.parametrize("solver", ["heun", "dpmpp-2m-sde"])
def test_a_chain_has_its_bits_alone(solver: str) -> None:
    o, levels = oracle(), noise_levels(VE, 20)
    given = {"classify": exact_levels(o, levels), "levels": levels, "batch": 4, "burn_in": 3, "solver": solver}
    many = denoising_mcmc(o, 18, chains=9, **given)
    alone = denoising_mcmc(o, 2, chains=1, start=6, **given)
    assert torch.equal(alone.x, many.x[many.chain == 6])
    assert torch.equal(alone.level, many.level[many.chain == 6])
    longer = denoising_mcmc(o, 27, chains=9, **given)
    assert torch.equal(longer.x[:18], many.x)
    other = denoising_mcmc(o, 18, chains=9, seed=1, **given)
    assert not torch.equal(other.x, many.x)


def test_outputs_of_a_chain_are_denoised_with_noise_of_their_own() -> None:
    m = rv.Model(lambda x, t: 0 * x, VE, predicts="x0", shape=(64,))
    levels = [10.0, 5.0]
    made = denoising_mcmc(
        m, 3, classify=lambda y, **_: torch.zeros(len(y), 2), levels=levels, chains=1, batch=1, burn_in=0, skip=1,
        solver="euler-maruyama", steps=3, grid="karras", end="sigma_min", kick=0.0,
    )  # fmt: skip
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(float(torch.corrcoef(made.x[[a, b]])[0, 1])) < 0.5
        assert not torch.equal(made.x[a], made.x[b])


# -- conditions, hooks, networks


def test_conditions_and_guidance_pass_through() -> None:
    o, levels = oracle(), noise_levels(rv.process.ve(0.05, 1.5), 16)
    labels = torch.arange(90) % 3
    given = {
        "classify": exact_levels(o, levels),
        "levels": levels,
        "chains": 90,
        "batch": 90,
        "steps": 4,
        "burn_in": 5,
        "eta": 0.05,
    }
    long = denoising_mcmc(o, 90, cond={"class_labels": labels}, **{**given, "burn_in": 60, "skip": 1})
    off = long.x.double() - MEANS[labels]
    assert (off.norm(dim=1) < 2.2).all()
    assert off.square().mean().sqrt() == pytest.approx(0.4, rel=0.15)
    made = denoising_mcmc(o, 90, cond={"class_labels": labels}, **given)
    third_levels = exact_levels(rv.oracle.Mixture(MEANS[2:], 0.4, process=VE), levels)
    y = even(5)
    same = exact_levels(o, levels)(y, class_labels=torch.full((5,), 2)).log_softmax(1)
    torch.testing.assert_close(same, third_levels(y).log_softmax(1), rtol=1e-9, atol=1e-9)
    one = denoising_mcmc(o, 90, cond={"class_labels": labels}, guide=rv.guide.CFG(1.0), **given)
    torch.testing.assert_close(one.x, made.x)
    guided = denoising_mcmc(o, 90, cond={"class_labels": labels}, guide=rv.guide.CFG(3.0), **given)
    assert (guided.x - made.x).abs().max() > 0.01


def test_hooks_and_inputs_act_on_moves_and_denoising() -> None:
    from reverie.edit.inpaint import Inpaint

    o, levels = oracle(), noise_levels(VE, 24)
    known, mask = MEANS[[0, 1, 2, 1]].float(), torch.tensor([[1.0, 0.0]]).expand(4, 2)
    asked: list[bool] = []

    class Ask:
        def predicted(self, ctx: Any) -> None:
            asked.append(isinstance(ctx.t, Tensor))

    made = denoising_mcmc(
        o, 8, classify=exact_levels(o, levels), levels=levels, chains=4, batch=2, init=known, burn_in=2, skip=3,
        hooks=[Inpaint(), Ask()], inputs={"known": known, "mask": mask},
    )  # fmt: skip
    torch.testing.assert_close(made.x[:, 1], known[:, 1].repeat(2), rtol=1e-5, atol=1e-5)
    assert len(asked) == 2 * (2 + 2 * (3 + 3))
    assert all(asked)


def test_a_network_in_half_precision_and_a_learned_classifier() -> None:
    torch.manual_seed(0)
    levels = noise_levels(rv.process.vp(), 12)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Linear(3, 3)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.tanh(self.w(x)) * 0.5

    m = rv.Model(Net().bfloat16(), rv.process.vp(), predicts="v", shape=(3,))
    head = torch.nn.Linear(3, 12)
    made = denoising_mcmc(m, 6, classify=lambda y, **_: head(y), levels=levels, chains=3, burn_in=2)
    assert made.x.dtype == torch.float32
    assert not made.x.requires_grad
    assert made.x.isfinite().all()


def test_the_objective_is_least_for_the_exact_classifier() -> None:
    o, levels, n = oracle(), torch.tensor([8.0, 2.0, 0.5, 0.1]), 3000
    exact, level, z = exact_levels(o, levels), torch.arange(n) % 4, even(n, 2, 9)
    x0 = o.sample(n, seed=2, dtype=torch.float64)
    best = level_loss(exact, x0, level, z, levels)
    y = x0 + levels.double()[level][:, None] * z
    torch.testing.assert_close(best, -exact(y).log_softmax(1)[torch.arange(n), level].mean())
    tilt = torch.tensor([0.4, 0.0, -0.4, 0.0])
    for f in (lambda y: 1.3 * exact(y), lambda y: 0.7 * exact(y), lambda y: exact(y) + tilt, lambda y: exact(y) - tilt):
        assert level_loss(f, x0, level, z, levels) > best


def test_levels() -> None:
    s = noise_levels(rv.process.ve(0.01, 50.0))
    torch.testing.assert_close(s, 0.01 * 5000 ** torch.linspace(1, 1e-3, 1000, dtype=torch.float64))
    for p in ref.PROCESSES.values():
        t = p.t_of_ratio(noise_levels(p, 50))
        assert (t.diff() < 0).all()
        own_starts("heun", p, t.clamp(max=p.t_max), 2, grid="karras")


def test_errors() -> None:
    o, levels = oracle(), [4.0, 1.0, 0.2]
    flat = lambda y, **_: torch.zeros(len(y), 3)  # noqa: E731
    for change, match in (
        ({"chains": 0}, "chains must be a whole number of at least 1, got 0"),
        ({"skip": 0}, "skip must be a whole number of at least 1"),
        ({"eta": 0.0}, "eta must be positive and finite, got 0.0"),
        ({"pick": "best"}, "unknown pick 'best'"),
        ({"levels": [1.0, 30.0, 2.0]}, r"a level is sigma / alpha above 0.05.*got 30.0"),
        ({"levels": [1.0]}, "levels must be at least 2 numbers"),
        ({"kick": -1.0}, "kick must be finite and at least 0"),
        ({"burn_in": [(3, 0.0)]}, "burn_in is a number of moves or a list"),
        ({"burn_in": -1}, "burn_in must be a whole number of at least 0"),
        ({"init": torch.zeros(3, 2)}, "init with a row for each of 4 chains"),
        ({"tweedie": 0.01}, "tweedie is a sigma / alpha"),
        ({"solver": "ode-adaptive"}, "chooses its steps during the run"),
    ):
        with pytest.raises(ArgumentError, match=match):
            denoising_mcmc(o, 4, **{"classify": flat, "levels": levels, "chains": 4, **change})
    with pytest.raises(ShapeError, match=r"classify gave \(16, 2\); 3 logits for each of 16 samples"):
        denoising_mcmc(o, 4, classify=lambda y, **_: torch.zeros(len(y), 2), levels=levels, chains=4)
    with pytest.raises(NonFiniteError, match=r"classify gave no finite logit for samples \[0, 1"):
        denoising_mcmc(o, 4, classify=lambda y, **_: torch.full((len(y), 3), math.nan), levels=levels, chains=4)
    with pytest.raises(ShapeError, match=r"level must be \(2,\) integers in 0 .. 2"):
        denoising_langevin(o, torch.zeros(2, 2), torch.tensor([0, 3]), 1, classify=flat, levels=levels)
    with pytest.raises(ArgumentError, match="n must be a whole number of at least 2, got 1"):
        noise_levels(VE, 1)
    heavy = rv.process.pfgmpp(4)
    points = rv.oracle.Points([[-1.0], [1.0]], process=heavy)
    with pytest.raises(ArgumentError, match="needs Gaussian noise and no degraded input"):
        denoising_mcmc(points, 4, classify=flat, levels=levels, chains=4)
    with pytest.raises(ShapeError, match="does not know its state's shape"):
        denoising_mcmc(rv.Model(lambda x, t: x, VE), 4, classify=flat, levels=levels)
