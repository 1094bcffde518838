"""The two-level schedule: the published labels, both curves, their limits, its two ends, and other processes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError, TimeError
from reverie.solve import nodes

from . import reference as ref

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
SD = rv.process.ddpm((1 - BETAS).cumprod(0))


def times(p: object, grid: str, n: int, end: str = "sigma_min", span: tuple[float, float] = (1.0, 0.0)) -> list[float]:
    return [node.t for node in nodes(p, grid, n, end, span)]  # type: ignore[arg-type]


PUBLISHED = {
    8: ([999, 857.3, 719.4, 585.9, 457.2, 334.3, 218.7, 112.7, 22.7], 0.147),
    5: ([999, 772.5, 556.7, 354.2, 170, 18.3], 0.132),
}


@pytest.mark.parametrize("n", PUBLISHED)
def test_the_labels_of_stable_diffusion(n: int) -> None:
    labels, end = PUBLISHED[n]
    at = nodes(SD, "two-level", n, "sigma_min")
    assert [round(s.t, 1) for s in at] == labels
    assert round(at[-1].ratio, 3) == end
    assert at[0].t == 999.0
    finished = nodes(SD, "two-level", n + 1)  # one evaluation more, at the same end
    assert [s.t for s in finished] == [*[s.t for s in at], -1.0]
    assert [s.t for s in nodes(SD, "two-level", n + 1, "zero")] == [s.t for s in finished]


@pytest.mark.parametrize(
    ("n", "constants"), [(4, "8,5,5"), (5, "8,6,5"), (6, "8,6,5"), (7, "12,7,10"), (8, "12,9,7"), (11, "12,11,10")]
)
def test_the_constants_of_each_number_of_steps(n: int, constants: str) -> None:
    assert (
        times(SD, "two-level", n)
        == times(SD, f"two-level:{constants}", n)
        == times(SD, f"two-level:{constants},1.2", n)
    )


@pytest.mark.parametrize("process", [SD, ref.PROCESSES["ddpm"]])
@pytest.mark.parametrize("constants", [(12, 9, 7.0, 1.2), (8, 3, 5.0, 2.0), (5, 4, 3.0, 0.7)])
def test_both_curves_by_their_formula(process: rv.process.Process, constants: tuple[int, int, float, float]) -> None:
    """Written out on sigmas and then on labels, as in the paper."""
    m, e, r1, r2 = constants
    n, p = 9, process

    def karras(n: int, low: float, high: float, r: float) -> list[float]:
        return [(high ** (1 / r) + j / (n - 1) * (low ** (1 / r) - high ** (1 / r))) ** r for j in range(n)]

    small, big = (p.sigma(t) / p.alpha(t) for t in (0.0, 999.0))
    s_end = karras(m, small, big, r1)[e]
    want = karras(n + 1, p.t_of_ratio(s_end), 999.0, r2)
    got = nodes(p, "two-level:" + ",".join(f"{c:g}" for c in constants), n, "sigma_min")
    assert [s.t for s in got] == pytest.approx(want, abs=1e-8)
    assert got[-1].ratio == pytest.approx(s_end, rel=1e-9)


def test_its_limits() -> None:
    even = times(SD, "two-level:12,9,7,1", 6)
    assert [a - b for a, b in itertools.pairwise(even)] == pytest.approx([(999 - even[-1]) / 6] * 6)
    geometric = times(SD, "two-level:12,9,7,1e6", 6)
    assert [a / b for a, b in itertools.pairwise(geometric)] == pytest.approx(
        [(999 / even[-1]) ** (1 / 6)] * 6, rel=1e-4
    )
    # m = e + 1: it ends at the last label, a plain curve over all of them; r2 = 1 then is the grid "time"
    plain = times(SD, "two-level:9,8,7,1.2", 6)
    assert plain == pytest.approx([999 * (1 - j / 6) ** 1.2 for j in range(7)], abs=1e-9)
    for p in (SD, *ref.PROCESSES.values()):
        whole, time = times(p, "two-level:4,3,7,1", 6), times(p, "time", 6)
        assert whole[:-1] == pytest.approx(time[:-1], abs=1e-3 * p.t_max)
        assert whole[-1] == pytest.approx(p.t_of_lam(p.lam_range[1]), abs=1e-9 * p.t_max)


@pytest.mark.parametrize("name", ref.PROCESSES)
def test_elsewhere_time_is_counted_from_t_min(name: str) -> None:
    p = ref.PROCESSES[name]
    base = 0.0 if name == "ddpm" else p.t_min
    at = times(p, "two-level:12,9,7,2", 8)
    roots = [math.sqrt(t - base) for t in at]
    assert [a - b for a, b in itertools.pairwise(roots)] == pytest.approx([(roots[0] - roots[-1]) / 8] * 8)
    assert at[0] == p.t_max
    assert p.t_min < at[-1] < p.t_max
    finished = times(p, "two-level:12,9,7,2", 9, "denoise")
    assert finished == [*at, p.t_clean]
    plan = rv.solve.plan("ddim", p, 9, grid="two-level:12,9,7,2")
    assert (plan.steps, plan.nfe) == (9, 9)


def test_a_span_is_a_part_of_the_second_curve() -> None:
    half = times(SD, "two-level", 8, "sigma_min", (0.5, 0.0))
    low, high = (x ** (1 / 1.2) for x in (half[-1], 999.0))
    assert half[0] == pytest.approx((low + 0.5 * (high - low)) ** 1.2)
    assert half[-1] == times(SD, "two-level", 8)[-1]
    upper = times(SD, "two-level", 4, "denoise", (1.0, 0.5))
    assert upper[-1] > 100, "a span that does not reach the end has no step to sigma = 0"


def test_a_state_that_ends_with_noise_and_one_that_is_finished() -> None:
    """The answer of the paper's 5 steps holds s_end of noise; one more evaluation is the prediction of x0 there."""
    o = rv.oracle.Mixture(torch.tensor([[-1.0, 0.5], [1.0, 0.0]]), 0.2, process=SD)
    x = SD.prior(torch.randn(64, 2, generator=torch.Generator().manual_seed(0)).double())
    kept = rv.solve.plan("ddim", SD, 5, grid="two-level", end="sigma_min")
    done = rv.solve.plan("ddim", SD, 6, grid="two-level")
    assert (kept.nfe, done.nfe) == (5, 6)
    noisy = rv.run(kept, o, x)
    assert torch.allclose(rv.run(done, o, x), o(noisy, kept.times[-1]).x0, atol=1e-12)


def test_plans_cite_it() -> None:
    assert "two-level-schedule" in rv.solve.plan("ddim", SD, 5, grid="two-level").papers
    assert "two-level-schedule" in rv.solve.plan("ddim", SD, 5, grid="two-level:8,6,5").papers
    assert "two-level-schedule" not in rv.solve.plan("ddim", SD, 5).papers


def test_budgets_and_numbers_that_do_not_fit() -> None:
    assert rv.solve.plan("heun", SD, nfe=9, grid="two-level").nfe == 9
    assert rv.solve.plan("ddim", SD, nfe=40, grid="two-level").nfe == 12  # the longest with constants
    with pytest.raises(TimeError, match="at most 11 steps, got 12"):
        nodes(SD, "two-level", 12, "sigma_min")
    assert times(SD, "two-level", 1, "denoise") == [999.0, -1.0]
    for wrong in ("8,6", "8,8,5", "8,0,5", "1,1,5", "8.5,6,5", "8,6.5,5", "8,6,0", "8,6,5,0", "0"):
        with pytest.raises(ArgumentError, match="two-level:m,e,r1,r2 takes"):
            nodes(SD, f"two-level:{wrong}", 5)
    for wrong in ("", "a", "8,6,x", "8,6,5,1.2,3", "8,6,-5", "8,6,inf", "8,6,nan"):
        with pytest.raises(ArgumentError, match="at most 4 positive numbers"):
            nodes(SD, f"two-level:{wrong}", 5)
    with pytest.raises(ArgumentError, match="positive number"):
        nodes(SD, "karras:5,6", 5)
