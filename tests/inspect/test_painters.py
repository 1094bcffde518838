"""Outline first: closed forms against the exact flow of a Gaussian, planes and components of known trajectories, a model beside its law."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError, ShapeError
from reverie.inspect import agreement
from reverie.inspect.painters import amplification, emergence, endpoint, half_way, in_plane, in_top_components
from reverie.solve.teleport import Law

D = 4
G = torch.Generator().manual_seed(0)
BASIS = torch.linalg.qr(torch.randn(D, D, generator=G, dtype=torch.float64)).Q.mT.contiguous()
V = torch.tensor([4.0, 1.0, 0.25, 0.04], dtype=torch.float64)
MEAN = torch.randn(D, generator=G, dtype=torch.float64)
COV = BASIS.mT @ torch.diag(V) @ BASIS
LAW = Law(MEAN, BASIS, V)
PROCESSES = {"vp": rv.process.vp(), "edm": rv.process.edm(), "flow": rv.process.flow()}


def noise(p: rv.process.Process, n: int = 5) -> Tensor:
    return p.prior_std() * torch.randn(n, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("name", list(PROCESSES))
def test_endpoint_emergence_and_amplification_are_those_of_the_exact_flow(name: str) -> None:
    p = PROCESSES[name]
    o, x = rv.oracle.Gaussian(MEAN, COV, process=p), noise(p)
    end = endpoint(LAW, p, x, p.t_max, p.t_clean)
    assert (end - o.solve(x, p.t_max, p.t_clean)).abs().max() < 1e-10
    for share in (0.9, 0.4, 0.1):
        t = share * p.t_max
        there = o.solve(x, p.t_max, t)
        found = endpoint(LAW, p, x, p.t_max, t)
        assert (found - o(there, t).x0).abs().max() < 1e-10
        reached = ((found - MEAN) @ BASIS.mT) / ((end - MEAN) @ BASIS.mT)
        assert (reached - emergence(LAW, p, t)).abs().max() < 1e-9
        pushed = (o.solve(there + 1e-3 * BASIS[1], t, p.t_clean) - o.solve(there, t, p.t_clean)) / 1e-3
        assert (pushed - amplification(LAW, p, t)[1] * BASIS[1]).abs().max() < 1e-9


@pytest.mark.parametrize("name", list(PROCESSES))
def test_half_way_is_where_the_noise_is_the_components_own(name: str) -> None:
    p = PROCESSES[name]
    times = half_way(LAW, p)
    for k, t in enumerate(times.tolist()):
        assert float(emergence(LAW, p, t)[k]) == pytest.approx(math.sqrt(0.5), abs=1e-9)
        assert p.sigma(t) / p.alpha(t) == pytest.approx(math.sqrt(float(V[k])))
    assert times.tolist() == sorted(times.tolist(), reverse=True)


def test_components_that_do_not_vary_or_not_in_range() -> None:
    law, p = Law(MEAN, BASIS[:2], [1.0, 0.0]), rv.process.ve(0.01, 0.5)
    assert emergence(law, p, 0.1)[1] == 0
    assert half_way(law, p).isnan().all()
    assert (endpoint(law, p, noise(p), 0.5, 0.0) @ BASIS[1] - MEAN @ BASIS[1]).abs().max() < 1e-12


def test_shares_of_known_trajectories() -> None:
    e = torch.eye(4, dtype=torch.float64)
    corner = e[:3][:, None]  # three orthonormal states; the middle one is outside of the plane
    assert in_plane(corner).item() == pytest.approx(2 / 3)
    assert [in_top_components(corner, k).item() for k in (1, 2)] == pytest.approx([0.5, 1.0])
    angle = torch.linspace(0, math.pi / 2, 9, dtype=torch.float64)[:, None]
    turned = torch.stack([angle.cos() * e[0] + angle.sin() * e[1], 5 * angle.cos() * e[2]], 1)
    assert in_plane(turned).tolist() == pytest.approx([1.0, 1.0])
    assert in_top_components(turned).tolist() == pytest.approx([1.0, 1.0])
    assert in_plane(torch.stack([e[:1], e[1:2], 2 * e[:1]])).item() == pytest.approx(5 / 6)  # a line, not a plane


@pytest.mark.parametrize("name", list(PROCESSES))
def test_trajectories_of_a_gaussian_turn_in_a_plane(name: str) -> None:
    """Nearly, in many dimensions of which few vary."""
    p, d = PROCESSES[name], 60
    law = Law(torch.zeros(d), torch.eye(d)[:3], [9.0, 4.0, 1.0])
    x = p.prior_std() * torch.randn(20, d, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    times = p.t_of_lam(torch.linspace(*p.lam_range, 25, dtype=torch.float64)).tolist()
    path = torch.stack([law.flow(p, x, times[0], t) for t in times])
    assert in_plane(path).min() > 0.98
    assert in_top_components(path).min() > 0.98
    other = torch.randn(25, 20, d, generator=torch.Generator().manual_seed(3))
    assert in_plane(other).max() < 0.3


@pytest.mark.parametrize("name", list(PROCESSES))
def test_a_model_that_is_its_law(name: str) -> None:
    p = PROCESSES[name]
    o = rv.oracle.Gaussian(MEAN, COV, process=p)
    found = agreement(o, LAW, noise(p, 64), 60)
    assert found.deviation.max() < 1e-9
    assert found.explained.min() > 1 - 1e-9
    assert found.leaves(1e-6) == found.times[-1]
    assert found.states.shape == (61, 64, D)
    assert len(found.times) == len(found.ratios) == 60
    assert (found.emerged().log() - V.sqrt().log()).abs().max() < 0.1  # discretised by 60 steps of first order
    with pytest.raises(ArgumentError, match="x0 deviates by"):
        agreement(o, Law(MEAN + 1, BASIS, V), noise(p)).leaves(0.05)


def test_a_known_error_of_a_model_in_units_of_the_spread() -> None:
    p = PROCESSES["vp"]
    o, e = rv.oracle.Gaussian(MEAN, COV, process=p), torch.tensor([0.3, 0.0, -0.4, 0.0])

    def net(x: Tensor, t: Tensor, class_labels: Any) -> Tensor:
        return o(x, float(t[0])).x0 + e * class_labels[:, None]

    m = rv.Model(net, p, "x0", null={"class_labels": 0.0}, shape=(D,))
    found = agreement(m, LAW, noise(p), 10, cond={"class_labels": torch.ones(5)})
    assert found.deviation.tolist() == pytest.approx([0.5 / math.sqrt(5.29)] * 10, rel=1e-6)
    twice = agreement(m | rv.guide.CFG(2.0), LAW, noise(p), 10, cond={"class_labels": torch.ones(5)})
    assert twice.deviation.tolist() == pytest.approx([1 / math.sqrt(5.29)] * 10, rel=1e-6)


def test_a_mixture_leaves_its_gaussian_where_the_noise_is_a_few_spreads() -> None:
    p = PROCESSES["edm"]
    means = torch.tensor([[2.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    o, law = rv.oracle.Mixture(means, 0.3, process=p), Law([0.0, 0.0], torch.eye(2), [4.09, 0.09])
    x = 80 * torch.randn(200, 2, generator=G, dtype=torch.float64)
    found = agreement(o, law, x, 60)
    times = [found.leaves(tolerance) for tolerance in (0.01, 0.03, 0.1, 0.3)]
    assert times == sorted(times, reverse=True)
    assert 1 < times[2] / math.sqrt(4.09) < 4
    assert found.deviation[-1] < found.deviation.max() / 5  # at the data any denoiser says x
    first = next(t for t, off in zip(found.times, found.deviation.tolist(), strict=True) if off > 0.1)
    assert found.times[found.times.index(first) - 1] == times[2]


def test_what_it_refuses() -> None:
    p = PROCESSES["vp"]
    o = rv.oracle.Gaussian(MEAN, COV, process=p)
    with pytest.raises(ShapeError, match="at least 2 states"):
        agreement(o, LAW, noise(p, 1))
    for solver in ("heun", "euler-a"):
        with pytest.raises(ArgumentError, match=f"{solver!r} draws noise, or does not ask once a step"):
            agreement(o, LAW, noise(p), 10, solver=solver)
    with pytest.raises(ShapeError, match=r"states \(N, B, \*shape\)"):
        in_plane(torch.zeros(3, 2))
    with pytest.raises(ArgumentError, match="sigma = 0"):
        endpoint(LAW, p, noise(p), 0.0, 0.0)
