"""Reverie beside its peers, line by line of benchmarks/peers.yaml: how far apart, and why.

For each peer, with N steps of a smooth network that depends on the label:

    formulas     greatest relative deviation of any state of the trajectory on the peer's own (sigma, label) pairs, its arithmetic widened to float64
    as shipped   the same with its own float32 arithmetic
    exact nodes  deviation of its result, as shipped, from Reverie's on exact float64 nodes, and where that comes from

    python benchmarks/parity.py [--steps 20] [--only NAME] [--markdown]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "peers"))
import diffusers_peers as peers

HEAD = ("peer", "library", "predicts", "N", "calls", "counterpart", "formulas", "as shipped", "exact nodes", "why")


def rows(steps: int, only: str) -> list[tuple[str, ...]]:
    """One row a line and prediction type."""
    out = []
    for peer in (*peers.peers("diffusers"), *(peers.peers("k-diffusion") if peers.k_sampling() else ())):
        chosen = [p.steps for p in peers.peers(peer.library) if p.name == peer.name]
        if peer.steps != min(chosen, key=lambda n: abs(n - steps)) or only.lower() not in peer.name.lower():
            continue
        if peer.library == "diffusers":
            found = [peers.parity(peer).states, peers.parity(peer, as_shipped=True).states, peers.exact(peer)]
            cells = [f"{v:.0e}" for v in found]
        else:
            cells = [f"{peers.k_both(peer).states:.0e}", "", ""]
        options = ", ".join(f"{k}={v}" for k, v in peer.solver_options.items())
        name = f"{peer.solver}({options})" if options else peer.solver
        kind = peer.predicts.removesuffix("_prediction") if peer.library == "diffusers" else "x0"
        out.append((peer.name, peer.library, kind, str(peer.steps), str(peer.calls), name, *cells, peer.why))
    return out


def show(table: list[tuple[str, ...]], markdown: bool) -> None:
    """Print aligned columns, or a Markdown table."""
    if markdown:
        for row in (HEAD, tuple("---" for _ in HEAD), *table):
            print("| " + " | ".join(row) + " |")
        return
    width = [max(len(row[i]) for row in (HEAD, *table)) for i in range(len(HEAD))]
    for row in (HEAD, *table):
        print("  ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)).rstrip())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=int, default=20, help="of the numbers of steps in the list, the nearest to this"
    )
    parser.add_argument("--only", default="", help="peers whose name contains this")
    parser.add_argument("--markdown", action="store_true", help="a Markdown table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    show(rows(args.steps, args.only), args.markdown)


if __name__ == "__main__":
    main()
