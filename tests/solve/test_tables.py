"""Every solver's table against a plain loop from its paper, in float64, for every process and prediction type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv

from . import reference as ref

MEANS, STD = ref.mixture(4, 3)


def start(p: Any, t: float, b: int = 5) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return (p.alpha(t) ** 2 + p.sigma(t) ** 2) ** 0.5 * torch.randn(b, 4, generator=g, dtype=torch.float64)


def draws(n: int) -> Tensor:
    return torch.randn(n, 5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


SOLVERS: dict[str, tuple[str, dict[str, Any], Callable[..., Tensor]]] = {
    "ddim": ("ddim", {}, lambda *a: ref.ddim(*a, z=())),
    "euler": ("euler", {"coordinates": "ratio"}, lambda *a: ref.edm(*a, (), False)),
    "heun": ("heun", {"coordinates": "ratio"}, lambda *a: ref.edm(*a, (), True)),
    "euler, straight": ("euler", {"coordinates": "straight"}, lambda *a: ref.straight(*a, False)),
    "heun, straight": ("heun", {"coordinates": "straight"}, lambda *a: ref.straight(*a, True)),
    "dpm-1": ("dpm-1", {}, lambda *a: ref.dpm_single(*a, [1] * 99)),
    "dpm-2s": ("dpm-2s", {}, lambda *a: ref.dpm_single(*a, [2] * 99)),
    "dpm-2s, r1": ("dpm-2s", {"r1": 0.3}, lambda *a: ref.dpm_single(*a, [2] * 99, 0.3)),
    "dpm-3s": ("dpm-3s", {}, lambda *a: ref.dpm_single(*a, [3] * 99)),
    "dpm-3s, r": ("dpm-3s", {"r1": 0.25, "r2": 0.7}, lambda *a: ref.dpm_single(*a, [3] * 99, 0.25, 0.7)),
    "dpm-fast": ("dpm-fast", {"orders": (3, 3, 2, 3, 1, 2, 1)}, lambda *a: ref.dpm_single(*a, (3, 3, 2, 3, 1, 2, 1))),
    "dpmpp-2s": ("dpmpp-2s", {}, ref.dpmpp_2s),
    "dpmpp-2s, r1": ("dpmpp-2s", {"r1": 0.4}, lambda *a: ref.dpmpp_2s(*a, 0.4)),
    "dpm-2m": ("dpm-2m", {}, lambda *a: ref.multistep(*a, 2, noise=True)),
    "dpm-2m, taylor": ("dpm-2m", {"variant": "taylor"}, lambda *a: ref.multistep(*a, 2, noise=True, taylor=True)),
    "dpmpp-2m": ("dpmpp-2m", {}, lambda *a: ref.multistep(*a, 2)),
    "dpmpp-2m, full": ("dpmpp-2m", {"lower_final": False}, lambda *a: ref.multistep(*a, 2, lower=False)),
    "dpmpp-2m, taylor": ("dpmpp-2m", {"variant": "taylor"}, lambda *a: ref.multistep(*a, 2, taylor=True)),
    "dpmpp-3m": ("dpmpp-3m", {}, lambda *a: ref.multistep(*a, 3)),
    "dpmpp-3m, full": ("dpmpp-3m", {"lower_final": False}, lambda *a: ref.multistep(*a, 3, lower=False)),
    "dpmpp-3m, taylor": ("dpmpp-3m", {"variant": "taylor"}, lambda *a: ref.multistep(*a, 3, taylor=True)),
    "dpmpp-3m, released": ("dpmpp-3m", {"released": True}, lambda *a: ref.multistep(*a, 3, released=True)),
}
# Uneven times, so that no ratio of steps is 1; inside every process.
UNEVEN = (1.0, 0.87, 0.7, 0.55, 0.36, 0.2, 0.09)


def grid(p: Any, end: str) -> list[float]:
    lo, hi = p.lam_range
    times = [p.t_of_lam(hi + u * (lo - hi)) for u in UNEVEN]
    return [*times, p.t_clean if end == "denoise" else p.t_min if p.t_min != p.t_clean else p.t_of_lam(hi)]


def close(a: Tensor, b: Tensor) -> bool:
    return bool(((a - b).abs() <= 1e-10 * (1 + b.abs())).all())


CASES = [
    (case, process)
    for case in SOLVERS
    for process in ("vp", "edm", "flow3", "ddpm")
    if process == "flow3" or not case.endswith("straight")  # a reference of the straight path holds on it alone
]


@pytest.mark.parametrize("end", ["denoise", "sigma_min"])
@pytest.mark.parametrize(("case", "process"), CASES)
def test_trajectory_is_the_papers(case: str, process: str, end: str) -> None:
    name, options, loop = SOLVERS[case]
    p = ref.PROCESSES[process]
    times = grid(p, end)
    plan = rv.solve.plan(name, p, grid=times, **options)
    x, data = start(p, times[0]), ref.data_of(p, MEANS, STD)
    made = rv.run(plan, ref.model_of(p, "x0", data), x)
    assert made.dtype == torch.float64
    assert close(made, loop(p, data, times, x))


TYPES = [
    *(("vp", kind) for kind in ref.KINDS),
    ("edm", "edm"),
    ("edm", "eps"),
    ("flow3", "flow"),
    ("flow3", "v"),
    ("ddpm", "eps"),
]


@pytest.mark.parametrize(("process", "kind"), TYPES)
@pytest.mark.parametrize("name", rv.solve.SOLVERS)
def test_prediction_types_give_one_trajectory(name: str, process: str, kind: str) -> None:
    p = ref.PROCESSES[process]
    times, data = grid(p, "denoise"), ref.data_of(p, MEANS, STD)
    if rv.solve.SOLVERS[name].dynamic:
        plan = rv.solve.plan(name, p)
    else:
        plan = rv.solve.plan(name, p, grid=times, **{"restart": {"intervals": ((0.2, 1.0, 3, 2),)}}.get(name, {}))
    x, z = start(p, plan.start), draws(plan.noises)
    one = rv.run(plan, ref.model_of(p, "x0", data), x, noise=z)
    assert close(rv.run(plan, ref.model_of(p, kind, data), x, noise=z), one)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("process", ["vp", "edm", "flow", "ddpm"])
def test_ddim_with_noise(process: str, eta: float) -> None:
    p = ref.PROCESSES[process]
    times, data, z = grid(p, "sigma_min"), ref.data_of(p, MEANS, STD), draws(7)
    x = start(p, times[0])
    made = rv.run(rv.solve.plan("ddim", p, grid=times, eta=eta), ref.model_of(p, "eps", data), x, noise=z)
    assert close(made, ref.ddim(p, data, times, x, z, eta))


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(variance: str) -> None:
    p = ref.PROCESSES["ddpm"]
    plan = rv.solve.plan("ddpm", p, steps=8, variance=variance)
    data, z, x = ref.data_of(p, MEANS, STD), draws(8), start(p, 999.0)
    labels = [999, 874, 749, 624, 499, 374, 249, 124]
    assert plan.times == (*map(float, labels), -1.0)
    assert plan.noises == 7
    made = rv.run(plan, ref.model_of(p, "v", data), x, noise=z)
    assert close(made, ref.ddpm(ref.ABAR, data, labels, x, z, variance))


def test_ddpm_with_learned_variance() -> None:
    p = ref.PROCESSES["ddpm"]
    data, z, x = ref.data_of(p, MEANS, STD), draws(8), start(p, 999.0)

    def head(x: Tensor, t: float) -> Tensor:
        return torch.sin(3 * x + t)

    def net(x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([ref.raw_of(p, "eps", x, data(x, float(t[0])), float(t[0])), head(x, float(t[0]))], 1)

    plan = rv.solve.plan("ddpm", p, steps=8, variance="learned")
    labels = [round(t) for t in plan.times[:-1]]
    made = rv.run(plan, rv.Model(net, p, predicts=("eps", "variance")), x, noise=z)
    assert close(made, ref.ddpm(ref.ABAR, data, labels, x, z, head))
    with pytest.raises(rv.base.ArgumentError, match="variance head"):
        rv.run(plan, ref.model_of(p, "eps", data), x, noise=z)


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("process", ["edm", "vp"])
def test_churn(process: str, second: bool) -> None:
    p = ref.PROCESSES[process]
    times, data, z = grid(p, "denoise"), ref.data_of(p, MEANS, STD), draws(8)
    x = start(p, times[0])
    for amount, low, high, extra in ((2.0, 0.01, 30.0, 1.007), (1.0, 0.0, 1e9, 1.0), (40.0, 0.05, 50.0, 1.1)):
        plan = rv.solve.plan(
            "heun" if second else "euler",
            p,
            grid=times,
            churn=amount,
            churn_min=low,
            churn_max=high,
            churn_noise=extra,
            coordinates="ratio",
        )
        assert 0 < plan.noises < len(times)
        made = rv.run(plan, ref.model_of(p, "x0", data), x, noise=z)
        assert close(made, ref.edm(p, data, times, x, z, second, (amount, low, high, extra)))


@pytest.mark.parametrize("process", ["flow", "vp"])
def test_limits(process: str) -> None:
    """eta = 0, dpm-1, and Euler in both coordinates are DDIM; churn 0 draws nothing; order 1 everywhere is DDIM."""
    p = ref.PROCESSES[process]
    times, data = grid(p, "denoise"), ref.data_of(p, MEANS, STD)
    m, x = ref.model_of(p, "flow", data), start(p, times[0])
    want = rv.run(rv.solve.plan("ddim", p, grid=times), m, x)
    for name, options in (
        ("dpm-1", {}),
        ("euler", {"coordinates": "ratio"}),
        ("euler", {"coordinates": "straight"}),
        ("dpm-fast", {"orders": (1,) * 7}),
    ):
        plan = rv.solve.plan(name, p, grid=times, **options)
        assert plan.noises == 0
        assert close(rv.run(plan, m, x), want)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("ddim", {"eta": -0.1}, "eta"),
        ("ddim", {"eta": 9.0}, "more noise"),
        ("ddpm", {"variance": "medium"}, "variance"),
        ("heun", {"churn": -1.0}, "churn"),
        ("heun", {"coordinates": "polar"}, "coordinates"),
        ("dpm-2s", {"r1": 0.0}, "r1"),
        ("dpm-3s", {"r2": 1.0}, "r2"),
        ("dpmpp-2s", {"r1": 2.0}, "r1"),
        ("dpm-fast", {"orders": (3, 4)}, "orders"),
        ("dpmpp-2m", {"variant": "mid"}, "midpoint"),
    ],
)
def test_options_out_of_range(name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(rv.base.ArgumentError, match=match):
        rv.solve.plan(name, ref.PROCESSES["vp"], steps=6, **options)


@pytest.mark.parametrize("name", ["dpm-1", "dpm-2s", "dpm-2m", "heun"])
def test_noise_prediction_cannot_start_without_signal(name: str) -> None:
    p = ref.PROCESSES["flow"]
    options = {"coordinates": "ratio"} if name == "heun" else {}
    with pytest.raises(rv.base.ArgumentError, match="logsnr"):
        rv.solve.plan(name, p, steps=4, grid="time", **options)


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "dpmpp-3m", "dpmpp-2s", "heun", "euler"])
def test_data_and_flow_prediction_can(name: str) -> None:
    p = ref.PROCESSES["flow"]
    x = start(p, 1.0)
    made = rv.run(rv.solve.plan(name, p, steps=30, grid="time"), ref.model_of(p, "flow", ref.data_of(p, MEANS, STD)), x)
    fine = rv.run(rv.solve.plan(name, p, steps=60, grid="time"), ref.model_of(p, "flow", ref.data_of(p, MEANS, STD)), x)
    assert (made - fine).abs().max() < 0.2
