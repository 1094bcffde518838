"""Sample a model: plan, initial noise, run, decode, in blocks of a fixed batch.

Sample i of seed s is the same to the last bit in any job: alone, among others, reordered, resumed, on one process or several. Two things see
to it: noise is a function of (seed, stage, sample id), and the network always gets exactly `batch` rows with sample i at row i mod batch,
since kernels round differently for other batch sizes and sometimes for other rows. Rows without a sample are padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reverie.base import PRIOR, ArgumentError, Noise, ShapeError
from reverie.model import Model, conditions, select
from reverie.solve.plan import Plan
from reverie.solve.run import run
from reverie.solve.solver import plan as compile_plan
from reverie.solve.solver import takes_steps

__all__ = ["blocks", "plan_for", "sample", "sample_blocks"]


def blocks(index: Sequence[int], batch: int) -> Iterator[tuple[list[int], list[int]]]:
    """Group sample ids into network batches with sample i at row i mod batch.

    Yields:
        (positions in `index`, rows): which samples a block holds and where.

    >>> list(blocks([7, 0, 3], 4))
    [([0, 1], [3, 0]), ([2], [3])]
    """
    waiting: dict[int, list[int]] = {}
    for position, i in enumerate(index):
        waiting.setdefault(i % batch, []).append(position)
    while waiting:
        rows = list(waiting)
        yield [waiting[r].pop(0) for r in rows], rows
        waiting = {r: left for r, left in waiting.items() if left}


def plan_for(
    m: Model,
    solver: str | None = None,
    *,
    steps: int | None = None,
    nfe: int | None = None,
    grid: str | Sequence[Any] | None = None,
    end: str | None = None,
    span: tuple[float, float] = (1.0, 0.0),
    **options: Any,
) -> Plan:
    """The plan with which `sample` samples a model.

    Args:
        solver, grid, end: where not given, the model's own recommendation (`Model.sampling`), unless another solver than the
            recommended one is named; else "dpmpp-2m", the solver's grid, and "denoise".
        steps, nfe, span, options: see `solve.plan`; 20 steps if neither steps nor nfe is given.

    Raises as `solve.plan`.

    >>> import reverie as rv
    >>> m = rv.Model(lambda x, t: x, rv.process.vp(), sampling={"grid": "karras"})
    >>> plan_for(m, nfe=8).grid, plan_for(m, "ddim", nfe=8).grid
    ('karras', 'logsnr')
    """
    own = m.sampling if solver in (None, m.sampling.get("solver", "dpmpp-2m")) else {}
    chosen = solver or own.get("solver", "dpmpp-2m")
    if end is None:
        one = 1 in (steps, nfe) or not (grid is None or isinstance(grid, str))  # too short for an end of its own
        end = "denoise" if one else own.get("end", "denoise")
    if grid is None:
        grid = own.get("grid")
    if steps is None and nfe is None and (grid is None or isinstance(grid, str)) and takes_steps(chosen):
        steps = 20
    return compile_plan(chosen, m.process, steps, nfe=nfe, grid=grid, end=end, span=span, **options)


def sample(
    m: Model,
    n: int = 16,
    *,
    shape: Sequence[int] | None = None,
    solver: str | None = None,
    steps: int | None = None,
    nfe: int | None = None,
    grid: str | Sequence[Any] | None = None,
    span: tuple[float, float] = (1.0, 0.0),
    init: Tensor | None = None,
    end: str | None = None,
    guide: Callable[[Model], Model] | None = None,
    cond: Mapping[str, Any] | None = None,
    hooks: Any = (),
    seed: int = 0,
    start: int = 0,
    batch: int = 16,
    index: Sequence[int] | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    plan: Plan | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    decode: bool = True,
    progress: bool = False,
    **options: Any,
) -> Tensor:
    """n samples of a model, `(n, *shape)`, decoded if it has a codec.

    Args:
        shape: of one state; by default the model's.
        solver, steps, nfe, grid, end, span, options: see `plan_for`. plan: a compiled plan instead.
        span, init: image-to-image: data `(n, *shape)` (not encoded), noised to the span's first time, from which the run goes on. Without `init` a
            span below 1 needs a hook that sets the start (`solve.starts`).
        guide: anything that maps a model to a model, e.g. `rv.guide.CFG(4.0)`.
        cond: what the network is conditioned on; tensors with first dimension n are per sample.
        seed, start, index: sample ids are start .. start + n - 1, or those of `index`; an id and a seed determine a sample.
        batch: rows of every network call; memory and speed, and part of what fixes the bits.
        inputs: named tensors `(n, ...)` for plans that ask for them. hooks: see `run`. device: by default the network's.
        dtype: of the states, float32 or float64. decode: False returns states.

    Raises as `solve.plan` and `solve.run`, and ShapeError where shape, init or cond do not fit n.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=rv.process.vp())
    >>> x = rv.sample(o, 20, nfe=5)
    >>> bool((rv.sample(o, 1, start=7, nfe=5)[0] == x[7]).all())
    True
    """
    parts, order = [], []
    for positions, x in sample_blocks(
        m, n, shape=shape, solver=solver, steps=steps, nfe=nfe, grid=grid, span=span, init=init, end=end, guide=guide, cond=cond,
        hooks=hooks, seed=seed, start=start, batch=batch, index=index, inputs=inputs, plan=plan, device=device, dtype=dtype,
        decode=decode, progress=progress, **options,
    ):  # fmt: skip
        parts.append(x)
        order += positions
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    whole = torch.cat(parts)
    return whole[back.to(whole.device)]


def sample_blocks(
    m: Model,
    n: int = 16,
    *,
    shape: Sequence[int] | None = None,
    solver: str | None = None,
    steps: int | None = None,
    nfe: int | None = None,
    grid: str | Sequence[Any] | None = None,
    span: tuple[float, float] = (1.0, 0.0),
    init: Tensor | None = None,
    end: str | None = None,
    guide: Callable[[Model], Model] | None = None,
    cond: Mapping[str, Any] | None = None,
    hooks: Any = (),
    seed: int = 0,
    start: int = 0,
    batch: int = 16,
    index: Sequence[int] | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    plan: Plan | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    decode: bool = True,
    progress: bool = False,
    **options: Any,
) -> Iterator[tuple[list[int], Tensor]]:
    """As `sample`, block by block: yields (positions in the job, samples) as they are finished, in bounded memory.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=rv.process.vp())
    >>> [len(positions) for positions, x in rv.solve.sample_blocks(o, 20, nfe=2)]
    [16, 4]
    """
    ids = _ids(n, start, index)
    n = len(ids)
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ArgumentError(f"batch must be a whole number of at least 1, got {batch!r}")
    if plan is None:
        plan = plan_for(m, solver, steps=steps, nfe=nfe, grid=grid, end=end, span=span, **options)
    elif not isinstance(plan, Plan):
        raise ArgumentError(f"plan must be a Plan (rv.solve.plan(...)), got {type(plan).__name__}; names go to solver=")
    elif (solver, steps, nfe, grid, end, span, options) != (None, None, None, None, None, (1.0, 0.0), {}):
        raise ArgumentError(
            "a compiled plan has its own steps and grid; give either plan= or solver, steps, nfe, grid, end, span, options"
        )
    guided = m if guide is None else m | guide
    state = m.shape if shape is None else tuple(shape)
    where = m.device if device is None else torch.device(device)
    if init is not None:
        if len(init) != n:
            raise ShapeError(f"init has {len(init)} samples for a job of {n}")
        if m.codec is None and m.shape is not None and tuple(init.shape[1:]) != m.shape:
            raise ShapeError(f"init has samples of shape {tuple(init.shape[1:])}; {m.name} makes {m.shape}")
    elif span[0] != 1.0 and not _begun(hooks):
        raise ArgumentError(
            f"span starts at {span[0]}, below the noise end; give init= (the data to start from), or a hook that sets the start (AnalyticInit, ...)"
        )
    elif state is None:
        raise ShapeError(
            "the model does not know its state's shape; give shape=(channels, height, width), without the batch"
        )
    cond = conditions(cond, n, m.null, where)
    inputs = conditions(inputs, n, None, where)
    noise, p = Noise(seed), m.process
    for positions, rows in blocks(ids, batch):
        take = torch.full((batch,), positions[0], dtype=torch.long)
        take[torch.tensor(rows)] = torch.tensor(positions)
        index_here = torch.tensor([ids[j] for j in take.tolist()])
        on = take.to(where)
        with torch.no_grad():  # the codec, too, always gets `batch` rows
            data = None if init is None else m.encode(init[take.to(init.device)].to(where)).to(dtype)
        size = state if data is None else data.shape[1:]
        z = p.draw(noise, size, index_here, stage=0, stream=PRIOR, device=where, dtype=dtype)  # type: ignore[arg-type]
        here = select(inputs, on, n) if n > 1 else conditions(inputs, batch, None, where)
        told = select(cond, on, n) if n > 1 else conditions(cond, batch, m.null, where)
        y = here.get("y")
        x = p.prior(z, plan.start, y) if data is None else p.perturb(data, plan.start, z, y)
        x = run(plan, guided, x, cond=told, hooks=hooks, noise=noise, index=index_here, inputs=here, progress=progress)
        if len(x) != batch:
            raise ArgumentError(f"a hook kept {len(x)} of {batch} rows; sample() needs them all, call run() instead")
        with torch.no_grad():
            done = m.decode(x) if decode else x
        yield positions, done[torch.tensor(rows, device=done.device)]


def _begun(hooks: Any) -> bool:
    """Whether a hook sets the state that a run starts from, see `solve.starts`."""
    every = hooks if isinstance(hooks, list | tuple | set | frozenset) else (hooks,)
    return any(getattr(h, "begins", False) for h in every)


def _ids(n: int, start: int, index: Sequence[int] | None) -> list[int]:
    if index is not None:
        ids = [int(i) for i in index]
        if not ids or min(ids) < 0:
            raise ArgumentError(f"index must be a non-empty list of sample ids >= 0, got {list(index)!r:.100}")
        return ids
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ArgumentError(f"n must be a whole number of at least 1, got {n!r}")
    if isinstance(start, bool) or not isinstance(start, int) or start < 0:
        raise ArgumentError(f"start must be a whole number of at least 0, got {start!r}")
    return list(range(start, start + n))
