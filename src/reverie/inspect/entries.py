"""Which solvers to compare, in words: NAME[@GRID][:OPTION=VALUE ...].

dpmpp-3m          as `sample` would run it
heun@karras:5     on another grid
ddim:eta=1        with an option of the solver; `end=zero` says how it ends
plan.json         a saved plan, e.g. a tuned one
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from reverie.base import ArgumentError, ReverieError, unknown
from reverie.model import Model
from reverie.oracle import Mixture
from reverie.solve import SOLVERS, Plan, plan_for, run

__all__ = ["Entry", "defaults", "entry", "split", "value"]

_WORDS = {"true": True, "false": False, "none": None}


@dataclass(frozen=True)
class Entry:
    """One method of a comparison: a solver with its grid, end and options, or a compiled plan.

    Attributes:
        name: how it is called in the table. solver: registered name. grid, end: None for the model's or the solver's own.
        plan: the compiled plan, which has its own budget.
    """

    name: str
    solver: str = ""
    grid: Any = None
    end: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    plan: Plan | None = None

    def compile(
        self,
        m: Model,
        steps: int | None = None,
        nfe: int | None = None,
        grid: Any = None,
        end: str | None = None,
    ) -> Plan:
        """The plan for a budget; `grid` and `end` where the entry has none of its own. Raises as `solve.plan`."""
        if self.plan is not None:
            return self.plan
        grid, end = grid if self.grid is None else self.grid, end if self.end is None else self.end
        return plan_for(m, self.solver, steps=steps, nfe=nfe, grid=grid, end=end, **self.options)


def entry(what: Any) -> Entry:
    """A method of a comparison, from a spec (see the module), a pair (spec, options), a `Plan`, or an `Entry`.

    Raises:
        UnknownNameError: no such solver. ArgumentError: a part that is not understood. FileError: a plan that cannot be read.

    >>> e = entry("heun@karras:5:end=zero")
    >>> e.solver, e.grid, e.end
    ('heun', 'karras:5', 'zero')
    >>> entry(("ddim", {"eta": 1.0})).name
    'ddim:eta=1.0'
    """
    if isinstance(what, Entry):
        return what
    if isinstance(what, Plan):
        made = ", ".join(f"{k}={v}" for k, v in what.options.items())
        return Entry(f"{what.solver}, a plan of {what.nfe or 'free'} calls" + (f" ({made})" if made else ""), plan=what)
    more: Mapping[str, Any] = {}
    if isinstance(what, tuple | list) and len(what) == 2 and isinstance(what[1], Mapping):
        what, more = what
        if isinstance(what, Plan):
            raise ArgumentError("a compiled plan takes no options; compile it with them")
    if not isinstance(what, str) or not what.strip():
        raise ArgumentError(
            f"a solver is a name ('dpmpp-2m', 'heun@karras', 'ddim:eta=1'), a pair (name, options) or a Plan, got {what!r:.80}"
        )
    text = what.strip()
    if text.endswith(".json"):
        return Entry(Path(text).stem, plan=Plan.load(text))
    head, *words = text.split(":")
    solver, at, grid = head.partition("@")
    if solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    if SOLVERS[solver].dynamic:
        raise ArgumentError(
            f"{solver!r} chooses its own steps, so that no budget can be set; compare takes solvers that are told theirs"
        )
    found: dict[str, Any] = {}
    for i, word in enumerate(words):
        name, equals, said = word.partition("=")
        if i == 0 and at and not equals:
            grid = f"{grid}:{word}"
            continue
        if not (name and equals and said) or name in found:
            raise ArgumentError(
                f"the solver {text!r} has a part {word!r} that is not understood; write NAME[@GRID][:OPTION=VALUE ...], "
                f"for example ddim@time:eta=1"
            )
        found[name] = value(said)
    if at and not grid:
        raise ArgumentError(f"the solver {text!r} lacks the name of its grid after '@'")
    found |= more
    name = text + "".join(f":{k}={v}" for k, v in more.items())
    return Entry(name, solver, found.pop("grid", grid or None), found.pop("end", None), found)


def split(text: str) -> list[str]:
    """The specs in a list with commas; a piece that begins with a digit continues a list of numbers.

    >>> split("ddim,dpm-fast:orders=3,3,1,heun@karras")
    ['ddim', 'dpm-fast:orders=3,3,1', 'heun@karras']
    """
    out: list[str] = []
    for piece in text.split(","):
        if out and piece[:1].isdigit():
            out[-1] += f",{piece}"
        elif piece.strip():
            out.append(piece.strip())
    return out


def defaults(
    m: Model, steps: int | None = None, nfe: int | None = None, grid: Any = None, end: str | None = None
) -> tuple[list[Entry], list[str]]:
    """All registered solvers that draw no noise and go with this model, without those that are another by a second name,
    and what to note about the latter.

    Two plans are one method if they take an exact mixture of the model's process to the same state.
    """
    p = m.process
    probe = Mixture([[-1.0, 0.3, 2.0], [0.4, -0.8, 0.1]], [0.3, 0.7], process=p)
    z = torch.tensor([[0.7, -1.1, 0.2], [-0.4, 0.9, 1.6]], dtype=torch.float64)
    kept: list[Entry] = []
    seen: list[tuple[str, Any]] = []
    notes: list[str] = []
    for name in SOLVERS:
        try:
            plan = Entry(name, name).compile(m, steps, nfe, grid, end)
            if plan.rule is not None or plan.noises or plan.inputs:
                continue
            state = run(plan, probe, p.prior(z, plan.start))
        except ReverieError:
            continue  # it does not go with this process, grid or budget
        twin = next((other for other, x in seen if torch.allclose(x, state, rtol=1e-9, atol=1e-10)), None)
        if twin is not None:
            notes.append(f"{name} is {twin} here, and is left out")
            continue
        seen.append((name, state))
        kept.append(Entry(name, name))
    return kept, notes


def labels(entries: Iterable[Entry]) -> Sequence[str]:
    """Their names; raises `ArgumentError` where two are the same."""
    names = [e.name for e in entries]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ArgumentError(f"the solver {twice[0]!r} is given twice")
    return names


def value(text: str) -> Any:
    """An option's value in words: a number, true, false, none, a list with commas, nested lists in brackets, or text.

    >>> value("3,3,1"), value("[[0.1,0.5,3,1]]"), value("inf"), value("bh1")
    ((3, 3, 1), ((0.1, 0.5, 3, 1),), inf, 'bh1')
    """
    if text.startswith("["):
        try:
            return _frozen(json.loads(text))
        except ValueError:
            return text
    if "," in text:
        return tuple(map(value, text.split(",")))
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _frozen(x: Any) -> Any:
    return tuple(map(_frozen, x)) if isinstance(x, list) else x
