"""Bellman's grid: the path by brute force, the costs by their definition, straight flows, and other coordinates."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError, OriginWarning, ShapeError, TimeError
from reverie.solve import bellman_grid, nodes
from reverie.solve.tuning.bellman import _STREAM, _gram, jump_costs, shortest_path

from .. import reference as ref

MEANS = torch.tensor([[-1.0, 0.5, 0.2], [1.0, 0.0, -0.7]], dtype=torch.float64)


def mixture(p: rv.process.Process, std: float = 0.3) -> rv.oracle.Mixture:
    return rv.oracle.Mixture(MEANS, std, labels=[0, 1], process=p)


def found(process: str, steps: int = 4, **more: object) -> rv.solve.BellmanGrid:
    options: dict[str, object] = {"fine": 12, "noises": 20, "dtype": torch.float64, **more}
    return bellman_grid(mixture(ref.PROCESSES[process]), steps, **options)  # type: ignore[arg-type]


def brute(costs: torch.Tensor, steps: int, discount: float = 1.0) -> tuple[float, tuple[int, ...]]:
    """The cheapest of all paths of exactly so many jumps."""
    last, best = len(costs) - 1, (math.inf, ())
    for inner in itertools.combinations(range(1, last), steps - 1):
        path = (0, *inner, last)
        total = sum(discount**k * float(costs[i, j]) for k, (i, j) in enumerate(itertools.pairwise(path)))
        best = min(best, (total, path))
    return best  # type: ignore[return-value]


@pytest.mark.parametrize("discount", [1.0, 1.15, 0.6])
@pytest.mark.parametrize("steps", [1, 2, 4, 11, 12])
def test_the_path_is_the_cheapest_of_all(steps: int, discount: float) -> None:
    """K_max = 12, on costs without any structure."""
    for seed in range(4):
        costs = torch.rand(13, 13, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        total, path = brute(costs, steps, discount)
        got = shortest_path(costs, steps, discount)
        assert got == path
        assert len(got) == steps + 1
        assert total < math.inf


@pytest.mark.parametrize("process", ["flow", "flow3", "vp", "edm", "ddpm"])
@pytest.mark.parametrize("end", ["denoise", "sigma_min"])
def test_the_path_is_never_dearer_than_the_even_one(process: str, end: str) -> None:
    one = found(process, end=end)
    for steps in range(1, 13):
        grid = one.of(steps)
        assert grid.steps == steps
        assert grid.cost() <= grid.cost(grid.even) * (1 + 1e-12)
        assert grid.cost() == pytest.approx(brute(one.costs, steps)[0], rel=1e-12)
    assert one.of(12).times == one.fine
    assert one.of(12).cost() == 0.0


@pytest.mark.parametrize("process", ["flow", "vp", "cosine", "edm", "ddpm"])
@pytest.mark.parametrize("end", ["denoise", "sigma_min"])
def test_costs_are_what_their_definition_says(process: str, end: str) -> None:
    """Every jump, made: DDIM's formula from the states of a plain loop."""
    p = ref.PROCESSES[process]
    n, o = 7, mixture(ref.PROCESSES[process])
    one = bellman_grid(
        o,
        3,
        fine=n,
        noises=5,
        batch=2,
        seed=3,
        end=end,
        dtype=torch.float64,
        cond={"class_labels": torch.tensor([0, 1])},
    )
    at = nodes(p, "time" if process == "flow" else "karras", n, end)
    assert one.fine == tuple(s.t for s in at)
    z = p.draw(rv.base.Noise(3), (3,), range(5), stream=_STREAM, dtype=torch.float64)
    told = {"class_labels": torch.tensor([0, 1, 0, 1, 0])}
    x, states, data = p.prior(z, at[0].t), [], []

    def jump(x: torch.Tensor, d: torch.Tensor, s: rv.solve.Node, t: rv.solve.Node) -> torch.Tensor:
        return t.alpha * d + t.sigma * (x - s.alpha * d) / s.sigma

    for s, t in itertools.pairwise(at):
        d = o(x, s.t, **told).x0
        states, data = [*states, x], [*data, d]
        x = jump(x, d, s, t)
    states.append(x)
    for i in range(n):
        for j in range(i + 1, n + 1):
            want = (jump(states[i], data[i], at[i], at[j]) - states[j]).square().sum(1).mean().item()
            assert one.costs[i, j].item() == pytest.approx(want, rel=1e-9, abs=1e-12)
    assert bool(one.costs.tril().isinf()[torch.ones(n + 1, n + 1, dtype=torch.bool).tril()].all())
    assert (one.evaluations, one.forwards) == (5 * n, 5 * n)


@pytest.mark.parametrize("process", ["flow", "flow3", "vp", "edm"])
def test_straight_flows_cost_nothing(process: str) -> None:
    """Of a single point the prediction is constant, and every jump exact."""
    p = ref.PROCESSES[process]
    point = rv.Model(lambda x, t: torch.full_like(x, 0.7), p, predicts="x0", shape=(4,))
    one = bellman_grid(point, 3, fine=9, noises=8, dtype=torch.float64)
    upper = one.costs[one.costs.isfinite()]
    assert upper.max() < 1e-12 * max(1.0, p.sigma(p.t_max) ** 2)
    bent = found(process, 3)
    assert bent.cost() > 1e-6


def test_euler_on_flows_is_the_papers_cost() -> None:
    """||X_i + (t_j - t_i) V_i - X_j||^2 with the velocity V."""
    p = ref.PROCESSES["flow"]
    o, n = mixture(p), 6
    one = bellman_grid(o, 2, fine=n, noises=4, dtype=torch.float64)
    z = p.draw(rv.base.Noise(0), (3,), range(4), stream=_STREAM, dtype=torch.float64)
    t, x, xs, vs = [1 - k / n for k in range(n + 1)], z, [z], []
    for s, e in itertools.pairwise(t):
        vs.append(o(x, s).flow)
        x = x + (e - s) * vs[-1]
        xs.append(x)
    for i, j in itertools.combinations(range(n + 1), 2):
        want = (xs[i] + (t[j] - t[i]) * vs[i] - xs[j]).square().sum(1).mean().item()
        assert one.costs[i, j].item() == pytest.approx(want, rel=1e-8, abs=1e-13)


def test_costs_on_another_process_of_the_same_problem() -> None:
    """In x / alpha and sigma / alpha every process is one: costs differ by alpha_j^2 alone."""
    vp, flow = ref.PROCESSES["vp"], ref.PROCESSES["flow"]
    ratios = [20.0, 5.0, 2.0, 1.0, 0.4, 0.1]
    made = []
    for p in (vp, flow):
        times = [p.t_of_ratio(r) for r in ratios]
        o = mixture(p)
        alpha = torch.tensor([p.alpha(t) for t in times], dtype=torch.float64)
        at = nodes(p, times, None)
        z = p.draw(rv.base.Noise(1), (3,), range(6), dtype=torch.float64)
        x, kept = rv.run(rv.solve.plan("ddim", p, grid=times), o, 20.0 * alpha[0] * z, record=("x", "x0"))
        made.append(jump_costs(at, _gram([*kept["x"], x, *kept["x0"]]) / 6) / alpha.square())
        assert made[-1].isfinite().sum() == 15
    upper = made[0].isfinite()
    assert torch.allclose(made[0][upper], made[1][upper], rtol=1e-7, atol=1e-11)


def test_batches_and_guidance_and_conditions() -> None:
    o = mixture(ref.PROCESSES["vp"])
    told = {"class_labels": torch.tensor([0, 1, 1])}
    more = {"fine": 8, "noises": 7, "cond": told, "dtype": torch.float64}
    whole, parts = (bellman_grid(o, 3, batch=b, **more) for b in (7, 2))  # type: ignore[arg-type]
    upper = whole.costs.isfinite()
    assert torch.allclose(whole.costs[upper], parts.costs[upper], rtol=1e-10, atol=1e-13)
    guided = bellman_grid(o | rv.guide.CFG(4.0), 3, **more)  # type: ignore[arg-type]
    assert not torch.allclose(guided.costs[upper], whole.costs[upper])
    assert (guided.evaluations, guided.forwards) == (56, 112)
    free = bellman_grid(o, 3, **{**more, "cond": None})  # type: ignore[arg-type]
    assert not torch.allclose(free.costs[upper], whole.costs[upper])


def test_the_grid_serves_any_solver_and_is_cited() -> None:
    one = found("vp", 5)
    plan = one.plan("dpmpp-2m")
    assert (plan.nfe, plan.grid, plan.times) == (5, "given", one.times)
    assert {"boss", "dpm-solver-pp"} <= set(plan.papers)
    assert plan.provenance["grid"] == "bellman"
    x = torch.zeros(2, 3)
    rv.run(plan, mixture(one.process), x)
    with pytest.warns(OriginWarning, match="fitted to"):
        rv.run(plan, mixture(one.process, 0.5), x)
    assert rv.solve.plan("heun", one.process, grid=one.times).steps == 5
    assert one.of(3, 1.15).discount == 1.15
    assert one.of(3, 1e6).indices != one.of(3, 1e-6).indices
    assert one.of(3, 1e-6).indices[1] == 1, "only the first jump counts, and the shortest is free"


def test_what_does_not_fit_is_refused() -> None:
    o = mixture(ref.PROCESSES["vp"])
    for wrong in ({"steps": 0}, {"steps": True}, {"steps": 2.0}, {"fine": 0}, {"noises": 0}, {"batch": 0}):
        with pytest.raises(ArgumentError, match=f"{next(iter(wrong))} must be a whole number"):
            bellman_grid(o, **{"steps": 2, "fine": 4, "noises": 2, **wrong})  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="do not fit into a fine grid of 4"):
        bellman_grid(o, 5, fine=4)
    with pytest.raises(TimeError):
        bellman_grid(o, 2, grid=[2.0, 1.0, 0.5])
    with pytest.raises(ShapeError, match="give shape="):
        bellman_grid(rv.Model(lambda x, t: x, o.process), 2)
    one = found("vp", 2, fine=4, noises=2)
    for steps in (0, 5, 2.0):
        with pytest.raises(ArgumentError, match="from 1 to 4"):
            one.of(steps)  # type: ignore[arg-type]
    for discount in (0.0, -1.0, math.inf, math.nan, "1"):
        with pytest.raises(ArgumentError, match="discount must be"):
            one.of(2, discount)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="discount must be"):
        found("vp", 2, fine=4, noises=2, discount=-1.0)
