"""Running a claim: all arms of a seed in one run, seed after seed, then the verdict.

Seeds that are finished are kept in a file beside the results, so that an interrupted trial goes on where it stopped; nothing is recorded before the
last seed is done. What was kept under another version of the code, another claim or another budget is not used.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from reverie.base import ArgumentError, FileError, unknown
from reverie.base.files import atomic, check_writable, read_bytes
from reverie.papers.claim import BUDGETS, Budget, Claim
from reverie.papers.claims import rests_on
from reverie.papers.records import Record, case_entry
from reverie.papers.verdict import NOT, decide, student

__all__ = ["trial"]

_LIMIT = 16 << 20


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
        ControlError: the null control passes, or the positive control does not. UnknownNameError: no such budget. ArgumentError: figures that are
            missing or not finite; the code changed meanwhile; scipy is missing.

    >>> from reverie.papers.claims import claim_of
    >>> trial(claim_of("deis"), "tiny").null
    'does not hold here'
    """
    if isinstance(budget, str) and budget not in BUDGETS:
        raise unknown("budget", budget, BUDGETS)
    spend = budget if isinstance(budget, Budget) else BUDGETS[budget]
    count = claim.seeds_of(spend) if seeds is None else seeds
    if count < 1:
        raise ArgumentError(f"a trial needs at least one seed, got {count}")
    student(1)  # scipy is missed now rather than after the last seed
    began, resting = time.monotonic(), rests_on(claim.slug)
    kept = None if folder is None else Path(folder) / f".{claim.slug}.{spend.name}.partial.json"
    key = _key(claim, spend, resting)
    if kept is not None:
        check_writable(kept)
    done, before = _kept(kept, key, claim)
    found = []
    for seed in range(count):
        if progress is not None:
            progress(f"seed {seed + 1} of {count}", seed / count)
        if seed not in done:
            done[seed] = _checked(claim, claim.run(claim.everything, seed, spend), seed)
            missing = [case.figure for case in claim.cases if case.figure not in done[seed]]
            if missing and spend.name != "tiny":
                raise ArgumentError(
                    f"the claim of {claim.slug!r} asks about {missing[0]!r}, which its run did not measure"
                )
            if kept is not None:
                _keep(kept, key, before + time.monotonic() - began, done)
        found.append(done[seed])
    decision = decide(claim, found, some=spend.name == "tiny")
    changed = [name for name, digest in rests_on(claim.slug, anew=True).items() if resting.get(name) != digest]
    if changed:
        raise ArgumentError(
            f"{', '.join(changed)} changed while {claim.slug!r} ran, so nothing is recorded; run it again"
        )
    arms = list(claim.everything)
    import reverie

    record = Record(
        slug=claim.slug, kind=claim.kind, statement=claim.statement, budget=spend.name, seeds=tuple(range(count)),
        figures={
            f: {a: tuple(s[f][a] for s in found) for a in arms if all(a in s[f] for s in found)}
            for f in found[0]
            if all(f in s for s in found)
        },
        cases=tuple(case_entry(*judged) for judged in decision.cases), verdict=decision.verdict, null=NOT,
        seconds=round(before + time.monotonic() - began, 1), day=datetime.datetime.now(datetime.UTC).date().isoformat(),
        versions={"python": platform.python_version(), "torch": torch.__version__, "reverie": reverie.__version__},
        threads=torch.get_num_threads(), rests_on=dict(resting), axis=claim.axis, units=dict(claim.units), names=dict(claim.names),
    )  # fmt: skip
    if kept is not None and len(done) <= count:  # a trial of fewer seeds leaves the others to a later one
        kept.unlink(missing_ok=True)
    if progress is not None:
        progress("done", 1.0)
    return record


def _checked(claim: Claim, measured: Mapping[str, Mapping[str, float]], seed: int) -> dict[str, dict[str, float]]:
    """One seed's figures, as they must be."""
    arms = claim.everything
    figures = {f: {a: float(v) for a, v in values.items()} for f, values in measured.items()}
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
        lacking = case.arms - set(figures.get(case.figure, case.arms))
        if lacking:
            raise ArgumentError(
                f"the run of {claim.slug!r} did not measure {case.figure!r} of {', '.join(sorted(lacking))}"
            )
    return figures


def _key(claim: Claim, budget: Budget, resting: Mapping[str, str]) -> str:
    """What finished seeds must agree on to be used."""
    made = [
        claim.slug,
        claim.kind,
        claim.statement,
        repr(sorted(claim.everything.items())),
        repr(claim.cases),
        getattr(claim.run, "__qualname__", ""),
    ]
    return _digest([*made, budget.name, torch.__version__, sorted(resting.items())])


def _digest(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _keep(path: Path, key: str, seconds: float, done: Mapping[int, Any]) -> None:
    body = {"key": key, "seconds": seconds, "seeds": {str(seed): figures for seed, figures in done.items()}}
    with atomic(path) as temporary:
        temporary.write_text(json.dumps({**body, "seal": _digest(body)}), encoding="utf-8")


def _kept(path: Path | None, key: str, claim: Claim) -> tuple[dict[int, dict[str, dict[str, float]]], float]:
    """Seeds finished by an interrupted trial of the same claim, code and budget, and the seconds they took."""
    if path is None or not path.exists():
        return {}, 0.0
    try:
        body = json.loads(read_bytes(path, _LIMIT))
        seal = body.pop("seal")
        if body["key"] != key or seal != _digest(body):
            return {}, 0.0
        return {int(s): _checked(claim, figures, int(s)) for s, figures in body["seeds"].items()}, float(
            body["seconds"]
        )
    except (FileError, ArgumentError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}, 0.0
