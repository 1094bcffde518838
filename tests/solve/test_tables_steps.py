"""One-step, stochastic and predictor-corrector solvers against plain loops from their papers, in float64."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv

from . import reference as ref
from . import reference_steps as one
from .test_tables_multistep import (
    DATA,
    ENDS,
    MEANS,
    PROCESSES,
    REMEMBERED,
    STD,
    Loop,
    close,
    compare,
    draws,
    runs,
    start,
    uneven,
)


def rk(**options: Any) -> Loop:
    return lambda p, d, t, x, z: one.rk_deis(p, d, t, x, **options)


def pc(**options: Any) -> Loop:
    return lambda p, d, t, x, z: one.pc(p, d, t, x, z, **options)


def stray(loop: Any, **options: Any) -> Loop:
    return lambda p, d, t, x, z: loop(p, d, t, x, z, **options)


SOLVERS: dict[str, tuple[str, dict[str, Any], Loop]] = {
    "rk-deis": ("rk-deis", {}, rk(method="kutta")),  # the released default
    **{f"rk-deis, {m}": ("rk-deis", {"method": m}, rk(method=m)) for m in one.TABLEAUS},
    "kdpm-2": ("kdpm-2", {}, stray(one.kdpm_2)),
    "kdpm-2-a": ("kdpm-2-a", {}, stray(one.kdpm_2, eta=1.0)),
    "kdpm-2-a, eta": ("kdpm-2-a", {"eta": 0.6}, stray(one.kdpm_2, eta=0.6)),
    "euler-a": ("euler-a", {}, stray(one.euler_a)),
    "euler-a, eta": ("euler-a", {"eta": 0.6}, stray(one.euler_a, eta=0.6)),
    "2s-sde": ("dpmpp-2s-sde", {}, stray(one.dpmpp_2s_sde)),
    "2s-sde, eta": ("dpmpp-2s-sde", {"eta": 0.4}, stray(one.dpmpp_2s_sde, eta=0.4)),
    "2s-sde, r1": ("dpmpp-2s-sde", {"eta": 1.5, "r1": 0.3}, stray(one.dpmpp_2s_sde, eta=1.5, r=0.3)),
    "dpm-2s, grid": ("dpm-2s", {"inner": "grid"}, lambda p, d, t, x, z: one.grid_singlestep(p, d, t, x, True)),
    "dpmpp-2s, grid": ("dpmpp-2s", {"inner": "grid"}, lambda p, d, t, x, z: one.grid_singlestep(p, d, t, x, False)),
    "euler-maruyama": ("euler-maruyama", {}, stray(one.euler_maruyama)),
    "pc": ("pc", {}, pc()),
    "pc, 0": ("pc", {"corrections": 0}, pc(corrections=0)),
    "pc, 2": ("pc", {"corrections": 2, "snr": 0.05}, pc(corrections=2, snr=0.05)),
    "pc, em": ("pc", o := {"predictor": "euler-maruyama", "snr": 0.1}, pc(**o)),
    "pc, ancestral": ("pc", o := {"predictor": "ancestral"}, pc(**o)),
    "pc, ancestral, 0": ("pc", o := {"predictor": "ancestral", "corrections": 0}, pc(**o)),
    "lcm": ("lcm", {}, stray(one.lcm)),
}


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("case", SOLVERS)
def test_trajectory_is_the_papers(case: str, process: str) -> None:
    name, options, loop = SOLVERS[case]
    for n, end in (
        (1, "denoise"),
        (1, "sigma_min"),
        (2, "denoise"),
        (6, "sigma_min"),
        (7, "denoise"),
        (7, "sigma_min"),
    ):
        compare(process, name, options, loop, uneven(REMEMBERED[process], n, end))


RESTART: list[tuple[tuple[float, float, int, int], ...]] = [
    ((0.3, 1.5, 3, 2),),
    ((0.06, 0.4, 4, 1), (1.1, 6.0, 3, 2)),
    ((0.5, 40.0, 2, 1),),
    ((0.3, 1.5, 3, 0),),
]


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("intervals", RESTART, ids=str)
def test_restart_is_the_papers(intervals: tuple[tuple[float, float, int, int], ...], process: str) -> None:
    p = REMEMBERED[process]
    for n, end in ((6, "denoise"), (9, "sigma_min")):
        options: dict[str, Any] = {"intervals": intervals, "coordinates": "ratio"}
        loop: Loop = lambda p, d, t, x, z: one.restart(p, d, t, x, z, intervals)  # noqa: E731
        plan = compare(process, "restart", options, loop, uneven(p, n, end))
        assert plan.noises == sum(interval[3] for interval in intervals)


def test_restart_on_a_straight_path_and_by_default() -> None:
    intervals = RESTART[1]
    loop: Loop = lambda p, d, t, x, z: one.restart(p, d, t, x, z, intervals, straight=True)  # noqa: E731
    cifar: Loop = lambda p, d, t, x, z: one.restart(p, d, t, x, z, [(0.06, 0.3, 3, 2)])  # noqa: E731
    for end in ENDS:
        times = uneven(REMEMBERED["flow3"], 7, end)
        compare("flow3", "restart", {"intervals": intervals, "coordinates": "straight"}, loop, times)
        compare("flow3", "restart", {"intervals": intervals}, loop, times)
        compare("edm", "restart", {}, cifar, uneven(REMEMBERED["edm"], 7, end))


SAME = [
    ("rk-deis", {"method": "heun"}, "heun", {"coordinates": "ratio"}),
    ("euler-a", {}, "ddim", {"eta": 1.0}),
    ("euler-a", {"eta": 0.3}, "ddim", {"eta": 0.3}),
    ("euler-a", {"eta": 0.0}, "ddim", {}),
    ("kdpm-2-a", {"eta": 0.0}, "kdpm-2", {}),
    ("dpmpp-2s-sde", {"eta": 0.0}, "dpmpp-2s", {}),
    ("dpmpp-2s-sde", {"eta": 0.0, "r1": 0.3}, "dpmpp-2s", {"r1": 0.3}),
    ("pc", {"corrections": 0, "predictor": "euler-maruyama"}, "euler-maruyama", {}),
    ("restart", {"intervals": (), "coordinates": "ratio"}, "heun", {"coordinates": "ratio"}),
    ("restart", {"intervals": ((0.3, 2.0, 4, 0),), "coordinates": "ratio"}, "heun", {"coordinates": "ratio"}),
]


@pytest.mark.parametrize("process", ["vp", "edm", "flow3"])
@pytest.mark.parametrize("case", SAME, ids=lambda c: f"{c[0]} {c[1]} = {c[2]}")
def test_identities(case: tuple[str, dict[str, Any], str, dict[str, Any]], process: str) -> None:
    p = ref.PROCESSES[process]
    name, options, other, theirs = case
    for end in ENDS:
        times = uneven(p, 7, end)
        assert close(runs(p, times, name, options), runs(p, times, other, theirs))


@pytest.mark.parametrize(("method", "order"), [("heun", 2), ("midpoint", 2), ("kutta", 3), ("rk4", 4)])
def test_order_of_runge_kutta(method: str, order: int) -> None:
    check = rv.solve.check_order("rk-deis", ref.PROCESSES["vp"], method=method)
    assert check.declared == order
    assert check.holds


def test_on_edm_the_ancestral_predictor_is_ddim_with_eta_1() -> None:
    p = ref.PROCESSES["edm"]
    times = uneven(p, 7, "denoise")
    options = {"predictor": "ancestral", "corrections": 0}
    assert close(runs(p, times, "pc", options), runs(p, times, "ddim", {"eta": 1.0}))


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", ["dpm-2s", "dpmpp-2s"])
def test_the_inner_node_of_the_grid_at_the_middle_is_the_inner_node_in_lam(name: str, process: str) -> None:
    p = ref.PROCESSES[process]
    lo, hi = p.lam_range
    coarse = [hi + u * (lo - hi) for u in (0.97, 0.7, 0.4, 0.05)]
    fine = sorted([*coarse, *((a + b) / 2 for a, b in itertools.pairwise(coarse))])
    made = runs(p, [p.t_of_lam(v) for v in fine], name, {"inner": "grid"})
    assert close(made, runs(p, [p.t_of_lam(v) for v in coarse], name, {}))


@pytest.mark.parametrize("process", PROCESSES)
def test_the_last_row_of_lcm_is_the_prediction(process: str) -> None:
    p = ref.PROCESSES[process]
    times = uneven(p, 3, "denoise")
    m, x, z = ref.model_of(p, "v", ref.data_of(p, MEANS, STD)), start(p, times[0]), draws(2)
    seen: list[Tensor] = []

    def net(x: Tensor, t: Tensor) -> Tensor:
        seen.append(m(x, t).x0)
        return seen[-1]

    made = rv.run(rv.solve.plan("lcm", p, grid=times), rv.Model(net, p, predicts="x0", label="t"), x, noise=z)
    assert close(made, seen[-1])
    assert len(seen) == 3


@pytest.mark.parametrize("process", ["vp", "edm"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dpmpp-2s-sde", {}),
        ("dpmpp-2s-sde", {"eta": 0.5, "r1": 0.3}),
        ("dpmpp-2m-sde", {}),
        ("dpmpp-3m-sde", {"eta": 2.0}),
        ("sa-solver", {"tau": 1.2, "simplified": False}),
        ("euler-a", {}),
        ("kdpm-2-a", {}),
    ],
    ids=str,
)
def test_a_known_point_is_renoised_to_the_marginal(name: str, options: dict[str, Any], process: str) -> None:
    """If x0 is known (D constant), each step's law is exact: mean alpha_t x0, std sigma_t, whatever the step."""
    p = ref.PROCESSES[process]
    times = uneven(p, 6, "sigma_min")
    plan = rv.solve.plan(name, p, grid=times, **options)
    point = torch.full((1, 1), 0.7, dtype=torch.float64)
    m = rv.Model(lambda x, t: point.to(x).expand_as(x), p, predicts="x0")

    def end(x: float, *z: float) -> float:
        draws = torch.zeros(plan.noises, 1, 1, dtype=torch.float64)
        draws[: len(z), 0, 0] = torch.tensor(z, dtype=torch.float64)
        return rv.run(plan, m, torch.full_like(point, x), noise=draws).item()

    a, s = p.alpha(times[0]), p.sigma(times[0])
    zero = end(a * 0.7)
    assert zero == pytest.approx(p.alpha(times[-1]) * 0.7, abs=1e-9)
    variance = (end(a * 0.7 + s) - zero) ** 2
    for i in range(plan.noises):
        variance += (end(a * 0.7, *[0.0] * i, 1.0) - zero) ** 2
    assert variance == pytest.approx(p.sigma(times[-1]) ** 2, rel=1e-6)


def test_prediction_types_give_one_trajectory() -> None:
    p = ref.PROCESSES["vp"]
    times, data = uneven(p, 5, "denoise"), ref.data_of(p, MEANS, STD)
    x, z = start(p, times[0]), draws(12)
    for name in ("rk-deis", "kdpm-2", "kdpm-2-a", "euler-a", "dpmpp-2s-sde", "euler-maruyama", "pc", "restart", "lcm"):
        plan = rv.solve.plan(name, p, grid=times)
        reference = rv.run(plan, ref.model_of(p, "x0", data), x, noise=z)
        for kind in ("eps", "v", "flow", "score", "edm"):
            assert close(rv.run(plan, ref.model_of(p, kind, data), x, noise=z), reference)


def test_langevin_steps_do_not_mix_samples() -> None:
    p = ref.PROCESSES["vp"]
    times = uneven(p, 5, "denoise")
    m, x, z = ref.model_of(p, "eps", DATA["vp"]), start(p, times[0]), draws(12)
    plan = rv.solve.plan("pc", p, grid=times)
    assert close(rv.run(plan, m, x[:2], noise=z[:, :2]), rv.run(plan, m, x, noise=z)[:2])


def test_langevin_norms_are_over_a_whole_sample() -> None:
    p = ref.PROCESSES["vp"]
    times = uneven(p, 5, "denoise")
    flat, x, z = ref.model_of(p, "eps", DATA["vp"]), start(p, times[0]), draws(12)
    m = rv.Model(lambda x, t: flat(x.flatten(1), t).eps.reshape(x.shape), p, predicts="eps", label="t")
    plan = rv.solve.plan("pc", p, grid=times)
    made = rv.run(plan, m, x.reshape(5, 2, 2), noise=z.reshape(12, 5, 2, 2))
    assert close(made.flatten(1), rv.run(plan, flat, x, noise=z))


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("rk-deis", {"method": "euler"}, "euler"),
        ("euler-a", {"eta": -0.5}, "-0.5"),
        ("euler-a", {"eta": math.nan}, "nan"),
        ("kdpm-2-a", {"eta": -0.5}, "-0.5"),
        ("kdpm-2-a", {"eta": 9.0}, "9.0"),
        ("kdpm-2-a", {"eta": math.nan}, "nan"),
        ("dpmpp-2s-sde", {"eta": -1.5}, "-1.5"),
        ("dpmpp-2s-sde", {"eta": math.inf}, "inf"),
        ("dpmpp-2s-sde", {"r1": 0.0}, "0.0"),
        ("dpmpp-2s-sde", {"r1": 1.5}, "1.5"),
        ("dpm-2s", {"inner": "rho"}, "rho"),
        ("dpmpp-2s", {"inner": "rho"}, "rho"),
        ("pc", {"predictor": "heun"}, "heun"),
        ("pc", {"corrections": -1}, "-1"),
        ("pc", {"corrections": 1.5}, "1.5"),
        ("pc", {"snr": 0.0}, "0.0"),
        ("pc", {"snr": math.nan}, "nan"),
        ("restart", {"intervals": ((2.0, 0.3, 4, 1),)}, "0.3"),
        ("restart", {"intervals": ((0.3, 2.0, 1, 1),)}, "1"),
        ("restart", {"intervals": ((0.3, 2.0, 4, -1),)}, "-1"),
        ("restart", {"intervals": ((0.3, 1e9, 4, 1),)}, "1000000000|1e"),
        ("restart", {"intervals": ((0.3, 2.0),)}, "0.3"),
        ("restart", {"intervals": 3}, "3"),
    ],
    ids=str,
)
def test_options_out_of_range(name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(rv.base.ArgumentError, match=match):
        rv.solve.plan(name, ref.PROCESSES["vp"], steps=6, **options)


@pytest.mark.parametrize("name", ["rk-deis", "kdpm-2", "kdpm-2-a", "euler-maruyama"])
def test_noise_prediction_cannot_start_without_signal(name: str) -> None:
    with pytest.raises(rv.base.ArgumentError, match="logsnr"):
        rv.solve.plan(name, ref.PROCESSES["flow"], steps=4, grid="time")
