"""Multistep solvers against plain loops from their papers, in float64: every option, process, end, and several numbers of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

import reverie as rv

from . import reference as ref
from . import reference_multistep as many

MEANS, STD = ref.mixture(4, 3)
Loop = Callable[[Any, ref.Data, Sequence[float], Tensor, Any], Tensor]
PROCESSES = ("vp", "edm", "flow3", "ddpm")
ENDS = ("denoise", "sigma_min")
# Warm-up is cut short by the end; orders fall below 10 steps; from 10 they do not.
LENGTHS = ((2, "sigma_min"), (6, "denoise"), (9, "sigma_min"), (10, "sigma_min"))
REMEMBERED = {name: many.Remembered(ref.PROCESSES[name]) for name in PROCESSES}
DATA = {name: ref.data_of(p, MEANS, STD) for name, p in REMEMBERED.items()}


def start(p: Any, t: float, b: int = 5) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return (p.alpha(t) ** 2 + p.sigma(t) ** 2) ** 0.5 * torch.randn(b, 4, generator=g, dtype=torch.float64)


def draws(n: int) -> Tensor:
    return torch.randn(n, 5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def uneven(p: Any, n: int, end: str) -> list[float]:
    """n + 1 falling times with no two ratios of steps alike."""
    lo, hi = p.lam_range
    u = [1 - (i / n) ** 1.2 + 0.25 / n * math.sin(3.0 * i) for i in range(n)]
    times = [p.t_of_lam(hi + (v - 0.02) * (lo - hi)) for v in u]
    return [*times, p.t_clean if end == "denoise" else p.t_min if p.t_min != p.t_clean else p.t_of_lam(hi)]


def close(a: Tensor, b: Tensor) -> bool:
    return bool(((a - b).abs() <= 1e-10 * (1 + b.abs())).all())


def compare(process: str, name: str, options: dict[str, Any], loop: Loop, times: Sequence[float]) -> rv.Plan:
    """Run the plan and the loop on the same draws; they agree, and use the same number of draws and evaluations."""
    p, data = ref.PROCESSES[process], DATA[process]
    x, z = start(p, times[0]), draws(4 * len(times))
    plan = rv.solve.plan(name, p, grid=times, **options)
    made = rv.run(plan, ref.model_of(p, "x0", data), x, noise=z)
    assert made.dtype == torch.float64
    left, calls = iter(z), 0

    def counted(x: Tensor, t: float) -> Tensor:
        nonlocal calls
        calls += 1
        return data(x, t)

    want = loop(REMEMBERED[process], counted, times, x, left)
    assert close(made, want), (made - want).abs().max()
    assert plan.noises == len(z) - len(list(left))
    assert plan.nfe == calls
    assert plan.steps == len(times) - 1
    assert [s.to for s in plan.table if not s.inner] == list(times[1:])
    return plan


def deis(order: int, variable: str = "t", lower: bool | None = None) -> Loop:
    return lambda p, d, t, x, z: many.deis(p, d, t, x, order, variable, lower)


def unipc(top: int, **options: Any) -> Loop:
    return lambda p, d, t, x, z: many.unipc(p, d, t, x, top, **options)


def sa(**options: Any) -> Loop:
    return lambda p, d, t, x, z: many.sa_solver(p, d, t, x, z, **options)


def sde(top: int, **options: Any) -> Loop:
    return lambda p, d, t, x, z: many.multistep_sde(p, d, t, x, z, top, **options)


SOLVERS: dict[str, tuple[str, dict[str, Any], Loop]] = {
    **{f"deis-{k}": (f"deis-{k}", {}, deis(k)) for k in (1, 2, 3, 4)},
    **{f"deis-{k}, rho": (f"deis-{k}", {"variable": "rho"}, deis(k, "rho")) for k in (2, 3, 4)},
    **{f"deis-{k}, log-rho": (f"deis-{k}", {"variable": "log-rho"}, deis(k, "log-rho")) for k in (2, 3, 4)},
    "deis-3, full": ("deis-3", {"lower_final": False}, deis(3, lower=False)),
    "deis-4, lower": ("deis-4", {"lower_final": True, "variable": "rho"}, deis(4, "rho", True)),
    "lms": ("lms", {}, lambda p, d, t, x, z: many.lms(p, d, t, x)),
    **{f"lms, {k}": ("lms", {"order": k}, lambda p, d, t, x, z, k=k: many.lms(p, d, t, x, k)) for k in (1, 2, 3)},
    **{f"unipc-{k}": (f"unipc-{k}", {}, unipc(k)) for k in (1, 2, 3)},
    **{f"unipc-{k}, bh1": (f"unipc-{k}", {"variant": "bh1"}, unipc(k, variant="bh1")) for k in (1, 2, 3)},
    **{f"unipc-{k}, eps": (f"unipc-{k}", {"kind": "eps"}, unipc(k, kind="eps")) for k in (1, 2, 3)},
    **{
        f"unipc-{k}, eps, bh1": (f"unipc-{k}", o, unipc(k, **o))
        for k, o in ((2, {"kind": "eps", "variant": "bh1"}), (3, {"kind": "eps", "variant": "bh1"}))
    },
    **{f"unipc-{k}, predictor": (f"unipc-{k}", {"corrector": False}, unipc(k, corrector=False)) for k in (1, 2, 3)},
    "unipc-3, eps, predictor": ("unipc-3", o := {"corrector": False, "kind": "eps"}, unipc(3, **o)),
    "unipc-3, full": ("unipc-3", {"lower_final": False}, unipc(3, lower=False)),
    "unipc-3, lower": ("unipc-3", {"lower_final": True}, unipc(3, lower=True)),
    "sa": ("sa-solver", {}, sa()),
    "sa, exact": ("sa-solver", o := {"simplified": False}, sa(**o)),
    "sa, tau": ("sa-solver", o := {"tau": 0.6}, sa(**o)),
    "sa, ode": ("sa-solver", o := {"tau": 0.0}, sa(**o)),
    "sa, window": ("sa-solver", o := {"tau": 1.3, "tau_min": 0.3, "tau_max": 4.0}, sa(**o)),
    "sa, 2 2": ("sa-solver", o := {"predictor": 2, "corrector": 2}, sa(**o)),
    "sa, 2 2, exact": ("sa-solver", o := {"predictor": 2, "corrector": 2, "simplified": False, "tau": 0.8}, sa(**o)),
    "sa, 2 0": ("sa-solver", o := {"predictor": 2, "corrector": 0}, sa(**o)),
    "sa, 1 0": ("sa-solver", o := {"predictor": 1, "corrector": 0, "tau": 0.7}, sa(**o)),
    "sa, 3 0": ("sa-solver", o := {"predictor": 3, "corrector": 0}, sa(**o)),
    "sa, 1 1": ("sa-solver", o := {"predictor": 1, "corrector": 1}, sa(**o)),
    "sa, 3 4": ("sa-solver", o := {"predictor": 3, "corrector": 4}, sa(**o)),
    "sa, 4 2": ("sa-solver", o := {"predictor": 4, "corrector": 2}, sa(**o)),
    "sa, full": ("sa-solver", {"lower_final": False}, sa(lower=False)),
    "sa, lower": ("sa-solver", {"lower_final": True}, sa(lower=True)),
    "2m-sde": ("dpmpp-2m-sde", {}, sde(2)),
    "2m-sde, eta": ("dpmpp-2m-sde", o := {"eta": 0.4}, sde(2, **o)),
    "2m-sde, taylor": ("dpmpp-2m-sde", {"variant": "taylor"}, sde(2, taylor=True)),
    "2m-sde, full": ("dpmpp-2m-sde", {"lower_final": False}, sde(2, lower=False)),
    "2m-sde, lower": ("dpmpp-2m-sde", {"lower_final": True}, sde(2, lower=True)),
    "3m-sde": ("dpmpp-3m-sde", {}, sde(3)),
    "3m-sde, eta": ("dpmpp-3m-sde", o := {"eta": 1.6}, sde(3, **o)),
    "3m-sde, taylor": ("dpmpp-3m-sde", {"variant": "taylor"}, sde(3, taylor=True)),
    "3m-sde, released": ("dpmpp-3m-sde", {"released": True}, sde(3, released=True)),
    "3m-sde, full": ("dpmpp-3m-sde", {"lower_final": False}, sde(3, lower=False)),
}


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("case", SOLVERS)
def test_trajectory_is_the_papers(case: str, process: str) -> None:
    name, options, loop = SOLVERS[case]
    p = REMEMBERED[process]
    for n, end in LENGTHS:
        compare(process, name, options, loop, uneven(p, n, end))


PNDM = [
    *(("pndm", {"order": o, "warmup": w}) for o in (2, 4) for w in ("runge-kutta", "heun", "multistep")),
    *(("ipndm", {"order": o}) for o in (1, 2, 3, 4)),
    ("pndm", {}),
    ("ipndm", {}),
]


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(("name", "options"), PNDM, ids=str)
def test_pndm_is_the_papers(name: str, options: dict[str, Any], process: str) -> None:
    mine = {"warmup": "multistep", "order": 4} | options if name == "ipndm" else options
    extra = {"multistep": 0, "heun": 1, "runge-kutta": 9 if mine.get("order", 4) == 4 else 1}
    for n, end in ((1, "denoise"), *((n, end) for n in (2, 5, 10) for end in ENDS)):
        loop: Loop = lambda p, d, t, x, z: many.pndm(p, d, t, x, **mine)  # noqa: E731
        plan = compare(process, name, options, loop, uneven(REMEMBERED[process], n, end))
        if n > 2:
            assert plan.nfe == n + extra[mine.get("warmup", "runge-kutta")]


def runs(p: Any, times: Sequence[float], name: str, options: dict[str, Any]) -> Tensor:
    m, x, z = ref.model_of(p, "eps", ref.data_of(p, MEANS, STD)), start(p, times[0]), draws(2 * len(times))
    return rv.run(rv.solve.plan(name, p, grid=times, **options), m, x, noise=z)


MIDPOINT, FULL = {"variant": "midpoint"}, {"lower_final": False}
SAME = [
    ("deis-1", {}, "ddim", {}),
    ("unipc-1", {"corrector": False}, "ddim", {}),
    ("unipc-1", {"corrector": False, "variant": "bh1", "kind": "eps"}, "ddim", {}),
    ("ipndm", {"order": 1}, "ddim", {}),
    ("lms", {"order": 1}, "ddim", {}),
    ("ipndm", {}, "pndm", {"warmup": "multistep"}),
    ("ipndm", {"order": 2}, "pndm", {"warmup": "multistep", "order": 2}),
    ("dpmpp-2m-sde", {"eta": 0.0}, "dpmpp-2m", {}),
    ("dpmpp-2m-sde", {"eta": 0.0, "variant": "taylor"}, "dpmpp-2m", {"variant": "taylor"}),
    ("dpmpp-3m-sde", {"eta": 0.0}, "dpmpp-3m", {}),
    ("dpmpp-3m-sde", {"eta": 0.0, "released": True, "variant": "taylor"}, "dpmpp-3m", {"released": True, "variant": "taylor"}),
    ("unipc-2", {"corrector": False}, "dpmpp-2m", MIDPOINT),
    ("unipc-2", {"corrector": False, "kind": "eps"}, "dpm-2m", MIDPOINT),
    ("unipc-3", {"corrector": False} | FULL, "dpmpp-3m", MIDPOINT | FULL),
    ("sa-solver", {"tau": 0.0, "predictor": 1, "corrector": 0}, "ddim", {}),
    ("sa-solver", {"tau": 1.0, "predictor": 1, "corrector": 0}, "ddim", {"eta": 1.0}),
    ("sa-solver", {"tau": 0.0, "predictor": 2, "corrector": 0, "simplified": False}, "dpmpp-2m", {"variant": "taylor"}),
    ("sa-solver", {"tau": 0.0, "predictor": 3, "corrector": 0, "simplified": False} | FULL, "dpmpp-3m", {"variant": "taylor"} | FULL),
    ("sa-solver", {"tau": 1.0, "predictor": 2, "corrector": 0, "simplified": False}, "dpmpp-2m-sde", {"variant": "taylor"}),
    ("sa-solver", {"tau": 1.0, "predictor": 3, "corrector": 0, "simplified": False}, "dpmpp-3m-sde", {"variant": "taylor"}),
    ("sa-solver", {"tau": 2.0, "tau_min": 1e9, "tau_max": 1e10}, "sa-solver", {"tau": 0.0}),
]  # fmt: skip


@pytest.mark.parametrize("process", ["vp", "flow3"])
@pytest.mark.parametrize("case", SAME, ids=lambda c: f"{c[0]} {c[1]} = {c[2]}")
def test_identities(case: tuple[str, dict[str, Any], str, dict[str, Any]], process: str) -> None:
    p = ref.PROCESSES[process]
    name, options, other, theirs = case
    for end in ENDS:
        times = uneven(p, 7, end)
        assert close(runs(p, times, name, options), runs(p, times, other, theirs))


def test_the_window_of_tau_includes_its_ends() -> None:
    p = ref.PROCESSES["edm"]
    times = uneven(p, 7, "denoise")
    for low, high, count in ((times[2], times[2], 1), (times[3], times[1], 3), (0.0, times[4], 2)):
        assert rv.solve.plan("sa-solver", p, grid=times, tau_min=low, tau_max=high).noises == count


@pytest.mark.parametrize("process", PROCESSES)
def test_lms_is_deis_in_rho_away_from_the_end(process: str) -> None:
    p = ref.PROCESSES[process]
    times = uneven(p, 7, "sigma_min")
    assert close(runs(p, times, "lms", {}), runs(p, times, "deis-4", {"variable": "rho", "lower_final": False}))


def test_on_edm_time_is_the_ratio() -> None:
    p = ref.PROCESSES["edm"]
    for end in ENDS:
        times = uneven(p, 7, end)
        for k in (2, 3, 4):
            assert close(runs(p, times, f"deis-{k}", {}), runs(p, times, f"deis-{k}", {"variable": "rho"}))


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("variable", ["t", "rho", "log-rho"])
def test_deis_weights_sum_to_the_transfer(variable: str, process: str) -> None:
    """sum_j C_ij = alpha_t (rho_t - rho_s): a noise prediction that never changes is followed exactly."""
    p = ref.PROCESSES[process]
    times = uneven(p, 9, "sigma_min")
    x, e = start(p, times[0]), draws(1)[0]
    plan = rv.solve.plan("deis-4", p, grid=times, variable=variable, lower_final=False)
    made = rv.run(plan, rv.Model(lambda x, t: e.to(x), p, predicts="eps"), x)
    a, b = times[0], times[-1]
    want = p.alpha(b) / p.alpha(a) * x + (p.sigma(b) - p.alpha(b) * p.sigma(a) / p.alpha(a)) * e
    assert close(made, want)


@pytest.mark.parametrize("variable", ["t", "rho", "log-rho"])
def test_deis_integrates_its_own_polynomials(variable: str) -> None:
    """Once warm, order k integrates a noise prediction of degree k - 1 in its variable exactly, one of degree k not."""
    p = ref.PROCESSES["vp"]
    times = uneven(p, 9, "sigma_min")
    of = {"t": lambda t: t, "rho": lambda t: many.ratio(p, t), "log-rho": lambda t: -p.lam(t)}[variable]
    a, b = times[5], times[6]
    for k in (1, 2, 3, 4):
        for degree in (k - 1, k):
            m = rv.Model(lambda x, t, d=degree: of(float(t[0])) ** d + 0 * x, p, predicts="eps", label="t")
            y = [
                rv.run(
                    rv.solve.plan(f"deis-{k}", p, grid=times[2:n], variable=variable, lower_final=False),
                    m,
                    torch.zeros(1, 1, dtype=torch.float64),
                ).item()
                / p.alpha(times[n - 1])
                for n in (6, 7)
            ]
            want, _ = quad(
                lambda r, d=degree: of(p.t_of_ratio(r)) ** d, many.ratio(p, a), many.ratio(p, b), epsabs=1e-12
            )
            assert (abs(y[1] - y[0] - want) < 1e-9 * abs(want)) == (degree < k)


def test_prediction_types_give_one_trajectory() -> None:
    p = ref.PROCESSES["vp"]
    times, data = uneven(p, 6, "denoise"), ref.data_of(p, MEANS, STD)
    x, z = start(p, times[0]), draws(12)
    for name in ("deis-3", "lms", "pndm", "ipndm", "unipc-3", "sa-solver", "dpmpp-2m-sde", "dpmpp-3m-sde"):
        plan = rv.solve.plan(name, p, grid=times)
        one = rv.run(plan, ref.model_of(p, "x0", data), x, noise=z)
        for kind in ("eps", "v", "flow", "score", "edm"):
            assert close(rv.run(plan, ref.model_of(p, kind, data), x, noise=z), one)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("deis-2", {"variable": "sigma"}, "sigma"),
        ("lms", {"order": 0}, "0"),
        ("lms", {"order": 2.5}, "2.5"),
        ("pndm", {"order": 3}, "3"),
        ("pndm", {"order": 2.0}, "2.0"),
        ("ipndm", {"order": 2.0}, "2.0"),
        ("pndm", {"warmup": "euler"}, "euler"),
        ("ipndm", {"order": 5}, "5"),
        ("ipndm", {"order": 0}, "0"),
        ("unipc-2", {"variant": "bh3"}, "bh3"),
        ("unipc-2", {"kind": "v"}, "'v'"),
        ("sa-solver", {"predictor": 0}, "0"),
        ("sa-solver", {"corrector": -1}, "-1"),
        ("sa-solver", {"tau": -0.5}, "-0.5"),
        ("sa-solver", {"tau": math.inf}, "inf"),
        ("dpmpp-2m-sde", {"eta": -0.1}, "-0.1"),
        ("dpmpp-2m-sde", {"eta": math.nan}, "nan"),
        ("dpmpp-2m-sde", {"variant": "heun"}, "heun"),
        ("dpmpp-3m-sde", {"variant": "mid"}, "mid"),
        ("dpmpp-3m-sde", {"eta": -2.0}, "-2.0"),
    ],
    ids=str,
)
def test_options_out_of_range(name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(rv.base.ArgumentError, match=match):
        rv.solve.plan(name, ref.PROCESSES["vp"], steps=6, **options)


@pytest.mark.parametrize(
    ("name", "options", "eta"),
    [
        *((f"unipc-{k}", o, 0.0) for k in (1, 2, 3) for o in ({}, {"corrector": False}, {"variant": "bh1"})),
        *(("sa-solver", o, 1.0) for o in ({}, {"corrector": 0}, {"simplified": False})),
        ("sa-solver", {"tau": 0.0}, 0.0),
        *((f"dpmpp-{k}m-sde", o, 1.0) for k in (2, 3) for o in ({}, {"variant": "taylor"})),
    ],
    ids=str,
)
def test_orders_wait_until_lam_is_finite(name: str, options: dict[str, Any], eta: float) -> None:
    """From alpha = 0 a prediction at lam = -inf lends no slope: two steps and the one to sigma = 0 are DDIM's."""
    p, times = ref.PROCESSES["flow3"], [1.0, 0.7, 0.4, 0.0]
    m, x, z = ref.model_of(p, "flow", ref.data_of(p, MEANS, STD)), start(p, 1.0), draws(4)
    made = rv.run(rv.solve.plan(name, p, grid=times, **options), m, x, noise=z)
    assert close(made, rv.run(rv.solve.plan("ddim", p, grid=times, eta=eta), m, x, noise=z))


@pytest.mark.parametrize("name", ["deis-2", "lms", "pndm", "ipndm"])
def test_noise_prediction_cannot_start_without_signal(name: str) -> None:
    with pytest.raises(rv.base.ArgumentError, match="logsnr"):
        rv.solve.plan(name, ref.PROCESSES["flow"], steps=4, grid="time")
