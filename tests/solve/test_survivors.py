"""What a mutation run (`make mutants`) found that no other test held."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError, NonFiniteError
from reverie.solve import SOLVERS, likelihood, log_likelihood

from .problem import P, oracle, x_of

SHARES = [(name, o) for name, entry in SOLVERS.items() for o in ("eta", "tau") if o in entry.options]


@pytest.mark.parametrize(("name", "option"), SHARES)
@pytest.mark.parametrize("steps", [1, 4])
def test_an_infinite_share_of_noise_is_refused_even_where_no_row_would_add_noise(
    name: str, option: str, steps: int
) -> None:
    """One step goes to sigma = 0 and adds none: inf * 0 must not slip through."""
    for value in (math.inf, math.nan):
        with pytest.raises(ArgumentError, match=rf"finite and at least 0, got {value}"):
            rv.solve.plan(name, P, steps=steps, **{option: value})


def test_probes_in_portions_count_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Portions of two of five probes: the estimate and its standard error, which divides by their number."""
    means = 0.7 * torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    o = rv.oracle.Mixture(means, 0.6, process=rv.process.flow())
    x = o.sample(2, dtype=torch.float64)
    options: dict[str, Any] = {"divergence": "hutchinson", "probes": 5, "rtol": 1e-2}
    whole = log_likelihood(o, x, **options)
    monkeypatch.setattr(likelihood, "AT_ONCE", 2 * x.numel())
    parts = log_likelihood(o, x, **options)
    torch.testing.assert_close(parts.nats, whole.nats, rtol=0, atol=1e-9)
    torch.testing.assert_close(parts.error, whole.error, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("bad", "shown"), [(8, "0, 1, 2, 3, 4, 5, 6, 7 (8"), (9, "0, 1, 2, 3, 4, 5, 6, 7, ... (9")])
def test_eight_samples_that_are_not_finite_are_named_and_more_are_counted(bad: int, shown: str) -> None:
    def net(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(torch.arange(len(x))[:, None] < bad, float("nan"), x)

    with pytest.raises(NonFiniteError) as caught:
        rv.run(rv.solve.plan("ddim", P, steps=2), rv.Model(net, P), x_of(12))
    assert f"samples {shown} of 12)" in str(caught.value)
    assert caught.value.samples == tuple(range(bad))


@pytest.mark.parametrize(("first", "last", "length"), [(1, 5, 2), (2, 4, 2), (1, 4, 3), (2, 6, 3)])
def test_a_repeated_block_ends_at_its_end(first: int, last: int, length: int) -> None:
    """The nodes that are visited: block by block, neither begun at another step nor run past its end."""
    plan = rv.solve.plan("ddim", P, steps=8)
    visited = list(plan.times[: first + 1])
    for a in range(first, last, length):
        block = list(plan.times[a + 1 : min(a + length, last) + 1])
        visited += [*block, plan.times[a], *block]
    visited += plan.times[last + 1 :]
    again = plan.repeat(2, length=length, first=first, last=last)
    assert [plan.start, *(s.to for s in again.table)] == visited


def test_repeated_draws_are_fresh() -> None:
    """Every noise of a repeated stochastic plan, its jumps included, has a number of its own, in order."""
    again = rv.solve.plan("ddpm", P, steps=6).repeat(3, length=2, first=1, last=5)
    drawn = [key[1] for s in again.table for key in s.row.terms if key[0] == "n"]
    assert drawn == list(range(again.noises))
    torch.testing.assert_close(rv.run(again, oracle(), x_of()), rv.run(again, oracle(), x_of()), rtol=0, atol=0)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_declared_order_knows_the_options_own_defaults(name: str) -> None:
    entry = SOLVERS[name]
    assert entry.order_of({}) == entry.order_of(entry.options)
    if "tau" in entry.options:
        assert entry.order_of({"tau": 0.0}) == entry.order_of({**entry.options, "tau": 0.0})


def test_a_hook_that_moves_the_last_state_of_an_adaptive_run_moves_its_end() -> None:
    """The way to sigma = 0 is then the x0 that the model sees in the moved state, at one call more."""
    o, moved = oracle(), []
    plan = rv.solve.plan("ode-adaptive", P, rtol=1e-4, atol=1e-4)

    class Push:
        def after(self, run: Any) -> None:
            if not run.stage.inner and run.stage.to == P.t_min:
                run.x = run.x + 0.1
                moved.append(run.x.clone())

    made = rv.run(plan, o, x_of(), hooks=Push())
    torch.testing.assert_close(made, o(moved[-1], P.t_min).x0, rtol=0, atol=1e-9)
