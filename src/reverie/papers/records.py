"""Records: what a claim's run found, as JSON under a seal.

A record holds every figure of every seed and arm, so that its verdict can be computed again, the versions and the settings behind it, and a
digest of each module that the claim rests on: it is stale when one of these has changed, and says which. The seal is a digest of the whole; an
edit by hand breaks it, and the file is then refused by name.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from reverie.base import ArgumentError, FileError
from reverie.base.files import atomic, read_bytes
from reverie.papers.claim import Case
from reverie.papers.verdict import NOT, VERDICTS, Outcome, effect, together

__all__ = ["FOLDER", "Record", "own_folder", "read", "write"]

FOLDER = Path(__file__).parent / "verdicts"
"""The records that come with the package."""


def own_folder() -> Path:
    """Where records are written: with the package if it is a checkout of the repository, else among the user's data."""
    if (FOLDER.parents[3] / "pyproject.toml").is_file():
        return FOLDER
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "reverie" / "claims"


_FORMAT, _LIMIT = 1, 4 << 20


@dataclass(frozen=True)
class Record:
    """What was found.

    Attributes:
        slug, kind, statement, axis, units, names: as the claim said at the time. budget: its name. seeds: which.
        figures: figure -> arm -> one value a seed. cases: each case as it was asked, with its outcome and that of the null control.
        verdict: "holds", "holds weakly" or "does not hold here". null: the verdict of the null control, always the last of these.
        seconds: of the run. day: of its end, UTC. versions: of python, torch and reverie. threads: of torch. rests_on: module -> digest.
    """

    slug: str
    kind: str
    statement: str
    budget: str
    seeds: tuple[int, ...]
    figures: Mapping[str, Mapping[str, tuple[float, ...]]]
    cases: tuple[Mapping[str, Any], ...]
    verdict: str
    null: str
    seconds: float
    day: str
    versions: Mapping[str, str]
    threads: int
    rests_on: Mapping[str, str]
    axis: str
    units: Mapping[str, str]
    names: Mapping[str, str]

    def name(self, arm: str) -> str:
        """An arm's name for people."""
        return self.names.get(arm, arm)


def case_entry(case: Case, found: Outcome, null: Outcome | None, ideal: Outcome | None) -> dict[str, Any]:
    """A case with its outcome and those of the controls, as it is kept."""
    asked = {k: v for k, v in asdict(case).items() if v is not None and v is not False}
    controls = {"null": null, "ideal": ideal}
    return {**asked, "outcome": _outcome(found), **{k: None if o is None else _outcome(o) for k, o in controls.items()}}


def case_of(entry: Mapping[str, Any]) -> Case:
    """The case of an entry."""
    return Case(**{k: v for k, v in entry.items() if k not in ("outcome", "null", "ideal")})


def _outcome(o: Outcome) -> dict[str, Any]:
    kept = asdict(o) | {"effects": list(o.effects)}  # as JSON gives it back
    return {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in kept.items()}


def _canonical(body: Mapping[str, Any]) -> str:
    return json.dumps(body, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _seal(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(body).encode(errors="surrogatepass")).hexdigest()


def write(record: Record, path: str | Path) -> None:
    """Write a record, whole or not at all. Raises `FileError`."""
    body = json.loads(json.dumps({"format": _FORMAT, **asdict(record)}, allow_nan=False))
    lines = ",\n".join(
        f" {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in {**body, "seal": _seal(body)}.items()
    )
    with atomic(path) as temporary:
        temporary.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def read(path: str | Path) -> Record:
    """Read a record.

    Raises:
        FileError: it is missing, no record, of a newer format, edited by hand, or its verdict is not what its figures say.
    """
    file = Path(path)
    again = f"run `reverie claims run {file.stem.split('.')[0]}` to measure it anew"
    try:
        body = json.loads(read_bytes(file, _LIMIT), object_pairs_hook=_unique, parse_constant=_refused)
        seal = body.pop("seal")
        version = body.pop("format")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise FileError(f"{str(file)!r} is not the record of a claim; {again}") from None
    if version != _FORMAT:
        raise FileError(
            f"{str(file)!r} has format {version!r}, this version reads {_FORMAT}; update reverie, or {again}"
        )
    if seal != _seal({"format": version, **body}):
        raise FileError(f"{str(file)!r} was edited: its content does not have its seal; restore it, or {again}")
    missing = {f.name for f in fields(Record)} ^ set(body)
    if missing:
        raise FileError(f"{str(file)!r} does not have the fields of a record ({', '.join(sorted(missing))}); {again}")
    try:
        body["seeds"], body["cases"] = tuple(body["seeds"]), tuple(body["cases"])
        body["figures"] = {f: {a: tuple(v) for a, v in arms.items()} for f, arms in body["figures"].items()}
        record = Record(**body)
        sound = _sound(record)
    except (ArgumentError, AttributeError, KeyError, TypeError, ValueError, IndexError):
        sound = False
    if not sound:
        raise FileError(
            f"{str(file)!r} gives the verdict {body['verdict']!r}, which its figures do not bear out; {again}"
        )
    return record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({k for k, _ in pairs}) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _sound(record: Record) -> bool:
    """Whether the effects are those of the figures, and the verdict that of the cases."""
    for entry in record.cases:
        case, kept = case_of(entry), entry["outcome"]
        arms = record.figures[case.figure]
        for seed, value in enumerate(kept["effects"]):
            if not math.isclose(
                value, effect(case, {a: v[seed] for a, v in arms.items()}, case.arm), rel_tol=1e-9, abs_tol=1e-12
            ):
                return False
        mean = math.fsum(kept["effects"]) / len(record.seeds)
        if not math.isclose(mean, kept["mean"], rel_tol=1e-9, abs_tol=1e-12) or len(kept["effects"]) != len(
            record.seeds
        ):
            return False
    judged = [entry["outcome"]["verdict"] for entry in record.cases]
    return set(judged) <= set(VERDICTS) and record.verdict == together(judged) and record.null == NOT
