"""Claims that cost nothing, one of each kind, each with a null control that fails and with one that wrongly passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from reverie.papers import Budget, Case, Claim

FIGURES = ("error/8", "error/16", "score")


def wobble(*words: Any) -> float:
    """A number within 2 % of 1 that every arm and seed has of its own."""
    return 1 + 0.02 * math.sin(sum(map(ord, repr(words))) * 12.9898)


def errors(arms: Mapping[str, Any], seed: int, budget: Budget) -> dict[str, dict[str, float]]:
    """An arm's number, with noise; halved on the way from 8 to 16; and a score that grows as errors fall."""
    of = {a: size * wobble(a, seed) for a, size in arms.items()}
    found = {"error/8": of, "error/16": {a: v / 2 for a, v in of.items()}, "score": {a: 10 - v for a, v in of.items()}}
    return found if budget.name != "tiny" else {"error/8": of}


def superiority(run: Callable[..., Any] = errors, *, slug: str = "deis", **more: Any) -> Claim:
    """The method's error is a quarter of the baseline's, and asked to be half."""
    settings: dict[str, Any] = {
        "arms": {"method": 1.0, "baseline": 4.0, "other": 2.0},
        "cases": (
            Case("error/8", factor=2.0),
            Case("error/16", factor=2.0),
            Case("error/8", factor=1.0, arm="other"),
            Case("score", gain=1.0, better="higher"),
        ),
        "axis": "evaluations",
        "units": {"error": "distance"},
        "names": {"method": "Fast & new", "baseline": "slow, as ever", "null": "slow in its place"},
    }
    return Claim(slug, "superiority", "The fake is better.", run=run, **{**settings, **more})


def spend(arms: Mapping[str, Any], seed: int, budget: Budget) -> dict[str, dict[str, float]]:
    """Error and cost of arms (error, cost)."""
    error = {a: e * wobble(a, seed) for a, (e, _) in arms.items()}
    return {"error/8": error, "error, cost/8": {a: float(c) for a, (_, c) in arms.items()}}


def saving(null: tuple[float, float] = (2.0, 20)) -> Claim:
    """As good as the baseline to 10 %, at a fifth of its cost; what is as cheap is twice as bad, unless `null` says otherwise."""
    return Claim(
        "pndm",
        "saving",
        "The fake is as good for a fifth.",
        {"method": (1.0, 20), "baseline": (1.0, 100)},
        spend,
        (Case("error/8", factor=0.9), Case("error, cost/8", factor=5.0, cost=True)),
        null=null,
    )


def deviation(arms: Mapping[str, Any], seed: int, budget: Budget) -> dict[str, dict[str, float]]:
    """How far sin a cos b + sign cos a sin b is from sin(a + b)."""
    a, b = 0.7 + seed, 1.3 * seed + 0.2
    exact = math.sin(a + b)
    return {
        "deviation": {
            arm: abs(math.sin(a) * math.cos(b) + sign * math.cos(a) * math.sin(b) - exact) for arm, sign in arms.items()
        }
    }


def identity(sign: float = -1.0) -> Claim:
    """A formula, and its mutation by a sign; `sign` 1.0 is the mutation that changes nothing."""
    return Claim(
        "dpm-solver",
        "identity",
        "The formula is right.",
        {"method": 1.0},
        deviation,
        (Case("deviation", at_most=1e-12),),
        null=sign,
    )
