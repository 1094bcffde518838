"""Folding: a plan's rows, rewritten for what a model really returns.

The table speaks of predictions of a kind (x0, say); the network returns another (eps). With

    kind_j = P_j state_j + R_j raw_j + Q_j y        (`Target.to`, at the time of stage j)

each b[k,j] prediction_j becomes b P on state j, b R on the raw output and b Q on the input y. This happens once for a
plan and a prediction type, in float64; the loop then costs one multiply-add a term. A prediction that many rows read without
their reading state j too (a predictor-corrector's) is made once instead, where that takes fewer multiply-adds. A fold holds
numbers only, so models of equal type share it and none is kept alive.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, ReverieError
from reverie.model import Affine, Model
from reverie.solve.line import Coef, Key
from reverie.solve.plan import Plan, Stage, serving

__all__ = ["Folded", "FoldedStage", "affine", "fold", "fold_stage"]


@dataclass(frozen=True, eq=False, slots=True)
class FoldedStage:
    """A stage ready to run: terms are (index, coefficient), those with tensors in `wide`."""

    stage: Stage
    label: float | Tensor | None
    """What the network is told; None: the model's label is a function, which is asked at every run. A tensor where times are of samples."""
    c_in: float | Tensor
    states: tuple[tuple[int, float], ...]
    raws: tuple[tuple[int, int, float], ...]
    noises: tuple[tuple[int, float], ...]
    inputs: tuple[tuple[str, float], ...]
    wide: tuple[tuple[Key, Tensor], ...]
    constant: float = 0.0
    """The row's term without a symbol, where it is a number."""
    made: tuple[tuple[int, int, float], ...] = ()
    """Predictions that are made once: (stage, head, coefficient)."""
    makes: tuple[tuple[int, float, float], ...] = ()
    """Those that this stage makes: (head, P, R)."""
    keep: int | None = None
    """The row is state `keep` unchanged."""
    free_states: tuple[int, ...] = ()
    free_raws: tuple[int, ...] = ()
    free_made: tuple[tuple[int, int], ...] = ()
    asks: bool = True
    """Whether the model is asked."""
    simple: bool = False
    """The row has numbers times states and raw outputs only."""
    reads_own: bool = False
    """The row reads the state at which it begins, so that NaN and infinity in it reach the next state."""
    carried: bool = False
    """The next row reads the state that this one makes, so that NaN and infinity in it reach the next state too."""
    leads: dict[tuple[torch.dtype, float], Tensor] = field(default_factory=dict)
    """Coefficients with which a sum begins as tensors without dimensions, by the state's type."""

    def uses(self, symbol: str) -> set[Any]:
        """The states ("x"), predictions ("p") or inputs ("i") that the row reads."""
        plain: dict[str, tuple[tuple[Any, ...], ...]] = {"x": self.states, "p": self.raws, "i": self.inputs}
        return {term[0] for term in plain[symbol]} | {key[1] for key, _ in self.wide if key[0] == symbol}


@dataclass(frozen=True, eq=False)
class Folded:
    """A static plan's folded stages, the number of noises they draw and the inputs they read."""

    stages: tuple[FoldedStage, ...]
    noises: int
    inputs: frozenset[str]
    labels: Tensor | None
    """What the network is told at every stage, float64; None where a model's label is a function."""
    told: dict[Any, tuple[Tensor, int]] = field(default_factory=dict)
    """The same on a device, in a type, for a batch: a tensor, and its version when it was made."""


def fold(plan: Plan, model: Model | Mapping[str, Model]) -> Folded:
    """The plan's stages for this model's prediction type and label; cached on the plan.

    Raises `ArgumentError` where a stage needs a quantity that the model's output does not determine, naming the stage.
    """
    last = plan._folds.get("last")
    if last is not None and last[0]() is model:  # the usual case, without looking the key up
        return last[1]
    models = {"": model} if isinstance(model, Model) else model
    key = tuple((name, m.targets, m._label if isinstance(m._label, str) else None) for name, m in models.items())
    if key not in plan._folds:
        served = {k: serving(model, s.net) for k, s in enumerate(plan.table) if s.t is not None}
        once = _made_once(plan, served)
        stages = [fold_stage(plan, k, s, plan.table, served, once) for k, s in enumerate(plan.table)]
        inputs = frozenset(name for f in stages for name in f.uses("i"))
        told = [f.label for f in stages if f.label is not None]
        labels = torch.tensor(told, dtype=torch.float64) if len(told) == len(stages) else None
        plan._folds[key] = Folded(_free(stages), plan.noises, inputs, labels)
    if isinstance(model, Model):
        plan._folds["last"] = weakref.ref(model), plan._folds[key]
    return plan._folds[key]


def affine(plan: Plan, j: int, head: int, stage: Stage, model: Model) -> Affine:
    """(P, R, Q) of a prediction of stage j."""
    targets = [t for t in model.targets if t is not None]
    if head >= len(targets):
        raise ArgumentError(f"{plan.solver!r} needs {len(plan.kinds)} heads; {model.name} has {len(targets)}")
    try:
        return targets[head].to(plan.kinds[head], plan.process, stage.t)  # type: ignore[arg-type]
    except ReverieError as error:
        raise ArgumentError(f"{plan.solver!r}, stage {j}: {error}") from None


def _made_once(plan: Plan, served: Mapping[int, Model]) -> dict[tuple[int, int], Affine]:
    """The predictions of which more than two rows would read the state for their sake alone, with their (P, R, Q)."""
    alone: dict[tuple[int, int], int] = {}
    for s in plan.table:
        terms = s.row.terms
        if any(isinstance(c, Tensor) for c in terms.values()):
            return {}
        for key in terms:
            if key[0] == "p" and ("x", key[1]) not in terms and terms[key] != 0.0:
                alone[key[1:]] = alone.get(key[1:], 0) + 1
    many = {key: affine(plan, *key, plan.table[key[0]], served[key[0]]) for key, n in alone.items() if n > 2}
    return {key: a for key, a in many.items() if a.x != 0.0 and a.y == 0.0}


def fold_stage(
    plan: Plan,
    k: int,
    stage: Stage,
    table: Sequence[Stage] | Mapping[int, Stage],
    served: Mapping[int, Model],
    once: Mapping[tuple[int, int], Affine] | None = None,
) -> FoldedStage:
    """Fold stage k; `table` and `served` hold the stages and models that its row may refer to, itself included; `once` the predictions
    that are made once."""
    once = once or {}
    total: dict[Key, Coef] = {}

    def add(key: Key, c: Coef) -> None:
        total[key] = total[key] + c if key in total else c

    for key, c in stage.row.terms.items():
        if key[0] != "p":
            add(key, c)
            continue
        _, j, head = key
        if (j, head) in once:
            add(("m", j, head), c)
            continue
        a = affine(plan, j, head, table[j], served[j])
        add(("x", j), c * a.x)
        add(("p", j, head), c * a.raw)
        add(("i", "y"), c * a.y)
    wide = tuple((key, c) for key, c in total.items() if isinstance(c, Tensor) and bool((c != 0).any()))
    scalars = [(key, float(c)) for key, c in total.items() if not isinstance(c, Tensor) and c != 0.0]
    label: float | Tensor | None = 0.0
    c_in: float | Tensor = 1.0
    if isinstance(stage.t, Tensor):  # a time a sample
        label, c_in = served[k].label(stage.t), served[k].target.input_scale(plan.process, stage.t)
    elif stage.t is not None:
        m = served[k]
        told = stage.label if stage.label is not None else m.label(stage.t) if isinstance(m._label, str) else None
        label = None if told is None else float(told)
        c_in = float(m.target.input_scale(plan.process, stage.t))
    only = scalars[0] if len(scalars) == 1 and not wide else None
    return FoldedStage(
        stage,
        label,
        c_in,
        states=tuple((key[1], c) for key, c in scalars if key[0] == "x"),
        raws=tuple((key[1], key[2], c) for key, c in scalars if key[0] == "p"),
        noises=tuple((key[1], c) for key, c in scalars if key[0] == "n"),
        inputs=tuple((key[1], c) for key, c in scalars if key[0] == "i"),
        wide=wide,
        constant=sum(c for key, c in scalars if key[0] == "1"),
        made=tuple((key[1], key[2], c) for key, c in scalars if key[0] == "m"),
        makes=tuple((h, float(a.x), float(a.raw)) for (j, h), a in once.items() if j == k),
        asks=stage.t is not None,
        simple=bool(scalars)
        and not wide
        and all(key[0] in "xp" for key, _ in scalars)
        and not any(j == k for j, _ in once),
        keep=only[0][1]
        if only is not None and only[0][0] == "x" and only[1] == 1.0 and not any(j == k for j, _ in once)
        else None,
    )


def _free(stages: Sequence[FoldedStage]) -> tuple[FoldedStage, ...]:
    """Say after which stage each state and raw output is needed no more."""
    last_x = {j: j for j in range(len(stages))}  # its own stage, where it is the current state
    last_p = {j: j for j, f in enumerate(stages) if f.stage.t is not None}
    for k, f in enumerate(stages):
        last_x |= dict.fromkeys(f.uses("x"), k)
        last_p |= dict.fromkeys(f.uses("p"), k)
    last_m: dict[tuple[int, int], int] = {}
    for k, f in enumerate(stages):
        last_m |= {(j, h): k for j, h, _ in f.made}
    free_m: list[list[tuple[int, int]]] = [[] for _ in stages]
    for key, last in last_m.items():
        free_m[last].append(key)
    free_x: list[list[int]] = [[] for _ in stages]
    free_p: list[list[int]] = [[] for _ in stages]
    for j, last in last_x.items():
        free_x[last].append(j)
    for j, last in last_p.items():
        free_p[last].append(j)
    own = [k in f.uses("x") or any(j == k for j, _, _ in f.made) for k, f in enumerate(stages)]
    return tuple(
        dataclasses.replace(f, free_states=tuple(x), free_raws=tuple(p), free_made=tuple(m), reads_own=o, carried=c)
        for f, x, p, m, o, c in zip(stages, free_x, free_p, free_m, own, [*own[1:], False], strict=True)
    )
