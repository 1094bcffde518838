"""How good `shapes` is: captions met in full, beside the verifier's own figures, and the Fréchet distance of many samples.

    score = (accuracy - shuffled) / (round trip - shuffled)          (measure.benchmark has the three)

Fréchet and kernel distances are taken in the features of the judge of shapes, which the verifier has no part in, between samples for the captions of
held-out scenes and other held-out scenes; what two sets of held-out scenes have is printed beside them. Samples are kept in parts under --out, so a
stopped run goes on.

    python benchmarks/shapes.py [--model shapes] [--steps 20] [--scale 5] [--prompts 100] [--many 10000] [--out out/benchmarks/shapes]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import reverie as rv
from reverie.cli.sheet import contact_sheet
from reverie.hub.jobs import plan_hash
from reverie.measure import frechet_distance, kernel_distance, scene_judge
from reverie.model.fingerprint import fingerprint
from reverie.nets import read_tensors, write_tensors

PART = 500


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--solver", default=None)
    parser.add_argument("--plan", default=None)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scale", type=float, default=5.0)
    parser.add_argument("--prompts", type=int, default=100, help="of each of the six categories")
    parser.add_argument("--many", type=int, default=10_000, help="samples of the Fréchet distance; 0: none")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/shapes"))
    asked = parser.parse_args()
    m = rv.load(asked.model)
    plan = rv.Plan.load(asked.plan) if asked.plan else rv.solve.plan_for(m, asked.solver, nfe=asked.steps)
    guide = rv.guide.CFG(asked.scale) if asked.scale != 1 else None
    asked.out.mkdir(parents=True, exist_ok=True)

    def pictures(captions: list[str], start: int) -> Tensor:
        assert m.embed is not None
        return rv.sample(m, len(captions), plan=plan, guide=guide, cond=m.embed(captions), start=start, batch=50)

    prompts = rv.measure.prompts(asked.prompts)
    began = time.monotonic()
    x = torch.cat([pictures(prompts[i : i + 50], i) for i in range(0, len(prompts), 50)])
    seconds = time.monotonic() - began
    table = rv.measure.benchmark(
        x, prompts, autoencoder=lambda p: torch.cat([m.decode(m.encode(b)) for b in p.split(50)])
    )
    print(
        f"{m.name}, {plan.solver}, {plan.nfe} evaluations, guidance {asked.scale:g}: {len(x)} pictures in {seconds:.0f} s\n\n{table}\n"
    )
    met, chance, trip = (table.columns[name] for name in ("pictures", "shuffled", "round trip"))
    for name in (*met.categories, "overall"):
        got, low, high = ({**a.categories, "overall": a.overall}[name][0] for a in (met, chance, trip))
        print(f"score {name:12} {(got - low) / (high - low):.3f}")
    contact_sheet(x[:: max(1, len(x) // 36)][:36], prompts[:: max(1, len(x) // 36)][:36]).save(asked.out / "sheet.png")
    if asked.many:
        _distances(m, pictures, plan, asked)


def _distances(
    m: rv.Model, pictures: Callable[[list[str], int], Tensor], plan: rv.Plan, asked: argparse.Namespace
) -> None:
    judge, n = scene_judge(), asked.many
    # The state of everything that a part depends on: the fingerprint sees the network, the text encoder and the autoencoder.
    key = hashlib.sha256(json.dumps([fingerprint(m), plan_hash(plan), asked.scale, n]).encode()).hexdigest()[:12]
    ours, theirs, others = [], [], []
    for start in range(0, n, PART):
        path = asked.out / f"features-{key}-{start:06d}.safetensors"
        ids = range(start, min(start + PART, n))
        if not path.exists():
            real, captions = rv.data.shapes(ids, split="heldout")
            other, _ = rv.data.shapes(range(n + ids.start, n + ids.stop), split="heldout")
            x = torch.cat([pictures(captions[i : i + 50], start + i + 1_000_000) for i in range(0, len(captions), 50)])
            write_tensors(
                path, {"ours": judge.features(x), "theirs": judge.features(real), "others": judge.features(other)}
            )
            print(f"{ids.stop} of {n} samples", flush=True)
        kept, _ = read_tensors(path)
        if any(len(rows) != len(ids) for rows in kept.values()):
            raise SystemExit(f"{path} does not hold {len(ids)} rows; remove it and run again")
        ours.append(kept["ours"])
        theirs.append(kept["theirs"])
        others.append(kept["others"])
    a, b, c = torch.cat(ours), torch.cat(theirs), torch.cat(others)
    print(
        f"\nFréchet distance of {n} samples to held-out scenes {frechet_distance(c, a):.3f}; of held-out scenes {frechet_distance(c, b):.3f}"
    )
    print(
        f"kernel distance {kernel_distance(c[:5000], a[:5000]):.5f}; of held-out scenes {kernel_distance(c[:5000], b[:5000]):.5f}"
    )


if __name__ == "__main__":
    main()
