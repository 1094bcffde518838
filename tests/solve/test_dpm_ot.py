"""Semi-discrete transport: cells of equal mass, a linear program, quantiles, invariances; and runs that start from it."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError, NonFiniteError, ShapeError
from reverie.measure import memorised, nearest_distance
from reverie.solve.dpm_ot import SemiDiscrete, TransportStart

N = 64


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def cloud() -> Tensor:
    """64 points, neither centred nor round."""
    return normal(N, 2, 1) * torch.tensor([1.0, 0.5]) + torch.tensor([2.0, 0.0])


@functools.cache
def fitted() -> SemiDiscrete:
    return SemiDiscrete.fit(cloud(), seed=2)


# -- the map


def test_cells_have_equal_mass_and_the_transport_costs_what_a_linear_program_finds() -> None:
    ot, draws = fitted(), 100_000
    off = (ot.masses(draws) - 1 / N) / math.sqrt((1 - 1 / N) / N / draws)
    assert off.abs().max() < 3.2  # 64 standard errors: one lies beyond 3 with probability 0.16 by chance alone
    assert off.square().mean().sqrt() < 1.35
    z = normal(N * 31, 2, 5).double()
    y = cloud().double()
    cost = torch.cdist(z, y.repeat_interleave(31, 0)).square()
    rows, columns = linear_sum_assignment(cost.numpy())
    least = float(cost[rows, columns].mean())
    own = float((z - ot(z)).square().sum(1).mean())
    assert own == pytest.approx(least, rel=0.01)
    nearest = SemiDiscrete(cloud(), -cloud().double().square().sum(1) / 2)  # the test can tell
    assert abs(float((z - nearest(z)).square().sum(1).mean()) / least - 1) > 0.2


def test_the_map_is_monotone() -> None:
    """(z - z') . (T(z) - T(z')) >= 0 for every pair, as for any gradient of a convex function."""
    z = normal(300, 2, 6)
    y = fitted()(z)
    assert ((z[:, None] - z) * (y[:, None] - y)).sum(2).min() > -1e-5
    values = (z @ cloud().T).double() + fitted().heights
    assert torch.equal(fitted().cell(z), values.argmax(1))


def test_on_a_line_the_cells_are_quantiles() -> None:
    y = torch.tensor([[0.3], [-1.0], [2.0], [0.9], [-4.0]])
    ot = SemiDiscrete.fit(y, draws=200, rounds=4)
    order = y[:, 0].argsort()
    v, h = y[order, 0].double(), ot.heights[order]
    ends = (h[:-1] - h[1:]) / (v[1:] - v[:-1])
    quantiles = torch.special.ndtri(torch.arange(1, 5, dtype=torch.float64) / 5)
    assert (ends - quantiles).abs().max() < 0.02
    assert ot(torch.tensor([[-9.0], [9.0]])).flatten().tolist() == [-4.0, 2.0]


def test_what_changes_no_cell() -> None:
    z, ot = normal(500, 2, 7), fitted()
    assert torch.equal(SemiDiscrete(ot.targets, ot.heights + 9.0).cell(z), ot.cell(z))
    scaled = SemiDiscrete(7 * ot.targets, 7 * ot.heights)
    assert torch.equal(scaled.cell(z), ot.cell(z))
    moved = SemiDiscrete(ot.targets + 40.0, ot.heights)
    assert (moved.cell(z) == ot.cell(z)).float().mean() > 0.99
    few, brief = cloud()[:12], SemiDiscrete.fit(cloud()[:12], rounds=1)
    for k in (1e-3, 50.0):  # the fit itself knows no unit
        other = SemiDiscrete.fit(k * few, rounds=1)
        torch.testing.assert_close(other.heights, k * brief.heights, rtol=1e-3, atol=1e-3 * k)
    assert ot.heights.mean().abs() < 1e-9
    again = SemiDiscrete(**ot.tensors())
    assert torch.equal(again(z), ot(z))
    assert torch.equal(SemiDiscrete.fit(few, rounds=1).heights, brief.heights)
    pictures = SemiDiscrete(ot.targets.reshape(N, 1, 2, 1), ot.heights)
    assert torch.equal(pictures(z.reshape(-1, 1, 2, 1)).flatten(1), ot(z))


def test_far_targets_and_many() -> None:
    """An outlier, whose nearest-neighbour cell is empty, gets its mass; more targets than are taken at a time."""
    y = torch.cat([normal(20, 2, 3), torch.tensor([[60.0, 60.0]])])
    ot = SemiDiscrete.fit(y, draws=100, rounds=1)
    assert float(ot.masses(50_000)[-1]) == pytest.approx(1 / 21, rel=0.15)
    many = SemiDiscrete(normal(2300, 3, 4), torch.zeros(2300, dtype=torch.float64))
    z = normal(200, 3, 5)
    assert torch.equal(many.cell(z), (z @ (many.targets - many.targets.mean(0)).T).argmax(1))


def test_two_targets_that_nearly_coincide() -> None:
    """The mean of a round's heights may leave one of the two nothing where its last heights do not: then the steps get shorter still."""
    y = normal(12, 2, 0)
    y[1] = y[0] + torch.tensor([1e-4, 0.0])
    for seed in (0, 1):
        masses = SemiDiscrete.fit(y, seed=seed, patience=20).masses(50_000)
        assert masses.min() > 0
        assert float(masses[:2].sum()) == pytest.approx(1 / 6, rel=0.1)


def test_what_the_fit_reports() -> None:
    ot = fitted()
    assert ot.draws == 10 * N * 8
    assert ot.error == pytest.approx(math.sqrt(N / ot.draws), rel=0.35)  # counting is all that is left
    loose = SemiDiscrete.fit(cloud(), seed=2, tol=0.6)
    assert loose.iterations < ot.iterations
    assert loose.error <= 0.6


# -- runs


MODES = 8.0 * torch.stack([torch.tensor([math.cos(a), math.sin(a)]) for a in torch.arange(6) * math.pi / 3])


def gmm() -> rv.oracle.Mixture:
    return rv.oracle.Mixture(MODES, 0.3, process=rv.process.vp())


def between_modes(x: Tensor) -> float:
    """The share of samples farther than 4 standard deviations from every mode."""
    return float((nearest_distance(x, MODES) > 4 * 0.3).double().mean())


def test_fewer_samples_between_modes_than_ddim_and_ddpm_at_six_evaluations() -> None:
    o = gmm()
    plan = rv.solve.plan("dpmpp-2m-sde", o.process, 6, span=(0.45, 0))
    begin = TransportStart.fit(o.sample(96, seed=3), plan)
    made = rv.sample(o, 600, plan=plan, hooks=begin, batch=100)
    share = between_modes(made)
    for name in ("ddim", "ddpm"):
        assert share <= 0.5 * between_modes(rv.sample(o, 600, solver=name, steps=6, batch=100))
    counts = torch.cdist(made, MODES).argmin(1).bincount(minlength=6)
    taken = torch.cdist(o.sample(96, seed=3), MODES).argmin(1).bincount(minlength=6) / 96
    assert float(((counts / 600 - taken) ** 2 / taken).sum() * 600) < 20.5  # 0.1 % of 5 degrees of freedom


def test_a_deterministic_plan_gives_the_latents_flow_and_a_stochastic_one_new_samples() -> None:
    o, data = gmm(), gmm().sample(24, seed=3)
    drift = rv.solve.plan("dpmpp-2m", o.process, 40, span=(0.3, 0))
    begin = TransportStart.fit(data, drift, rounds=1)
    made = rv.sample(o, 60, plan=drift, hooks=begin, batch=60)
    z = rv.base.Noise(0).normal((2,), range(60))
    which = begin.ot.cell(z)
    flow = o.solve(begin.ot.targets, t=drift.start, t_end=0.0)
    assert (made - flow[which]).abs().max() < 0.03
    first = {int(c): made[which == c] for c in which.unique()}
    assert all((x - x[0]).abs().max() < 1e-4 for x in first.values())
    new = rv.sample(o, 60, plan=rv.solve.plan("dpmpp-2m-sde", o.process, 40, span=(0.3, 0)), hooks=begin, batch=60)
    repeated = [new[which == c] for c in which.unique() if int((which == c).sum()) > 1]
    assert all((x[1:] - x[0]).norm(dim=1).min() > 1e-3 for x in repeated)


def test_novelty_falls_with_the_noise_of_the_start() -> None:
    """Near the end a run is retrieval: its samples are training points."""
    o, data = gmm(), gmm().sample(48, seed=3)
    rates, distances = [], []
    for u in (0.02, 0.12, 0.5):
        plan = rv.solve.plan("dpmpp-2m-sde", o.process, 8, span=(u, 0))
        begin = TransportStart.fit(data, plan, rounds=1)
        made = rv.sample(o, 200, plan=plan, hooks=begin, batch=100)
        rates.append(float(memorised(made, data).double().mean()))
        distances.append(float(nearest_distance(made, data).median()))
    assert rates[0] > 0.5 > rates[2]
    assert rates == sorted(rates, reverse=True)
    assert distances == sorted(distances)


@pytest.mark.parametrize("process", [rv.process.edm(), rv.process.flow(), rv.process.vp("cosine")])
def test_any_process_and_the_same_bits_in_any_job(process: Any) -> None:
    o = rv.oracle.Mixture(MODES, 0.3, process=process)
    plan = rv.solve.plan("dpmpp-2m-sde", process, 5, span=(0.3, 0))
    begin = TransportStart.fit(o.sample(20, seed=1), plan, rounds=1)
    many = rv.sample(o, 10, plan=plan, hooks=begin, batch=4)
    assert torch.equal(rv.sample(o, 1, start=6, plan=plan, hooks=begin, batch=4)[0], many[6])
    seen: list[Tensor] = []

    class See:
        def start(self, ctx: Any) -> None:
            seen.append(ctx.x)

    rv.sample(o, 4, plan=plan, hooks=[begin, See()], batch=4)
    assert torch.equal(seen[0], begin.ot(rv.base.Noise(0).normal((2,), range(4))))
    noise = rv.base.Noise(0).normal((2,), range(20), 0, rv.base.DATA)
    torch.testing.assert_close(begin.ot.targets, process.perturb(o.sample(20, seed=1), plan.start, noise))


def test_with_guidance_and_a_network_in_half_precision() -> None:
    o = gmm()
    plan = rv.solve.plan("ddim", o.process, 5, span=(0.3, 0))
    begin = TransportStart.fit(o.sample(20, seed=1), plan, rounds=1)
    labels = torch.arange(6)
    one = rv.sample(o, 6, plan=plan, hooks=begin, cond={"class_labels": labels})
    same = rv.sample(o, 6, plan=plan, hooks=begin, cond={"class_labels": labels}, guide=rv.guide.CFG(1.0))
    torch.testing.assert_close(one, same)
    half = rv.Model(torch.nn.Linear(2, 2).bfloat16(), o.process, predicts="v", shape=(2,))
    half = half.with_net(Told(half.net))
    assert rv.sample(half, 6, plan=plan, hooks=begin).dtype == torch.float32


class Told(torch.nn.Module):
    """A network that hears the time."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x)


def test_errors() -> None:
    y = cloud()
    for bad, kind, match in (
        (y[:1], ShapeError, r"n >= 2, got torch.float32 \(1, 2\)"),
        (y.long(), ShapeError, "torch.int64"),
        (y * math.nan, NonFiniteError, "hold NaN or infinity"),
        (torch.ones(5, 2), ArgumentError, "all 5 targets are equal"),
    ):
        with pytest.raises(kind, match=match):
            SemiDiscrete.fit(bad)
    for options, match in (
        ({"draws": 0}, "draws must be a whole number of at least 1, got 0"),
        ({"iterations": 1.5}, "iterations must be a whole number"),
        ({"lr": 0.0}, "lr > 0"),
        ({"decay": 1.1}, "0 < decay <= 1"),
        ({"iterations": 1}, "of 64 cells are empty after 1 iterations; raise iterations"),
    ):
        with pytest.raises(ArgumentError, match=match):
            SemiDiscrete.fit(y, **options)
    with pytest.raises(ShapeError, match=r"the targets have shape \(2,\), the noise \(3,\)"):
        fitted()(torch.zeros(1, 3))
    with pytest.raises(ShapeError, match=r"heights \(n,\), got \(64, 2\) and \(3,\)"):
        SemiDiscrete(y, torch.zeros(3))
    o = gmm()
    begin = TransportStart(fitted(), 0.3)
    with pytest.raises(ArgumentError, match=r"noised to t = 0.3, the plan starts at 1;"):
        rv.sample(o, 2, solver="ddim", steps=3, hooks=begin)
    heavy = rv.process.pfgmpp(8)
    points = rv.oracle.Points(MODES, process=heavy)
    plan = rv.solve.plan("ddim", heavy, 3)
    with pytest.raises(ArgumentError, match="TransportStart is for Gaussian noise"):
        rv.sample(points, 2, plan=plan, hooks=TransportStart(fitted(), plan.start))
