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

ODE = ["euler", "ddim", "heun", "dpm-1", "dpm-2s", "dpm-3s", "dpm-fast", "dpm-2m", "dpmpp-2s", "dpmpp-2m", "dpmpp-3m"]


@pytest.mark.parametrize("process", ref.PROCESSES)
@pytest.mark.parametrize("name", ["ddpm", *ODE])
def test_declared_order_is_the_order_of_the_table(name: str, process: str) -> None:
    check = rv.solve.check_order(name, ref.PROCESSES[process])
    assert check.declared == {"heun": 2, "dpm-2s": 2, "dpm-3s": 3, "dpm-fast": 3, "dpm-2m": 2}.get(
        name, int(c) if (c := name[-2]).isdigit() else 1
    )
    assert check.holds, check


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
    assert slopes[1] >= plan.order - 0.3, errors
