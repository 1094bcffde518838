"""Order of accuracy: by algebra for every solver and process, and by convergence on an overlapping mixture."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

import reverie as rv
from reverie.solve.order import OrderCheck

from . import reference as ref

ORDERS = {
    "lcm": 0, "euler": 1, "ddim": 1, "ddpm": 1, "euler-a": 1, "euler-maruyama": 1, "pc": 1, "deis-1": 1, "dpm-1": 1,
    "dpmpp-2m-hb": 1, "bdia": 1, "ghvb": 2, "evodiff": 2,
    "heun": 2, "kdpm-2": 2, "kdpm-2-a": 2, "dpm-2s": 2, "dpmpp-2s": 2, "dpmpp-2s-sde": 2, "dpm-2m": 2, "dpmpp-2m": 2, "dpmpp-2m-sde": 2,
    "dpmpp-3m-sde": 2, "pndm": 2, "ipndm": 2, "usf": 2, "restart": 2, "deis-2": 2, "unipc-1": 2, "sa-solver": 2,
    "dpm-3s": 3, "dpm-fast": 3, "dpmpp-3m": 3, "rk-deis": 3, "deis-3": 3, "unipc-2": 3, "dc-solver": 3, "dpm-v3": 3,
    "deis-4": 4, "lms": 4, "unipc-3": 4,
}  # fmt: skip
NOISY = {
    "ddpm",
    "euler-a",
    "euler-maruyama",
    "pc",
    "lcm",
    "kdpm-2-a",
    "dpmpp-2s-sde",
    "dpmpp-2m-sde",
    "dpmpp-3m-sde",
    "restart",
    "sa-solver",
}
ODE = [name for name in ORDERS if name not in NOISY]
FIXED = {"pc": {"norms": "expected"}, "evodiff": {"adapt": False}}  # what samples decide makes rows that are not linear


def test_every_solver_is_checked() -> None:
    assert set(ORDERS) == {name for name, s in rv.solve.SOLVERS.items() if not s.dynamic}


@pytest.mark.parametrize("process", ref.PROCESSES)
@pytest.mark.parametrize("name", ORDERS)
def test_declared_order_is_the_order_of_the_table(name: str, process: str) -> None:
    p = ref.PROCESSES[process]
    check = rv.solve.check_order(name, p, **FIXED.get(name, {}))
    assert check.declared == ORDERS[name]
    assert check.holds, check
    if name in ("pndm", "ipndm") and process in ("edm", "ve"):
        assert check.order == 4  # time is sigma there: the transfer map is exact Adams-Bashforth
    elif name == "sa-solver":
        assert check.order in (2, 3)  # 2 in the limit; its third-order part dominates at these steps
    else:
        assert check.order == check.declared, check


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("dpmpp-3m", {"released": True}, 2),
        ("dpmpp-2m", {"variant": "taylor"}, 2),
        ("dpm-2m", {"variant": "taylor"}, 2),
        ("dpm-2s", {"r1": 0.3}, 2),
        ("dpmpp-2s", {"r1": 0.7}, 2),
        ("dpm-3s", {"r1": 0.25}, 3),
        ("dpm-fast", {"orders": (2,) * 5}, 2),
        ("heun", {"coordinates": "straight"}, 2),
        ("ddim", {"eta": 1.0}, 1),
        ("ddim", {"eta": 0.5}, 1),
        ("ddpm", {"variance": "large"}, 1),
        ("dpm-2s", {"inner": "grid"}, 2),
        ("dpmpp-2s", {"inner": "grid"}, 2),
        ("unipc-1", {"corrector": False}, 1),
        ("unipc-2", {"corrector": False, "variant": "bh1"}, 2),
        ("unipc-3", {"corrector": False}, 3),
        ("unipc-2", {"variant": "bh1"}, 3),
        ("unipc-3", {"kind": "eps"}, 4),
        ("deis-3", {"variable": "rho"}, 3),
        ("deis-3", {"variable": "log-rho"}, 3),
        ("deis-4", {"variable": "log-rho"}, 4),
        ("rk-deis", {"method": "midpoint"}, 2),
        ("rk-deis", {"method": "heun"}, 2),
        ("rk-deis", {"method": "rk4"}, 4),
        ("lms", {"order": 2}, 2),
        ("pndm", {"order": 2}, 2),
        ("pndm", {"warmup": "heun"}, 2),
        ("ipndm", {"order": 1}, 1),
        ("sa-solver", {"tau": 0.0}, 3),
        ("sa-solver", {"predictor": 1, "corrector": 0}, 1),
        ("sa-solver", {"predictor": 2, "corrector": 0}, 2),
        ("sa-solver", {"predictor": 2, "corrector": 2, "simplified": False}, 2),
        ("dpmpp-2m-sde", {"variant": "taylor", "eta": 0.4}, 2),
        ("dpmpp-2s-sde", {"r1": 0.3}, 2),
        ("kdpm-2-a", {"eta": 0.4}, 2),
        ("heun", {"churn": 3.0}, 2),
    ],
)
def test_order_under_options(name: str, options: dict[str, Any], order: int) -> None:
    assert rv.solve.check_order(name, ref.PROCESSES["vp"], **options).order == order


def test_the_check_can_fail() -> None:
    """r2 = 1/2 spoils the third order: the check says so."""
    assert not rv.solve.check_order("dpm-3s", ref.PROCESSES["vp"], r2=0.5).holds
    assert not OrderCheck("x", 3, 2.1, (2.2, 2.1), (1.0, 0.1, 0.01)).holds


def test_check_order_is_clear_about_bad_input() -> None:
    with pytest.raises(rv.base.UnknownNameError, match="dpmpp-3m"):
        rv.solve.check_order("dpmpp3m", ref.PROCESSES["vp"])
    with pytest.raises(rv.base.ArgumentError, match="no step size"):
        rv.solve.check_order("ode-adaptive", ref.PROCESSES["vp"])
    with pytest.raises(rv.base.ArgumentError, match="not linear"):
        rv.solve.check_order("pc", ref.PROCESSES["vp"])
    with pytest.raises(rv.base.ArgumentError, match="smaller h"):
        rv.solve.check_order("ddim", ref.PROCESSES["vp"], h=5.0)


@pytest.fixture(scope="module")
def problem() -> tuple[Any, torch.Tensor, torch.Tensor]:
    """A 16-d mixture, starts, and its exact solutions at t_min."""
    p = ref.PROCESSES["vp"]
    means, _ = ref.mixture(16, 5)
    o = rv.oracle.Mixture(means, 1.0, process=p)
    x = torch.randn(24, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return o, x, o.solve(x)


@pytest.mark.parametrize("name", ODE)
def test_convergence(name: str, problem: tuple[Any, torch.Tensor, torch.Tensor]) -> None:
    """Median slope of the error from 40 to 320 steps uniform in lam, against the exact solution."""
    o, x, exact = problem
    errors = []
    for n in (40, 80, 160, 320):
        plan = rv.solve.plan(name, o.process, steps=n, grid="logsnr", end="sigma_min")
        assert plan.times[-1] == o.process.t_min
        errors.append((rv.run(plan, o, x) - exact).norm(dim=1).median().item())
    slopes = sorted(math.log2(a / b) for a, b in itertools.pairwise(errors))
    # the one first step of unipc-3, of second order, is seen where the others' warm-up is not
    assert slopes[1] >= {"unipc-3": 3}.get(name, plan.order) - 0.3, errors
