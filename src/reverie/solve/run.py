"""Run a plan: the one loop of Reverie.

For every stage: ask the model if the stage asks, then make the next state from its row. Coefficients were folded into
the network's own prediction type beforehand; the loop itself is multiply-adds and whatever hooks do. NaN and infinity stay in
a state that the next row reads, so the finite check sums the states that are not read on, and looks once, at the end; if it
fails, the run is repeated with a sum a stage, to name the stage.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, Noise, NonFiniteError, ShapeError, unknown
from reverie.model import Model, conditions
from reverie.solve.context import Run, seeded
from reverie.solve.fold import Folded, FoldedStage, fold, fold_stage
from reverie.solve.origin import check_origin
from reverie.solve.plan import RULES, Plan, Stage, check_stage, serving

if TYPE_CHECKING:
    from reverie.solve.adjoint import Adjoint

__all__ = ["EVENTS", "handlers_of", "run", "stages", "static_jobs"]

EVENTS = ("start", "before", "predicted", "after", "end")
_RECORDS = ("x", "x0", "eps", "v", "flow", "score", "t")
GRADS = ("full", "checkpoint", "reversible", "adjoint")
_WINDOW = 12
"""How many past states and predictions a dynamic plan may refer to."""

Handlers = dict[str, list[Callable[[Run], Any]]]
Job = tuple[FoldedStage, Model, Tensor]
"""A stage, the model that serves it and the label `(B,)` that its network is told; both idle where the stage asks nothing."""


def run(
    plan: Plan,
    model: Model | Mapping[str, Model],
    x: Tensor,
    *,
    cond: Mapping[str, Any] | None = None,
    hooks: Iterable[Any] | Any = (),
    noise: int | Noise | Tensor | Callable[[int], Tensor] = 0,
    index: Sequence[int] | Tensor | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    grad: str | Adjoint | None = None,
    record: Sequence[str] = (),
    progress: bool = False,
) -> Any:
    """Run a plan from the state x.

    Args:
        plan: compiled for the model's process. model: a Model, or a dict of them where the plan's stages name several
            nets (the first serves the stages that name none).
        x: initial state `(B, *shape)`, see `process.prior`; kept in float32, or float64 if given so.
        cond: what the network is conditioned on (`model.conditions`).
        hooks: objects with any of the methods `start, before, predicted, after, end`, each called with the `Run`.
        noise: seed, `Noise`, a tensor `(draws, B, *shape)`, or a function of the draw's number, for stochastic plans.
        index: sample ids `(B,)`, by default 0 .. B-1: they key the noise.
        inputs: the named tensors that the plan asks for, `(B, ...)` or broadcastable to the state.
        grad: None (no gradients); "full" (through every operation); "checkpoint" (evaluations are made again for it); "reversible" and "adjoint", or
            an `Adjoint`, in flat memory, without hooks and record; see `solve.gradients`. To the initial state, conditions, inputs, weights, and
            whatever else the model's answer depends on.
        record: any of "x", "x0", "eps", "v", "flow", "score", "t"; the answer is then `(x, {name: [one entry a stage]})`
            (None where a stage does not ask the model; "x" is the state that the stage begins with).
        progress: show a line of progress on stderr.

    Returns:
        The final state `(B, *shape)`; with `record`, a pair.

    Raises:
        ArgumentError: another process, a missing input, an impossible conversion. ShapeError: batches that differ.
        NonFiniteError: NaN or infinity appeared; it names the stage and the samples.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=rv.process.vp())
    >>> plan = rv.solve.plan("ddim", o.process, steps=4)
    >>> rv.run(plan, o, torch.zeros(3, 2)).shape
    torch.Size([3, 2])
    """
    x = _check(plan, model, x, grad)
    ctx, batch = Run(plan, model, x), x.shape[0]
    ctx.recompute = grad == "checkpoint"
    first = model if isinstance(model, Model) else next(iter(model.values()))
    ctx.cond = conditions(cond, batch, first.null, x.device)
    if index is not None:
        ctx.index = torch.as_tensor(index).cpu()
        if ctx.index.shape != (batch,):
            raise ShapeError(f"index has shape {tuple(ctx.index.shape)} for a batch of {batch}")
    ctx.noise = seeded(noise) if isinstance(noise, int) else noise
    ctx.inputs = {k: _input(k, v, x) for k, v in (inputs or {}).items()}
    handlers = handlers_of(hooks)
    names = (record,) if isinstance(record, str) else tuple(record)
    if names and (wrong := set(names) - set(_RECORDS)):
        raise ArgumentError(f"record knows {', '.join(_RECORDS)}, not {sorted(wrong)}")
    kept: dict[str, list[Any]] = {name: [] for name in names}
    if grad not in (None, "full", "checkpoint"):
        if names or any(handlers.values()):
            raise ArgumentError(f"grad={grad!r} goes without hooks and record; grad='checkpoint' takes both")
        bare = functools.partial(run, plan, model, noise=ctx.noise, index=index, inputs=inputs, progress=progress)
        from reverie.solve.gradients import through

        return through(plan, model, x, ctx.cond, ctx.inputs, grad, lambda x, hook: bare(x, cond=cond, hooks=hook))  # type: ignore[arg-type]
    ids, every = ctx._index, any(handlers.values()) or bool(names) or plan.rule is not None
    with torch.set_grad_enabled(grad is not None):
        sums = _loop(ctx, handlers, kept, progress, every)
        if not _finite(sums):
            ids = torch.arange(batch) if ids is None else ids
            if not every:  # no hook can have changed what the run began with
                again = Run(plan, model, x)
                again.index, again.noise, again.cond, again.inputs = ids, ctx.noise, ctx.cond, ctx.inputs
                sums = _loop(again, handlers, kept, False, True)
            raise _not_finite(plan, sums, ids)
        for h in handlers["end"]:
            h(ctx)
    return (ctx.x, kept) if names else ctx.x


def _loop(ctx: Run, handlers: Handlers, kept: dict[str, list[Any]], progress: bool, every: bool) -> list[Tensor]:
    """All stages of a run; see `stages`."""
    jobs, total = static_jobs(ctx) if ctx.plan.rule is None else (_dynamic(ctx), ctx.plan.bound)
    return stages(ctx, jobs, total, handlers, kept, progress, every)


def stages(
    ctx: Run,
    jobs: Iterable[Job],
    total: int | None,
    handlers: Handlers,
    kept: dict[str, list[Any]],
    progress: bool,
    every: bool,
) -> list[Tensor]:
    """The loop. Returns a sum a sample of the initial state and of the states made: `every` one, or those not read on."""
    for h in handlers["start"]:
        h(ctx)
    before, predicted, after = handlers["before"], handlers["predicted"], handlers["after"]
    spent, dims = ctx.spent, tuple(range(1, ctx.x.ndim))
    sums: list[Tensor] = []
    probe: Tensor | None = None
    own = False
    for k, (f, model, label) in enumerate(jobs):
        if k == 0 and (every or not f.reads_own):
            sums.append(ctx.x.sum(dims) if dims else ctx.x)
        ctx.k, ctx.stage, ctx.folded, ctx.serving, ctx._pred = k, f.stage, f, model if f.asks else None, None
        for h in before:
            h(ctx)
        if not f.asks:
            ctx.raws.append(None)
        else:
            x = ctx.states[k]
            assert x is not None
            if ctx.rows is not None:  # a hook has selected samples
                label = label[: len(x)]
            if every:
                calls, forwards = model.calls, model.forwards
            ask = _again(ctx, model) if ctx.recompute else model.raw
            said = ask(x, f.stage.t, label, ctx.cond, f.stage.args, f.c_in, run=ctx)  # type: ignore[arg-type]
            if every:
                spent["calls"] += model.calls - calls
                spent["forwards"] += model.forwards - forwards
            if not own and (kept or k not in f.free_raws):
                # A network may write every answer into one buffer: copy until two answers that live side by side differ.
                own = model is ctx.model and probe is not None and probe.data_ptr() != said[0].data_ptr()
                probe = said[0]
                said = said if own else tuple(r.clone() for r in said)
            ctx.raws.append(said)
            for h in predicted:
                h(ctx)
        if kept:
            _record(ctx, kept)
        new = ctx.row()
        if f.stage.rule is not None:
            new = RULES[f.stage.rule[0]](ctx, new, **f.stage.rule[1])
        ctx.states.append(new)
        if after:
            for h in after:
                h(ctx)
            new = ctx.x
        for j in f.free_states:
            ctx.states[j] = None
        for j in f.free_raws:
            ctx.raws[j] = None
        for key in f.free_made:
            ctx.made.pop(key)
        if every or not f.carried:
            sums.append(new.sum(dims) if dims else new)
        if progress:
            sys.stderr.write(f"\r{k + 1}/{total}" if total else f"\r{k + 1}")
            sys.stderr.flush()
    if progress:
        sys.stderr.write("\n")
    return sums


def _again(ctx: Run, model: Model) -> Callable[..., tuple[Tensor, ...]]:
    """The model's call, made again in the backward pass."""
    from torch.utils.checkpoint import checkpoint

    def ask(x: Tensor, *args: Any, **more: Any) -> tuple[Tensor, ...]:
        said: tuple[Tensor, ...] = checkpoint(model.raw, x, *args, use_reentrant=False, **more)
        if ctx.memory:
            raise ArgumentError(
                "a guide keeps state during the run, which a second call would change; take grad='full'"
            )
        return said

    return ask


def _label_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def static_jobs(ctx: Run) -> tuple[Iterable[Job], int]:
    """The stages of a static plan with their models and labels, which are made on the state's device here, before the loop."""
    folded, x = fold(ctx.plan, ctx.model), ctx.x
    _need(ctx, folded.inputs)
    ctx._noises = folded.noises
    model, count = ctx.model, len(folded.stages)
    if isinstance(model, Model):
        served: Iterable[Model] = itertools.repeat(model, count)
    else:
        served = [serving(model, f.stage.net) for f in folded.stages]
    told = folded.labels
    if told is None:
        served = list(served)
        told = torch.tensor([_told(f, m) for f, m in zip(folded.stages, served, strict=True)], dtype=torch.float64)
    return zip(folded.stages, served, _labels(folded, told, x), strict=True), count


def _labels(folded: Folded, told: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """Each stage's label `(B,)`: a row of a tensor that is kept for the next run, unless a network has written into it."""
    key = (x.device, _label_dtype(x), len(x))
    kept = folded.told.get(key)
    if kept is not None and kept[0]._version == kept[1]:
        return kept[0].unbind()
    base = told.to(device=x.device, dtype=key[1], copy=True)[:, None].expand(-1, len(x)).contiguous()
    if folded.labels is not None and not torch.is_inference_mode_enabled():
        folded.told[key] = base, base._version
    return base.unbind()


def _told(f: FoldedStage, model: Model) -> float:
    assert not isinstance(f.label, Tensor)
    return f.label if f.label is not None else float(model.label(f.stage.t))  # type: ignore[arg-type]


def _dynamic(ctx: Run) -> Iterator[Job]:
    """Fold the stages of a dynamic plan as they come, and forget what lies beyond the window."""
    plan, table, served = ctx.plan, dict[int, Stage](), dict[int, Model]()
    for k, stage in enumerate(plan.stages(ctx)):
        _in_window(plan, k, stage)
        table[k], m = stage, serving(ctx.model, stage.net)
        if stage.t is not None:
            served[k] = m
        check_stage(k, stage, set(served), len(plan.kinds))
        f = fold_stage(plan, k, stage, table, served)
        _need(ctx, f.uses("i"))
        x = ctx.x
        if isinstance(f.label, Tensor):
            yield f, m, f.label.reshape(-1).to(device=x.device, dtype=_label_dtype(x))
        else:
            yield f, m, torch.full((len(x),), _told(f, m), device=x.device, dtype=_label_dtype(x))
        old = k - _WINDOW
        if old >= 0:
            ctx.states[old] = ctx.raws[old] = None
            table.pop(old), served.pop(old, None)


def _in_window(plan: Plan, k: int, stage: Stage) -> None:
    oldest = min((key[1] for key in stage.row.terms if key[0] in "xp"), default=k)
    if 0 <= oldest < k - _WINDOW:
        raise ArgumentError(f"stage {k} of {plan.solver!r} refers {k - oldest} stages back; at most {_WINDOW} are kept")


def _need(ctx: Run, names: Iterable[str]) -> None:
    if missing := sorted(set(names) - set(ctx.inputs)):
        given = f"give run(..., inputs={{{missing[0]!r}: tensor}})"
        raise ArgumentError(f"{ctx.plan.solver!r} on this model needs inputs {missing}; {given}")


def _input(name: str, value: Tensor, x: Tensor) -> Tensor:
    value = value.to(x)
    try:
        return value.expand(x.shape)
    except RuntimeError:
        raise ShapeError(f"input {name!r} of shape {tuple(value.shape)} for states {tuple(x.shape)}") from None


def _check(plan: Plan, model: Model | Mapping[str, Model], x: Tensor, grad: str | Adjoint | None) -> Tensor:
    if not isinstance(plan, Plan):
        raise ArgumentError(f"plan must be a Plan (rv.solve.plan(...)), got {type(plan).__name__}")
    if not isinstance(x, Tensor) or x.ndim < 1 or x.shape[0] < 1:
        raise ShapeError("the initial state is a tensor (B, *shape) with B >= 1")
    if isinstance(grad, str) and grad not in GRADS:
        raise unknown("grad", grad, GRADS)
    if not (grad is None or isinstance(grad, str) or _is_adjoint(grad)):
        raise ArgumentError(f"grad is one of {', '.join(GRADS)}, an Adjoint or None, got {grad!r:.100}")
    for m in (model,) if isinstance(model, Model) or not isinstance(model, Mapping) else model.values():
        if not isinstance(m, Model):
            raise ArgumentError(f"model must be a Model (rv.Model(net, process, predicts=...)), got {type(m).__name__}")
        if m.process is not plan.process and m.process != plan.process:
            raise ArgumentError(
                f"the plan was compiled for {plan.process}, the model runs on {m.process}; compile it for model.process"
            )
    if plan.provenance:
        check_origin(plan, model)
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _is_adjoint(grad: object) -> bool:
    from reverie.solve.adjoint import Adjoint

    return isinstance(grad, Adjoint)


_SILENT: Handlers = {event: [] for event in EVENTS}


def handlers_of(hooks: Iterable[Any] | Any) -> Handlers:
    """The methods of hooks, by event. Raises `ArgumentError` for an object that has none."""
    if hooks == ():
        return _SILENT
    if not isinstance(hooks, list | tuple | set | frozenset):
        hooks = (hooks,)
    for h in hooks:
        if not any(hasattr(h, e) for e in EVENTS):
            raise ArgumentError(f"a hook has one of the methods {', '.join(EVENTS)}; {type(h).__name__} has none")
    return {e: [getattr(h, e) for h in hooks if hasattr(h, e)] for e in EVENTS}


def _record(ctx: Run, kept: dict[str, list[Any]]) -> None:
    for name, values in kept.items():
        if name in ("x", "t"):
            values.append(getattr(ctx, name))
        else:
            values.append(None if ctx.serving is None else ctx.pred.as_(name))


def _finite(sums: Sequence[Tensor]) -> bool:
    if not sums:
        return True
    whole = sums[0] if len(sums) == 1 else torch.cat(list(sums))
    # one number is read; only where their sum overflows are they looked at one by one
    return math.isfinite((whole if whole.numel() == 1 else whole.sum()).item()) or bool(whole.isfinite().all())


def _not_finite(plan: Plan, sums: list[Tensor], ids: Tensor) -> NonFiniteError:
    """The error that names the first stage and the samples that went wrong."""
    found = ((k, ~s.isfinite()) for k, s in enumerate(sums, -1) if not bool(s.isfinite().all()))
    k, bad = next(found, (len(sums) - 2, torch.zeros(0, dtype=torch.bool)))
    if not len(bad):
        return NonFiniteError(
            "NaN or infinity appeared, but not when the run was repeated: the network is not deterministic"
        )
    samples = tuple(dict.fromkeys(ids[: len(bad)][bad.cpu()].tolist()))  # a padded batch holds a sample twice
    shown = ", ".join(map(str, samples[:8])) + (", ..." if len(samples) > 8 else "")
    who = f"samples {shown} ({len(samples)} of {len(set(ids[: len(bad)].tolist()))})"
    if k < 0:
        return NonFiniteError(f"NaN or infinity in the initial state, {who}; check x", k, samples)
    stage = plan.table[k] if plan.rule is None else None
    asked = f" (model asked at t = {stage.t:.6g})" if stage is not None and stage.t is not None else ""
    return NonFiniteError(
        f"NaN or infinity at stage {k}{asked} of {len(sums) - 1}, {who}; check the network's output there "
        f"(a lower precision, a condition out of range) or record=('x', 'x0') to look",
        k,
        samples,
    )
