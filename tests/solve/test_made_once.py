"""Predictions that a fold makes once: the same trajectory, fewer multiply-adds, and hooks that see through it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.solve.fold import fold

from . import reference as ref

P = ref.PROCESSES["vp"]
MEANS, STD = ref.mixture(4, 3)
DATA = ref.data_of(P, MEANS, STD)
PLANS = [("unipc-3", {}), ("unipc-2", {"variant": "bh1"}), ("sa-solver", {"tau": 0.5})]


def x0() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def terms(plan: rv.Plan, model: rv.Model) -> int:
    return sum(
        len(f.states) + len(f.raws) + len(f.made) + len(f.noises) + 2 * len(f.makes) for f in fold(plan, model).stages
    )


@pytest.mark.parametrize(("name", "options"), PLANS)
def test_it_pays_for_correctors_alone(name: str, options: dict[str, Any]) -> None:
    plan, eps = rv.solve.plan(name, P, steps=20, **options), ref.model_of(P, "eps", DATA)
    folded = fold(plan, eps)
    assert any(f.made for f in folded.stages)
    written_out = sum(  # one term for every state and raw output that a row reads
        len({("x", k[1]) for k in s.row.terms if k[0] in "xp"} | {k for k in s.row.terms if k[0] != "x"})
        for s in plan.table
    )
    assert terms(plan, eps) < 0.85 * written_out
    assert not any(f.made for f in fold(plan, ref.model_of(P, "x0", DATA)).stages)  # nothing to convert
    assert not any(f.made for f in fold(rv.solve.plan("dpmpp-3m", P, steps=20), eps).stages)


@pytest.mark.parametrize(("name", "options"), PLANS)
def test_selected_particles_run_as_if_alone(name: str, options: dict[str, Any]) -> None:
    plan, m = rv.solve.plan(name, P, steps=8, **options), ref.model_of(P, "eps", DATA)
    z = torch.randn(max(1, plan.noises), 5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rows = torch.tensor([3, 3, 0, 1, 4])
    middle = len(plan.table) // 2

    class Swap:
        def after(self, run: Any) -> None:
            if run.k == middle:
                run.select(rows)

    made = rv.run(plan, m, x0(), noise=z, hooks=Swap())
    late = {key[1] for s in plan.table[middle + 1 :] for key in s.row.terms if key[0] == "n"}
    z = torch.stack([v if j in late else v[rows] for j, v in enumerate(z)])  # noise stays with the slot
    assert torch.allclose(made, rv.run(plan, m, x0()[rows], noise=z), atol=1e-12)


@pytest.mark.parametrize(("name", "options"), PLANS)
def test_a_prediction_that_a_hook_sets_is_the_one_that_counts(name: str, options: dict[str, Any]) -> None:
    """Halving x0 in a hook, with trial steps before and after the row, is the run of a network that says half."""
    plan, half = rv.solve.plan(name, P, steps=8, **options), ref.model_of(P, "eps", lambda x, t: 0.5 * DATA(x, t))
    z = torch.randn(max(1, plan.noises), 5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    m = ref.model_of(P, "eps", DATA)

    class Half:
        def predicted(self, run: Any) -> None:
            trial = run.step(m.predict(run.x, run.t, (torch.ones_like(run.x),)))
            run.pred = half(run.x, run.t)
            assert not torch.equal(trial, run.step(run.pred))

        def after(self, run: Any) -> None:
            if run.stage.t is not None:
                run.step(m.predict(run.states[run.k], run.t, (torch.ones_like(run.x),)))

    assert torch.allclose(rv.run(plan, m, x0(), noise=z, hooks=Half()), rv.run(plan, half, x0(), noise=z), atol=1e-10)


def test_not_a_number_in_a_corrected_state_is_found() -> None:
    plan = rv.solve.plan("unipc-3", P, steps=8)

    def net(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(torch.arange(len(x))[:, None] == 2, torch.nan, x) if 0.1 < float(t[0]) < 0.3 else x

    with pytest.raises(rv.base.NonFiniteError, match=r"samples 2 \(1 of 5\)"):
        rv.run(plan, rv.Model(net, P, predicts="eps"), x0())
