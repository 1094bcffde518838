"""What a diffusers scheduler says of the network that it steps: the forward process, the prediction type, and what is told as time.

    family     schedulers                                        process                           the network is told
    VP         with betas (DDIM, DDPM, Euler, DPM-Solver, ...)   ddpm(abar at the labels)          the label
    flow       FlowMatch*, and those with `use_flow_sigmas`      flow(shift)                       sigma, times `num_train_timesteps`
    EDM        EDMEuler, EDMDPMSolverMultistep                   edm(sigma_min, sigma_max)         log(sigma) / 4

Betas are computed in float64 from the config, so that a scheduler and its config have equal processes; diffusers computes them in float32. With
`rescale_betas_zero_snr` the last abar is exactly 0, except where the network predicts noise, from which nothing follows at abar = 0: it is then
2^-24, as in diffusers.

Sources: Ho et al. 2020 (2006.11239), Nichol & Dhariwal 2021 (2102.09672, cosine), Rombach et al. 2022 (2112.10752, scaled linear), Lin et al. 2024
(2305.08891, algorithm 1), Karras et al. 2022 (2206.00364), Esser et al. 2024 (2403.03206).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, unknown
from reverie.model import Target, as_target
from reverie.process import Flow, Process, ddpm, dynamic_shift, edm, flow

__all__ = ["PREDICTS", "betas_of", "label_of", "predicts_of", "process_of"]

PREDICTS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
"""Prediction types of diffusers, and ours."""
_SMALLEST = 2.0**-24
_BETAS = ("beta_start", "beta_end", "beta_schedule", "trained_betas")
_EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
_OTHERS = (
    "CMStochasticIterativeScheduler", "CosineDPMSolverMultistepScheduler", "IPNDMScheduler", "KarrasVeScheduler", "SCMScheduler",
    "ScoreSdeVeScheduler", "ScoreSdeVpScheduler", "VQDiffusionScheduler",
)  # fmt: skip
_NEAR = 1e-4
"""How far abar of a scheduler may lie from what its config says: more than rounding, and it was set by hand."""


def _config(source: Any) -> Mapping[str, Any]:
    config = source if isinstance(source, Mapping) else getattr(source, "config", None)
    if not isinstance(config, Mapping):
        raise ArgumentError(f"a scheduler of diffusers or its config is needed, got {type(source).__name__}")
    return config


def _classes(source: Any) -> tuple[str, ...]:
    """The names of a scheduler's class and of those that it derives from; of a config, what it says."""
    if isinstance(source, Mapping):
        return (str(source["_class_name"]),) if "_class_name" in source else ()
    return tuple(cls.__name__ for cls in type(source).__mro__)


def _family(source: Any) -> str:
    config, names = _config(source), _classes(source)
    betas = any(key in config for key in _BETAS)
    if config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction":
        return "flow"
    if any(name.startswith("FlowMatch") for name in names) or (not names and "shift" in config and not betas):
        return "flow"
    if set(names) & set(_EDM) or (not names and "sigma_data" in config and not betas):
        return "edm"
    if not set(names) & set(_OTHERS) and (betas or getattr(source, "alphas_cumprod", None) is not None):
        if config.get("timestep_type", "discrete") != "discrete":
            raise ArgumentError(
                f"{_called(names)} with timestep_type {config['timestep_type']!r} has no process that Reverie knows; wrap the network by hand: "
                "rv.Model(net, rv.process.edm(...), predicts=..., label='c_noise')"
            )
        return "vp"
    raise ArgumentError(
        f"{_called(names)} has no noise levels that Reverie knows (betas, flow matching or EDM); take another scheduler of the same network, or wrap "
        "the network by hand: rv.Model(net, process, predicts=...)"
    )


def _called(names: tuple[str, ...]) -> str:
    return f"the scheduler {names[0]}" if names else "this config"


def betas_of(source: Any) -> Tensor:
    """The betas `(N,)` of a scheduler's config, float64; rescaled where it says `rescale_betas_zero_snr`, so that the last one is 1.

    Args:
        source: a scheduler or its config; keys that it lacks are as in diffusers' DDPM (1000 betas, linear, from 0.0001 to 0.02).

    Raises `UnknownNameError` for a `beta_schedule` that Reverie lacks, and `ArgumentError` for numbers that are no betas.

    >>> betas = betas_of({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012})
    >>> len(betas), round(betas[0].item(), 6), round(betas[-1].item(), 6)
    (1000, 0.00085, 0.012)
    """
    config = _config(source)
    betas = _plain_betas(config)
    if not config.get("rescale_betas_zero_snr"):
        return betas
    abar = _rescaled((1 - betas).cumprod(0))
    return 1 - torch.cat([abar[:1], abar[1:] / abar[:-1]])


def _plain_betas(config: Mapping[str, Any]) -> Tensor:
    given = config.get("trained_betas")
    if given is not None:
        betas = torch.as_tensor(given, dtype=torch.float64).flatten()
    else:
        n, start, end = (config.get(k, v) for k, v in (("num_train_timesteps", 1000), *_RANGE.items()))
        name = config.get("beta_schedule", "linear")
        if name not in _SCHEDULES:
            raise unknown("beta_schedule", name, _SCHEDULES)
        betas = _SCHEDULES[name](float(start), float(end), int(n))
    if len(betas) < 2 or not bool(((betas > 0) & (betas < 1)).all()):
        raise ArgumentError(f"betas lie between 0 and 1, and are at least 2, got {betas.tolist()!r:.100}")
    return betas


def _linspace(start: float, end: float, n: int) -> Tensor:
    return torch.linspace(start, end, n, dtype=torch.float64)


def _cosine(start: float, end: float, n: int) -> Tensor:
    """1 - abar(t + 1/N) / abar(t) with abar(t) = cos(pi/2 (t + s) / (1 + s))^2, s = 0.008, at most 0.999; it has no start and no end."""
    abar = ((_linspace(0, 1, n + 1) + 0.008) / 1.008 * (math.pi / 2)).cos() ** 2
    return (1 - abar[1:] / abar[:-1]).clamp(max=0.999)


_RANGE = {"beta_start": 0.0001, "beta_end": 0.02}
_SCHEDULES: dict[str, Callable[[float, float, int], Tensor]] = {
    "linear": _linspace,
    "scaled_linear": lambda start, end, n: _linspace(math.sqrt(start), math.sqrt(end), n) ** 2,
    "squaredcos_cap_v2": _cosine,
    "sigmoid": lambda start, end, n: torch.sigmoid(_linspace(-6, 6, n)) * (end - start) + start,
}


def _rescaled(abar: Tensor) -> Tensor:
    """Shift and stretch sqrt(abar) so that its first value stays and its last one is 0."""
    root = abar.sqrt()
    return ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2


def _levels(source: Any) -> Tensor:
    """abar at the labels, float64: as the config says; those of the scheduler itself where it was given others."""
    config, own = _config(source), getattr(source, "alphas_cumprod", None)
    own = None if own is None or isinstance(source, Mapping) else torch.as_tensor(own).detach().double().cpu()
    if own is not None and (
        config.get("beta_schedule", "linear") not in _SCHEDULES or not any(k in config for k in _BETAS)
    ):
        return own
    abar = (1 - _plain_betas(config)).cumprod(0)
    snr = config.get("snr_shift_scale") or 1.0
    abar = abar / (snr + (1 - snr) * abar)
    if config.get("rescale_betas_zero_snr"):
        abar = _rescaled(abar)
    if own is not None and (own.shape != abar.shape or float((own - abar).abs().max()) > _NEAR):
        return own
    if abar[-1] == 0 and predicts_of(source) == "eps":
        abar[-1] = min(_SMALLEST, float(abar[-2]) / 2)
    return abar


def process_of(source: Any, tokens: int | None = None, mu: float | None = None) -> Process:
    """The process on which a network was trained, as a diffusers scheduler or its config says it.

    Args:
        source: a scheduler, or its config (a dict, `scheduler_config.json`).
        tokens: patches of the picture, where the shift follows its size (`use_dynamic_shifting`). mu: instead, the logarithm of that shift.

    Raises:
        ArgumentError: no scheduler, one whose noise levels Reverie does not know, or a dynamic shift without tokens.
        UnknownNameError: a beta schedule that Reverie lacks.

    >>> process_of({"beta_schedule": "squaredcos_cap_v2", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"})
    DDPM(1000 labels, abar 0.999959 .. 0)
    >>> process_of({"shift": 3.0}).sigma(0.5)
    0.75
    """
    family, config = _family(source), _config(source)
    if family == "vp":
        return ddpm(_levels(source))
    if family == "edm":
        return edm(config.get("sigma_min", 0.002), config.get("sigma_max", 80.0))
    if config.get("invert_sigmas"):
        raise ArgumentError("a flow with invert_sigmas runs from data to noise; Reverie has no process for it")
    if not config.get("use_dynamic_shifting"):
        if mu is not None:
            raise ArgumentError(f"mu = {mu!r} is for use_dynamic_shifting, which the scheduler does not say")
        said = config.get("flow_shift", 1.0) if config.get("use_flow_sigmas") else config.get("shift", 1.0)
        own = None if isinstance(source, Mapping) else vars(source).get("_shift")  # `set_shift` may have changed it
        return flow(float(own if isinstance(own, int | float) else said))
    if mu is None:
        if tokens is None:
            raise ArgumentError("the scheduler's shift follows the picture's size; give tokens=, its patches, or mu=")
        keys = {
            "base": "base_shift",
            "top": "max_shift",
            "base_tokens": "base_image_seq_len",
            "top_tokens": "max_image_seq_len",
        }
        mu = math.log(dynamic_shift(tokens, **{ours: config[key] for ours, key in keys.items() if key in config}))
    return flow(math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu)


def predicts_of(source: Any) -> str | Target:
    """What a network predicts, as a diffusers scheduler or its config says it: a name of ours, or a `Target` for EDM's v.

    Raises `UnknownNameError` for a prediction type that Reverie lacks, and `ArgumentError` as `process_of`.

    >>> predicts_of({"beta_schedule": "linear"}), predicts_of({"sigma_data": 1.0}), predicts_of({"shift": 3.0})
    ('eps', 'edm:1.0', 'flow')
    """
    family, config = _family(source), _config(source)
    kind = config.get("prediction_type", "flow_prediction" if family == "flow" else "epsilon")
    known = ("epsilon", "v_prediction") if family == "edm" else PREDICTS
    if kind not in known:
        raise unknown("prediction type of a scheduler", kind, known)
    if family != "edm":
        return PREDICTS[kind]
    name = f"edm:{float(config.get('sigma_data', 0.5))!r}"
    return name if kind == "epsilon" else _opposite(as_target(name))


def _opposite(target: Target) -> Target:
    """The target of a network whose output has the other sign: diffusers' v_prediction of EDM has c_out < 0."""
    k_x0, k_eps = target.x0, target.eps
    return replace(
        target, x0=lambda p, t: -k_x0(p, t), eps=lambda p, t: -k_eps(p, t), name=target.name.replace("edm", "edm-v")
    )


@dataclass(frozen=True)
class _Scaled:
    """sigma(t), times the number of labels."""

    process: Flow
    labels: float

    def __call__(self, t: Any) -> Any:
        return self.process.sigma(t) * self.labels


def label_of(source: Any, process: Process) -> str | Callable[[Any], Any]:
    """What a network is told as time (`Model`'s label), in the units of the scheduler's own timesteps.

    Args:
        process: that of `process_of`.

    >>> label_of({"shift": 3.0}, process_of({"shift": 3.0}))(0.5), label_of({"beta_start": 0.0001}, ddpm([0.9, 0.5]))
    (750.0, 't')
    """
    if isinstance(process, Flow):
        return _Scaled(process, float(_config(source).get("num_train_timesteps", 1000)))
    return "c_noise" if _family(source) == "edm" else "t"
