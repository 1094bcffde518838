"""DPM-Solver-v3: its limits, what it is exact for, and its table against the paper's formulas written as a loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError, FileError
from reverie.solve import Statistics, check_order, unroll
from reverie.solve.dpm_v3 import integrals

from . import reference as ref

P = ref.PROCESSES["vp"]
KNOTS = torch.linspace(-6, 6, 25, dtype=torch.float64)


def curved(p: Any, b: float = 0.3) -> Statistics:
    """Statistics of which every function bends."""
    s = -1.2 * torch.sigmoid(KNOTS + 0.3) + 0.2 * (KNOTS / 2).sin()
    return Statistics(p, KNOTS, torch.sigmoid(-1.5 * KNOTS + 0.2), s, b * torch.exp(-(KNOTS**2) / 4))


def at(p: Any, lams: Any) -> list[float]:
    return [p.t_of_lam(float(v)) for v in lams]


def flow_of(p: Any, statistics: Statistics, f: Callable[[float], float]) -> rv.Model:
    """The model whose f is a function of lam alone: its x0 is (1 - l) y - f."""

    def net(x: Tensor, t: Tensor) -> Tensor:
        lam = p.lam(float(t[0]))
        l = float(statistics.at(torch.tensor([lam], dtype=torch.float64))[0])
        return (1 - l) * x / p.alpha(float(t[0])) - f(lam)

    return rv.Model(net, p, predicts="x0")


# ---- limits


@pytest.mark.parametrize("end", ["denoise", "sigma_min"])
@pytest.mark.parametrize(("order", "twin"), [(1, "ddim"), (2, "dpmpp-2m"), (3, "dpmpp-3m")])
def test_without_statistics_the_predictor_is_the_multistep_one_of_data_prediction(end, order, twin):
    taylor = {} if order == 1 else {"variant": "taylor"}
    mine = unroll(rv.solve.plan("dpm-v3", P, steps=7, end=end, order=order, corrector=False))
    assert mine.distance(unroll(rv.solve.plan(twin, P, steps=7, end=end, **taylor))) < 1e-12


@pytest.mark.parametrize(("order", "twin"), [(1, "ddim"), (2, "dpm-2m")])
def test_l_0_and_s_minus_1_is_noise_prediction(order, twin):
    taylor = {} if order == 1 else {"variant": "taylor"}
    noise = Statistics.constant(P, l=0.0, s=-1.0)
    mine = unroll(rv.solve.plan("dpm-v3", P, steps=7, order=order, corrector=False, statistics=noise))
    assert mine.distance(unroll(rv.solve.plan(twin, P, steps=7, **taylor))) < 1e-12


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("l", [0.0, 0.3, 1.0])
def test_constant_data_are_exact_at_every_order(l, order):
    """x0 = c has f' = -f - l c along the ODE, whatever l: s = -1, b = -l c; or s = 0, b = 0 where l = 1."""
    c = torch.tensor([0.7, -1.3], dtype=torch.float64)
    exact = Statistics.constant(P, l, *((-1.0, -l * c) if l < 1 else (0.0, 0.0)))
    x, grid = torch.ones(1, 2, dtype=torch.float64), at(P, (-3.0, -1.2, 0.1, 1.8, 2.5))
    plan = rv.solve.plan("dpm-v3", P, grid=grid, order=order, statistics=exact)
    made = rv.run(plan, rv.Model(lambda x, t: c.expand_as(x), P, predicts="x0"), x)
    s, t = grid[0], grid[-1]
    assert torch.allclose(made, P.alpha(t) * c + P.sigma(t) / P.sigma(s) * (x - P.alpha(s) * c), atol=1e-11)


# ---- what it is exact for


@pytest.mark.parametrize("s", [-1.4, 0.5])
def test_order_1_is_exact_where_f_obeys_its_law(s):
    """f' = s f + b, l, s, b constant: f = (f_0 + b / s) exp(s u) - b / s, and y' = -l y - f in closed form."""
    l, b, f0, start = 0.35, 0.8, -0.6, -2.0
    law = Statistics.constant(P, l, s, b)

    def f(lam: float) -> float:
        return (f0 + b / s) * math.exp(s * (lam - start)) - b / s

    x, grid = torch.tensor([[0.4]], dtype=torch.float64), at(P, (start, 1.5))
    plan = rv.solve.plan("dpm-v3", P, grid=grid, order=1, statistics=law)
    u, y = 3.5, 0.4 / P.alpha(grid[0])
    forced = (f0 + b / s) * (math.exp(s * u) - math.exp(-l * u)) / (s + l) - b / s * (1 - math.exp(-l * u)) / l
    want = P.alpha(grid[1]) * (y * math.exp(-l * u) - forced)
    assert float(rv.run(plan, flow_of(P, law, f), x)) == pytest.approx(want, abs=1e-11)


@pytest.mark.parametrize("corrector", [False, True])
def test_order_3_is_exact_where_g_is_a_parabola(corrector):
    """f = exp(S) (g + beta) with g quadratic in lam: every row with three nodes is exact from the state before it."""
    law = Statistics.constant(P, 0.35, -0.9, 0.5)
    lams = (-2.0, -1.3, -0.2, 0.5, 1.6, 2.0)

    def f(lam: float) -> float:
        u = lam - lams[0]
        beta = 0.5 * (math.exp(0.9 * u) - 1) / 0.9
        return math.exp(-0.9 * u) * (0.3 - 0.7 * u + 0.4 * u**2 + beta)

    def exact(y: float, a: float, b: float) -> float:
        grid = np.linspace(a, b, 2001)
        values = np.array([f(v) for v in grid]) * np.exp(-0.35 * (b - grid))
        h = (b - a) / 2000
        simpson = h / 3 * (values[0] + values[-1] + 4 * values[1:-1:2].sum() + 2 * values[2:-1:2].sum())
        return y * math.exp(-0.35 * (b - a)) - float(simpson)

    grid = at(P, lams)
    plan = rv.solve.plan("dpm-v3", P, grid=grid, statistics=law, corrector=corrector, lower_final=False)
    x = torch.tensor([[0.4]], dtype=torch.float64)
    end, kept = rv.run(plan, flow_of(P, law, f), x, record=("x",))
    states = [float(v) for v in (*kept["x"], end)]
    seen = 0
    for k, stage in enumerate(plan.table):
        if stage.inner:  # restarts from where the step before began
            base = max(j for j in range(k) if plan.table[j].step == stage.step - 1)
            if stage.step < 4:  # its predictor had fewer nodes
                continue
            a, b = lams[stage.step - 1], lams[stage.step]
        else:
            if stage.step < 2:
                continue
            base, a, b = k, lams[stage.step], lams[stage.step + 1]
        want = P.alpha(P.t_of_lam(b)) * exact(states[base] / P.alpha(P.t_of_lam(a)), a, b)
        assert states[k + 1] == pytest.approx(want, abs=1e-9)
        seen += 1
    assert seen == (4 if corrector else 3)


def test_the_integrals_over_two_parts_are_those_over_the_whole():
    e = curved(P)
    one, two, whole = integrals(e, -2.1, 0.3, 2), integrals(e, 0.3, 1.9, 2), integrals(e, -2.1, 1.9, 2)
    assert whole.linear == pytest.approx(one.linear + two.linear, abs=1e-13)
    assert whole.beta == pytest.approx(one.beta + math.exp(-one.scale) * two.beta, abs=1e-12)
    size = math.exp(one.linear + one.scale)
    assert whole.weights[0] == pytest.approx(one.weights[0] + size * two.weights[0], rel=1e-12)
    assert whole.weights[1] == pytest.approx(one.weights[1] + size * (two.weights[1] + 2.4 * two.weights[0]), rel=1e-12)
    rest = size * (two.constant * math.exp(-one.scale) + one.beta * two.weights[0])
    assert whole.constant == pytest.approx(one.constant + rest, rel=1e-11)
    back = integrals(e, 0.3, -2.1)
    assert back.scale == pytest.approx(-one.scale, abs=1e-13)
    assert back.beta == pytest.approx(-math.exp(one.scale) * one.beta, rel=1e-12)


# ---- the paper's loop


def loop(
    p: Any, e: Statistics, data: ref.Data, lams: list[float], x: Tensor, options: dict[str, Any], denoise: bool
) -> Tensor:
    """The solver in the paper's tables L, S, I, B, C on a dense grid of lam, of which the nodes are members; it keeps eps."""
    order, corrector, pseudo, pseudo_corrector, lower = options.values()
    dense = np.linspace(-6, 6, 48001)
    spot = [int(np.argmin(abs(dense - v))) for v in lams]
    l, s, b = (np.interp(dense, e.lam.numpy(), c.numpy()) for c in (e.l, e.s, e.b))

    def along(rate: np.ndarray) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum((rate[1:] + rate[:-1]) / 2) * (dense[1] - dense[0])])

    big_l, big_s = along(l), along(s)
    big_b, big_i = along(np.exp(-big_s) * b), along(np.exp(big_l + big_s))
    big_c = along(np.exp(big_l + big_s) * big_b)
    alpha, sigma = ([f(p.t_of_lam(v)) for v in lams] for f in (p.alpha, p.sigma))
    eps: list[Tensor] = []
    states: list[Tensor] = []

    def step(i: int, nodes: list[int], to: int, fake: bool) -> Tensor:
        a, z = spot[i], spot[to]
        g = []
        for j in nodes:
            f = (sigma[j] * eps[j] - l[spot[j]] * states[j]) / alpha[j]
            c = spot[j]
            g.append(np.exp(big_s[a] - big_s[c]) * f - np.exp(big_s[a]) * (big_b[c] - big_b[a]))
        away = np.array([lams[j] - lams[i] for j in nodes[1:]])
        if fake:  # divided differences of the first nodes
            table, places, top = list(g), [lams[j] for j in nodes], []
            for k in range(1, len(g)):
                table = [(table[m + 1] - table[m]) / (places[m + k] - places[m]) for m in range(len(table) - 1)]
                top.append(math.factorial(k) * table[0])
        else:
            inverse = np.linalg.inv(away[:, None] ** np.arange(1, len(nodes))) if len(nodes) > 1 else np.zeros((0, 0))
            top = [
                math.factorial(k + 1) * sum(float(inverse[k, m]) * (g[m + 1] - g[0]) for m in range(len(away)))
                for k in range(len(away))
            ]
        d_i = big_i[z] - big_i[a]
        x = alpha[to] / alpha[i] * np.exp(big_l[a] - big_l[z]) * states[i]
        x = x - alpha[to] * np.exp(-big_l[z] - big_s[a]) * d_i * g[0]
        x = x - alpha[to] * np.exp(-big_l[z]) * (big_c[z] - big_c[a] - big_b[a] * d_i)
        for k, slope in enumerate(top, 1):
            inside = np.exp(big_l + big_s - big_l[a] - big_s[a]) * (dense - dense[a]) ** k / math.factorial(k)
            whole = along(inside)
            x = x - alpha[to] * np.exp(big_l[a] - big_l[z]) * (whole[z] - whole[a]) * slope
        return x

    n, last = len(lams) - 1 + denoise, 0
    for i in range(len(lams)):
        if i == len(lams) - 1 and not denoise:
            return x
        eps.append(ref_eps(p, data, x, p.t_of_lam(lams[i])))
        states.append(x)
        count = last + pseudo_corrector
        if corrector and last and count > 1:
            kept = sigma[i] * eps[i] - l[spot[i]] * x
            x = step(i - 1, [i - 1, i, *range(i - 2, i - count, -1)], i, pseudo_corrector)
            eps[i], states[i] = (kept + l[spot[i]] * x) / sigma[i], x
        if i == len(lams) - 1:
            return (x - sigma[i] * eps[i]) / alpha[i]
        last = min(order, i + 1, n - i if lower else order)
        x = step(i, list(range(i, i - last, -1)), i + 1, pseudo)
    return x


def ref_eps(p: Any, data: ref.Data, x: Tensor, t: float) -> Tensor:
    return (x - p.alpha(t) * data(x, t)) / p.sigma(t)


@pytest.mark.parametrize("process", ["vp", "edm", "flow", "ddpm"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"corrector": False},
        {"order": 2},
        {"order": 1, "pseudo_corrector": True},
        {"pseudo": True, "corrector": False},
        {"pseudo_corrector": True, "lower_final": False},
        {"lower_final": False},
    ],
    ids=str,
)
def test_the_table_is_the_papers_loop(process, options):
    p = ref.PROCESSES[process]
    lams = [-4.0, -2.7, -1.9, -0.4, 0.3, 1.7, 2.5]
    e, (means, std) = curved(p), ref.mixture(4, 3)
    data = ref.data_of(p, means, std)
    given = {"order": 3, "corrector": True, "pseudo": False, "pseudo_corrector": False, "lower_final": True, **options}
    x = p.prior(torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64), p.t_of_lam(-4.0))
    for denoise in (False, True):
        grid = at(p, lams) + ([p.t_clean] if denoise else [])
        plan = rv.solve.plan("dpm-v3", p, grid=grid, statistics=e, **options)
        assert plan.nfe == len(grid) - 1
        made = rv.run(plan, ref.model_of(p, "x0", data), x)
        want = loop(p, e, data, lams, x, given, denoise)
        assert torch.allclose(made, want, atol=1e-6, rtol=1e-6), (made - want).abs().max()


def test_coordinates_of_their_own_are_as_many_numbers():
    """Statistics per coordinate: column d of the run is the run with the numbers of d, for a model that works on each alone."""
    e = curved(P)
    each = [Statistics(P, KNOTS, e.l * (1 - 0.2 * d), e.s + 0.3 * d, e.b - 0.2 * d) for d in range(3)]
    whole = Statistics(P, KNOTS, *(torch.stack([getattr(one, c) for one in each], 1) for c in ("l", "s", "b")))
    m = rv.Model(lambda x, t: torch.tanh(x), P, predicts="x0")
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    made = rv.run(rv.solve.plan("dpm-v3", P, steps=6, statistics=whole), m, x)
    for d, one in enumerate(each):
        alone = rv.run(rv.solve.plan("dpm-v3", P, steps=6, statistics=one), m, x)
        assert torch.allclose(made[:, d], alone[:, d], atol=1e-12)


# ---- order


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({"corrector": False}, 3),
        ({"order": 2}, 2),
        ({"order": 2, "corrector": False}, 2),
        ({"order": 1}, 1),
        ({"order": 1, "pseudo_corrector": True}, 2),
        ({"pseudo": True, "corrector": False}, 2),
        ({"pseudo": True}, 3),
        ({"pseudo_corrector": True}, 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("own", [False, True], ids=["data", "statistics"])
def test_order(options, order, own):
    smooth = Statistics(
        P,
        torch.tensor([-9.0, 9.0]),
        torch.tensor([1.2, 0.1]),
        torch.tensor([0.3, -1.0]),
        torch.tensor([0.2, -0.3]),
    )
    check = check_order("dpm-v3", P, **({"statistics": smooth} if own else {}), **options)
    assert check.declared == order
    assert check.order == order, check


# ---- as an option of a plan


def test_a_flow_begins_without_signal():
    """alpha = 0 and lam infinite at the start: that step is DDIM's, and later ones do not look back to it."""
    p = ref.PROCESSES["flow"]
    e = curved(p)
    for options in ({}, {"pseudo_corrector": True}):
        plan = rv.solve.plan("dpm-v3", p, grid=[1.0, 0.8, 0.6, 0.4, 0.2, 0.0], statistics=e, **options)
        first = rv.solve.plan("ddim", p, grid=[1.0, 0.8, 0.0]).table[0].row.terms
        assert plan.table[0].row.terms == pytest.approx(first)
        assert all(key not in (("x", 0), ("p", 0, 0)) for stage in plan.table[2:] for key in stage.row.terms)


def test_saved_and_loaded(tmp_path: Path):
    e = curved(P)
    e.save(tmp_path / "e.safetensors")
    made = [rv.solve.plan("dpm-v3", P, steps=5, statistics=what) for what in (e, str(tmp_path / "e.safetensors"))]
    assert [s.row.terms for s in made[0].table] == [s.row.terms for s in made[1].table]
    assert f"statistics=<numbers, 25 knots, {e.spec()['sha256'][:8]}>" in str(made[0])
    m, x = rv.Model(lambda x, t: torch.tanh(x), P, predicts="v"), torch.ones(2, 3, dtype=torch.float64)
    for plan in made:
        plan.save(tmp_path / "plan.json")
        loaded = rv.Plan.load(tmp_path / "plan.json")
        assert torch.equal(rv.run(loaded, m, x), rv.run(plan, m, x))
        assert loaded.papers == ("dpm-solver-v3",)
    made[0].save(tmp_path / "plan.json")
    described = rv.Plan.load(tmp_path / "plan.json").options["statistics"]
    assert described["sha256"] == e.spec()["sha256"]
    with pytest.raises(ArgumentError, match="give statistics= again"):
        rv.solve.plan("dpm-v3", P, steps=5, statistics=described)


def test_a_plan_with_statistics_repeats():
    plan = rv.solve.plan("dpm-v3", P, steps=6, statistics=curved(P))
    again = plan.repeat(2, length=3)
    assert again.nfe == 12
    m = rv.Model(lambda x, t: torch.tanh(x), P, predicts="x0")
    assert rv.run(again, m, torch.ones(2, 3)).isfinite().all()


def test_errors():
    plan = rv.solve.plan
    with pytest.raises(ArgumentError, match="order of 'dpm-v3' is 1, 2 or 3, got 4"):
        plan("dpm-v3", P, steps=5, order=4)
    with pytest.raises(ArgumentError, match="or its file, got 3"):
        plan("dpm-v3", P, steps=5, statistics=3)
    with pytest.raises(ArgumentError, match="the plan is of"):
        plan("dpm-v3", rv.process.edm(), steps=5, statistics=curved(P))
    with pytest.raises(FileError, match="none"):
        plan("dpm-v3", P, steps=5, statistics="/none")
