"""A scheduler of diffusers that runs any plan of Reverie.

    pipe.scheduler = rv.hub.scheduler("dpmpp-3m", pipe.scheduler.config)
    pipe("a red circle", num_inference_steps=6)

`Scheduler` is a `SchedulerMixin` and a `ConfigMixin`: it takes diffusers' own config keys, is made by `from_config`, saved with a pipeline and
loaded with it (`model_index.json` then names this module). Two keys are its own: `solver`, a name of `reverie solvers` with its `solver_options`,
and `plan`, the content of a plan's file, for plans that were fitted to a model.

States are those of diffusers' DDIM and DPM-Solver schedulers, x_t = alpha x0 + sigma eps, so `init_noise_sigma` is 1 and the network is shown the
state as it is. The table is compiled when the first step says where it begins: a run that begins in the middle (image-to-image) gets a table of
its own, with no history. A timestep that is no node is a single first-order step from that very time to the next node.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from reverie.base import ArgumentError, OriginWarning
from reverie.hub.process import betas_of, predicts_of, process_of
from reverie.hub.spacing import check, grid_of, solver_of
from reverie.hub.stepper import Stepper
from reverie.model import as_target
from reverie.model.fingerprint import fingerprint
from reverie.process import DDPM, Flow, Process
from reverie.solve import Plan
from reverie.solve.files import read, written
from reverie.solve.grids import nodes
from reverie.solve.solver import plan as compile_plan

__all__ = ["Scheduler", "SchedulerOutput", "scheduler"]

_FLOW_ONLY = ("shift_terminal", "invert_sigmas", "stochastic_sampling")


@dataclass
class SchedulerOutput(BaseOutput):
    """What a step gives: the state for the next evaluation, and the prediction of x0, both `(B, *shape)`."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class Scheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Any plan as a scheduler of diffusers.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, rescale_betas_zero_snr: the noise levels, as in diffusers.
        prediction_type: "epsilon", "v_prediction", "sample" or "flow_prediction".
        solver: a name of `reverie solvers`; dynamic ones, and those that change the state before they ask, cannot be schedulers. solver_options: its.
        plan: the content of a plan's file (`scheduler` puts it there); it decides solver, grid and number of steps.
        grid: a grid of Reverie ("logsnr", "karras:5"), in place of the next five.
        timestep_spacing: "trailing", "leading" or "linspace". steps_offset: of "leading". use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas,
            use_lu_lambdas: the grids "karras", "exponential", "beta", "logsnr", of which at most one.
        final_sigmas_type: "zero", or "sigma_min", which leaves the least noise that was trained on.
        use_flow_sigmas, flow_shift, use_dynamic_shifting: the straight path of flow matching; a dynamic shift is exp(mu), mu given to
        `set_timesteps`.
        thresholding, dynamic_thresholding_ratio, sample_max_value: clip x0 to a quantile of its absolute values. clip_sample, clip_sample_range: to
        a range.
        algorithm_type, solver_order, solver_type, lower_order_final: name the solver where `solver` does not ("dpmsolver++", 2 is "dpmpp-2m").
        variance_type: "learned" or "learned_range" where the network's output has a second half, which is left out.

    Raises `ArgumentError` for keys that exclude each other, and `UnknownNameError` for names.

    >>> s = Scheduler(solver="dpmpp-2m", beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    >>> s.set_timesteps(4)
    >>> s.timesteps
    tensor([999, 749, 499, 249])
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]  # noqa: RUF012 (diffusers reads it so)
    _step_index: int | None
    _begin_index: int | None

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Any = None,
        prediction_type: str = "epsilon",
        solver: str | None = None,
        solver_options: dict[str, Any] | None = None,
        plan: dict[str, Any] | None = None,
        grid: str | None = None,
        timestep_spacing: str = "trailing",
        steps_offset: int = 0,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        use_lu_lambdas: bool = False,
        final_sigmas_type: str = "zero",
        rescale_betas_zero_snr: bool = False,
        use_flow_sigmas: bool = False,
        flow_shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        variance_type: str | None = None,
        algorithm_type: str = "dpmsolver++",
        solver_order: int = 2,
        solver_type: str = "midpoint",
        lower_order_final: bool = True,
    ) -> None:
        check(self.config)
        predicts_of(self.config)
        self.betas = betas_of(self.config).float()
        self.alphas = 1.0 - self.betas
        self.alphas_cumprod = torch.cumprod(1.0 - self.betas.double(), 0).float()
        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)
        self._process: Process | None = None
        self._plan: Plan | None = None
        self._fitted = None if plan is None else read(plan, "the plan of the scheduler's config")
        self._restart()

    @property
    def _said(self) -> Any:
        """The config; its fields are those of `__init__`."""
        return self.config

    # -- what pipelines read

    def __len__(self) -> int:
        return int(self._said.num_train_timesteps)

    @property
    def order(self) -> int:
        """Evaluations a step, of which pipelines skip whole multiples."""
        plan = self._plan
        return 1 if plan is None else max(1, round(len(self._labels) / max(1, plan.steps)))

    @property
    def step_index(self) -> int | None:
        """Which of `timesteps` comes next; None before the first step."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Where a pipeline says that the run begins."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Say where in `timesteps` the run begins."""
        self._begin_index = begin_index

    def index_for_timestep(self, timestep: float | Tensor, schedule_timesteps: Tensor | None = None) -> int:
        """The place of a timestep in a list, the nearest one of those that are not in it."""
        listed = self.timesteps if schedule_timesteps is None else schedule_timesteps
        return int((listed.double().cpu() - _number(timestep)).abs().argmin())

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """What the network is shown: the state itself."""
        return sample

    @property
    def process(self) -> Process:
        """The forward process of the config; after `set_timesteps` with `mu`, of that shift."""
        if self._process is None:
            self._process = process_of(self.config)
        return self._process

    def _label(self, t: float) -> float:
        """What the network is told at a time."""
        if isinstance(self.process, Flow):
            return float(self.process.sigma(t)) * float(self._said.num_train_timesteps)
        return t

    def _time(self, label: float) -> float:
        """The time at which the network is told a label."""
        if isinstance(self.process, Flow):
            return float(self.process.t_of_sigma(label / float(self._said.num_train_timesteps)))
        return label

    # -- the nodes

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        timesteps: Sequence[float] | Tensor | None = None,
        sigmas: Sequence[float] | Tensor | None = None,
        mu: float | None = None,
    ) -> None:
        """Choose the nodes of a run.

        Args:
            num_inference_steps: steps. device: where `timesteps` go. timesteps: falling labels instead. sigmas: falling noise levels instead,
                sigma / alpha, for flows sigma before the shift; a last 0 may be left out. mu: logarithm of the dynamic shift.

        Raises:
            ArgumentError: none or several of the first three, another number of steps than a fitted plan has, no mu for a dynamic shift.
            TimeError: labels or levels outside the process or not falling, more steps than the grid holds.
        """
        given = [v is not None for v in (num_inference_steps, timesteps, sigmas)]
        if sum(given[1:]) > 1 or not any(given):
            raise ArgumentError("give num_inference_steps, timesteps or sigmas to set_timesteps")
        self._shift(mu)
        p, fitted = self.process, self._fitted
        if fitted is not None:
            self._plan = self._checked(fitted, num_inference_steps, custom=any(given[1:]))
        elif timesteps is not None or sigmas is not None:
            times = [self._time(_number(v)) for v in timesteps] if timesteps is not None else self._levels(sigmas or [])
            self._plan = self._compile([*times, self._end()] if times[-1] > self._end() else times)
        else:
            assert num_inference_steps is not None
            grid, end = grid_of(self.config, p)
            spaced = nodes(p, grid, _whole(num_inference_steps), end)
            self._plan = self._compile([n.t for n in spaced])
        self._whole = self._stepper = self._stepped(self._plan)
        self._labels = self._stepper.labels
        whole = isinstance(p, DDPM) and all(v.is_integer() for v in self._labels)
        self.timesteps = torch.tensor(self._labels, dtype=torch.long if whole else torch.float32, device=device)
        ends = [*self._stepper.times, self._plan.table[-1].to]
        self.sigmas = torch.tensor([self._level(t) for t in ends], dtype=torch.float32)
        self.num_inference_steps = num_inference_steps if num_inference_steps is not None else self._plan.steps
        self._restart()

    def _shift(self, mu: float | None) -> None:
        if self._said.use_dynamic_shifting and mu is None:
            raise ArgumentError(
                "the config says use_dynamic_shifting; give set_timesteps mu, the logarithm of the shift"
            )
        if mu is not None and not self._said.use_dynamic_shifting:
            raise ArgumentError(f"mu = {mu!r} is for use_dynamic_shifting, which the config does not say")
        if mu is not None:
            self._process = process_of(self.config, mu=mu)

    def _end(self) -> float:
        return self.process.t_clean if self._said.final_sigmas_type == "zero" else self.process.t_min

    def _levels(self, sigmas: Sequence[float] | Tensor) -> list[float]:
        """The times of noise levels: sigma / alpha, or for flows what the shift is applied to, which is their time."""
        p, values = self.process, [_number(v) for v in sigmas]
        if isinstance(p, Flow):
            return values
        return [p.t_clean if v == 0 else float(p.t_of_ratio(v)) for v in values]

    def _level(self, t: float) -> float:
        sigma, alpha = float(self.process.sigma(t)), float(self.process.alpha(t))
        return sigma if isinstance(self.process, Flow) else sigma / alpha if alpha else math.inf

    def _compile(self, times: Sequence[float]) -> Plan:
        name, options = solver_of(self.config)
        return compile_plan(name, self.process, grid=list(times), **options)

    def _checked(self, fitted: Plan, steps: int | None, custom: bool) -> Plan:
        """The plan of the config, if it is one of this process and of so many steps."""
        self._stepped(fitted)
        if custom or steps not in (fitted.nfe, fitted.steps):
            asked = "timesteps or sigmas of your own" if custom else f"num_inference_steps={steps}"
            raise ArgumentError(
                f"the scheduler's plan ({fitted.solver!r}) is of {fitted.nfe} evaluations at its own times, got {asked}; give "
                f"num_inference_steps={fitted.nfe}, or take a solver by name"
            )
        t = torch.linspace(fitted.process.t_min, fitted.process.t_max, 50, dtype=torch.float64)
        ours, theirs = (torch.stack([p.alpha(t), p.sigma(t)]) for p in (self.process, fitted.process))
        same = type(self.process) is type(fitted.process) and self.process.t_max == fitted.process.t_max
        if not same or not torch.allclose(ours, theirs, atol=1e-4):
            raise ArgumentError(
                f"the scheduler's plan is for {fitted.process}, its config says {self.process}; a plan fits the process that it was made for"
            )
        return fitted

    def _stepped(self, plan: Plan) -> Stepper:
        return Stepper(plan, as_target(predicts_of(self.config)), self._label)

    # -- the steps

    def _restart(self) -> None:
        self._step_index = self._begin_index = None
        self._offset = 0

    def _begin(self, i: int) -> None:
        """Begin a run at evaluation i."""
        assert self._plan is not None
        whole = self._whole
        if whole.begins(i):
            self._stepper, self._offset = whole, 0
        else:
            if self._fitted is not None:
                raise ArgumentError(
                    f"a fitted plan ({self._plan.solver!r}) begins with pure noise, not at step {i} of {len(self._labels)}; take a solver by name "
                    "for image-to-image"
                )
            t = whole.times[i]
            self._stepper = self._stepped(self._compile([t, *(v for v in self._nodes() if v < t)]))
            self._offset = i
            if self._stepper.labels != self._labels[i:]:
                raise ArgumentError(
                    f"{self._plan.solver!r} asks at other times when it begins at step {i}; take a multistep solver such as 'dpmpp-2m'"
                )
        self._stepper.forget()
        self._step_index = i

    def _nodes(self) -> list[float]:
        """The times of the grid's nodes."""
        assert self._plan is not None
        ends = {s.step: s.to for s in self._plan.table}
        return [self._plan.start, *ends.values()]

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, Tensor]:
        """The state for the next evaluation.

        Args:
            model_output: of the network at `timestep`, `(B, *shape)`. sample: the state that it was shown. generator: of the noise of stochastic
            solvers.
            return_dict: False for a tuple.

        Raises:
            ArgumentError: before `set_timesteps`; a fitted plan begun in the middle. TimeError: a timestep outside the process.
        """
        if self._plan is None:
            raise ArgumentError("call set_timesteps(num_inference_steps) before step")
        x = sample.double() if sample.dtype == torch.float64 else sample.float()
        raw = model_output.to(x.dtype)
        if self._said.variance_type in ("learned", "learned_range") and raw.shape[1] == 2 * x.shape[1]:
            raw = raw[:, : x.shape[1]]

        def draw() -> Tensor:
            made: Tensor = randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            return made

        change = self._clipped if self._said.thresholding or self._said.clip_sample else None
        i = self._place(_number(timestep))
        if i is None:
            stepper, at = self._single(_number(timestep)), 0
            self._step_index = None
        else:
            stepper, at = self._stepper, i - self._offset
            self._step_index = i + 1
        made, x0 = stepper.take(at, raw, x, draw, change)
        made, x0 = made.to(model_output.dtype), x0.to(model_output.dtype)
        return SchedulerOutput(prev_sample=made, pred_original_sample=x0) if return_dict else (made, x0)

    def _place(self, timestep: float) -> int | None:
        """Which evaluation a timestep means, beginning anew where it does not follow the last one; None for one that is no node."""
        labels, next_ = self._labels, self._step_index
        if next_ is None and self._begin_index is not None:
            self._begin(self._begin_index)
            return self._begin_index
        gaps = [abs(v - timestep) for v in labels]
        least = min(gaps) + 1e-4
        if next_ is not None and next_ < len(labels) and gaps[next_] <= least:
            nearest = next_
        else:  # of two evaluations at a time, the one that begins a step
            nearest = max((i for i, gap in enumerate(gaps) if gap <= least), key=lambda i: (self._first(i), -i))
        if gaps[nearest] > 1:  # pipelines make whole numbers of labels
            return None
        if nearest != next_:
            self._begin(nearest)
        return nearest

    def _first(self, i: int) -> bool:
        """Whether evaluation i begins a step."""
        steps = self._whole.steps
        return i == 0 or steps[i] != steps[i - 1]

    def _single(self, timestep: float) -> Stepper:
        """One first-order step from a time to the next node."""
        t = self._time(timestep)
        below = [v for v in self._nodes() if v < t]
        if not below:
            raise ArgumentError(f"no node lies below the timestep {timestep:g}; the last one is {self._labels[-1]:g}")
        return self._stepped(compile_plan("ddim", self.process, grid=[t, below[0]]))

    def _clipped(self, x0: Tensor) -> Tensor:
        c = self._said
        if not c.thresholding:
            return x0.clamp(-c.clip_sample_range, c.clip_sample_range)
        most = (
            x0.flatten(1)
            .abs()
            .float()
            .quantile(c.dynamic_thresholding_ratio, dim=1)
            .clamp(1.0, max(1.0, c.sample_max_value))
        )
        most = most.to(x0).reshape(-1, *[1] * (x0.ndim - 1))
        return x0.clamp(-most, most) / most

    # -- noise

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha x0 + sigma noise at timesteps, one for all or one a sample."""
        p = self.process
        t = torch.tensor([self._time(v) for v in timesteps.double().cpu().reshape(-1).tolist()], dtype=torch.float64)
        alpha, sigma = (
            v.to(original_samples).reshape(-1, *[1] * (original_samples.ndim - 1)) for v in (p.alpha(t), p.sigma(t))
        )
        return alpha * original_samples + sigma * noise

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise`, as flow pipelines call it."""
        return self.add_noise(sample, noise, torch.as_tensor(timestep))

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha noise - sigma x0 at timesteps, what a network of `v_prediction` is trained on."""
        p = self.process
        t = torch.tensor([self._time(v) for v in timesteps.double().cpu().reshape(-1).tolist()], dtype=torch.float64)
        alpha, sigma = (v.to(sample).reshape(-1, *[1] * (sample.ndim - 1)) for v in (p.alpha(t), p.sigma(t)))
        return alpha * noise - sigma * sample


def scheduler(solver: str | Plan | Path, config: Any = None, **options: Any) -> Scheduler:
    """A `Scheduler` of a solver or a plan, with the noise levels of another scheduler.

    Args:
        solver: a name of `reverie solvers`; or a plan, or the path of one (a `Path`, or a name that ends in ".json"), fitted or not.
        config: of the pipeline's present scheduler (`pipe.scheduler.config`), or that scheduler itself; or the pipeline, which then is compared with
            the network that the plan was fitted to (`OriginWarning`); diffusers' defaults without.
        options: keys of `Scheduler`'s config that replace those: `grid="logsnr"`, `solver_options={"eta": 0.5}`, ...

    Raises:
        UnknownNameError, ArgumentError: as `Scheduler`, and for a plan with tensors as coefficients, which a config cannot hold. FileError: a path
        that is no plan.

    >>> scheduler("unipc-2", {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}).config.prediction_type
    'v_prediction'
    """
    pipe = config if hasattr(config, "components") else None
    config = config if pipe is None else pipe.scheduler
    said: Mapping[str, Any] = getattr(config, "config", config) or {}
    changes = {"plan": None, "solver_options": None} | options
    if "shift" in said and "beta_start" not in said:  # FlowMatchEulerDiscreteScheduler and its kind
        unsupported = [key for key in _FLOW_ONLY if said.get(key)]
        if unsupported:
            raise ArgumentError(
                f"the config says {', '.join(unsupported)}, which Reverie's Scheduler does not do; keep the pipeline's own scheduler"
            )
        changes = {"use_flow_sigmas": True, "flow_shift": said["shift"], "prediction_type": "flow_prediction"} | changes
    elif "sigma_data" in said:
        raise ArgumentError(
            "the config is of an EDM scheduler, whose network reads scaled states; use rv.hub.model(pipe) and rv.sample"
        )
    if isinstance(solver, Path) or (isinstance(solver, str) and solver.endswith(".json")):
        solver = Plan.load(solver)
    if isinstance(solver, Plan):
        head, tensors = written(solver)
        if tensors:
            raise ArgumentError(
                f"the plan ({solver.solver!r}) has tensors as coefficients, which a scheduler's config cannot hold; rv.sample takes it"
            )
        changes["plan"] = head
        if pipe is not None:
            _check_origin(solver, pipe)
    else:
        changes["solver"] = solver
    made: Scheduler = Scheduler.from_config(dict(said), **changes)
    return made


def _check_origin(plan: Plan, pipe: Any) -> None:
    """Warn where a plan was fitted to another network than the pipeline's."""
    from reverie.hub.wrap import model

    wanted = plan.provenance.get("unguided")
    if wanted is not None and wanted != fingerprint(model(pipe), exact=False):
        warnings.warn(
            f"this {plan.solver!r} plan was fitted to {plan.provenance.get('model', 'another model')}, not to the network of this pipeline: its "
            "errors here are unknown; fit it to this one (rv.solve.tune(rv.hub.model(pipe) | guide, ...)), or take a solver by name",
            OriginWarning,
            stacklevel=3,
        )


def _number(v: Any) -> float:
    return float(v)


def _whole(n: Any) -> int:
    if isinstance(n, bool) or int(n) != n or n < 1:
        raise ArgumentError(f"num_inference_steps must be a whole number of at least 1, got {n!r}")
    return int(n)
