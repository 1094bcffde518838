"""k-diffusion's samplers on float64 sigmas: the same trajectories, to rounding."""

from __future__ import annotations

import importlib.util

import pytest

if importlib.util.find_spec("k_diffusion") is None:
    pytest.skip("k-diffusion is missing: `make bench` installs it", allow_module_level=True)

import diffusers_peers as peers


@pytest.mark.parametrize("peer", peers.peers("k-diffusion"), ids=str)
def test_trajectory_is_k_diffusions(peer: peers.Peer) -> None:
    made = peers.k_both(peer)
    assert made.calls == (peer.calls, peer.calls)
    own = peer.cls == "sample_dpm_fast"  # it makes its sigmas itself, in float32
    assert made.labels <= (1e-5 if own else 1e-9)
    assert made.states <= (1e-6 if own else 1e-12)
