"""Denoising MCMC: a chain on pairs (noisy state, noise level) whose least noisy states are denoised by a short plan.

In the coordinates y = x / alpha, with level S = sigma / alpha (those of any process), p_S the law of the data with noise of standard deviation S, the
chain lives on p(y, S) = p_S(y) / J over J levels S_1 .. S_J that are even in log S:

    y <- y + (eta / 2) score(y, S) + sqrt(eta) z,      score = -eps(y, S) / S          (a Langevin move at its own level, one evaluation)
    S <- a draw of p(S_j | y) = p_{S_j}(y) / sum_i p_{S_i}(y)                           (a classifier of noise levels; or its most likely level)

High levels mix between modes, low ones are near the data. After `skip` moves the least noisy of the states that they made is denoised, from its own
level; the chain goes on from its last state. (The released code counts the state before the first of these moves too, which may then be denoised
twice.) To choose the least noisy state is a selection and no fair draw: it prefers states that lie far out for the level they are given, so that
samples spread somewhat too far; with skip=1 nothing is chosen.

Langevin moves are not corrected. A step that goes with the level, eta = e S^2, is a small one at every level if e is (0.05: the levels stay even in
log S); a constant eta, the paper's, is not where it comes near the variance of p_S in its narrowest direction, and holds the chain above such levels.
The larger eta, the sooner the modes mix, the higher the levels, and the more steps the denoising needs.

Source: Kim & Ye 2023 (2209.14593, algorithms 1 and 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.base import PRIOR, ArgumentError, Noise, NonFiniteError, ShapeError, implements, unknown
from reverie.base.checks import at_least
from reverie.model import Cond, Model, conditions, select
from reverie.model.conditions import unwrap
from reverie.process import Process
from reverie.solve.context import Run
from reverie.solve.levels import Classify, noise_levels, times_of
from reverie.solve.line import noise, prediction, state
from reverie.solve.own_starts import own_starts
from reverie.solve.plan import Plan, Stage, dynamic
from reverie.solve.run import run
from reverie.solve.sample import blocks
from reverie.solve.solver import plan as compile_plan

__all__ = ["Chains", "denoising_langevin", "denoising_mcmc"]

PICKS = ("sample", "argmax")
_STREAM = 0xD3C
_DENOISING = 1 << 31
"""Stages of the stream from here on belong to the denoising, those before to the moves."""


@dynamic("langevin-levels")
def langevin_stages(run: Run, plan: Plan, *, times: Sequence[float], eta: Sequence[float]) -> Iterator[Stage]:
    """One Langevin move of each sample at its own time: from the state x to y = x / alpha, moved."""
    p, shape = plan.process, (-1, *[1] * (run.x.ndim - 1))
    t = torch.tensor(times, dtype=torch.float64).reshape(shape)
    e = torch.tensor(eta, dtype=torch.float64).reshape(shape)
    alpha = p.alpha(t)
    ratio = p.sigma(t) / alpha
    row = (1 / alpha) * state(0) - (e / (2 * ratio)) * prediction(0) + e.sqrt() * noise(0)
    yield Stage(row, t, p.t_clean, inner=True)
    if run.rows is not None:
        raise ArgumentError("a chain cannot follow a hook that selects samples; leave the hook out")


# -- the chain


@dataclass(frozen=True, eq=False)
class _Law:
    """What all moves of a chain share."""

    m: Model
    levels: Tensor
    classify: Classify
    pick: str
    eta: float
    relative: bool
    seed: Noise

    def __post_init__(self) -> None:
        p, low = self.m.process, math.exp(-self.m.process.lam_range[1])
        if type(p).gamma is not Process.gamma or type(p).draw is not Process.draw:
            raise ArgumentError(f"a chain on noise levels needs Gaussian noise and no degraded input; {p} has others")
        if self.pick not in PICKS:
            raise unknown("pick", self.pick, PICKS)
        if not 0 < self.eta < math.inf:
            raise ArgumentError(f"eta must be positive and finite, got {self.eta!r}")
        high = math.exp(-p.lam_range[0]) * (1 + 1e-9)
        if self.levels.ndim != 1 or len(self.levels) < 2:
            raise ArgumentError(f"levels must be at least 2 numbers sigma / alpha, got {self.levels.tolist()!r:.100}")
        if bad := [s for s in self.levels.tolist() if not low < s <= high]:
            raise ArgumentError(
                f"a level is sigma / alpha above {low:.6g}, where {p} ends, up to {high:.6g}, got {bad[0]!r}"
            )

    def draw(self, told: _Told, y: Tensor, stage: int) -> Tensor:
        return self.seed.normal(y.shape[1:], told.index, stage, _STREAM, y.device, y.dtype)

    def level(self, y: Tensor, told: _Told, stage: int) -> Tensor:
        """The number of a level a sample, `(B,)` on the CPU."""
        logits = self.classify(y, **unwrap(told.cond)).detach().cpu().double()
        if logits.shape != (len(y), len(self.levels)):
            raise ShapeError(
                f"classify gave {tuple(logits.shape)}; {len(self.levels)} logits for each of {len(y)} samples are needed"
            )
        bad = ~(logits.amax(1).isfinite())  # NaN too
        if bool(bad.any()):
            raise NonFiniteError(f"classify gave no finite logit for samples {told.index[bad].tolist()[:8]}")
        if self.pick == "argmax":
            return logits.argmax(1)
        u = self.seed.uniform((1,), told.index, stage, _STREAM, dtype=torch.float64)
        c = logits.softmax(1).cumsum(1)
        return (u * c[:, -1:] > c).sum(1).clamp_max(c.shape[1] - 1)

    def moved(self, y: Tensor, level: Tensor, told: _Told, stage: int, eta: float) -> Tensor:
        p, ratio = self.m.process, self.levels[level]
        t = times_of(p, ratio)
        step = eta * ratio**2 if self.relative else torch.full_like(ratio, eta)
        rule = ("langevin-levels", {"times": t.tolist(), "eta": step.tolist()})
        plan = Plan("langevin-levels", p, (), float(t.max()), ("eps",), rule=rule, bound=1, papers=("dmcmc",))
        x = y * p.alpha(t).to(y).reshape(-1, *[1] * (y.ndim - 1))
        made: Tensor = run(plan, self.m, x, noise=lambda _: self.draw(told, y, stage), **told.given)
        return made

    def move(
        self, y: Tensor, level: Tensor, told: _Told, stage: int, eta: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """The state and the level that a move makes."""
        y = self.moved(y, level, told, stage, self.eta if eta is None else eta)
        return y, self.level(y, told, stage)


@dataclass(frozen=True, eq=False)
class _Told:
    """What the chains of a batch are told."""

    index: Tensor
    cond: Cond
    hooks: Any
    inputs: Mapping[str, Tensor]

    @property
    def given(self) -> dict[str, Any]:
        return {"index": self.index, "cond": self.cond, "hooks": self.hooks, "inputs": self.inputs}


@implements("dmcmc")
def denoising_langevin(
    m: Model,
    y: Tensor,
    level: Tensor,
    moves: int,
    *,
    classify: Classify,
    levels: Sequence[float] | Tensor | None = None,
    eta: float = 0.2,
    relative: bool = False,
    pick: str = "sample",
    cond: Mapping[str, Any] | None = None,
    guide: Callable[[Model], Model] | None = None,
    hooks: Any = (),
    seed: int = 0,
    first: int = 1,
    index: Sequence[int] | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Moves of chains from given states: (y, level) after `moves` evaluations.

    Args:
        y: `(B, *shape)`, states x / alpha. level: `(B,)` integers, their levels. moves: >= 0, their number.
        first: number of the first move, which with seed and chain id (`index`, 0 .. B - 1 by default) makes its noise.
        Everything else as for `denoising_mcmc`.

    >>> import reverie as rv
    >>> o = rv.oracle.Gaussian([0.0], [[1.0]], process=rv.process.ve())
    >>> from reverie.solve import exact_levels
    >>> levels = noise_levels(o.process, 50)
    >>> y, level = denoising_langevin(o, torch.zeros(4, 1), torch.full((4,), 30), 5, classify=exact_levels(o, levels), levels=levels)
    >>> y.shape, level.shape
    (torch.Size([4, 1]), torch.Size([4]))
    """
    guided = m if guide is None else m | guide
    law = _Law(guided, _levels(m.process, levels), classify, pick, eta, relative, Noise(seed))
    ids = torch.arange(len(y)) if index is None else torch.as_tensor(index)
    if (
        level.shape != (len(y),)
        or level.is_floating_point()
        or not 0 <= int(level.min()) <= int(level.max()) < len(law.levels)
    ):
        raise ShapeError(f"level must be ({len(y)},) integers in 0 .. {len(law.levels) - 1}, got {level!r:.100}")
    told = _Told(ids, conditions(cond, len(y), m.null, y.device), hooks, {})
    level = level.cpu()
    at_least(moves=(moves, 0))
    for stage in range(first, first + moves):
        y, level = law.move(y, level, told, stage)
    return y, level


@dataclass(frozen=True, eq=False)
class Chains:
    """What `denoising_mcmc` made.

    Attributes:
        x: `(n, *shape)` samples; sample i is output i div C of chain i mod C. chain, output: `(n,)` int64, which chain (its id) and output that is.
        level: `(n,)` float64, the sigma / alpha from which each was denoised.
        calls, forwards: evaluations and network forwards of one chain, by what they were for ("start", "burn-in", "moves", "denoising", "tweedie").
        outputs: how many each chain gave.
    """

    x: Tensor
    chain: Tensor
    output: Tensor
    level: Tensor
    calls: Mapping[str, int]
    forwards: Mapping[str, int]
    outputs: int

    @property
    def nfe(self) -> float:
        """Evaluations a sample once the chains run: moves, denoising, Tweedie."""
        return sum(self.calls[k] for k in ("moves", "denoising", "tweedie")) / self.outputs

    @property
    def nfe_whole(self) -> float:
        """Evaluations a sample, with its share of the start and the burn-in."""
        return sum(self.calls.values()) / self.outputs


@implements("dmcmc")
def denoising_mcmc(
    m: Model,
    n: int = 16,
    *,
    classify: Classify,
    levels: Sequence[float] | Tensor | None = None,
    chains: int = 16,
    skip: int = 5,
    eta: float = 0.2,
    relative: bool = False,
    pick: str = "sample",
    solver: str = "heun",
    steps: int = 2,
    grid: str | None = "karras",
    end: str = "denoise",
    options: Mapping[str, Any] | None = None,
    tweedie: float | None = None,
    begin: Plan | None = None,
    init: Tensor | None = None,
    kick: float = 0.5,
    burn_in: int | Sequence[tuple[int, float]] = 20,
    shape: Sequence[int] | None = None,
    cond: Mapping[str, Any] | None = None,
    guide: Callable[[Model], Model] | None = None,
    hooks: Any = (),
    inputs: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    start: int = 0,
    batch: int = 16,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    decode: bool = True,
) -> Chains:
    """n samples by denoising MCMC, from C chains in parallel.

    Args:
        classify: `(y, **cond) -> (B, J)`, logits of the levels of y = x / alpha `(B, *shape)`: `exact_levels(oracle, levels)`, or a network that
            was trained by `level_loss` (`lambda y, **_: net(y)`).
        levels: `(J,)`, sigma / alpha, in the order of the logits; `noise_levels(m.process)` by default.
        chains: C, how many; their ids are start .. start + C - 1, and id and seed determine a chain. batch: rows of every network call.
        skip: >= 1, moves between two outputs of a chain. eta: > 0, the step in units of y^2. relative: whether eta is in units of the level's square.
        pick: the next level is a draw ("sample") or the most likely one ("argmax").
        solver, steps, grid, end, options: how an output is denoised from its own level, see `own_starts`. Heun in 2 steps takes 3 evaluations.
        tweedie: a last step from this sigma / alpha to x0, without noise added, one evaluation; none by default.
        begin: the plan of the chains' first samples, dpmpp-2m-sde in 20 steps by default. init: or data `(C, *shape)` (not encoded).
            kick: the standard deviation of noise that is added to them. burn_in: moves before the first output, or a list of (moves, eta).
        shape, cond, guide, hooks, inputs, seed, device, dtype, decode: see `sample`; tensors of cond and inputs have a row a chain. Hooks act at
            every move and every denoising, each of which is a run of its own to them.

    Raises:
        ArgumentError: numbers out of range, levels outside of the process, noise that is not Gaussian, a process with a degraded input; what
        `own_starts` refuses. ShapeError: logits, init or cond that do not fit. NonFiniteError: NaN or infinity, in a state or in the logits.

    >>> import reverie as rv
    >>> o = rv.oracle.Mixture([[-1.0], [1.0]], 0.1, process=rv.process.edm())
    >>> from reverie.solve import exact_levels
    >>> levels = noise_levels(o.process, 60)
    >>> made = denoising_mcmc(o, 12, classify=exact_levels(o, levels), levels=levels, chains=4)
    >>> made.x.shape, made.nfe, made.nfe_whole  # 5 moves and 3 evaluations; a start of 20 and 20 moves for 3 outputs a chain
    (torch.Size([12, 1]), 8.0, 21.333333333333332)
    """
    guided, p = m if guide is None else m | guide, m.process
    law = _Law(guided, _levels(p, levels), classify, pick, eta, relative, Noise(seed))
    at_least(n=(n, 1), chains=(chains, 1), skip=(skip, 1), batch=(batch, 1), start=(start, 0))
    early = [(burn_in, eta)] if isinstance(burn_in, int) else list(burn_in)
    for count, e in early:
        at_least(burn_in=(count, 0))
        if not 0 < e < math.inf:
            raise ArgumentError(f"burn_in is a number of moves or a list of (moves, eta > 0), got {burn_in!r}")
    if not 0 <= kick < math.inf:
        raise ArgumentError(f"kick must be finite and at least 0, got {kick!r}")
    if init is not None and (begin is not None or len(init) != chains):
        raise ArgumentError(f"give init with a row for each of {chains} chains, or begin=, not both")
    if begin is None and init is None:
        begin = compile_plan("dpmpp-2m-sde", p, 20)
    size = tuple(shape) if shape is not None else m.shape if init is None or m.codec is not None else init.shape[1:]
    if size is None:
        raise ShapeError(
            "the model does not know its state's shape; give shape=(channels, height, width), without the batch"
        )
    how: dict[str, Any] = {"steps": steps, "grid": grid, "end": end, **(options or {})}
    own_starts(solver, p, times_of(p, law.levels), **how)  # raises here what it would later
    draws = compile_plan(solver, p, **how).noises
    last = None if tweedie is None else compile_plan("ddim", p, grid=[_last(p, tweedie), p.t_clean])
    where, outputs = m.device if device is None else torch.device(device), -(-n // chains)
    told_all, held_all = conditions(cond, chains, m.null, where), conditions(inputs, chains, None, where)
    x_all: Tensor | None = None
    levels_all = torch.empty(outputs, chains, dtype=torch.float64)
    counted = _Count(guided)
    for positions, rows in blocks(range(start, start + chains), batch):
        take = torch.full((batch,), positions[0], dtype=torch.long)
        take[torch.tensor(rows)] = torch.tensor(positions)
        here, ids = take.to(where), take + start
        told = _Told(
            ids,
            select(told_all, here, chains) if chains > 1 else conditions(cond, batch, m.null, where),
            hooks,
            select(held_all, here, chains) if chains > 1 else conditions(inputs, batch, None, where),
        )
        counted.begin()
        with torch.no_grad():
            if init is not None:
                y = m.encode(init[take.to(init.device)].to(where)).to(dtype)
            else:
                assert begin is not None
                z = p.draw(law.seed, size, ids, stage=0, stream=PRIOR, device=where, dtype=dtype)
                y = run(begin, guided, p.prior(z, begin.start), noise=law.seed, **told.given)
            counted.add("start")
            y = y + kick * law.draw(told, y, 0)
            level, done = law.level(y, told, 0), 1
            for moves, e in early:
                for stage in range(done, done + moves):
                    y, level = law.move(y, level, told, stage, e)
                done += moves
            counted.add("burn-in")
            for k in range(outputs):
                best, found = y, torch.full((batch,), math.inf, dtype=torch.float64)
                for stage in range(done, done + skip):
                    y, level = law.move(y, level, told, stage)
                    lower = law.levels[level] < found
                    best = torch.where(lower.to(y.device).reshape(-1, *[1] * (y.ndim - 1)), y, best)
                    found = torch.where(lower, law.levels[level], found)
                done += skip
                counted.add("moves")
                t = times_of(p, found)
                plan = own_starts(solver, p, t, **how)
                x = best * p.alpha(t).to(best).reshape(-1, *[1] * (y.ndim - 1))
                x = run(plan, guided, x, noise=_Later(law, told, x, k * draws), **told.given)
                counted.add("denoising")
                if last is not None:
                    x = run(last, guided, x * p.alpha(last.start), **told.given)
                    counted.add("tweedie")
                x = m.decode(x) if decode else x
                if x_all is None:
                    x_all = torch.empty(outputs, chains, *x.shape[1:], dtype=x.dtype, device=x.device)
                x_all[k, torch.tensor(positions, device=x.device)] = x[torch.tensor(rows, device=x.device)]
                levels_all[k, torch.tensor(positions)] = found[torch.tensor(rows)]
    assert x_all is not None
    which = torch.arange(n)
    return Chains(
        x_all.flatten(0, 1)[:n],
        start + which % chains,
        which // chains,
        levels_all.flatten()[:n],
        counted.calls,
        counted.forwards,
        outputs,
    )


@dataclass(frozen=True, eq=False)
class _Later:
    """The noise of a denoising: draw j of output k has a stage of its own."""

    law: _Law
    told: _Told
    like: Tensor
    base: int

    def __call__(self, j: int) -> Tensor:
        return self.law.draw(self.told, self.like, _DENOISING + self.base + j)


class _Count:
    """Evaluations and forwards of one chain, by what they are for."""

    def __init__(self, m: Model) -> None:
        self.m = m
        self.begin()

    def begin(self) -> None:
        names = ("start", "burn-in", "moves", "denoising", "tweedie")
        self.calls, self.forwards = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
        self.seen = self.m.calls, self.m.forwards

    def add(self, name: str) -> None:
        self.calls[name] += self.m.calls - self.seen[0]
        self.forwards[name] += self.m.forwards - self.seen[1]
        self.seen = self.m.calls, self.m.forwards


def _levels(p: Process, levels: Sequence[float] | Tensor | None) -> Tensor:
    return noise_levels(p) if levels is None else torch.as_tensor(levels, dtype=torch.float64).cpu()


def _last(p: Process, ratio: float) -> float:
    t = p.t_of_ratio(ratio) if 0 < ratio < math.inf else math.nan
    if not p.t_min * (1 - 1e-9) <= t <= p.t_max:
        raise ArgumentError(f"tweedie is a sigma / alpha of {p}, at most a little above its end, got {ratio!r}")
    return max(t, p.t_min)
