"""plan.repeat: what is repeated, that noise is added right, and that history never crosses a jump."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError

from . import reference as ref

P = ref.PROCESSES["vp"]
MEANS, STD = ref.mixture(4, 3)
DATA = ref.data_of(P, MEANS, STD)
MANY = ("dpmpp-3m", "unipc-3", "deis-3", "pndm", "sa-solver", "dpmpp-2m-sde")
ONE = ("ddim", "ddpm", "heun", "dpm-3s", "pc", "euler-maruyama")


def x0() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_repaint_by_hand() -> None:
    """Ten DDIM steps in blocks of five, three passes each, as a loop over the paper's algorithm."""
    plan = rv.solve.plan("ddim", P, steps=10).repeat(3, length=5)
    t = rv.solve.plan("ddim", P, steps=10).times
    z = torch.randn(plan.noises, 5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert (plan.noises, plan.nfe, plan.steps) == (4, 30, 30)
    x, draws = x0(), iter(z)
    for first in (0, 5):
        for turn in range(3):
            if turn:
                kept = P.alpha(t[first]) / P.alpha(t[first + 5])
                x = kept * x + (P.sigma(t[first]) ** 2 - kept**2 * P.sigma(t[first + 5]) ** 2) ** 0.5 * next(draws)
            for i in range(first, first + 5):
                d = DATA(x, t[i])
                keep = P.sigma(t[i + 1]) / P.sigma(t[i])
                x = keep * x + (P.alpha(t[i + 1]) - keep * P.alpha(t[i])) * d
    made = rv.run(plan, ref.model_of(P, "eps", DATA), x0(), noise=z)
    assert torch.allclose(made, x, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", [*ONE, *MANY])
def test_every_pass_is_the_solver_from_there(name: str) -> None:
    """Run in pieces: each pass is a fresh plan over the block's nodes, from the state that the jump made."""
    plan = rv.solve.plan(name, P, steps=12, **({"norms": "expected"} if name == "pc" else {}))
    twice = plan.repeat(2, first=4, last=9)
    z = torch.randn(twice.noises, 5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    m = ref.model_of(P, "x0", DATA)
    made, kept = rv.run(twice, m, x0(), noise=z, record=("x",))
    ends = [k for k, s in enumerate(twice.table) if k + 1 == len(twice.table) or twice.table[k + 1].step != s.step]
    states = [*kept["x"][1:], made]
    jump = next(k for k, s in enumerate(twice.table) if s.to == _nodes(plan)[4] and k > ends[8])
    assert twice.table[jump].t is None
    nodes, t = _nodes(plan), plan.process
    a = t.alpha(nodes[4]) / t.alpha(nodes[9])
    noise = next(key[1] for key in twice.table[jump].row.terms if key[0] == "n")
    back = a * states[ends[8]] + (t.sigma(nodes[4]) ** 2 - a**2 * t.sigma(nodes[9]) ** 2) ** 0.5 * z[noise]
    assert torch.allclose(states[jump], back, atol=1e-12)
    rest = rv.solve.plan(name, P, grid=nodes[4:], **_same(plan))
    again = rv.run(rest, m, states[jump], noise=z[noise + 1 :])
    assert torch.allclose(made, again, atol=1e-10)


def _nodes(plan: Any) -> list[float]:
    ends = {s.step: s.to for s in plan.table}
    return [plan.start, *(ends[i] for i in range(plan.steps))]


def _same(plan: Any) -> dict[str, Any]:
    """The options, and the lowering of order at the end that the whole plan had."""
    known = rv.solve.SOLVERS[plan.solver].options
    return dict(plan.options) | ({"lower_final": plan.steps < 10} if "lower_final" in known else {})


def test_labels_are_kept() -> None:
    pairs = [(5.0, 900.0), (2.0, 600.0), (0.7, 300.0), (0.2, 50.0), (0.0, None)]
    p = ref.PROCESSES["ddpm"]
    plan = rv.solve.plan("dpmpp-2m", p, grid=pairs).repeat(2, length=2)
    told = [s.label for s in plan.table if s.t is not None]
    assert told == [900.0, 600.0, 900.0, 600.0, 300.0, 50.0, 300.0, 50.0]


def test_once_is_the_plan_itself() -> None:
    for name in (*ONE, *MANY):
        plan = rv.solve.plan(name, P, steps=6)
        assert [s.row.terms for s in plan.repeat(1, length=2).table] == [s.row.terms for s in plan.table]
        assert plan.repeat(1).nfe == plan.nfe


def test_the_law_is_kept() -> None:
    """Time travel with an exact score changes paths, not their law."""
    o = rv.oracle.Gaussian(torch.tensor([0.5, -0.5]), 0.3 * torch.eye(2), process=P)
    plan = rv.solve.plan("dpmpp-3m", P, steps=40, end="sigma_min").repeat(3, length=8)
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    made = rv.run(plan, o, x).double()
    assert torch.allclose(made.mean(0), torch.tensor([0.5, -0.5], dtype=torch.float64), atol=0.04)
    assert torch.allclose(made.T.cov(), 0.3 * torch.eye(2, dtype=torch.float64), atol=0.03)


def test_a_repeated_plan_is_saved_and_cites_repaint(tmp_path: Any) -> None:
    plan = rv.solve.plan("dpmpp-2m", P, steps=6).repeat(2, length=3)
    plan.save(tmp_path / "p.json")
    again = rv.Plan.load(tmp_path / "p.json")
    m = ref.model_of(P, "x0", DATA)
    assert torch.equal(rv.run(again, m, x0()), rv.run(plan, m, x0()))
    assert "repaint" in plan.papers
    assert "repeat" in str(plan)


def test_bad_input_is_named() -> None:
    plan = rv.solve.plan("dpmpp-2m", P, steps=6)
    for numbers in (
        {"times": 0},
        {"times": 2, "length": 0},
        {"times": 2, "first": 4, "last": 3},
        {"times": 2, "last": 7},
        {"times": 1.5},
    ):
        with pytest.raises(ArgumentError, match=str(next(reversed(numbers.values())))):
            plan.repeat(**numbers)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="fixed grid"):
        rv.solve.plan("ode-adaptive", P).repeat(2)
    changed = plan.replace(provenance={"tuned": True})
    with pytest.raises(ArgumentError, match="changed since"):
        changed.repeat(2, length=3)
    with pytest.raises(ArgumentError, match="changed since"):
        plan.repeat(2, length=3).repeat(2, first=1)
    assert plan.repeat(2).repeat(2).nfe == 24
