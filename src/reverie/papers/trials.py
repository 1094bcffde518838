"""Running a claim: all arms of a seed in one run, seed after seed, then the verdict.

Seeds that are finished are kept in a file beside the results, so that an interrupted trial goes on where it stopped; nothing is recorded before
the last seed is done. What was kept under another version of the code or another budget is not used.
"""

from __future__ import annotations

import datetime
import json
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from reverie.base import ArgumentError, FileError, ReverieError
from reverie.base.files import atomic, read_bytes
from reverie.papers.claim import BUDGETS, Budget, Claim, Figures
from reverie.papers.claims import rests_on
from reverie.papers.records import Record, case_entry
from reverie.papers.verdict import NOT, outcome, together

__all__ = ["NullControlError", "trial"]


class NullControlError(ReverieError):
    """The null control of a claim passed its predicate, or the two cannot be told apart: there is no verdict."""


def trial(
    claim: Claim,
    budget: Budget | str = "quick",
    *,
    seeds: int | None = None,
    folder: str | Path | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Record:
    """Run a claim.

    Args:
        claim: what is claimed. budget: "tiny", "quick" or "full". seeds: how many, instead of the claim's own.
        folder: where finished seeds are kept until the end; None keeps none.
        progress: called with what is done and the share of the whole that is finished.

    Raises:
        NullControlError: the null control holds, or holds weakly. ArgumentError: figures that are missing or not finite.

    >>> from reverie.papers.claims import claim_of
    >>> trial(claim_of("deis"), "tiny").null
    'does not hold here'
    """
    spend = budget if isinstance(budget, Budget) else BUDGETS[budget]
    count = claim.seeds_of(spend) if seeds is None else seeds
    if count < 1:
        raise ArgumentError(f"a trial needs at least one seed, got {count}")
    began, resting = time.monotonic(), rests_on(claim.slug)
    key = json.dumps([claim.slug, spend.name, torch.__version__, resting], sort_keys=True)
    kept = None if folder is None else Path(folder) / f".{claim.slug}.{spend.name}.partial.json"
    done, before = _kept(kept, key)
    found: list[Figures] = []
    for seed in range(count):
        if progress is not None:
            progress(f"seed {seed + 1} of {count}", seed / count)
        if str(seed) not in done:
            done[str(seed)] = _measured(claim, seed, spend)
            if kept is not None:
                with atomic(kept) as temporary:
                    temporary.write_text(
                        json.dumps({"key": key, "seconds": before + time.monotonic() - began, "seeds": done})
                    )
        found.append(done[str(seed)])
    record = judge(claim, spend, found, before + time.monotonic() - began, resting)
    if kept is not None:
        kept.unlink(missing_ok=True)
    if progress is not None:
        progress("done", 1.0)
    return record


def judge(claim: Claim, budget: Budget, found: Sequence[Figures], seconds: float, resting: Mapping[str, str]) -> Record:
    """The record of the figures of all seeds. Raises as `trial`."""
    cases = [c for c in claim.cases if budget.name != "tiny" or c.figure in found[0]]
    entries, verdicts, nulls = [], [], []
    for case in cases:
        if any(case.figure not in f for f in found):
            raise ArgumentError(
                f"the claim of {claim.slug!r} asks about {case.figure!r}, which its run did not measure"
            )
        values = [f[case.figure] for f in found]
        own, null = outcome(case, values), outcome(case, values, null=True)
        entries.append(case_entry(case, own, null))
        verdicts.append(own.verdict)
        nulls.append(null.verdict)
    if not cases:
        raise ArgumentError(f"the run of {claim.slug!r} measured no figure that a case asks about")
    if together(nulls) != NOT:
        raise NullControlError(
            f"the null control of {claim.slug!r} {together(nulls)}: its predicate cannot tell the method from what must fail: there is no verdict"
        )
    arms = list(claim.everything)
    figures = {f: {a: tuple(float(s[f][a]) for s in found) for a in arms if a in found[0][f]} for f in found[0]}
    import reverie

    return Record(
        slug=claim.slug, kind=claim.kind, statement=claim.statement, budget=budget.name, seeds=tuple(range(len(found))), figures=figures,
        cases=tuple(entries), verdict=together(verdicts), null=together(nulls), seconds=round(seconds, 1),
        day=datetime.datetime.now(datetime.UTC).date().isoformat(),
        versions={"python": platform.python_version(), "torch": torch.__version__, "reverie": reverie.__version__},
        threads=torch.get_num_threads(), rests_on=dict(resting), axis=claim.axis, units=dict(claim.units), names=dict(claim.names),
    )  # fmt: skip


def _measured(claim: Claim, seed: int, budget: Budget) -> dict[str, dict[str, float]]:
    """One seed's figures, checked."""
    arms = claim.everything
    figures = {f: {a: float(v) for a, v in values.items()} for f, values in claim.run(arms, seed, budget).items()}
    for figure, values in figures.items():
        strange = [a for a in values if a not in arms]
        if strange:
            raise ArgumentError(
                f"the run of {claim.slug!r} measured {figure!r} of {strange[0]!r}, which is no arm of it ({', '.join(arms)})"
            )
        bad = [a for a, v in values.items() if not math.isfinite(v)]
        if bad:
            raise ArgumentError(
                f"{figure!r} of the arm {bad[0]!r} of {claim.slug!r} is {values[bad[0]]} at seed {seed}"
            )
    for case in claim.cases:
        needed = {case.arm, *([case.against] if case.paired else []), *(["null"] if case.arm == "method" else [])}
        lacking = needed - set(figures.get(case.figure, needed))
        if lacking:
            raise ArgumentError(
                f"the run of {claim.slug!r} did not measure {case.figure!r} of {', '.join(sorted(lacking))}"
            )
    return figures


def _kept(path: Path | None, key: str) -> tuple[dict[str, Any], float]:
    """Seeds finished by an interrupted trial of the same code and budget, and the seconds they took."""
    if path is None or not path.exists():
        return {}, 0.0
    try:
        body = json.loads(read_bytes(path, 16 << 20))
        return (dict(body["seeds"]), float(body["seconds"])) if body["key"] == key else ({}, 0.0)
    except (FileError, ValueError, KeyError, TypeError):
        return {}, 0.0
