"""Which solver should I use on my model, at 5, 8, 12 network forwards?

Every solver starts from the same noises, and is measured by up to three figures, each with an interval:

    error     median over samples of |x - x*| / rms |x*|,  x* the model's own fine solution: the solver's error alone  (`solve.fine`)
    frechet   the Fréchet distance to data, in features, or of the states themselves where these are few              (`measure.frechet`)
    sliced    the sliced Wasserstein distance to data                                                                 (`measure.sliced`)

The first says how well a solver solves, the others how good its samples are: a model's error is in them too. The noise floor is what as many
real samples, held out, score against the rest. The best at a budget is named only if it is better than every other by more than the noise.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, FileError, NonFiniteError, ReverieError, ShapeError
from reverie.inspect.comparison import Comparison, Floor, Row
from reverie.inspect.entries import Entry, defaults, entry, labels
from reverie.inspect.figures import GROUPS, Figure, distance, median
from reverie.measure import Sliced, frechet_distance, judge
from reverie.model import Model, conditions, select
from reverie.oracle import Mixture
from reverie.solve import Plan, sample_blocks
from reverie.solve.fine import Fine

__all__ = ["BUDGETS", "compare"]

BUDGETS = (5, 8, 12)
ODE_CALLS = 450
"""What a fine solution by tolerance takes, about: for the progress only."""
WIDE = 128
"""Up to so many dimensions a Gaussian Fréchet distance of the states themselves is measured."""
ORACLE = 3000
"""Samples of an oracle that stand for its distribution."""

Function = Callable[[Tensor], Tensor]


def compare(
    m: Model,
    solvers: Sequence[Any] | None = None,
    nfe: int | Sequence[int] | None = None,
    *,
    steps: int | Sequence[int] | None = None,
    n: int = 300,
    data: Tensor | tuple[Tensor, Tensor] | None = None,
    cond: Mapping[str, Any] | None = None,
    guide: Callable[[Model], Model] | None = None,
    grid: str | None = None,
    end: str | None = None,
    seed: int = 0,
    batch: int = 64,
    shape: Sequence[int] | None = None,
    features: Function | None = None,
    modes: Function | None = None,
    reference: float | int | Plan | None = 1e-4,
    fine: int = 100,
    projections: int = 64,
    path: str | Path | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Comparison:
    """Compare solvers on a model, at equal numbers of network forwards.

    Args:
        m: any Model.
        solvers: names ("dpmpp-2m"), specs ("heun@karras", "ddim:eta=1"), pairs (spec, options), plans; see `inspect.entry`. By default
            every registered solver that draws no noise. Each runs as `sample` would run it.
        nfe: budgets in calls of the model, 5, 8 and 12 by default; a guide may make a call two forwards, and forwards are what is shown.
            steps: instead, numbers of steps; a solver that then makes more calls than steps is shown, but not ranked.
        n: samples of each row, at least 20. fine: how many of them, the first, are compared with their fine solution.
        data: real samples `(N, *shape)`, of which every few are held out for the noise floor, or a pair (reference, held out). By default
            those of the house model's data, in the classes of `cond`, and an oracle's own.
        cond: conditions, per-sample tensors with n rows; by default a model of classes takes them in turn. guide: e.g. `rv.guide.CFG(2.0)`.
        grid, end: for the solvers that do not name their own. seed, batch, shape: as for `sample`.
        features: data `(B, *shape)` -> `(B, D)`, for the Fréchet distance; by default the judge's for digits, the samples themselves up to
            128 dimensions. modes: data -> `(B,)` integers, of which a change is counted; by default the judge's reading, an oracle's nearest mean.
        reference: of the fine solutions: a tolerance of `solve_ode`, a number of calls of a fine plan, a Plan, or None to leave the error out.
        projections: of the sliced distance.
        path: a JSON file that gets every row as soon as it is finished, and from which rows of the same settings are taken.
        progress: called with what is being done and the share, in [0, 1], that is.

    Raises:
        UnknownNameError: a solver, grid or end. ArgumentError: n, fine, budgets, a solver that fits no budget. ShapeError: data or a
        condition that does not fit. FileError: `path` is another kind of file or cannot be written.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=rv.process.vp())
    >>> found = compare(o, ("ddim", "dpmpp-2m"), nfe=(6, 12), n=64, fine=64)
    >>> found.best(12).solver
    'dpmpp-2m'
    """
    for what, value, least in (("n", n, GROUPS), ("fine", fine, GROUPS), ("batch", batch, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ArgumentError(f"{what} must be a whole number of at least {least}, got {value!r}")
    by, budgets = _budgets(nfe, steps)
    state = tuple(shape) if shape is not None else m.shape
    if state is None:
        raise ShapeError(
            "the model does not know its state's shape; give shape=(channels, height, width), without the batch"
        )
    guided, batch, fine = m if guide is None else m | guide, min(batch, n), min(fine, n)
    told = conditions(_cond(guided, cond, n), n, guided.null, guided.device)
    notes: list[str] = []
    jobs = _jobs(guided, solvers, by, budgets, grid, end, notes)
    real = _real(guided, data, told, n, seed)
    ruler = _Ruler(guided, real, features, modes, projections)
    asked = "none" if reference is None else str(reference)
    settings = {
        "model": guided.name, "n": n, "seed": seed, "batch": batch, "fine": fine, "reference": asked, "shape": list(state),
        "data": None if real is None else real.says, "features": ruler.says, "projections": projections,
    }  # fmt: skip
    fingerprint = _fingerprint(guided, guide, told, state, real, settings, features, modes)
    kept = _kept(path, fingerprint, notes)
    whole = sum(_amount(j.plan, guided) * n for j in jobs if j.key not in kept) or 1
    exact: Fine | None = None
    if reference is not None:
        part = select(told, torch.arange(fine, device=guided.device), n)
        exact = Fine(guided, fine, state, cond=part, seed=seed, batch=batch, reference=reference)
        calls = exact.calls
        whole += fine * (calls or ODE_CALLS) * guided.cost(None) * any(j.key not in kept for j in jobs)
        settings["reference"] = str(exact)
    meter = _Meter(progress, whole)
    if exact is not None:
        exact.tell = lambda rows, calls: meter.add("the fine solutions", rows * calls * guided.cost(None))
    floor = ruler.floor()
    rows: dict[tuple[str, int], Row] = {(j.entry.name, j.budget): kept[j.key] for j in jobs if j.key in kept}

    def found(complete: bool) -> Comparison:
        order = [rows[key] for j in jobs if (key := (j.entry.name, j.budget)) in rows]
        return Comparison(tuple(order), floor, by, settings, tuple(notes), fingerprint, complete)

    for j in jobs:
        key = (j.entry.name, j.budget)
        if key in rows:
            rows[key] = dataclasses.replace(rows[key], solver=j.entry.name, budget=j.budget, within=j.within)
            continue
        try:
            rows[key] = _row(j, guided, ruler, exact, state, told, n, seed, batch, meter)
        except NonFiniteError as error:
            notes.append(f"{j.entry.name} at {j.budget} failed: {error}")
            continue
        except ReverieError as error:
            if solvers is not None:
                raise
            notes.append(f"{j.entry.name} at {j.budget} does not go with this model: {error}")
            continue
        if path is not None:
            found(False).save(path)
    if not rows:
        raise ArgumentError("no solver could be run: " + "; ".join(notes))
    if path is not None:
        found(True).save(path)
    return found(True)


@dataclass(frozen=True)
class _Job:
    entry: Entry
    budget: int
    plan: Plan
    within: bool
    key: str


@dataclass(frozen=True)
class _Real:
    """Real data: what samples are held against, and what is held out of it."""

    reference: Tensor
    heldout: Tensor | None
    says: str
    digits: bool = False


class _Meter:
    """Tells how much is done."""

    def __init__(self, tell: Callable[[str, float], None] | None, whole: float) -> None:
        self.tell, self.whole, self.done = tell, whole, 0.0

    def add(self, what: str, amount: float) -> None:
        self.done += amount
        if self.tell is not None:
            self.tell(what, min(1.0, self.done / self.whole))


class _Ruler:
    """The distances to data, with what they need computed once."""

    def __init__(
        self, m: Model, real: _Real | None, features: Function | None, modes: Function | None, projections: int
    ) -> None:
        self.real, self.modes, self.says, self.features = real, modes, None, features
        root = _root(m)
        if self.modes is None and isinstance(root, Mixture) and len(root.weights) > 1:
            means = root.means.flatten(1)
            self.modes = lambda x: torch.cdist(x.flatten(1).double(), means).argmin(1)
        if real is None:
            return
        if features is not None:
            self.says = getattr(features, "__qualname__", type(features).__name__)
        elif real.digits:
            net = judge()
            self.features, self.says = (lambda x: net.features(x.float())), "the judge's features"
            self.modes = self.modes or (lambda x: net.read(x.float()))
        elif real.reference[0].numel() <= WIDE:
            self.features, self.says = (lambda x: x.flatten(1)), "the samples themselves"
        self.sliced = Sliced(real.reference, projections)
        self.reference = None if self.features is None else self.features(real.reference)

    def distances(self, x: Tensor) -> tuple[Figure | None, Figure | None]:
        """(Fréchet, sliced) of samples `(n, *shape)`."""
        if self.real is None:
            return None, None
        projected, n, frechet = self.sliced.project(x), len(x), None
        sliced = distance(self.sliced.between(projected), lambda rows: self.sliced.between(projected[:, rows]), n)
        if self.features is not None and self.reference is not None:
            f, reference = self.features(x), self.reference
            frechet = distance(frechet_distance(reference, f), lambda rows: frechet_distance(reference, f[rows]), n)
        return frechet, sliced

    def floor(self) -> Floor | None:
        """The distances of the data that were held out."""
        if self.real is None or self.real.heldout is None or len(self.real.heldout) < GROUPS:
            return None
        return Floor(len(self.real.heldout), *self.distances(self.real.heldout))


def _row(
    j: _Job, m: Model, ruler: _Ruler, exact: Fine | None, shape: Sequence[int], cond: Any, n: int, seed: int, batch: int, meter: _Meter
) -> Row:  # fmt: skip
    """Sample a plan and measure what came out."""
    began, before, blocks = time.monotonic(), m.forwards, 0
    states = torch.empty(n, *shape)
    amount = _amount(j.plan, m)
    for positions, x in sample_blocks(m, n, shape=shape, plan=j.plan, cond=cond, seed=seed, batch=batch, decode=False):
        states[positions] = x.float().cpu()
        blocks += 1
        meter.add(f"{j.entry.name} at {j.budget}", len(positions) * amount)
    seconds = time.monotonic() - began
    forwards = j.plan.cost(m) if j.plan.rule is None else (m.forwards - before) / blocks
    x, error, switched = _decoded(m, states, batch), None, None
    if exact is not None and not _stochastic(j.plan):
        target = exact(j.plan.start, j.plan.times[-1])
        size = target.flatten(1).square().sum(1).mean().sqrt()
        error = median((states[: exact.n].double() - target).flatten(1).norm(dim=1) / size)
        if ruler.modes is not None:
            there = ruler.modes(_decoded(m, target.float(), batch))
            switched = (ruler.modes(x[: exact.n]) != there).double().mean().item()
    frechet, sliced = ruler.distances(x)
    grid = j.plan.grid + ("" if j.plan.end == "denoise" else f", {j.plan.end}")
    return Row(
        j.entry.name, grid, j.budget, j.plan.steps, j.plan.nfe, float(forwards or 0), j.within, error, switched, frechet, sliced,
        round(seconds, 3), j.key,
    )  # fmt: skip


def _decoded(m: Model, states: Tensor, batch: int) -> Tensor:
    if m.codec is None:
        return states
    with torch.no_grad():
        return torch.cat([m.decode(part.to(m.device)).float().cpu() for part in states.split(batch)])


def _stochastic(plan: Plan) -> bool:
    return plan.noises > 0 or plan.rule is not None


def _amount(plan: Plan, m: Model) -> int:
    return plan.cost(m) or 50


def _root(m: Model) -> Model:
    """The model under all guides."""
    while isinstance(base := getattr(m, "base", None), Model):
        m = base
    return m


def _budgets(nfe: int | Sequence[int] | None, steps: int | Sequence[int] | None) -> tuple[str, list[int]]:
    if nfe is not None and steps is not None:
        raise ArgumentError(f"give nfe= or steps=, not both (got {nfe!r} and {steps!r})")
    by, given = ("steps", steps) if steps is not None else ("nfe", BUDGETS if nfe is None else nfe)
    listed = list(given) if isinstance(given, Iterable) else [given]
    if not listed or any(isinstance(b, bool) or not isinstance(b, int) or b < 1 for b in listed):
        raise ArgumentError(f"{by} holds whole numbers of at least 1, for example (5, 8, 12), got {given!r}")
    return by, sorted(set(listed))


def _cond(m: Model, cond: Mapping[str, Any] | None, n: int) -> Mapping[str, Any] | None:
    """What was given, or all classes in turn."""
    if cond is not None or m.embed is None or not m.card.get("classes"):
        return cond
    return {k: v[torch.arange(n) % len(v)] for k, v in m.embed("all").items()}


def _jobs(
    m: Model, solvers: Sequence[Any] | None, by: str, budgets: Sequence[int], grid: str | None, end: str | None, notes: list[str]
) -> list[_Job]:  # fmt: skip
    """Every solver at every budget, compiled before anything runs."""
    if isinstance(solvers, str | Plan | Entry):
        solvers = [solvers]
    if solvers is None:
        entries, said = defaults(m, grid=grid, end=end, **{by: budgets[-1]})
        notes += said
    else:
        entries = [entry(s) for s in solvers]
        labels(entries)
    if not entries:
        raise ArgumentError("there is no solver to compare; give solvers=('dpmpp-2m', ...)")
    jobs: list[_Job] = []
    for e in entries:
        failed: dict[int, ArgumentError] = {}
        for budget in budgets if e.plan is None else [_own(e.plan, by)]:
            try:
                plan = e.compile(m, grid=grid, end=end, **{by: budget})
            except ArgumentError as error:
                failed[budget] = error
                continue
            if plan.process != m.process:
                raise ArgumentError(f"{e.name} was compiled for {plan.process}, {m.name} has {m.process}")
            cost = plan.cost(m)
            within = plan.rule is not None or cost is None or cost <= budget * m.cost(None)
            jobs.append(_Job(e, budget, plan, within, _key(plan)))
        if len(failed) == len(budgets):
            raise next(iter(failed.values()))
        notes += [f"{e.name} is not at {budget}: {error}" for budget, error in failed.items()]
        free = e.plan is None and e.grid is None and grid is None and len(entries) > 1
        if free and "grid" in m.sampling and e.solver == m.sampling.get("solver", "dpmpp-2m"):
            notes.append(
                f"{e.name} runs on the grid that {m.name} recommends for it, the others on their own; --grid gives all the same"
            )
    return sorted(jobs, key=lambda j: j.budget)


def _own(plan: Plan, by: str) -> int:
    return (plan.steps if by == "steps" else plan.nfe) or 1


def _key(plan: Plan) -> str:
    """A digest of a plan's table."""
    h = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        plan.save(Path(folder) / "plan.json")
        for file in sorted(Path(folder).iterdir()):
            h.update(file.read_bytes())
    return h.hexdigest()[:32]


def _real(m: Model, data: Any, cond: Mapping[str, Any], n: int, seed: int) -> _Real | None:
    root, labels = _root(m), cond.get("class_labels")
    house = data is None and m.card.get("data") == "digits"
    if house:
        from reverie.data import digits

        parts = []
        for split in ("train", "heldout"):
            x, y = digits(split)
            if isinstance(labels, Tensor):
                chosen = torch.isin(y, labels.cpu())
                x = x[chosen] if bool(chosen.any()) else x
            parts.append(x)
        data, what = tuple(parts), "real digits"
    elif data is None and isinstance(root, Mixture):
        told = labels.cpu() if isinstance(labels, Tensor) and labels.ndim else None
        reference = root.sample(
            ORACLE, seed, class_labels=None if told is None else told[torch.arange(ORACLE) % len(told)]
        )
        data, what = (reference, root.sample(n, seed, start=ORACLE, class_labels=told)), "exact samples"
    elif data is None:
        return None
    else:
        what = "given samples"
    if isinstance(data, Tensor):
        count = min(n, len(data) // 4)
        held = (
            torch.linspace(0, len(data) - 1, count).round().long()
            if count >= GROUPS
            else torch.empty(0, dtype=torch.long)
        )
        rest = torch.ones(len(data), dtype=torch.bool)
        rest[held] = False
        data = data[rest], data[held]
    if not (isinstance(data, tuple) and len(data) == 2 and all(isinstance(d, Tensor) for d in data)):
        raise ArgumentError(
            f"data is a tensor (N, *shape), or a pair of them (reference, held out), got {type(data).__name__}"
        )
    reference, heldout = (d.detach().float().cpu() for d in data)
    heldout = (
        heldout[torch.linspace(0, len(heldout) - 1, min(n, len(heldout))).round().long()] if len(heldout) else heldout
    )
    if len(reference) < 2:
        raise ArgumentError(f"data holds {len(reference)} samples to compare with; at least 2 are needed")
    for d in (reference, heldout):
        if m.codec is None and m.shape is not None and tuple(d.shape[1:]) != m.shape and len(d):
            raise ShapeError(f"data has samples of shape {tuple(d.shape[1:])}, {m.name} makes {m.shape}")
    return _Real(reference, heldout, f"{len(reference)} {what}", house and tuple(reference.shape[1:]) == (1, 8, 8))


def _fingerprint(
    m: Model, guide: Any, cond: Mapping[str, Any], shape: Sequence[int], real: _Real | None, settings: Mapping[str, Any], *functions: Any
) -> str:  # fmt: skip
    """A digest of what fixes a row beside its plan: the settings, the data, and what the model answers."""
    names = [getattr(f, "__qualname__", repr(f)) for f in functions]
    made = repr(sorted(vars(guide).items())) if dataclasses.is_dataclass(guide) else repr(guide)
    said = [dict(settings), names, made, m.process.spec(), torch.__version__]
    h = hashlib.sha256(json.dumps(said, sort_keys=True, default=repr).encode())
    for key, value in sorted(cond.items()):
        h.update(key.encode() + (_bytes(value) if isinstance(value, Tensor) else repr(value).encode()))
    for part in () if real is None else (real.reference, real.heldout):
        h.update(b"" if part is None else _bytes(part))
    p, count = m.process, 2
    x = torch.linspace(-1, 1, count * torch.Size(shape).numel()).reshape(count, *shape).to(m.device)
    few = select(cond, torch.arange(count, device=m.device), settings["n"])
    before = m.calls, m.forwards
    with torch.no_grad():
        for u in (0.1, 0.5, 0.9):
            h.update(_bytes(m(x, p.t_min + u * (p.t_max - p.t_min), **few).raw))
    m.calls, m.forwards = before
    return h.hexdigest()


def _bytes(x: Tensor) -> bytes:
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _kept(path: str | Path | None, fingerprint: str, notes: list[str]) -> dict[str, Row]:
    """Finished rows of a file, by the key of their plan."""
    if path is None or not Path(path).exists():
        return {}
    try:
        found = Comparison.load(path)
    except FileError as error:
        raise FileError(f"{error}; it would be replaced, so give another path, or remove it") from None
    if found.fingerprint != fingerprint:
        notes.append(f"{Path(path).name} held a comparison of other settings, which this one replaced")
        return {}
    return {r.key: r for r in found.rows}
