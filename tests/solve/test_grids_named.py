"""The grids that other libraries and papers know: quadratic, beta, leading, linspace, and names for the same curve; pairs of schedulers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

import reverie as rv
from reverie.base import ArgumentError, TimeError
from reverie.solve import nodes
from reverie.solve.grids import beta_quantile

from . import reference as ref

VP, DDPM, EDM, FLOW = (ref.PROCESSES[name] for name in ("vp", "ddpm", "edm", "flow3"))


def times(p: object, grid: object, n: int, *more: object) -> list[float]:
    return [node.t for node in nodes(p, grid, n, *more)]  # type: ignore[arg-type]


def test_two_names_for_one_curve() -> None:
    for p in (VP, DDPM, EDM, FLOW):
        for end in rv.solve.ENDS:
            assert times(p, "exponential", 7, end) == times(p, "logsnr", 7, end)
            assert times(p, "sgm-uniform", 7, end) == times(p, "time", 7, end)
    assert times(VP, "exponential:0.8", 7) == times(VP, "logsnr:0.8", 7)


def test_exponential_with_zero_is_the_fields() -> None:
    """k-diffusion's get_sigmas_exponential: even in log sigma from the largest to the smallest, then 0."""
    n = 9
    want = torch.linspace(math.log(80.0), math.log(0.002), n, dtype=torch.float64).exp().tolist()
    assert times(EDM, "exponential", n, "zero") == pytest.approx([*want, 0.0])


def test_quadratic_is_the_papers() -> None:
    """t_i = (sqrt(T) + i / N (sqrt(t_0) - sqrt(T)))^2 (DEIS); on labels counted from the clean label -1."""
    n, a, b = 6, math.sqrt(VP.t_max), math.sqrt(VP.t_min)
    want = [(a + i / n * (b - a)) ** 2 for i in range(n + 1)]
    assert times(VP, "quadratic", n, "sigma_min") == pytest.approx(want)
    assert times(VP, "quadratic", n) == pytest.approx([*want[:-1], 0.0])
    roots = [math.sqrt(t + 1) for t in times(DDPM, "quadratic", n, "sigma_min")]
    assert [x - y for x, y in itertools.pairwise(roots)] == pytest.approx([(math.sqrt(1000) - 1) / n] * n)


@pytest.mark.parametrize("a", [0.3, 0.5, 0.6, 1.0, 2.5, 8.0])
def test_beta_quantiles_are_scipys(a: float) -> None:
    for q in (0.0, 1e-6, 0.01, 0.2, 0.4999, 0.5, 0.7, 0.999, 1.0):
        assert beta_quantile(q, a) == pytest.approx(stats.beta.ppf(q, a, a), rel=1e-9, abs=1e-13)


def test_beta_is_in_time() -> None:
    """The quantiles are of time, as in the paper: dense at both ends; a = 1 is uniform."""
    got = times(DDPM, "beta", 10, "sigma_min")
    assert got == pytest.approx([999 * stats.beta.ppf(1 - i / 10, 0.6, 0.6) for i in range(11)])
    gaps = [x - y for x, y in itertools.pairwise(got)]
    assert max(gaps[0], gaps[-1]) < 0.8 * gaps[5]
    assert times(VP, "beta:1", 10) == pytest.approx(times(VP, "time", 10))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 10, 20, 50, 333, 500, 1000])
@pytest.mark.parametrize("offset", [0, 1])
def test_leading_gives_the_labels_of_diffusers(n: int, offset: int) -> None:
    """(arange(N) * (T // N))[::-1] + steps_offset, then clean."""
    want = [float(i * (1000 // n) + offset) for i in range(n)][::-1]
    if want[0] > 999:
        with pytest.raises(TimeError, match="1000 labels"):
            times(DDPM, f"leading:{offset}", n)
        return
    assert times(DDPM, f"leading:{offset}" if offset else "leading", n) == [*want, -1.0]
    assert times(DDPM, f"leading:{offset}", n, "zero") == [*want, -1.0]


@pytest.mark.parametrize("n", [2, 3, 7, 10, 50, 100])
def test_linspace_gives_the_labels_of_diffusers(n: int) -> None:
    """linspace(0, T - 1, N).round()[::-1], then clean."""
    want = torch.linspace(0, 999, n, dtype=torch.float64).round().flip(0).tolist()
    assert times(DDPM, "linspace", n) == [*want, -1.0]
    assert times(VP, "linspace", n)[:-1] == pytest.approx(torch.linspace(1.0, VP.t_min, n).tolist())


def test_they_end_at_the_last_label_when_asked() -> None:
    for grid in ("leading", "linspace"):
        at = times(DDPM, grid, 8, "sigma_min")
        assert len(at) == 9
        assert at[-1] == 0.0
        assert times(VP, grid, 8, "sigma_min")[-1] == pytest.approx(VP.t_min)


def test_spans_of_placed_grids() -> None:
    assert times(DDPM, "linspace", 4, "denoise", (0.5, 0.0)) == [500.0, 333.0, 166.0, 0.0, -1.0]
    half = times(DDPM, "leading", 4, "denoise", (0.5, 0.0))
    assert half == [375.0, 250.0, 125.0, 0.0, -1.0]
    upper = times(VP, "linspace", 4, "denoise", (1.0, 0.5))
    assert upper == pytest.approx(torch.linspace(1.0, VP.t_min + 0.5 * (1 - VP.t_min), 5).tolist())


@pytest.mark.parametrize(
    "grid", ["leading:0.5", "leading:-1", "leading:600", "linspace:3", "time:2", "beta:0", "beta:x", "leading:nan"]
)
def test_numbers_that_do_not_fit(grid: str) -> None:
    with pytest.raises((ArgumentError, TimeError), match=grid.split(":")[0]):
        nodes(DDPM, grid, 5)
    with pytest.raises(ArgumentError, match="labels"):
        nodes(VP, "leading:1", 5)


def test_float32_pairs_are_snapped_to_the_ends() -> None:
    """A scheduler's float32 sigma may miss the process's ends by rounding; beyond that it is an error."""
    top, low = DDPM.sigma(999.0) / DDPM.alpha(999.0), DDPM.sigma(0.0) / DDPM.alpha(0.0)
    pairs = [(top * (1 + 1e-7), 999.0), (1.0, 200.0), (low * (1 - 1e-6), 0.0)]
    assert [n.t for n in nodes(DDPM, pairs, None)][::2] == [999.0, 0.0]
    with pytest.raises(TimeError):
        nodes(DDPM, [(top * 1.1, 999.0), (1.0, 200.0)], None)
    zero = rv.process.ddpm([*torch.linspace(0.999, 0.01, 999).tolist(), 0.0])
    assert nodes(zero, [(math.inf, 999.0), (1.0, 300.0), (0.0, None)], None)[0].t == 999.0


def test_the_default_grid_depends_on_the_process() -> None:
    """Those whose time is not that of a VP process get another default."""
    for name in ("deis-3", "pndm"):
        assert rv.solve.plan(name, VP, steps=5).grid == rv.solve.SOLVERS[name].grid != "logsnr"
        assert rv.solve.plan(name, DDPM, steps=5).grid == rv.solve.SOLVERS[name].grid
        assert {rv.solve.plan(name, p, steps=5).grid for p in (EDM, FLOW)} == {"logsnr"}


@pytest.mark.parametrize(("tokens", "mu"), [(256, 0.5), (4096, 1.15), (1024, 0.63), (2176, 0.825)])
def test_the_shift_of_a_number_of_tokens(tokens: int, mu: float) -> None:
    """mu is linear in the tokens; the grid is exp(mu) / (exp(mu) + 1 / s - 1), as diffusers has it."""
    p = rv.process.flow(rv.process.dynamic_shift(tokens))
    assert math.log(p.shift) == pytest.approx(mu)
    want = [math.exp(mu) / (math.exp(mu) + 1 / s - 1) for s in (1.0, 0.75, 0.5, 0.25)]
    plan = rv.solve.plan("euler", p, steps=4, grid="time")
    assert [p.sigma(t) for t in plan.times] == pytest.approx([*want, 0.0])
    with pytest.raises(ArgumentError, match="-3"):
        rv.process.dynamic_shift(-3)
