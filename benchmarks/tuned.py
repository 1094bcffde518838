"""Tuned plans beside the best of the peers, in one run.

    error(plan)   median over held-out noises of |x - x*| / |x*|, x* the model's own exact solution; the 95th percentile beside it
    E(N)          evaluations, interpolated in logarithms, at which the best peer has the error of the plan tuned to N

The peers are the solvers and options of benchmarks/peers.yaml that make no noise of their own, each on every grid of `GRIDS`, its own among them:
so "the best peer" is at least as good as the best of the list as it stands. All are tried on few noises, the best of each budget on all. Seeds
change the mixture, the noises of the fit, and those of the test.

    python benchmarks/tuned.py [--setting mixture|digits|separated|shapes] [--seeds 3] [--noises 2048] [--out out/benchmarks/tuned]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import reverie as rv
from reverie.base import ReverieError
from reverie.base.files import atomic
from reverie.measure import sliced_wasserstein
from reverie.papers.problems import overlapping

TUNED = (4, 5, 6, 8)
BUDGETS = (4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 20, 24)
GRIDS = ("logsnr", "karras", "time", "beta", "trailing", "quadratic")
ROUGH = 128


def peers() -> list[tuple[str, dict[str, Any]]]:
    """The deterministic solvers of peers.yaml with their options, each once."""
    listed = yaml.safe_load((Path(__file__).parent / "peers.yaml").read_text(encoding="utf-8"))["peers"]
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for peer in listed:
        name, options = peer["solver"], dict(peer.get("solver_options", {}))
        known = rv.solve.SOLVERS[name]
        if not known.stochastic and not known.dynamic and not options.get("eta") and "inner" not in options:
            found.setdefault(json.dumps([name, options], sort_keys=True), (name, options))
    return list(found.values())


class Setting:
    """A model, its conditions, and the exact solutions of its noises."""

    def __init__(self, name: str, seed: int, noises: int) -> None:
        self.name, self.seed, self.cond = name, seed, None
        self.classes: Tensor | None = None
        if name == "mixture":
            self.m: rv.Model = overlapping(seed)
        elif name == "separated":
            self.m = overlapping(seed, norm=12.0)
        elif name == "digits":
            self.m = rv.load("digits")
        elif name == "shapes":
            base = rv.load("shapes")
            assert base.embed is not None
            self.pool = base.embed(rv.measure.prompts(8, seed))
            self.m = base | rv.guide.CFG(5.0)
        if name == "digits":
            self.pool = {"class_labels": torch.arange(10)}
        elif name != "shapes":
            self.pool = {}
        self.n = noises
        index = torch.arange(noises)
        self.cond = {k: v[index % len(v)] for k, v in self.pool.items()} or None
        exact = isinstance(self.m, rv.oracle.Mixture)
        self.fine = rv.solve.Fine(
            self.m,
            noises,
            self.m.shape or (),
            cond=self.cond,
            seed=1000 + seed,
            batch=256,
            reference=1e-7 if exact else 1e-4 if name == "digits" else 100,
        )
        self.dtype = torch.float64 if exact else torch.float32

    def errors(self, plan: rv.Plan, n: int) -> Tensor:
        """Relative distances `(n,)` of the first n noises."""
        x, p = self.fine.begin(plan.start)[:n], self.m.process
        star = self.fine(float(p.t_max), float(p.t_clean))[:n]
        parts = []
        for rows in torch.arange(n).split(256):
            cond = None if self.cond is None else {k: v[rows] for k, v in self.cond.items()}
            parts.append(rv.run(plan, self.m, x[rows].to(self.dtype), cond=cond).double())
        return ((torch.cat(parts) - star).flatten(1).norm(dim=1) / star.flatten(1).norm(dim=1)).nan_to_num(nan=math.inf)

    def best(self, nfe: int) -> tuple[list[Any], Tensor]:
        """The best peer with a budget of calls, [solver, grid, options], and its errors."""
        rough = []
        for solver, options in peers():
            for grid in GRIDS:
                try:
                    plan = rv.solve.plan(solver, self.m.process, nfe=nfe, grid=grid, **options)
                    rough.append((float(self.errors(plan, min(ROUGH, self.n)).median()), [solver, grid, options], plan))
                except ReverieError:
                    continue
        few = sorted(rough, key=lambda r: r[0])[:3]
        ends = [(self.errors(plan, self.n), spec) for _, spec, plan in few]
        errors, spec = min(ends, key=lambda e: float(e[0].median()))
        return spec, errors


def equal(best: dict[int, float], error: float) -> float:
    """E: where the best peer, made monotone, has this error; infinite where none of the budgets has."""
    least, before = math.inf, None
    for n in sorted(best):
        least = min(least, best[n])
        if least <= error:
            if before is None:
                return float(n)
            m, e = before
            return math.exp(
                math.log(m)
                + (math.log(n) - math.log(m)) * (math.log(e) - math.log(error)) / (math.log(e) - math.log(least))
            )
        before = (n, least)
    return math.inf


def figures(errors: Tensor) -> dict[str, float]:
    """The median and the 95th percentile."""
    return {"median": float(errors.median()), "p95": float(errors.quantile(0.95))}


def main() -> None:
    """Measure what is missing, keep it, and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--setting", choices=["mixture", "digits", "separated", "shapes"], default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--noises", type=int, default=2048)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/tuned"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for seed in range(asked.seeds):
        path = asked.out / f"{asked.setting}-{seed}-{asked.noises}.json"
        kept = json.loads(path.read_text()) if path.exists() else {"peers": {}, "tuned": {}}
        setting = Setting(asked.setting, seed, asked.noises)
        for n in TUNED:
            file = asked.out / f"{asked.setting}-{seed}-{n}.json"
            if str(n) not in kept["tuned"]:
                began = time.monotonic()
                reference = 1e-6 if setting.dtype == torch.float64 else 1e-4 if asked.setting == "digits" else 100
                plan = rv.solve.tune(setting.m, n, cond=setting.pool, seed=seed, reference=reference)
                plan.save(file)
                seconds = time.monotonic() - began
                kept["tuned"][str(n)] = figures(setting.errors(plan, asked.noises)) | {
                    "seconds": seconds,
                    "from": plan.provenance["from"],
                }
                _keep(path, kept)
        for n in BUDGETS:
            if str(n) not in kept["peers"]:
                spec, errors = setting.best(n)
                name = f"{spec[0]}@{spec[1]}" + "".join(f" {k}={v}" for k, v in spec[2].items())
                kept["peers"][str(n)] = figures(errors) | {"name": name, "spec": spec}
                _keep(path, kept)
        _show(asked.setting, seed, kept)
        if asked.setting == "separated":
            _switches(setting, asked.out, kept)


def _keep(path: Path, kept: dict[str, Any]) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(kept, indent=1) + "\n")


def _show(setting: str, seed: int, kept: dict[str, Any]) -> None:
    best = {int(n): v["median"] for n, v in kept["peers"].items()}
    print(
        f"\n{setting}, seed {seed}\n   N   best peer                                  median      p95    tuned      p95   E(N)  E(N)/N  fitted in"
    )
    for n in sorted(best):
        of, tuned = kept["peers"][str(n)], kept["tuned"].get(str(n))
        line = f"{n:4d}   {of['name'][:40]:40s} {of['median']:8.5f} {of['p95']:8.5f}"
        if tuned:
            e = equal(best, tuned["median"])
            line += f" {tuned['median']:8.5f} {tuned['p95']:8.5f} {e:6.2f} {e / n:7.2f} {tuned['seconds']:8.0f} s"
        print(line, flush=True)


def _switches(setting: Setting, out: Path, kept: dict[str, Any]) -> None:
    """The share of samples that end at another mode than their exact solution, with a 95 % interval (Wilson), and sliced Wasserstein distances."""
    o, n, p = setting.m, setting.n, setting.m.process
    means = o.components.means  # type: ignore[attr-defined]
    star = setting.fine(float(p.t_max), float(p.t_clean))
    where = torch.cdist(star.flatten(1), means.double()).argmin(1)
    for budget in TUNED:
        tuned = rv.Plan.load(out / f"{setting.name}-{setting.seed}-{budget}.json")
        (solver, grid, options), rival = kept["peers"][str(budget)]["spec"], kept["peers"][str(budget)]["name"]
        peer = rv.solve.plan(solver, p, nfe=budget, grid=grid, **options)
        for name, plan in (("tuned", tuned), (rival, peer)):
            x = torch.cat([rv.run(plan, o, rows).double() for rows in setting.fine.begin(plan.start).split(256)])
            k = int((torch.cdist(x.flatten(1), means.double()).argmin(1) != where).sum())
            share, z = k / n, 1.96
            middle = (share + z * z / (2 * n)) / (1 + z * z / n)
            half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
            far = sliced_wasserstein(x, star)
            print(
                f"{budget:4d} {name:40s} switches {share:.4f} [{middle - half:.4f}, {middle + half:.4f}]  sliced Wasserstein {far:.4f}"
            )


if __name__ == "__main__":
    main()
