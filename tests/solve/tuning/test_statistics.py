"""Statistics of a model along its ODE: closed forms on Gaussian data, guidance, shapes, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError, FileError, ShapeError, UnknownNameError
from reverie.oracle import Gaussian, Mixture, solve_ode
from reverie.solve import Statistics, statistics

from .. import reference as ref

P = ref.PROCESSES["vp"]
SPREAD = torch.tensor([0.25, 1.7], dtype=torch.float64)
MEAN = torch.tensor([1.5, -0.7], dtype=torch.float64)


def gaussian(mean: Tensor, p: Any = P) -> Gaussian:
    return Gaussian(mean, SPREAD.diag(), process=p)


def exact_l(p: Any, lam: Tensor) -> Tensor:
    """sigma^2 / (alpha^2 c + sigma^2), the variances c in columns."""
    t = p.t_of_lam(lam)
    alpha, sigma = p.alpha(t)[:, None], p.sigma(t)[:, None]
    return sigma**2 / (alpha**2 * SPREAD + sigma**2)


def own(m: Any, data: Tensor | None = None) -> Statistics:
    return statistics(m, 16, knots=41, per="coordinate", data=m.sample(16, 3) if data is None else data)


@pytest.mark.parametrize("process", ["vp", "edm", "flow", "ddpm"])
@pytest.mark.parametrize("shifted", [False, True])
def test_on_gaussian_data_one_step_goes_all_the_way(process, shifted):
    """l in closed form (Hutchinson's estimate is exact for a diagonal), f = 0, or with a mean a function of lam alone: s = 0, b = f'."""
    p = ref.PROCESSES[process]
    m = gaussian(MEAN if shifted else 0 * MEAN, p)
    found = own(m)
    assert torch.allclose(found.l, exact_l(p, found.lam), atol=1e-8)
    assert found.s.abs().max() < 1e-2
    low, high = (p.t_of_lam(float(v)) for v in (found.lam[0], found.lam[-1]))
    x = p.prior(torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64), low)
    truth = solve_ode(m, x, low, high, rtol=1e-9)

    def error(solver: str, **options: Any) -> float:
        made = rv.run(rv.solve.plan(solver, p, grid=[low, high], **options), m, x)
        return float((made - truth).norm() / truth.norm())

    mine = error("dpm-v3", statistics=found, order=1)
    assert mine < 2e-3
    assert error("ddim") > 0.1
    without = error("dpm-v3", statistics=Statistics(p, found.lam, found.l, found.s, 0 * found.b), order=1)
    assert without > 20 * mine if shifted else without < 2e-3


def test_s_and_b_are_the_regression_of_the_change_along_the_path():
    """On a mixture: f along two exact paths, differenced; its regression on f by hand."""
    m = Mixture([[-1.0, 0.5], [1.0, -0.2], [0.3, 1.1]], 0.5, process=P)
    data = m.sample(400, 1)
    found = statistics(m, 400, knots=41, data=data, per="model")
    k, h = 22, 1e-3
    lam = float(found.lam[k])
    t = P.t_of_lam(lam)
    x = P.perturb(
        data.double(), t, torch.randn(400, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    )
    now = x / P.alpha(t)
    slope = m(x, t).x0 - now  # dy / dlam

    def f(y: Tensor, lam: float) -> Tensor:
        l = found.at(torch.tensor([lam], dtype=torch.float64))[0]
        s = P.t_of_lam(lam)
        return (1 - l) * y - m(P.alpha(s) * y, s).x0

    change = (f(now + h * slope, lam + h) - f(now - h * slope, lam - h)).flatten() / (2 * h)
    here = f(now, lam).flatten()
    s = torch.cov(torch.stack([here, change]))[0, 1] / here.var()
    assert float(found.s[k]) == pytest.approx(float(s), abs=0.1)
    assert float(found.b[k]) == pytest.approx(float(change.mean() - s * here.mean()), abs=0.05)


def test_a_network_in_float32_has_the_same_statistics():
    m = gaussian(MEAN)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            assert x.dtype == torch.float32
            return self.one * m(x, t).eps.to(x.dtype)

    data = m.sample(16, 3)
    narrow = own(rv.Model(Net(), P, predicts="eps", shape=(2,)), data=data)
    assert (narrow.l - own(m).l).abs().max() < 5e-3
    assert narrow.provenance["width"] == 1e-2


def test_guidance_has_statistics_of_its_own():
    m = Mixture([[-1.0, 0.5], [1.0, -0.2]], 0.5, process=P)
    cond = {"class_labels": torch.arange(12) % 2}
    plain, guided = (statistics(one, 12, knots=9, cond=cond, fine=20) for one in (m, m | rv.guide.CFG(5.0)))
    assert (plain.l - guided.l).abs().max() > 0.05
    assert plain.provenance["network"] != guided.provenance["network"]
    assert plain.provenance["conditional"]


def test_it_is_a_function_of_the_seed_and_not_of_the_batch():
    m = Mixture([[-1.0, 0.5], [1.0, -0.2]], 0.5, process=P)
    one, two, three = (statistics(m, 10, knots=5, fine=12, seed=s, batch=b) for s, b in ((1, 10), (1, 3), (2, 10)))
    assert torch.allclose(one.l, two.l, atol=1e-9)
    assert not torch.allclose(one.l, three.l, atol=1e-6)


def test_shapes():
    m = rv.Model(lambda x, t: torch.tanh(x) * 0.3, P, predicts="x0", shape=(3, 2, 2))
    shapes = {"model": (5,), "channel": (5, 3, 1, 1), "coordinate": (5, 3, 2, 2)}
    found = {per: statistics(m, 4, knots=5, per=per, fine=6) for per in shapes}
    assert {per: tuple(e.b.shape) for per, e in found.items()} == shapes
    assert torch.allclose(found["coordinate"].l.mean((2, 3), keepdim=True), found["channel"].l)
    assert torch.allclose(found["coordinate"].l.mean((1, 2, 3)), found["model"].l)
    x = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    for e in found.values():
        assert rv.run(rv.solve.plan("dpm-v3", P, steps=4, statistics=e), m, x).isfinite().all()


def test_between_knots_it_is_linear_and_beyond_them_constant():
    e = Statistics(P, torch.tensor([0.0, 1.0, 3.0]), *(torch.tensor([1.0, 2.0, 6.0]) * k for k in (1, 2, 3)))
    l, s, b = e.at(torch.tensor([-9.0, 0.0, 0.25, 1.0, 2.0, 3.0, 9.0], dtype=torch.float64))
    assert l.tolist() == [1.0, 1.0, 1.25, 2.0, 4.0, 6.0, 6.0]
    assert s.tolist() == (2 * l).tolist()
    assert b.tolist() == (3 * l).tolist()


def test_files(tmp_path: Path):
    e = statistics(gaussian(MEAN), 4, knots=5, fine=6)
    e.save(tmp_path / "e.safetensors")
    back = Statistics.load(tmp_path / "e.safetensors")
    assert all(torch.equal(getattr(e, c), getattr(back, c)) for c in ("lam", "l", "s", "b"))
    assert back.provenance == e.provenance
    assert back.process == e.process
    assert {"model", "fingerprint", "samples", "seed", "network"} <= set(back.provenance)
    blob = (tmp_path / "e.safetensors").read_bytes()
    for name, bad in (
        ("cut", blob[:-9]),
        ("empty", b""),
        ("newer", blob.replace(b'\\"version\\": 1', b'\\"version\\": 9')),
        ("other", blob.replace(b"reverie-statistics", b"reverie-statistick")),
    ):
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(FileError, match=name):
            Statistics.load(tmp_path / name)


def test_errors():
    m = gaussian(MEAN)
    with pytest.raises(UnknownNameError, match="pixel"):
        statistics(m, 4, per="pixel")
    with pytest.raises(ArgumentError, match="n must be a whole number of at least 2, got 1"):
        statistics(m, 1)
    with pytest.raises(ArgumentError, match=r"in \(0, 0.5\), got 0.7"):
        statistics(m, 4, width=0.7)
    with pytest.raises(ShapeError, match="give shape="):
        statistics(rv.Model(lambda x, t: x, P), 4)
    with pytest.raises(ShapeError, match=r"data must be \(4, 2\), got \(3, 2\)"):
        statistics(m, 4, data=torch.zeros(3, 2))
    one = torch.ones(2)
    with pytest.raises(ArgumentError, match="two rising values"):
        Statistics(P, torch.tensor([1.0, 1.0]), one, one, one)
    with pytest.raises(ShapeError, match="one row a knot"):
        Statistics(P, torch.tensor([0.0, 1.0]), one, one, torch.ones(3))
    with pytest.raises(ArgumentError, match="s is not"):
        Statistics(P, torch.tensor([0.0, 1.0]), one, one / 0, one)
