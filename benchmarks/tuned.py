"""Tuned plans beside the best of the peers, in one run.

    error(plan)   median over held-out noises of |x - x*| / |x*|, x* the model's own exact solution; the 95th percentile beside it
    E(N)          evaluations, interpolated in logarithms, at which the best peer has the error of the plan tuned to N

The peers are the solvers and options of benchmarks/peers.yaml that make no noise of their own, each on every grid of its setting: so "the best
peer" is at least as good as the best of the list as it stands. All are tried on few noises, the best of each budget on all. Seeds change the
mixture, the noises of the fit, and those of the test; prompts of `shapes` are others in the fit than in the test. What is measured is kept under
--out, so a stopped run goes on; remove it after a change of the code. --record writes what is kept there to benchmarks/tuned.json, which the
documentation shows.

    python benchmarks/tuned.py [--setting mixture|digits|separated|shapes] [--seeds 3] [--noises 2048] [--out out/benchmarks/tuned] [--record]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import reverie as rv
from reverie.base import ReverieError
from reverie.base.files import atomic
from reverie.cli.sheet import contact_sheet
from reverie.measure import sliced_wasserstein
from reverie.papers.problems import overlapping

TUNED = (4, 5, 6, 8)
KEPT = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Size:
    """How much is measured: budgets and grids of the peers, noises on which all are tried, of the fit, and the reference of the exact solutions."""

    budgets: tuple[int, ...] = (4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 20, 24)
    grids: tuple[str, ...] = ("logsnr", "karras", "time", "beta", "trailing", "quadratic")
    rough: int = 128
    calibration: int = 64
    reference: float | int = 1e-4
    exact: float | int = 1e-4


SIZES = {
    "mixture": Size(reference=1e-6, exact=1e-7),
    "separated": Size(reference=1e-6, exact=1e-7),
    "digits": Size(),
    "shapes": Size((4, 5, 6, 8, 10, 12, 16, 20), ("logsnr", "karras", "trailing"), 16, 24, 60, 100),
}


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
        self.name, self.seed, self.size, self.n = name, seed, SIZES[name], noises
        self.pool: dict[str, Tensor] = {}
        self.prompts: list[str] = []
        index = torch.arange(noises)
        if name == "shapes":
            base = rv.load("shapes")
            assert base.embed is not None
            fitted = rv.measure.prompts(8, seed)
            others = [p for p in rv.measure.prompts(200, 1000 + seed) if p not in fitted]
            mixed = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed)).tolist()
            self.prompts = [others[mixed[i % len(mixed)]] for i in range(noises)]
            self.pool, cond = base.embed(fitted), base.embed(self.prompts)
            self.m: rv.Model = base | rv.guide.CFG(5.0)
        elif name == "digits":
            self.m, self.pool = rv.load("digits"), {"class_labels": torch.arange(10)}
            cond = {k: v[index % len(v)] for k, v in self.pool.items()}
        else:
            self.m, cond = overlapping(seed, norm=12.0) if name == "separated" else overlapping(seed), {}
        self.cond = cond or None
        self.fine = rv.solve.Fine(
            self.m,
            noises,
            self.m.shape or (),
            cond=self.cond,
            seed=1000 + seed,
            batch=64 if name == "shapes" else 256,
            reference=self.size.exact,
        )
        self.dtype = torch.float64 if isinstance(self.m, rv.oracle.Mixture) else torch.float32

    def ends(self, plan: rv.Plan, n: int) -> Tensor:
        """Where a plan ends from the first n noises, `(n, *shape)`, float64."""
        x, parts = self.fine.begin(plan.start)[:n], []
        for rows in torch.arange(n).split(self.fine.batch):
            cond = None if self.cond is None else {k: v[rows] for k, v in self.cond.items()}
            parts.append(rv.run(plan, self.m, x[rows].to(self.dtype), cond=cond).double())
        return torch.cat(parts)

    def star(self) -> Tensor:
        """Where the exact solutions end."""
        return self.fine(float(self.m.process.t_max), float(self.m.process.t_clean))

    def errors(self, plan: rv.Plan, n: int) -> Tensor:
        """Relative distances `(n,)` of the first n noises."""
        star = self.star()[:n]
        miss = (self.ends(plan, n) - star).flatten(1).norm(dim=1) / star.flatten(1).norm(dim=1)
        return miss.nan_to_num(nan=math.inf)

    def best(self, nfe: int) -> tuple[list[Any], Tensor]:
        """The best peer with a budget of calls, [solver, grid, options], and its errors."""
        rough = []
        for solver, options in peers():
            for grid in self.size.grids:
                try:
                    plan = rv.solve.plan(solver, self.m.process, nfe=nfe, grid=grid, **options)
                    rough.append(
                        (float(self.errors(plan, min(self.size.rough, self.n)).median()), [solver, grid, options], plan)
                    )
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
    parser.add_argument("--setting", choices=list(SIZES), default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--noises", type=int, default=2048)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/tuned"))
    parser.add_argument("--record", action="store_true")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for seed in range(asked.seeds):
        path = asked.out / f"{asked.setting}-{seed}-of-{asked.noises}.json"
        kept = json.loads(path.read_text()) if path.exists() else {"peers": {}, "tuned": {}}
        setting = Setting(asked.setting, seed, asked.noises)
        for n in TUNED:
            if str(n) not in kept["tuned"]:
                began = time.monotonic()
                plan = rv.solve.tune(
                    setting.m,
                    n,
                    cond=setting.pool,
                    seed=seed,
                    calibration=setting.size.calibration,
                    heldout=setting.size.calibration,
                    reference=setting.size.reference,
                )
                plan.save(_plan(asked.out, setting, n))
                seconds = time.monotonic() - began
                kept["tuned"][str(n)] = figures(setting.errors(plan, asked.noises)) | {
                    "seconds": seconds,
                    "from": plan.provenance["from"],
                }
                _keep(path, kept)
        for n in setting.size.budgets:
            if str(n) not in kept["peers"]:
                spec, errors = setting.best(n)
                name = f"{spec[0]}@{spec[1]}" + "".join(f" {k}={v}" for k, v in spec[2].items())
                kept["peers"][str(n)] = figures(errors) | {"name": name, "spec": spec}
                _keep(path, kept)
        _show(asked.setting, seed, kept)
        if asked.setting == "separated" and "switches" not in kept:
            kept["switches"] = _switches(setting, asked.out, kept)
            _keep(path, kept)
        if asked.setting == "shapes" and "pictures" not in kept:
            kept["pictures"] = _pictures(setting, asked.out, kept)
            _keep(path, kept)
        for line in (*kept.get("switches", ()), *kept.get("pictures", ())):
            print(line)
        if asked.record:
            best = {int(n): v["median"] for n, v in kept["peers"].items()}
            for entry in kept["tuned"].values():
                needed = equal(best, entry["median"])
                entry["equal"] = needed if math.isfinite(needed) else None  # None: more than any budget
            told = json.loads(KEPT.read_text()) if KEPT.exists() else {}
            told[f"{asked.setting}-{seed}"] = kept | {"noises": asked.noises}
            _keep(KEPT, dict(sorted(told.items())))


def _plan(out: Path, setting: Setting, n: int) -> Path:
    return out / f"plan-{setting.name}-{setting.seed}-{n}.json"


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


def _pairs(setting: Setting, out: Path, kept: dict[str, Any]) -> Iterator[tuple[int, str, rv.Plan]]:
    """For each budget the tuned plan and the best peer."""
    for budget in TUNED:
        yield budget, "tuned", rv.Plan.load(_plan(out, setting, budget))
        (solver, grid, options), name = kept["peers"][str(budget)]["spec"], kept["peers"][str(budget)]["name"]
        yield budget, name, rv.solve.plan(solver, setting.m.process, nfe=budget, grid=grid, **options)


def _switches(setting: Setting, out: Path, kept: dict[str, Any]) -> list[str]:
    """The share of samples that end at another mode than their exact solution, with a 95 % interval (Wilson), and sliced Wasserstein distances."""
    n, z, star, said = setting.n, 1.96, setting.star(), []
    means = setting.m.components.means.double()  # type: ignore[attr-defined]
    where = torch.cdist(star.flatten(1), means).argmin(1)
    for budget, name, plan in _pairs(setting, out, kept):
        x = setting.ends(plan, n)
        share = int((torch.cdist(x.flatten(1), means).argmin(1) != where).sum()) / n
        middle = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        said.append(
            f"{budget:4d} {name:40s} switches {share:.4f} [{middle - half:.4f}, {middle + half:.4f}]"
            f"  sliced Wasserstein {sliced_wasserstein(x, star):.4f}"
        )
    return said


def _pictures(setting: Setting, out: Path, kept: dict[str, Any]) -> list[str]:
    """What the verifier reads in the pictures of each plan, and a sheet of the first: a row a plan, the exact solutions first."""
    shown, said = [], []
    exact = [(0, "exact solutions", setting.star())]
    for budget, name, x in (*exact, *((b, n, setting.ends(p, setting.n)) for b, n, p in _pairs(setting, out, kept))):
        pictures = torch.cat([setting.m.decode(part.float()) for part in x.split(50)])
        met = rv.measure.accuracy(pictures, setting.prompts).overall[0]
        part = rv.measure.reward(pictures, setting.prompts).mean()
        said.append(f"{budget:4d} {name:40s} captions met {met:.3f}, demands met {part:.3f}")
        shown.append(pictures[:8])
    sheet = contact_sheet(
        torch.cat(shown), columns=8, title="exact; then tuned and best peer at " + ", ".join(map(str, TUNED))
    )
    sheet.save(out / f"shapes-{setting.seed}.png")
    return said


if __name__ == "__main__":
    main()
