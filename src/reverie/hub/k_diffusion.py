"""Plans for k-diffusion's users: a function with the signature of its samplers, which ComfyUI and others call too.

    sample = rv.hub.kdiffusion("dpmpp-3m")
    x = sample(model, x, sigmas, extra_args={"cond": c}, callback=show)

There a model is a denoiser, `model(x, sigma, **extra_args) -> x0` with sigma `(B,)`, and states are x0 + sigma eps. A solver by name is compiled on
the sigmas that it is given. A plan has its own times; the sigmas must begin where it does and ask for as many steps. A plan of another process
runs in that process's own states, alpha (x0 + sigma eps), and of a flow in x_t = (1 - sigma) x0 + sigma eps, which is what ComfyUI hands over for
flow models.

Source: k-diffusion's `sampling.py` (Crowson 2022), for the signature.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, ShapeError
from reverie.model import Model
from reverie.process import VE, Flow, Process
from reverie.solve import Plan, Run
from reverie.solve.run import run
from reverie.solve.solver import plan as compile_plan

__all__ = ["kdiffusion"]

Sampler = Callable[..., Tensor]


def kdiffusion(solver: str | Plan, **options: Any) -> Sampler:
    """A sampler of k-diffusion's kind that runs a plan.

    Args:
        solver: a name of `reverie solvers`, or a plan. options: of a solver given by name.

    Returns:
        `sample(model, x, sigmas, extra_args=None, callback=None, disable=None)`: x `(B, *shape)` with noise of level sigmas[0]; sigmas `(N + 1,)`,
        falling, usually to 0; callback: called at each evaluation with the dict "x", "i", "sigma", "sigma_hat", "denoised". Stochastic solvers draw
        from torch's generator, as k-diffusion's do.

    Raises:
        UnknownNameError, ArgumentError: as `solve.plan`; the sampler, for sigmas that do not fall or do not fit a plan. ShapeError: x is no batch.

    >>> def denoise(x, sigma):  # data of a standard normal distribution
    ...     return x / (1 + sigma[:, None] ** 2)
    >>> sigmas = torch.cat([torch.logspace(1, -2, 40), torch.zeros(1)])
    >>> made = kdiffusion("dpmpp-2m")(denoise, torch.full((1, 2), 101**0.5), sigmas)
    >>> bool((made - 1).abs().max() < 0.005)
    True
    """
    if isinstance(solver, Plan):
        if options:
            raise ArgumentError(f"a compiled plan has its own options; leave out {', '.join(options)}")
    else:
        compile_plan(solver, VE(0.01, 10.0), grid=[10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01], **options)  # errors come now

    def sample(
        model: Callable[..., Tensor],
        x: Tensor,
        sigmas: Tensor | Sequence[float],
        extra_args: Mapping[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        levels = [float(s) for s in sigmas]
        if len(levels) < 2 or any(b >= a for a, b in itertools.pairwise(levels)) or levels[-1] < 0:
            raise ArgumentError(f"sigmas must fall, two or more, down to 0 at least, got {levels!r:.200}")
        if not isinstance(x, Tensor) or x.ndim < 2:
            raise ShapeError("x is a tensor (B, *shape)")
        plan = _fitting(solver, levels) if isinstance(solver, Plan) else _compiled(solver, levels, options)
        p = plan.process
        asked = Model(
            _denoiser(model, p, dict(extra_args or {})), p, predicts="x0", label="t", dtype=x.dtype, name="model"
        )
        state = x.double() if x.dtype == torch.float64 else x.float()
        hooks = () if callback is None else (_Callback(callback, p),)
        made: Tensor = run(
            plan,
            asked,
            state * _scale(p, plan.start),
            hooks=hooks,
            noise=lambda j: torch.randn_like(state),
            progress=disable is False,
        )
        return (made / _scale(p, plan.times[-1])).to(x.dtype)

    return sample


def _compiled(solver: str, levels: list[float], options: Mapping[str, Any]) -> Plan:
    least = levels[-1] if levels[-1] > 0 else levels[-2]
    if least == levels[0]:  # one step from a level to 0
        least = 0.5 * least
    return compile_plan(solver, VE(least, levels[0]), grid=levels, **options)


def _fitting(plan: Plan, levels: list[float]) -> Plan:
    """The plan, if the sigmas begin and end where it does, and ask for as many steps."""
    begin, steps = _level(plan.process, plan.start), len(levels) - 1
    if steps not in (plan.nfe, plan.steps):
        raise ArgumentError(
            f"the plan ({plan.solver!r}) is of {plan.nfe} evaluations, the sigmas are {steps} steps; ask for {plan.nfe} steps, or take a solver"
        )
    if abs(levels[0] - begin) > 0.01 * begin:
        raise ArgumentError(
            f"the plan ({plan.solver!r}) begins at sigma {begin:.4g}, the sigmas at {levels[0]:.4g}; it is for another model or another start"
        )
    if (levels[-1] == 0) != (_level(plan.process, plan.times[-1]) == 0):
        raise ArgumentError(
            f"the plan ({plan.solver!r}) ends at sigma {_level(plan.process, plan.times[-1]):.4g}, the sigmas at {levels[-1]:.4g}"
        )
    return plan


def _level(p: Process, t: float) -> float:
    """Sigma as k-diffusion names it; of a flow its own."""
    sigma, alpha = float(p.sigma(t)), float(p.alpha(t))
    if isinstance(p, Flow):
        return sigma
    if alpha == 0:
        raise ArgumentError(
            f"{p} has no signal at t = {t:g}, where sigma / alpha is infinite; k-diffusion's states cannot begin there"
        )
    return sigma / alpha


def _scale(p: Process, t: float) -> float:
    """A state of the process over one of k-diffusion."""
    return 1.0 if isinstance(p, Flow) else float(p.alpha(t))


def _denoiser(model: Callable[..., Tensor], p: Process, more: dict[str, Any]) -> Callable[..., Tensor]:
    """k-diffusion's denoiser as a network of the process that predicts x0 and is told t."""

    def net(x: Tensor, t: Tensor) -> Tensor:
        time = t.double()
        alpha, sigma = p.alpha(time), p.sigma(time)
        one = torch.ones_like(alpha) if isinstance(p, Flow) else alpha
        level = (sigma / one).to(x.dtype)
        return model(x / one.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)), level, **more)

    return net


class _Callback:
    """Tells a callback of k-diffusion's kind what each evaluation saw and said."""

    def __init__(self, f: Callable[[dict[str, Any]], Any], p: Process) -> None:
        self.f, self.p, self.i = f, p, 0

    def predicted(self, ctx: Run) -> None:
        """Called by `run` after each evaluation."""
        t = float(ctx.t)
        sigma = torch.tensor(_level(self.p, t))
        self.f(
            {"x": ctx.x / _scale(self.p, t), "i": self.i, "sigma": sigma, "sigma_hat": sigma, "denoised": ctx.pred.x0}
        )
        self.i += 1
