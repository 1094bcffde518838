"""Stage rules and dynamic plans."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError, UnknownNameError
from reverie.solve import Line, Plan, Stage, noise, prediction, state
from reverie.solve.plan import DYNAMICS, RULES

from .problem import MEANS, STD, P, oracle, table, x_of

# -- rules


def test_a_stage_rule() -> None:
    RULES["halve"] = lambda run, x, by: x / by
    try:
        plan = table(Stage(1.0 * state(0) + 1.0 * noise(0), None, 0.1, rule=("halve", {"by": 2})))
        z = torch.randn(1, 5, 4, dtype=torch.float64)
        assert torch.equal(rv.run(plan, oracle(), x_of(), noise=z), (x_of() + z[0]) / 2)
        with pytest.raises(UnknownNameError, match="halve"):
            table(Stage(1.0 * state(0), None, 0.1, rule=("halv", {})))
    finally:
        del RULES["halve"]


# -- dynamic plans


def like(static: Plan, stages: Any, **more: Any) -> Plan:
    DYNAMICS["test"] = stages
    return Plan("dynamic", P, (), static.start, static.kinds, rule=("test", more))


@pytest.mark.parametrize(
    ("name", "options"), [("ddim", {"eta": 1.0}), ("dpmpp-3m", {}), ("dpm-3s", {}), ("euler", {"churn": 3.0})]
)
def test_a_dynamic_plan_is_the_static_one_bit_for_bit(name: str, options: dict[str, Any]) -> None:
    static = rv.solve.plan(name, P, steps=20, **options)
    plan = like(static, lambda run, plan: iter(static.table))
    for kind in ("eps", "edm"):
        assert torch.equal(rv.run(plan, oracle(kind), x_of()), rv.run(static, oracle(kind), x_of()))
    assert plan.nfe is None
    assert plan.steps == 0
    with pytest.raises(ArgumentError, match="during a run"):
        plan.stages()


def test_a_dynamic_plan_reads_the_run_and_rejects() -> None:
    """Try a step; where the prediction moved too much go back to the old state and take two halves; stop at a time."""
    log: list[str] = []

    def adaptive(run: Any, plan: Plan, tolerance: float, until: float) -> Iterator[Stage]:
        t, k, h = plan.start, 0, 0.4
        while t > until:
            to = max(t - h, until)
            keep = P.sigma(to) / P.sigma(t)
            yield Stage(keep * state(k) + (P.alpha(to) - keep * P.alpha(t)) * prediction(k), t, to)
            moved = (run.x - run.states[k]).norm() / 5
            if moved > tolerance and h > 0.05:
                yield Stage(1.0 * state(k), None, t)  # reject: state k again
                assert torch.equal(run.x, run.states[k])
                k, h = k + 2, h / 2
                log.append("reject")
            else:
                k, t = k + 1, to
                log.append("accept")

    plan = like(rv.solve.plan("ddim", P, steps=2), adaptive, tolerance=0.1, until=0.05).replace(bound=50)
    x, m = x_of(), oracle()
    made, kept = rv.run(plan, m, x, record=("t",))
    assert {"reject", "accept"} == set(log)
    assert m.calls == len(log)
    assert plan.cost(m) == 50
    back = [t for t, u in zip(kept["t"], kept["t"][1:], strict=False) if u == t]
    assert len(back) == 2 * log.count("reject")  # the move back and the second try are at the old time
    exact = rv.oracle.Mixture(MEANS, STD, process=P).solve(x, t_end=0.05)
    assert (made - exact).norm(dim=1).median() < 0.5


def test_dynamic_plans_have_a_window_and_are_checked() -> None:
    first = rv.solve.plan("ddim", P, steps=2)

    def far(run: Any, plan: Plan, back: int) -> Iterator[Stage]:
        for k in range(30):
            yield Stage(1.0 * state(max(0, k - back)) + 0.0 * prediction(k), 0.5, 0.5)

    assert torch.equal(rv.run(like(first, far, back=12), oracle(), x_of()), x_of())
    with pytest.raises(ArgumentError, match="13 stages back; at most 12"):
        rv.run(like(first, far, back=13), oracle(), x_of())
    for bad in (Line(), 1.0 * state(3), 1.0 * prediction(2), 1.0 * prediction(0, 1)):
        with pytest.raises(ArgumentError, match="stage 0"):
            rv.run(like(first, lambda run, plan, bad=bad: iter([Stage(bad, 0.5, 0.4)])), oracle(), x_of())
    assert torch.equal(rv.run(like(first, lambda run, plan: iter(())), oracle(), x_of()), x_of())
    with pytest.raises(UnknownNameError, match="dynamic rule"):
        Plan("d", P, (), 1.0, rule=("nonsense", {}))
