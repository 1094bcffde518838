"""Fine solutions: a number of calls follows any start, and says what it is."""

from __future__ import annotations

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError
from reverie.process import Process
from reverie.solve import Fine


def zero_terminal() -> Process:
    """Stable Diffusion's labels, rescaled to end at alpha = 0."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    root = torch.cumprod(1 - betas, 0).sqrt()
    return rv.process.ddpm(((root - root[-1]) * root[0] / (root[0] - root[-1])).square())


@pytest.mark.parametrize(
    "p", [rv.process.vp(), rv.process.flow(), zero_terminal()], ids=["vp", "flow", "zero-terminal"]
)
@pytest.mark.parametrize("start", ["t_max", "grid", "within"])
def test_calls_follow_any_start(p: Process, start: str) -> None:
    m = rv.oracle.Mixture(torch.tensor([[2.0, 0.0], [-1.0, 1.0]]), 0.5, process=p)
    t = {"t_max": p.t_max, "grid": rv.solve.plan("dpmpp-2m", p, nfe=5).start, "within": 0.6 * p.t_max}[start]
    by_calls, by_tolerance = Fine(m, 5, (2,), reference=400), Fine(m, 5, (2,), reference=1e-8)
    assert torch.allclose(by_calls(t, p.t_clean), by_tolerance(t, p.t_clean), atol=2e-4)
    few = Fine(m, 5, (2,), reference=5)
    assert (few(t, p.t_clean) - by_tolerance(t, p.t_clean)).abs().max() > 2e-3, "five calls are not exact"


def test_it_says_what_it_is() -> None:
    m = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=rv.process.vp())
    plan = rv.solve.plan("ddim", m.process, steps=30, end="sigma_min")
    said = [str(Fine(m, 2, (2,), reference=r)) for r in (1e-4, 40, plan)]
    assert said == ["solve_ode, rtol 0.0001", "dpmpp-3m, 40 calls", "ddim, 30 calls"]


@pytest.mark.parametrize("reference", [0, -3, True, 0.0, 1.5, "fine", None])
def test_what_is_no_reference(reference: object) -> None:
    m = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=rv.process.vp())
    with pytest.raises(ArgumentError, match="reference is a tolerance"):
        Fine(m, 2, (2,), reference=reference)  # type: ignore[arg-type]
