"""Plans on disk: a JSON file, with a safetensors file beside it when coefficients are tensors.

    {"format": "reverie-plan", "version": 1, "solver": ..., "process": {...}, "stages": [{"t", "to", "row": [[symbol, index..., c], ...]}, ...], ...}

A coefficient is a number, or the name of a tensor in `<file>.safetensors`, whose SHA-256 the plan holds. Reading checks everything and
executes nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from reverie.base import FileError, ReverieError
from reverie.base.files import atomic, read_bytes
from reverie.process import from_spec
from reverie.solve.line import Coef, Key, Line
from reverie.solve.plan import Plan, Stage

__all__ = ["FORMAT", "VERSION", "load", "read", "save", "written"]

FORMAT, VERSION = "reverie-plan", 1
LIMIT, TENSOR_LIMIT = 64 << 20, 2 << 30
"""Largest JSON and safetensors files read, bytes."""
MAX_STAGES = 100_000


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".safetensors")


def save(plan: Plan, path: str | Path) -> None:
    """See `Plan.save`."""
    target = Path(path)
    head, tensors = written(plan)
    blob = b""
    if tensors:
        from safetensors.torch import save as to_bytes

        blob = to_bytes(tensors)
        head["tensors"] = hashlib.sha256(blob).hexdigest()
    try:
        text = json.dumps(head, indent=1, allow_nan=True, default=_described)
    except TypeError as error:
        raise FileError(
            f"cannot save the plan: {error}; args, options and provenance must be numbers, strings and lists"
        ) from None
    if blob:
        with atomic(_beside(target)) as temporary:
            temporary.write_bytes(blob)
    with atomic(target) as temporary:
        temporary.write_text(text + "\n")


def written(plan: Plan) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A plan as the content of its JSON file, and the tensors among its coefficients by the names that stand for them there."""
    tensors: dict[str, Tensor] = {}

    def coefficient(k: int, n: int, c: Coef) -> float | str:
        if not isinstance(c, Tensor):
            return float(c)
        name = f"stage{k}.term{n}"
        tensors[name] = c.detach().double().cpu().contiguous().clone()  # one storage each
        return name

    stages = []
    for k, s in enumerate(plan.table):
        row = [[*key, coefficient(k, n, c)] for n, (key, c) in enumerate(s.row.terms.items())]
        entry: dict[str, Any] = {"t": s.t, "to": s.to, "step": s.step, "row": row}
        entry |= {"inner": True} if s.inner else {}
        entry |= {"label": s.label} if s.label is not None else {}
        entry |= {"args": dict(s.args)} if s.args else {}
        entry |= {"net": s.net} if s.net is not None else {}
        entry |= {"rule": [s.rule[0], dict(s.rule[1])]} if s.rule is not None else {}
        stages.append(entry)
    head = {
        "format": FORMAT,
        "version": VERSION,
        "solver": plan.solver,
        "process": plan.process.spec(),
        "start": plan.start,
        "kinds": list(plan.kinds),
        "order": plan.order,
        "grid": plan.grid,
        "end": plan.end,
        "options": dict(plan.options),
        "rule": None if plan.rule is None else [plan.rule[0], dict(plan.rule[1])],
        "bound": plan.bound,
        "papers": list(plan.papers),
        "provenance": dict(plan.provenance),
        "tensors": None,
        "stages": stages,
    }
    return head, tensors


def load(path: str | Path) -> Plan:
    """See `Plan.load`."""
    source = Path(path)
    raw = read_bytes(source, LIMIT)
    try:
        head = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{str(source)!r} is not a plan: not valid JSON ({error})") from None
    return read(head, repr(str(source)), lambda digest: _tensors(source, digest))


def read(head: Any, name: str, tensors: Callable[[Any], dict[str, Tensor]] = lambda digest: {}) -> Plan:
    """A plan of what `written` wrote, checked throughout.

    Args:
        head: the content of a plan's JSON file. name: what errors call it. tensors: called with the digest that it holds, or None.

    Raises `FileError`.
    """
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise FileError(f"{name} is not a plan: its 'format' is not {FORMAT!r}")
    version = head.get("version")
    if not isinstance(version, int) or not 1 <= version <= VERSION:
        raise FileError(
            f"{name} has plan version {version!r}, this Reverie reads up to {VERSION}; upgrade Reverie, or compile the plan again"
        )
    stages = head.get("stages")
    if not isinstance(stages, list) or len(stages) > MAX_STAGES:
        raise FileError(f"{name}: 'stages' must be a list of at most {MAX_STAGES}")
    try:
        large = tensors(head.get("tensors"))
        return Plan(
            solver=_typed(head, "solver", str),
            process=from_spec(head["process"]),
            table=tuple(_stage(k, s, large) for k, s in enumerate(stages)),
            start=_number(head["start"]),
            kinds=tuple(_typed(head, "kinds", list)),
            order=_typed(head, "order", int),
            grid=_typed(head, "grid", str),
            end=_typed(head, "end", str),
            options={k: _tuples(v) for k, v in _typed(head, "options", dict).items()},
            rule=None if head.get("rule") is None else (str(head["rule"][0]), dict(head["rule"][1])),
            bound=None if head.get("bound") is None else _typed(head, "bound", int),
            papers=tuple(_typed(head, "papers", list)),
            provenance=_typed(head, "provenance", dict),
        )
    except FileError:
        raise
    except ReverieError as error:
        raise FileError(f"{name} is a malformed plan: {error}") from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise FileError(f"{name} is a malformed plan: {type(error).__name__} {error}") from None


def _tensors(source: Path, digest: Any) -> dict[str, Tensor]:
    if digest is None:
        return {}
    from safetensors import SafetensorError
    from safetensors.torch import load

    beside = _beside(source)
    if not beside.exists():
        raise FileError(f"{str(source)!r} needs {beside.name!r} beside it, which is missing")
    blob = read_bytes(beside, TENSOR_LIMIT)
    if hashlib.sha256(blob).hexdigest() != digest:
        raise FileError(
            f"{str(beside)!r} does not belong to {source.name!r}, or is damaged: its SHA-256 differs; save the plan again"
        )
    try:
        return {name: c.double() for name, c in load(blob).items()}
    except (SafetensorError, ValueError) as error:
        raise FileError(f"{str(beside)!r} cannot be read: {error}") from None


def _stage(k: int, entry: Any, tensors: dict[str, Tensor]) -> Stage:
    terms: dict[Key, Coef] = {}
    for term in entry["row"]:
        symbol, *index, c = term
        widths = {"x": 1, "p": 2, "n": 1, "i": 1, "1": 0}
        if (
            symbol not in widths
            or len(index) != widths[symbol]
            or any(not isinstance(i, str if symbol == "i" else int) or isinstance(i, bool) for i in index)
        ):
            raise ValueError(f"stage {k}: {term!r:.80} is no term")
        if (key := (symbol, *index)) in terms:
            raise ValueError(f"stage {k}: two terms of {key}")
        terms[key] = tensors[c] if isinstance(c, str) else _number(c)
    made = entry.get("rule")
    return Stage(
        Line(terms),
        None if entry["t"] is None else _number(entry["t"]),
        _number(entry["to"]),
        _typed(entry, "step", int),
        entry.get("inner", False) is True,
        None if entry.get("label") is None else _number(entry["label"]),
        dict(entry.get("args", {})),
        None if entry.get("net") is None else _typed(entry, "net", str),
        None if made is None else (str(made[0]), dict(made[1])),
    )


def _described(value: Any) -> Any:
    """What an option of no JSON type says of itself (statistics, whose numbers are in the table)."""
    if callable(spec := getattr(value, "spec", None)):
        return spec()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _tuples(value: Any) -> Any:
    """Lists as tuples, at any depth: what JSON has made of them."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a number is needed, got {value!r:.80}")
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is not finite")
    return float(value)


def _typed(head: dict[str, Any], key: str, kind: type) -> Any:
    if not isinstance(head.get(key), kind) or isinstance(head[key], bool):
        raise ValueError(f"{key!r} must be a {kind.__name__}, got {head.get(key)!r:.80}")
    return head[key]
