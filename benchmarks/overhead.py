"""Microseconds a step without the network, memory, and what remains beside a real network; with diffusers and k-diffusion in one run.

First the "network" returns a tensor made beforehand, so what is timed is everything else: the solver's arithmetic, conversions, bookkeeping and,
in Reverie, the finite check. Each pair of contenders is run in turn (A B A B ...); quoted are the median time and the median of the pairwise
ratios. Then the bytes that a run allocates (torch.profiler), in units of one state; and a whole run of `digits` at batch 1 over the time that it
spends in its network, whose work leaves the processor's caches cold for everything else.

    python benchmarks/overhead.py [--steps 50] [--pairs 9] [--shape 1,4,64,64]
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import reverie as rv

Job = Callable[[], Any]


def interleaved(jobs: dict[str, Job], pairs: int, repeat: int) -> dict[str, list[float]]:
    """Seconds of each job, `pairs` times in turn; each time is the mean of `repeat` calls."""
    for job in jobs.values():
        job()
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(pairs):
        for name, job in jobs.items():
            begin = time.perf_counter()
            for _ in range(repeat):
                job()
            seconds[name].append((time.perf_counter() - begin) / repeat)
    return seconds


def k_diffusion_sampling() -> types.ModuleType:
    """k_diffusion.sampling alone: its package imports training dependencies (torchvision, wandb) that no sampler needs."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("k-diffusion is missing: run `make bench`")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations)  # type: ignore[attr-defined]
    sys.modules["k_diffusion"] = package
    for name in ("torchvision", "torchvision.transforms"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["torchvision.transforms"].functional = types.SimpleNamespace()  # type: ignore[attr-defined]
    return importlib.import_module("k_diffusion.sampling")


def contenders(shape: tuple[int, ...], steps: int) -> dict[str, Job]:
    """One run each, by name."""
    from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

    torch.manual_seed(0)
    x, eps = torch.randn(shape), torch.randn(shape)
    answers = itertools.cycle([eps, eps.clone()])  # a network returns a tensor of its own each time
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    process = rv.process.ddpm((1 - betas).cumprod(0))
    jobs: dict[str, Job] = {}
    for name in ("dpmpp-2m", "dpmpp-3m", "ddim", "unipc-3", "deis-3"):
        plan, model = (
            rv.solve.plan(name, process, steps=steps),
            rv.Model(lambda x, t: next(answers), process, predicts="eps"),
        )
        jobs[f"reverie {name}"] = lambda plan=plan, model=model: rv.run(plan, model, x)
    data_plan, data_model = (
        rv.solve.plan("dpmpp-2m", process, steps=steps),
        rv.Model(lambda x, t: next(answers), process, predicts="x0"),
    )
    jobs["reverie dpmpp-2m, x0 net"] = lambda: rv.run(data_plan, data_model, x)

    def diffusers_job(cls: Any, **config: Any) -> Job:
        scheduler = cls(
            num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **config
        )

        def job() -> Any:
            scheduler.set_timesteps(steps)
            state, begin = x, time.perf_counter()
            for t in scheduler.timesteps:
                state = scheduler.step(eps, t, state, return_dict=False)[0]
            return state, time.perf_counter() - begin

        return job

    jobs["diffusers DPMSolverMultistep"] = diffusers_job(DPMSolverMultistepScheduler)
    jobs["diffusers UniPCMultistep"] = diffusers_job(UniPCMultistepScheduler)
    sampling = k_diffusion_sampling()
    sigmas = sampling.get_sigmas_karras(steps, 0.03, 14.6)
    jobs["k-diffusion dpmpp_2m"] = lambda: sampling.sample_dpmpp_2m(lambda x, s, **_: eps, x, sigmas, disable=True)
    return jobs


def memory(job: Job, state: torch.Tensor) -> tuple[float, float, int]:
    """Peak and sum of what one call allocates, in states, and the number of allocations of at least a quarter of one."""
    from torch.profiler import ProfilerActivity, profile

    job()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        job()
    found = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    now = peak = total = count = 0
    for event in sorted(found, key=lambda e: e.start_ns()):
        size = event.nbytes()
        now, total = now + size, total + max(0, size)
        peak, count = max(peak, now), count + (size >= state.nbytes / 4)
    return peak / state.nbytes, total / state.nbytes, count


def beside_a_network(runs: int, steps: int = 8) -> dict[str, tuple[float, float]]:
    """For a few solvers on `digits` at batch 1: median of whole run / its forwards, and median microseconds outside the network."""
    digits = rv.load("digits")
    x, cond = torch.randn(1, *digits.shape), {"class_labels": torch.tensor([7])}  # type: ignore[misc]
    inside = 0.0

    def timed(*args: Any, **more: Any) -> Any:
        nonlocal inside
        begin = time.perf_counter()
        out = digits.net(*args, **more)
        inside += time.perf_counter() - begin
        return out

    model = rv.Model(
        timed, digits.process, predicts=digits.target, null=digits.null, label=digits._label, dtype=digits.dtype
    )
    found = {}
    for name in ("dpmpp-2m", "unipc-3", "ddim"):
        plan = rv.solve.plan(name, digits.process, steps=steps)
        ratios, outside = [], []
        for _ in range(runs):
            begin, inside = time.perf_counter(), 0.0
            rv.run(plan, model, x, cond=cond)
            whole = time.perf_counter() - begin
            ratios.append(whole / inside)
            outside.append(1e6 * (whole - inside))
        found[name] = statistics.median(ratios), statistics.median(outside)
    return found


def import_seconds() -> float:
    """What `import reverie` adds to `import torch`, median of 5 fresh interpreters."""
    code = "import time, torch; b = time.perf_counter(); import reverie; print(time.perf_counter() - b)"
    return statistics.median(float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(5))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--shape", default="1,4,64,64")
    args = parser.parse_args()
    shape = tuple(int(s) for s in args.shape.split(","))
    torch.set_grad_enabled(False)
    jobs = contenders(shape, args.steps)
    seconds = interleaved(jobs, args.pairs, args.repeat)
    base = seconds["reverie dpmpp-2m"]
    print(
        f"microseconds a step without the network, {shape} float32, {args.steps} steps, median of {args.pairs} interleaved runs"
    )
    print(f"{'':32}{'us/step':>9}{'min':>9}{'max':>9}   x reverie dpmpp-2m (median of pairs)")
    for name, values in seconds.items():
        us = [1e6 * v / args.steps for v in values]
        ratio = statistics.median(v / b for v, b in zip(values, base, strict=True))
        print(f"{name:32}{statistics.median(us):9.1f}{min(us):9.1f}{max(us):9.1f}   {ratio:.2f}")

    state = torch.zeros(shape)
    print(f"\nmemory of a whole run, in states of {state.nbytes} bytes{'':9}peak      sum   allocations")
    for name, job in jobs.items():
        peak, total, count = memory(job, state)
        print(f"{name:32}{peak:25.1f}{total:9.0f}{count:14}")

    print("\nwhole run of `digits` (batch 1, 8 steps) over its forwards, median of runs")
    for name, (ratio, outside) in beside_a_network(20 * args.pairs).items():
        print(f"{name:32}{ratio:9.4f}{outside:9.0f} us outside the network")

    noise, index, stages = rv.Noise(0), torch.arange(shape[0]), range(args.steps)
    pair = interleaved(
        {
            "reverie Noise": lambda: noise.normals(shape[1:], index=index, stages=stages),
            "torch.randn": lambda: [torch.randn(shape) for _ in stages],
        },
        args.pairs,
        args.repeat,
    )
    ratio = statistics.median(a / b for a, b in zip(*pair.values(), strict=True))
    print(f"\nnoise for {args.steps} stages of {shape}, milliseconds")
    for name, values in pair.items():
        print(f"{name:32}{1e3 * statistics.median(values):9.2f}{1e3 * min(values):9.2f}{1e3 * max(values):9.2f}")
    print(f"{'ratio (median of pairs)':32}{ratio:9.2f}")
    print(f"\nimport reverie after import torch: {import_seconds():.3f} s")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {Path(sys.executable).name}")


if __name__ == "__main__":
    main()
