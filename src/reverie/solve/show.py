"""Plans as text that a person can read."""

from __future__ import annotations

import math

from torch import Tensor

from reverie.solve.line import Coef, Key
from reverie.solve.plan import Plan, Stage

__all__ = ["show"]

_LETTER = {"x0": "D", "eps": "e", "v": "v", "flow": "u", "score": "s"}


def show(plan: Plan) -> str:
    """The plan as a table: one line a stage, with time, lam, what is asked, and the row as a formula.

    x0, x1, ... are states (x0 the initial one), D1 (data), e1 (noise), u1 (flow) is what the model said of state 1, z0, z1, ... are noises.
    """
    order = f"order {plan.order}" if plan.order else "fitted, of no order"
    head = f"{plan.solver}: {_process(plan)}, {order}"
    if plan.rule is not None:
        given = ", ".join(f"{k}={v}" for k, v in plan.rule[1].items())
        return f"{head}\n  dynamic: {plan.rule[0]}({given}), at most {plan.bound if plan.bound is not None else 'any number of'} calls"
    noises = f", {plan.noises} noises" if plan.noises else ""
    options = "".join(f", {k}={v}" for k, v in plan.options.items())
    lines = [
        f"{head}, {plan.steps} steps, {plan.nfe} calls{noises}",
        f"grid {plan.grid}, end {plan.end}{options}; predictions as {', '.join(plan.kinds)}",
        "",
        f"{'stage':>5}  {'t':>9}  {'lam':>7}  {'label':>9}  row",
    ]
    at = plan.start
    for k, s in enumerate(plan.table):
        assert not isinstance(s.t, Tensor)
        lam = plan.process.lam(at if s.t is None else s.t)
        label = "" if s.label is None else f"{s.label:.6g}"
        what = f"{s.t:9.5g}  {lam:7.3f}  {label:>9}" if s.t is not None else f"{'-':>9}  {lam:7.3f}  {label:>9}"
        lines.append(f"{k:>5}  {what}  x{k + 1} = {_formula(plan, s)}{_extra(s)}")
        at = s.to
    last = plan.table[-1].to
    ends = plan.process.lam(last)
    lines.append(
        f"{'end':>5}  {last:9.5g}  {ends:7.3f}" if math.isfinite(ends) else f"{'end':>5}  {last:9.5g}      inf"
    )
    return "\n".join(lines + _origin(plan))


def _origin(plan: Plan) -> list[str]:
    """What the numbers were fitted to."""
    said = plan.provenance
    if "model" not in said:
        return []
    errors = ""
    if "before" in said and "after" in said:
        errors = f"; error {said['before']['median']:.3g} ({said['begun']}) before, {said['after']['median']:.3g} after"
    return [f"fitted to {said['model']}{errors}"]


def _process(plan: Plan) -> str:
    p = plan.process
    return f"{p.name} (t from {plan.start:.5g})"


def _formula(plan: Plan, s: Stage) -> str:
    out = ""
    for key, c in s.row.terms.items():
        if not isinstance(c, Tensor) and c == 0.0:
            continue
        sign, size = _size(c)
        term = f"{size} {_symbol(plan, key)}".rstrip()
        out += f" {sign} {term}" if out else f"{'-' if sign == '-' else ''}{term}"
    return out or "0"


def _size(c: Coef) -> tuple[str, str]:
    if isinstance(c, Tensor):
        return "+", f"[{'x'.join(map(str, c.shape))}]"
    return ("-" if c < 0 else "+"), f"{abs(c):.5g}"


def _symbol(plan: Plan, key: Key) -> str:
    if key[0] == "x":
        return f"x{key[1]}"
    if key[0] == "p":
        return f"{_LETTER.get(plan.kinds[key[2]], 'p')}{key[1]}" + (f".{key[2]}" if key[2] else "")
    if key[0] == "1":
        return ""
    return f"z{key[1]}" if key[0] == "n" else str(key[1])


def _extra(s: Stage) -> str:
    notes = [
        f"then {s.rule[0]}" if s.rule else "",
        f"net {s.net}" if s.net else "",
        f"args {dict(s.args)}" if s.args else "",
    ]
    notes.append("inner" if s.inner else "")
    text = "; ".join(n for n in notes if n)
    return f"   ({text})" if text else ""
