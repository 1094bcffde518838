"""What the config of our scheduler says of the solver and of the nodes, in diffusers' keys or in ours."""

from __future__ import annotations

from typing import Any

from reverie.base import ArgumentError, unknown
from reverie.process import DDPM, Process
from reverie.solve import SOLVERS

__all__ = ["check", "grid_of", "solver_of"]

_SPACED = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
    "use_lu_lambdas": "logsnr",
}
_SPACINGS = ("trailing", "leading", "linspace")
_ENDS = ("zero", "sigma_min")
_FAMILIES = {"dpmsolver++": "dpmpp-{}m", "dpmsolver": "dpm-{}m", "sde-dpmsolver++": "dpmpp-{}m-sde"}


def check(config: Any) -> None:
    """Raise `UnknownNameError` for a name that is none, `ArgumentError` for keys that exclude each other and solvers that cannot be schedulers.

    Args:
        config: with the fields of `Scheduler` as attributes and as items.
    """
    name, options = solver_of(config)
    if name not in SOLVERS:
        raise unknown("solver", name, SOLVERS)
    SOLVERS[name].check(options)
    if SOLVERS[name].dynamic:
        raise ArgumentError(
            f"{name!r} chooses its steps during the run, so it cannot be a scheduler; rv.sample and rv.run take it"
        )
    for key, known in (("timestep_spacing", _SPACINGS), ("final_sigmas_type", _ENDS)):
        if config[key] not in known:
            raise unknown(key, config[key], known)
    chosen = [key for key in _SPACED if config[key]]
    if len(chosen) > 1:
        raise ArgumentError(f"{' and '.join(chosen)} exclude each other; set one of them")


def solver_of(config: Any) -> tuple[str, dict[str, Any]]:
    """The solver and its options: those of `solver`, or what the keys of diffusers' DPM-Solver schedulers say. Raises `ArgumentError`."""
    said = {
        k: tuple(v) if isinstance(v, list) else v for k, v in (config.solver_options or {}).items()
    }  # as JSON has it
    if config.solver is not None:
        return config.solver, said
    name = _FAMILIES.get(config.algorithm_type, "").format(config.solver_order)
    name = "ddim" if name in ("dpmpp-1m", "dpm-1m") else name
    if name not in SOLVERS:
        raise ArgumentError(
            f"algorithm_type {config.algorithm_type!r} of order {config.solver_order!r} is none that Reverie has; name a solver: solver='dpmpp-2m'"
        )
    options: dict[str, Any] = {} if config.lower_order_final or name == "ddim" else {"lower_final": False}
    options |= {"variant": "heun"} if config.solver_type == "heun" and name == "dpmpp-2m" else {}
    return name, options | said


def grid_of(config: Any, process: Process) -> tuple[str, str]:
    """The grid and the end that the config names, as `reverie.plan` takes them."""
    spaced = next((grid for key, grid in _SPACED.items() if config[key]), None)
    zero = config.final_sigmas_type == "zero"
    if config.grid is not None or spaced is not None:
        return config.grid or spaced or "", "zero" if zero else "sigma_min"
    spacing = config.timestep_spacing
    if spacing == "leading" and isinstance(process, DDPM):
        spacing = f"leading:{config.steps_offset}"
    return spacing, "denoise" if zero else "sigma_min"
