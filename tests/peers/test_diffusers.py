"""Every line of benchmarks/peers.yaml: on diffusers' own (sigma, label) pairs the whole trajectory is Reverie's, inner nodes and labels included.

The scheduler's float32 tables are kept, its arithmetic is widened to float64, so the tolerance of 1e-6 (the first node, which diffusers rounds to
float32) is about formulas.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import reverie as rv

diffusers = pytest.importorskip("diffusers")

import diffusers_peers as peers  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

ALL = peers.peers("diffusers")
LINES = list({(p.name, p.predicts): p for p in ALL}.values())


@pytest.mark.parametrize("peer", ALL, ids=str)
def test_trajectory_is_diffusers(peer: peers.Peer) -> None:
    made = peers.parity(peer)
    assert made.calls == (peer.calls, peer.calls)
    assert made.labels <= 1e-9
    assert made.states <= peer.tolerance


SHIPPED = [
    p for p in ALL if p.steps == 8 and p.name in ("DDIM", "DPM++ 2M Karras", "UniPC-2", "Heun", "FlowMatch Euler")
]


@pytest.mark.parametrize("peer", SHIPPED, ids=str)
def test_as_shipped_it_is_float32_away(peer: peers.Peer) -> None:
    made = peers.parity(peer, as_shipped=True)
    assert made.states <= 1e-5


@pytest.mark.parametrize("peer", LINES, ids=str)
def test_the_list_says_what_the_table_derives(peer: peers.Peer) -> None:
    name, options = peers.solver_of(peer, peers.make(peer))
    assert name == peer.solver
    assert peer.solver_options.items() <= options.items()
    assert options.keys() <= rv.solve.SOLVERS[name].options.keys()
    assert peer.exact in ("labels", "sigmas") or peer.exact in rv.solve.GRIDS


def test_the_list_covers_the_table() -> None:
    assert {p.cls for p in ALL} == set(peers.COUNTERPARTS)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        ("DPMSolverMultistepScheduler", {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"}),
        (
            "DPMSolverMultistepScheduler",
            {"solver_order": 3, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
        ),
        ("DPMSolverSinglestepScheduler", {"solver_order": 3}),
        ("DDPMScheduler", {"variance_type": "fixed_large_log"}),
        ("SASolverScheduler", {"algorithm_type": "noise_prediction"}),
    ],
)
def test_what_has_no_counterpart_says_so(cls: str, options: dict[str, Any]) -> None:
    with pytest.raises(peers.NoCounterpart):
        peers.counterpart(getattr(diffusers, cls)(**options), 20)


def test_the_network_tells_labels_apart() -> None:
    """Otherwise equal trajectories would say nothing about labels."""
    x, net = peers.start(), peers.Net()
    assert (net(x, 500.0) - net(x, 501.0)).abs().max() > 1e-3
    assert torch.equal(net(x, 500.0), net(x, 500.0))
