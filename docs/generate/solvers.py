"""The solvers, as the library itself describes them: an overview, and a page a family with every solver's options and printed table."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
import sys
from collections.abc import Callable
from typing import Any

import reverie as rv
from generate.docstrings import markdown, prose, read, title, without_title
from generate.page import Page, cell, table
from reverie.base import ArgumentError
from reverie.solve import SOLVERS, OrderCheck, Plan, Solver

__all__ = ["measured", "pages", "shown"]

PROCESS = rv.process.vp()
STEPS = 4

_WIDE = "---\nhide: [toc]\n---\n\n"  # its width goes to the tables


def measured(name: str) -> OrderCheck | None:
    """The solver's order of accuracy, or None where its table does not have one (see `solve.check_order`)."""
    try:
        return rv.solve.check_order(name, PROCESS)
    except ArgumentError:
        return None


def pages(check: Callable[[str], OrderCheck | None] = measured) -> list[Page]:
    """The overview and the families, in the order in which solvers are registered."""
    orders = {name: check(name) for name in SOLVERS}
    families: dict[str, list[Solver]] = {}
    for entry in SOLVERS.values():
        families.setdefault(entry.build.__module__, []).append(entry)
    made = [Page("solvers/index.md", "All solvers", _overview(families, orders))]
    for module, entries in families.items():
        made.append(Page(_path(module), _short(module), _family(module, entries, orders)))
    return made


def _path(module: str) -> str:
    return f"solvers/{module.rpartition('.')[2]}.md"


def _short(module: str) -> str:
    return title(_doc(sys.modules[module]))


def _doc(thing: Any) -> str:
    return inspect.getdoc(thing) or ""


def _overview(families: dict[str, list[Solver]], orders: dict[str, OrderCheck | None]) -> str:
    out = [
        "# Solvers",
        f"{len(SOLVERS)} solvers in {len(families)} families. Each is a function that computes a table of coefficients, once the process and the"
        " grid are fixed. This page and the next ones are made from the library itself: the tables are what it prints, and the orders are"
        " measured on them.",
        '*Order* is that of a full step as declared, beside what `rv.solve.check_order("NAME", rv.process.vp())` measured when this page was made;'
        " for solvers that draw noise it is the weak order in the second moment. *Calls* are evaluations of the model a step. *Noise*:"
        " “option” means that an option adds it. [Sampling](../sampling.md) says what to use when.",
        "In a printed row `x0`, `x1`, ... are states, `x0` the initial one; `D1` (data), `e1` (noise) or `u1` (flow) is what the model said of"
        " state 1; `z0`, `z1`, ... are fresh noises.",
    ]
    rows = []
    for module, entries in families.items():
        page = _path(module).removeprefix("solvers/")
        for e in entries:
            rows.append(
                (
                    f"[{_short(module)}]({page})" if e is entries[0] else "",
                    f"[`{e.name}`]({page}#{e.name})",
                    e.order_of(e.options),
                    _measured(orders[e.name]),
                    _calls(e),
                    _noise(e),
                    ", ".join(f"`{k}`" for k in e.options),
                    _papers(e),
                )
            )
    out.append(table(("family", "name", "order", "measured", "calls", "noise", "options", "papers"), rows, "llrrrlll"))
    return _WIDE + "\n\n".join(out) + "\n"


def _family(module: str, entries: list[Solver], orders: dict[str, OrderCheck | None]) -> str:
    opening = without_title(read(_doc(sys.modules[module])))
    out = [f"# {_short(module)}", markdown(opening)]
    if len(entries) > 1:
        out.append("On this page: " + ", ".join(f"[`{e.name}`](#{e.name})" for e in entries) + ".")
    for e in entries:
        out += _section(e, orders[e.name])
    return _WIDE + "\n\n".join(out) + "\n"


def _section(e: Solver, check: OrderCheck | None) -> list[str]:
    parts = read(_doc(e.build), tuple(e.options))
    out = [f"## {e.name} {{ #{e.name} }}", markdown(p for p in parts if p.kind == "text")]
    if formulas := markdown(p for p in parts if p.kind in ("formula", "example")):
        out.append(formulas)
    order = f"{e.order_of(e.options)}" + (f" (measured {_measured(check)})" if check else "")
    elsewhere = f"; on processes other than VP `{e.elsewhere}`" if e.elsewhere else ""
    facts = {
        "order": order,
        "calls a step": _calls(e),
        "noise": _noise(e),
        "grid": f"`{e.grid}`{elsewhere}",
        "papers": _papers(e),
    }
    listed = "\n".join(f"- **{k}** {v}" for k, v in facts.items() if v)
    out.append(f'<div class="facts" markdown>\n\n{listed}\n\n</div>')
    if e.options:
        out.append(_options(e, [item for p in parts if p.kind == "args" for item in p.items]))
    plan = shown(e)
    steps = "" if e.dynamic else f", steps={plan.steps}"
    out.append(f'```python\nprint(rv.solve.plan("{e.name}", rv.process.vp(){steps}))\n```')
    out.append(f"``` {{ .text .plan }}\n{plan}\n```")
    return out


def shown(e: Solver) -> Plan:
    """The plan that a solver's section prints: of few steps, of as many as it needs where four are too few."""
    if e.dynamic:
        return rv.solve.plan(e.name, PROCESS)
    for steps in range(STEPS, 4 * STEPS):
        with contextlib.suppress(ArgumentError):
            return rv.solve.plan(e.name, PROCESS, steps=steps)
    raise ArgumentError(f"{e.name!r} needs {4 * STEPS} steps or more, too many to show")


def _options(e: Solver, items: list[Any]) -> str:
    said = {name: item for item in items for name in item.names}
    signature = inspect.signature(e.build).parameters
    rows = []
    for name, default in e.options.items():
        item, first = said.get(name), True
        if item is not None:
            first = item.names[0] == name
        meaning = "" if item is None else prose(item.text) if first else f"see `{item.names[0]}`"
        rows.append((f"`{name}`", f"`{signature[name].annotation}`", f"`{_default(default)}`", cell(meaning)))
    return table(("option", "type", "default", "meaning"), rows)


def _default(value: Any) -> str:
    if isinstance(value, float):
        return "inf" if value == math.inf else f"{value:.6g}"
    return repr(value)


def _measured(check: OrderCheck | None) -> str:
    return "–" if check is None else f"{check.measured:.2f}"


def _calls(e: Solver) -> str:
    if e.dynamic:
        return "its own"
    short, long = (rv.solve.plan(e.name, PROCESS, steps=n).nfe or 0 for n in (9, 12))
    return f"{(long - short) / 3:g}"


def _noise(e: Solver) -> str:
    if e.dynamic or not rv.solve.plan(e.name, PROCESS, steps=12).noises:
        return "option" if e.stochastic else "none"
    return "always"


def _papers(e: Solver) -> str:
    return ", ".join(map(_work, (*getattr(e.build, "__papers__", ()), *getattr(e.build, "__cites__", ()))))


def _work(key: str) -> str:
    """A work as authors and year, linked if it is on arXiv."""
    said = dict(re.findall(r"^ *(\w+) = \{*(.*?)\}*,?$", rv.cite(key), re.M))
    names = [
        author.partition(",")[0] if "," in author else author.split()[-1] for author in said["author"].split(" and ")
    ]
    who = names[0] + (" et al." if len(names) > 2 else f" & {names[1]}" if len(names) == 2 else "")
    text = f"{who} {said['year']}".replace(" ", "\N{NO-BREAK SPACE}")
    return f"[{text}](https://arxiv.org/abs/{said['eprint']})" if "eprint" in said else text
