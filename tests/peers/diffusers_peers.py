"""What a diffusers scheduler is in Reverie: one table of solvers, its own (sigma, label) pairs, and both runs call by call.

`COUNTERPARTS` maps a scheduler class and its configuration to a solver and its options; `pairs` reads the nodes off a scheduler after
`set_timesteps`; `process` is the forward process that it holds. The list of peers itself is benchmarks/peers.yaml.

Compared is the whole trajectory: at every call of the network its input and its label, and the final state. Both sides run in float64, and the
scheduler's own float32 tables are widened, so that what differs is a formula; `as_shipped` leaves them (and their arithmetic) as they are.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import reverie as rv

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "benchmarks" / "peers.yaml"
SHAPE = (3, 4, 2, 2)
BETAS = {
    "sd": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    "linear": {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "none": {},
}
PREDICTS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}

# -- which solver


class NoCounterpart(ValueError):
    """Reverie has no solver that reproduces this configuration; the message says why."""


Options = dict[str, Any]
Config = Mapping[str, Any]


def _lower(c: Config, n: int) -> bool:
    """diffusers lets the order fall towards the end below 15 steps."""
    return bool(c["lower_order_final"]) and n < 15


def _dpm_multistep(c: Config, n: int) -> tuple[str, Options]:
    k, kind = c["solver_order"], c["algorithm_type"]
    variant = "taylor" if c["solver_type"] == "heun" else "midpoint"
    more: Options = {"variant": variant, "lower_final": _lower(c, n)}
    if c["euler_at_final"] and not more["lower_final"] and c["final_sigmas_type"] != "zero":
        raise NoCounterpart("euler_at_final lowers the last step alone; in Reverie the order falls step by step")
    if kind == "dpmsolver++":
        return [("ddim", {}), ("dpmpp-2m", more), ("dpmpp-3m", {**more, "released": True})][k - 1]
    if kind == "dpmsolver" and k < 3:
        return [("dpm-1", {}), ("dpm-2m", more)][k - 1]
    if kind == "sde-dpmsolver++" and k < 3:
        return [("ddim", {"eta": 1.0}), ("dpmpp-2m-sde", more)][k - 1]
    if kind == "sde-dpmsolver++":
        raise NoCounterpart("its third-order weight has the wrong sign (docs/peers.md); dpmpp-3m-sde is the derivation")
    raise NoCounterpart(f"algorithm_type={kind!r} of order {k}")


def _dpm_singlestep(c: Config, n: int) -> tuple[str, Options]:
    k, kind = c["solver_order"], c["algorithm_type"]
    if kind == "sde-dpmsolver++" or k > 2 or c["solver_type"] == "heun":
        raise NoCounterpart(f"algorithm_type={kind!r}, solver_type={c['solver_type']!r} of order {k}")
    if k == 1:
        return "ddim", {}
    if n % 2 == 0 and c["lower_order_final"] and c["final_sigmas_type"] == "sigma_min":
        raise NoCounterpart("lower_order_final splits the last pair though sigma stays positive")
    return ("dpmpp-2s" if kind == "dpmsolver++" else "dpm-2s"), {"inner": "grid"}


def _unipc(c: Config, n: int) -> tuple[str, Options]:
    return f"unipc-{c['solver_order']}", {
        "variant": c["solver_type"],
        "kind": "x0" if c["predict_x0"] else "eps",
        "lower_final": bool(c["lower_order_final"]),
    }


def _deis(c: Config, n: int) -> tuple[str, Options]:
    return f"deis-{c['solver_order']}", {"variable": "log-rho", "lower_final": _lower(c, n)}


def _sa(c: Config, n: int) -> tuple[str, Options]:
    if c["algorithm_type"] != "data_prediction":
        raise NoCounterpart("noise prediction")
    return "sa-solver", {
        "predictor": c["predictor_order"],
        "corrector": c["corrector_order"],
        "lower_final": bool(c["lower_order_final"]),
    }


def _ddpm(c: Config, n: int) -> tuple[str, Options]:
    kinds = {
        "fixed_small": "small",
        "fixed_small_log": "small",
        "fixed_large": "large",
        "learned_range": "learned",
    }
    if c["variance_type"] not in kinds:
        raise NoCounterpart(f"variance_type={c['variance_type']!r}")
    return "ddpm", {"variance": kinds[c["variance_type"]]}


COUNTERPARTS: dict[str, Callable[[Config, int], tuple[str, Options]]] = {
    "DDIMScheduler": lambda c, n: ("ddim", {}),
    "DDPMScheduler": _ddpm,
    "DPMSolverMultistepScheduler": _dpm_multistep,
    "DPMSolverSinglestepScheduler": _dpm_singlestep,
    "DPMSolverSDEScheduler": lambda c, n: ("dpmpp-2s-sde", {}),
    "UniPCMultistepScheduler": _unipc,
    "DEISMultistepScheduler": _deis,
    "PNDMScheduler": lambda c, n: ("pndm", {"warmup": "heun" if c["skip_prk_steps"] else "runge-kutta"}),
    "IPNDMScheduler": lambda c, n: ("ipndm", {}),
    "HeunDiscreteScheduler": lambda c, n: ("heun", {"coordinates": "ratio"}),
    "EulerDiscreteScheduler": lambda c, n: ("euler", {"coordinates": "ratio"}),
    "EulerAncestralDiscreteScheduler": lambda c, n: ("euler-a", {}),
    "LMSDiscreteScheduler": lambda c, n: ("lms", {"order": 4}),
    "KDPM2DiscreteScheduler": lambda c, n: ("kdpm-2", {}),
    "KDPM2AncestralDiscreteScheduler": lambda c, n: ("kdpm-2-a", {}),
    "SASolverScheduler": _sa,
    "FlowMatchEulerDiscreteScheduler": lambda c, n: ("lcm" if c["stochastic_sampling"] else "euler", {}),
    "FlowMatchHeunDiscreteScheduler": lambda c, n: ("heun", {}),
    "LCMScheduler": lambda c, n: ("lcm", {}),
}
"""(configuration, steps) -> (solver, options), by scheduler class. `eta` of DDIM and tau of SA-Solver are no part of a configuration."""


def counterpart(scheduler: Any, steps: int) -> tuple[str, Options]:
    """The solver and options that reproduce a scheduler. Raises `NoCounterpart`."""
    return COUNTERPARTS[type(scheduler).__name__](scheduler.config, steps)


# -- its nodes

_INTERLEAVED = (
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverSDEScheduler",
    "FlowMatchHeunDiscreteScheduler",
)
_EXPLODING = (*_INTERLEAVED[:4], "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler")
"""Schedulers whose state is x / alpha."""


def is_flow(scheduler: Any) -> bool:
    """Whether its sigmas are those of the straight path."""
    return type(scheduler).__name__.startswith("FlowMatch") or bool(scheduler.config.get("use_flow_sigmas", False))


def process(scheduler: Any, exact: bool = False) -> Any:
    """Its forward process: of its own float32 abar, or of the same betas in float64 (`exact`)."""
    if is_flow(scheduler):
        if not exact:
            return rv.process.flow()
        return rv.process.flow(float(scheduler.config.get("shift", scheduler.config.get("flow_shift", 1.0))))
    if type(scheduler).__name__ == "IPNDMScheduler":
        return rv.process.vp("linear")
    if not exact:
        return rv.process.ddpm(scheduler.alphas_cumprod.double())
    c = scheduler.config
    if c["beta_schedule"] == "squaredcos_cap_v2":
        bar = [math.cos((i / c["num_train_timesteps"] + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(1001)]
        betas = torch.tensor([min(1 - b / a, 0.999) for a, b in itertools.pairwise(bar)], dtype=torch.float64)
    else:
        p = 0.5 if c["beta_schedule"] == "scaled_linear" else 1.0
        ends = c["beta_start"] ** p, c["beta_end"] ** p
        betas = torch.linspace(*ends, c["num_train_timesteps"], dtype=torch.float64) ** (1 / p)
    if c.get("rescale_betas_zero_snr"):
        root = (1 - betas).cumprod(0).sqrt()
        abar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        abar[-1] = 2**-24 if scheduler.alphas_cumprod[-1] > 0 else 0.0
        return rv.process.ddpm(abar)
    return rv.process.ddpm((1 - betas).cumprod(0))


def _ratio(abar: Tensor | float) -> float:
    return math.sqrt((1 - float(abar)) / float(abar)) if float(abar) > 0 else math.inf


def pairs(scheduler: Any) -> list[tuple[float, float | None]]:
    """The (sigma, label) pairs that it holds after `set_timesteps`."""
    name, labels = type(scheduler).__name__, [float(t) for t in scheduler.timesteps]
    if name in ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LCMScheduler"):
        abar, n = scheduler.alphas_cumprod.double(), scheduler.num_inference_steps
        if name == "PNDMScheduler":
            labels = [float(t) for t in scheduler._timesteps[::-1]]
        last = 1.0
        if name in ("DDIMScheduler", "PNDMScheduler"):
            before = int(labels[-1]) - scheduler.config.num_train_timesteps // n
            last = float(abar[before] if before >= 0 else scheduler.final_alpha_cumprod)
        return [*((_ratio(abar[int(t)]), t) for t in labels), (_ratio(last), None)]
    if name == "IPNDMScheduler":
        sigmas = (scheduler.betas.double() / scheduler.alphas.double()).tolist()
        return [*zip(sigmas[:-1], labels, strict=True), (sigmas[-1], None)]
    sigmas = scheduler.sigmas.double().tolist()
    if name in _INTERLEAVED:
        if name.startswith("KDPM2"):
            sigmas = sigmas[:-2]  # sigma = 0 stands there three times
        sigmas, labels = [sigmas[0], *sigmas[1:-1:2], sigmas[-1]], labels[::2]
    return [*zip(sigmas[:-1], labels, strict=True), (sigmas[-1], None)]


def unrounded(scheduler: Any) -> list[float]:
    """Its labels as its spacing defines them, before rounding."""
    c, n = scheduler.config, scheduler.num_inference_steps
    labels = sorted({t for _, t in pairs(scheduler) if t is not None}, reverse=True)
    top, name = c["num_train_timesteps"], type(scheduler).__name__
    spacing = "linspace" if name == "DPMSolverSinglestepScheduler" else c.get("timestep_spacing", "leading")
    if name == "LCMScheduler" or spacing == "leading":
        return labels
    if spacing == "trailing":
        return [top - 1 - i * top / n for i in range(n)]
    first = name.startswith(("DPMSolver", "UniPC", "DEIS", "SA")) and name != "DPMSolverSDEScheduler"
    return [(top - 1) * (1 - i / (n if first else n - 1)) for i in range(n)]


def told(scheduler: Any, p: Any) -> Callable[[Any], float] | None:
    """The label of an inner node as a function of Reverie's time, looked up in the scheduler's own list; None: the time itself."""
    name = type(scheduler).__name__
    if name not in ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler"):
        return None
    log = torch.tensor([_ratio(a) for a in scheduler.alphas_cumprod.double()]).log()
    labels = scheduler.timesteps.double()[1::2]
    i = labels.floor().long().clamp(0, len(log) - 2)
    at = (log[i] + (labels - i) * (log[i + 1] - log[i])).double()

    def label(t: float) -> float:
        return float(labels[(at + float(p.lam(t))).abs().argmin()])

    return label


# -- the runs


class Net:
    """A smooth network that mixes its input and depends on its label; it keeps what it was asked."""

    def __init__(self, scale: float = 1000.0, variance: bool = False) -> None:
        self.calls: list[tuple[Tensor, float]] = []
        self.scale, self.variance = scale, variance
        g = torch.Generator().manual_seed(3)
        size = math.prod(SHAPE[1:])
        self.mix = torch.randn(size, size, generator=g, dtype=torch.float64) / math.sqrt(size)

    def __call__(self, x: Tensor, t: Tensor | float) -> Tensor:
        label = float(t.flatten()[0]) if isinstance(t, Tensor) else float(t)
        self.calls.append((x.double().clone(), label))
        time = label / self.scale
        h = x.double().flatten(1)
        out = torch.tanh(h @ self.mix + math.sin(5 * time)) + 0.4 * torch.cos(h + 3 * time) + 0.3 * h
        out = out.reshape(x.shape)
        return (torch.cat([out, torch.sin(3 * x + time)], 1) if self.variance else out).to(x.dtype)


def start(seed: int = 0) -> Tensor:
    """A state of unit variance."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draws(n: int) -> Tensor:
    """n noises."""
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


class _Wide:
    """torch whose float32 is float64: schedulers cast states and noise to float32 inside a step."""

    def __getattr__(self, name: str) -> Any:
        return torch.float64 if name == "float32" else getattr(torch, name)


@contextlib.contextmanager
def widened(scheduler: Any) -> Iterator[None]:
    """Its tables and its steps in float64; the values remain those of its float32 tables."""
    for name, value in vars(scheduler).items():
        if isinstance(value, Tensor) and value.dtype == torch.float32 and name != "timesteps":
            setattr(scheduler, name, value.double())
    module = importlib.import_module(type(scheduler).__module__)
    module.torch = _Wide()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.torch = torch  # type: ignore[attr-defined]


@contextlib.contextmanager
def fed(scheduler: Any, noises: Iterator[Tensor]) -> Iterator[None]:
    """Let a scheduler draw these noises."""
    module = importlib.import_module(type(scheduler).__module__)
    had = getattr(module, "randn_tensor", None)
    if had is None:
        yield
        return
    module.randn_tensor = lambda shape, **k: next(noises).to(k.get("dtype") or torch.float64)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.randn_tensor = had  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Peer:
    """One line of benchmarks/peers.yaml, for one number of steps and one prediction type."""

    name: str
    library: str
    cls: str
    options: Options
    betas: str
    predicts: str
    steps: int
    solver: str
    solver_options: Options
    forwards: str
    exact: str = "labels"
    why: str = ""
    step_options: Options = field(default_factory=dict)
    set_options: Options = field(default_factory=dict)
    tau: tuple[float, float] | None = None
    tolerance: float = 1e-6

    def __str__(self) -> str:
        return f"{self.name}-{self.predicts}-{self.steps}".replace(" ", "_")

    @property
    def calls(self) -> int:
        """Network calls."""
        return int(eval(self.forwards, {"__builtins__": {}}, {"N": self.steps}))


@functools.cache
def peers(library: str = "diffusers") -> tuple[Peer, ...]:
    """The fixed list, expanded over numbers of steps and prediction types."""
    out = []
    for line in yaml.safe_load(PEERS.read_text())["peers"]:
        if line["library"] != library:
            continue
        for steps, kind in itertools.product(line["steps"], line.get("predicts", ["epsilon"])):
            out.append(
                Peer(
                    name=line["peer"],
                    library=library,
                    cls=line["class"],
                    options=line.get("options", {}),
                    betas=line.get("betas", "sd"),
                    predicts=kind,
                    steps=steps,
                    solver=line["solver"],
                    solver_options=line.get("solver_options", {}),
                    forwards=str(line["forwards"]),
                    exact=line.get("exact", "labels"),
                    why=line.get("why", ""),
                    step_options=line.get("step_options", {}),
                    set_options=line.get("set_options", {}),
                    tau=tuple(line["tau"]) if "tau" in line else None,
                    tolerance=float(line.get("tolerance", 1e-6)),
                )
            )
    return tuple(out)


def make(peer: Peer) -> Any:
    """The scheduler, its timesteps set."""
    import diffusers

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    cls = getattr(diffusers, peer.cls)
    config = {**BETAS[peer.betas], **peer.options}
    if "prediction_type" in cls.__init__.__wrapped__.__code__.co_varnames:
        config["prediction_type"] = peer.predicts
    if peer.tau is not None:
        config["tau_func"] = lambda t: 1.0 if peer.tau[0] <= t <= peer.tau[1] else 0.0  # type: ignore[index]
    if peer.cls == "IPNDMScheduler":
        config["trained_betas"] = torch.linspace(0.995, 0, peer.steps + 1).tolist()
    scheduler = cls(**config)
    scheduler.set_timesteps(peer.steps, **peer.set_options)
    return scheduler


def theirs(scheduler: Any, net: Net, x: Tensor, z: Tensor, **step_options: Any) -> Tensor:
    """diffusers' loop from a state x of Reverie's scale; the result at that scale."""
    nodes = pairs(scheduler)
    exploding = type(scheduler).__name__ in _EXPLODING

    def alpha(sigma: float) -> float:
        return 1 / math.sqrt(1 + sigma**2) if exploding else 1.0

    x = x / alpha(nodes[0][0])
    with fed(scheduler, iter(z)), torch.no_grad():
        if type(scheduler).__name__ == "DPMSolverSDEScheduler":
            scheduler.noise_sampler = _two_noises(scheduler, iter(z))
        for t in scheduler.timesteps:
            asked = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            out = net(asked, t)
            x = scheduler.step(out, t, x, return_dict=False, **step_options)[0]
    return x * alpha(nodes[-1][0])


def _two_noises(scheduler: Any, z: Iterator[Tensor]) -> Callable[..., Tensor]:
    """For each step s -> s1 -> t the noises z_1 and z_t of one path of the SDE, from independent z_1, z_2."""
    kept: dict[str, Any] = {}

    def sampler(s: Any, t: Any) -> Tensor:
        h = math.log(float(s) / float(t))
        if not kept:
            kept["one"], kept["h"] = next(z), h
            return kept["one"]
        one, h1 = kept.pop("one"), kept.pop("h")
        a = math.exp(-(h - h1)) * math.sqrt(-math.expm1(-2 * h1))
        b = math.sqrt(-math.expm1(-2 * (h - h1)))
        return (a * one + b * next(z)) / math.sqrt(-math.expm1(-2 * h))

    return sampler


def ours(plan: Any, p: Any, net: Net, x: Tensor, z: Any, predicts: Any, label: Any = None) -> Tensor:
    """Reverie's run."""
    return rv.run(plan, rv.Model(net, p, predicts=predicts, label=label or "t"), x, noise=z)


@dataclass(frozen=True)
class Parity:
    """How far two trajectories lie apart: relative to the largest entry of each state, and in labels."""

    states: float
    labels: float
    calls: tuple[int, int]
    last: float


def compare(a: Net, end_a: Tensor, b: Net, end_b: Tensor) -> Parity:
    """Trajectory b against a."""
    last = _apart(end_a, end_b)
    both = list(zip(a.calls, b.calls, strict=False))
    states = max([last, *(_apart(x, y) for (x, _), (y, _) in both)])
    return Parity(states, max(abs(s - t) for (_, s), (_, t) in both), (len(a.calls), len(b.calls)), last)


def _apart(a: Tensor, b: Tensor) -> float:
    gap = float((a - b).abs().max() / a.abs().max())
    return math.inf if math.isnan(gap) else gap


def solver_of(peer: Peer, scheduler: Any) -> tuple[str, Options]:
    """Solver and options of a peer: the table's, with what is no part of a configuration."""
    name, options = counterpart(scheduler, peer.steps)
    if "eta" in peer.step_options:
        options = {**options, "eta": peer.step_options["eta"]}
    if peer.tau is not None:
        p = process(scheduler)
        low, high = (p.sigma(t) / p.alpha(t) for t in (max(peer.tau[0], 0.0), min(peer.tau[1], 999.0)))
        window = {"tau": 1.0, "tau_min": low * (1 - 1e-6), "tau_max": high * (1 + 1e-6)}
        options = {**options, **(window if low < high else {"tau": 0.0})}  # a window beyond the labels: the ODE
    return name, options


def noise_of(peer: Peer, scheduler: Any, z: Tensor) -> Any:
    """Reverie draws only where noise is added; SA-Solver in diffusers draws at every step."""
    if peer.tau is None:
        return z
    used = [i for i, t in enumerate(scheduler.timesteps) if peer.tau[0] <= float(t) <= peer.tau[1]]
    return lambda j: z[used[j]]


def both(peer: Peer, as_shipped: bool = False, exact: bool = False) -> Parity:
    """Both runs: on the peer's own pairs, or Reverie's on its exact float64 nodes."""
    scheduler = make(peer)
    p, grid = process(scheduler, exact), pairs(scheduler)
    if exact and "mu" in peer.set_options:
        p = rv.process.flow(math.exp(peer.set_options["mu"]))
    name, options = solver_of(peer, scheduler)
    plan = rv.solve.plan(name, p, **(_exact(peer, scheduler) if exact else {"grid": _finite(grid)}), **options)
    x, z = start(), draws(2 * peer.steps + 4)
    label = None if exact else told(scheduler, p)
    scale, variance = 1.0 if peer.cls == "IPNDMScheduler" else 1000.0, options.get("variance") == "learned"
    if exact and is_flow(scheduler):
        label = functools.partial(_thousandfold, p)
    net, own = Net(scale, variance), Net(scale, variance)
    kind: Any = "v" if peer.cls == "IPNDMScheduler" else "flow" if is_flow(scheduler) else PREDICTS[peer.predicts]
    with contextlib.nullcontext() if as_shipped else widened(scheduler):
        theirs_end = theirs(scheduler, net, x, z, **peer.step_options)
    if variance:
        kind = (kind, "variance")
    ours_end = ours(plan, p, own, x, noise_of(peer, scheduler, z), kind, label)
    return compare(net, theirs_end, own, ours_end)


def _thousandfold(p: Any, t: float) -> float:
    return 1000.0 * p.sigma(t)


def parity(peer: Peer, as_shipped: bool = False) -> Parity:
    """Both runs on the peer's own pairs."""
    return both(peer, as_shipped)


def exact(peer: Peer) -> float:
    """How far its result, as shipped, lies from that of the same solver on exact float64 nodes."""
    return both(peer, as_shipped=True, exact=True).last


def _finite(grid: list[tuple[float, float | None]]) -> list[Any]:
    if math.isfinite(grid[0][0]):
        return list(grid)
    return [-1.0 if label is None else label for _, label in grid]  # zero terminal signal: integer labels are the times


def _exact(peer: Peer, scheduler: Any) -> Options:
    if peer.exact == "labels":
        last = pairs(scheduler)[-1][0]
        return {"grid": [*unrounded(scheduler), -1.0 if last == 0 else 0.0]}
    if peer.exact == "sigmas":
        return {"grid": _finite(pairs(scheduler))}
    return {"grid": peer.exact, "steps": peer.steps, "end": "denoise" if is_flow(scheduler) else "zero"}


# -- k-diffusion


@functools.cache
def k_sampling() -> Any:
    """k_diffusion.sampling alone (its package imports training dependencies), or None; no stub stays behind in sys.modules."""
    before = set(sys.modules)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module("overhead").k_diffusion_sampling()
    except (SystemExit, ImportError):
        return None
    finally:
        sys.path.pop(0)
        for name in set(sys.modules) - before:
            if name.startswith(("k_diffusion", "torchvision")) or name == "overhead":
                del sys.modules[name]


def k_both(peer: Peer) -> Parity:
    """k-diffusion's sampler and Reverie's on the same float64 sigmas of a VE process."""
    sampling = k_sampling()
    p = rv.process.edm()
    make_grid = sampling.get_sigmas_exponential if peer.exact == "logsnr" else sampling.get_sigmas_karras
    sigmas = make_grid(peer.steps, 0.03, 14.6).double()
    x, z = 14.6 * start(), draws(2 * peer.steps + 4)
    net, own = Net(10.0), Net(10.0)
    more: Options = dict(peer.options)
    if peer.cls == "sample_dpmpp_sde":
        more["noise_sampler"] = _two_noises(None, iter(z))
    elif more.pop("noisy", False):
        noises = iter(z)
        more["noise_sampler"] = lambda s, t: next(noises)

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        return net(x, sigma)

    options = dict(peer.solver_options)
    if peer.cls == "sample_dpm_fast":  # it takes a budget of calls, and ends at sigma_min
        n, m = peer.steps, peer.steps // 3 + 1
        theirs_end = sampling.sample_dpm_fast(denoiser, x, 0.03, 14.6, n, disable=True)
        sigmas = torch.linspace(math.log(14.6), math.log(0.03), m + 1, dtype=torch.float64).exp()
        options["orders"] = [3] * (m - 1) + [n % 3] if n % 3 else [3] * (m - 2) + [2, 1]
    else:
        theirs_end = getattr(sampling, peer.cls)(denoiser, x, sigmas, disable=True, **more)
    plan = rv.solve.plan(peer.solver, p, grid=[(float(s), None) for s in sigmas], **options)
    ours_end = ours(plan, p, own, x, z, "x0")
    return compare(net, theirs_end, own, ours_end)
