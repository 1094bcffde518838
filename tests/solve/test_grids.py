"""Grids: each formula, the three ends, spans, values given by the user."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reverie as rv
from reverie.base import ArgumentError, TimeError, UnknownNameError
from reverie.solve import nodes

from . import reference as ref

ALL = list(ref.PROCESSES)


def times(p: str, grid: object, n: int | None, *more: object) -> list[float]:
    return [node.t for node in nodes(ref.PROCESSES[p], grid, n, *more)]  # type: ignore[arg-type]


@pytest.mark.parametrize("process", ALL)
def test_logsnr_is_uniform_in_lam(process: str) -> None:
    p = ref.PROCESSES[process]
    lo, hi = p.lam_range
    lams = [p.lam(t) for t in times(process, "logsnr", 10)[:-1]]
    assert lams == pytest.approx([lo + k * (hi - lo) / 10 for k in range(10)], abs=1e-7)


@pytest.mark.parametrize("process", ALL)
def test_time_is_uniform_in_time(process: str) -> None:
    p = ref.PROCESSES[process]
    step = (p.t_max - p.t_min) / 7
    assert times(process, "time", 7)[:-1] == pytest.approx([p.t_max - k * step for k in range(7)])


def test_karras_is_equation_5() -> None:
    """sigma_i = (max^(1/7) + i/(N-1) (min^(1/7) - max^(1/7)))^7, then 0: what end="zero" gives on EDM."""
    n, big, small = 18, 80.0, 0.002
    want = [(big ** (1 / 7) + i / (n - 1) * (small ** (1 / 7) - big ** (1 / 7))) ** 7 for i in range(n)]
    assert times("edm", "karras", n, "zero") == pytest.approx([*want, 0.0])
    p = ref.PROCESSES["vp"]
    at = nodes(p, "karras", 5, "sigma_min")
    roots = [node.ratio ** (1 / 7) for node in at]
    assert [a - b for a, b in itertools.pairwise(roots)] == pytest.approx([(roots[0] - roots[-1]) / 5] * 5)
    assert (at[0].t, at[-1].t) == pytest.approx((p.t_max, p.t_min))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 10, 16, 20, 25, 30, 32, 50, 64, 100, 250, 333, 500, 999, 1000])
def test_trailing_gives_the_labels_of_diffusers(n: int) -> None:
    """round(arange(N, 0, -N / steps)) - 1, as DDIMScheduler has it, then clean."""
    counts = (torch.tensor([1000.0 - k * (1000.0 / n) for k in range(n)], dtype=torch.float64)).round()
    assert times("ddpm", "trailing", n) == [*(counts - 1).tolist(), -1.0]


def test_trailing_elsewhere_is_uniform_down_to_clean() -> None:
    assert times("flow", "trailing", 4) == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert times("vp", "trailing", 1000)[-2:] == [0.001, 0.0]
    with pytest.raises(TimeError, match="fewer steps"):  # two times below t_min
        times("vp", "trailing", 2000)


@pytest.mark.parametrize("process", ALL)
@pytest.mark.parametrize("grid", ["logsnr", "time", "karras"])
def test_ends(process: str, grid: str) -> None:
    p = ref.PROCESSES[process]
    denoise, kept, zero = (times(process, grid, 6, end) for end in ("denoise", "sigma_min", "zero"))
    assert [len(t) for t in (denoise, kept, zero)] == [7, 7, 7]
    assert denoise[-1] == zero[-1] == p.t_clean
    assert denoise[:-1] == kept[:-1]
    if math.isfinite(p.lam(p.t_min)):
        assert kept[-1] == p.t_min
    elif grid != "time":  # a flow's curve in lam ends short of sigma = 0
        assert p.lam(kept[-1]) == pytest.approx(p.lam_range[1])
    if kept[-1] != p.t_clean:
        assert zero[:-1] == pytest.approx(times(process, grid, 5, "sigma_min"))
    with pytest.raises(UnknownNameError, match="denoise"):
        times(process, grid, 6, "denois")


def test_zero_needs_two_steps() -> None:
    with pytest.raises(ArgumentError, match="at least 2"):
        times("vp", "logsnr", 1, "zero")
    assert times("flow", "time", 1, "zero") == [1.0, 0.0]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(ALL),
    st.sampled_from(["logsnr", "time", "karras"]),
    st.integers(1, 60),
    st.sampled_from(rv.solve.ENDS),
    st.floats(0.3, 1.0),
    st.floats(0.0, 0.29),
)
def test_every_grid_falls(process: str, grid: str, n: int, end: str, first: float, last: float) -> None:
    p = ref.PROCESSES[process]
    if n == 1 and end == "zero":
        n = 2
    made = times(process, grid, n, end, (first, last))
    assert len(made) == n + 1
    assert all(a > b for a, b in itertools.pairwise(made))
    assert p.t_max >= made[0]
    assert made[-1] >= p.t_clean
    assert last == 0 or made[-1] >= p.t_min


@pytest.mark.parametrize("grid", ["logsnr", "time"])
def test_a_span_is_a_part_of_the_curve(grid: str) -> None:
    whole = times("vp", grid, 10)
    assert times("vp", grid, 6, "denoise", (0.6, 0.0)) == pytest.approx(whole[4:])
    assert times("vp", grid, 3, "denoise", (0.8, 0.5)) == pytest.approx(whole[2:6])
    for span in ((0.0, 1.0), (1.2, 0.0), (0.5, 0.5), (1.0, -0.1), (math.nan, 0.0)):
        with pytest.raises(ArgumentError, match="span"):
            times("vp", grid, 3, "denoise", span)


def test_values_are_taken_literally() -> None:
    assert times("vp", [0.9, 0.5, 0.2], None) == [0.9, 0.5, 0.2]
    assert times("vp", torch.tensor([0.75, 0.5, 0.0]), 2) == [0.75, 0.5, 0.0]
    with pytest.raises(ArgumentError, match="2 steps, not 3"):
        times("vp", [0.9, 0.5, 0.2], 3)
    with pytest.raises(ArgumentError, match="at least 2"):
        times("vp", [0.9], None)
    for junk in ([0.9, "a"], [(0.9,), (0.5,)], [(0.9, 1, 2), (0.5, 1, 2)], [None, 0.5]):
        with pytest.raises(ArgumentError, match="a grid is"):
            times("vp", junk, None)


def test_pairs_of_sigma_and_label() -> None:
    p = ref.PROCESSES["ddpm"]
    ratio = p.sigma(500.0) / p.alpha(500.0)
    at = nodes(p, [(ratio, 500), (0.3, 77.0), (0.0, None)], None)
    assert [n.t for n in at] == pytest.approx([500.0, p.t_of_ratio(0.3), -1.0])
    assert [n.label for n in at] == [500.0, 77.0, None]
    f = ref.PROCESSES["flow3"]
    flow = nodes(f, [(1.0, 1000.0), (0.6, 600.0), (0, None)], None)  # for flows sigma itself
    assert [f.sigma(n.t) for n in flow] == pytest.approx([1.0, 0.6, 0.0])
    top = p.sigma(999.0) / p.alpha(999.0)
    assert nodes(p, [(top * (1 + 1e-7), 999), (0.0, None)], None)[0].t == 999.0  # a float32 sigma


@pytest.mark.parametrize(
    "bad", [[1.5, 0.5], [0.5, 0.7], [0.5, 0.5], [0.5, -0.1], [0.5, 0.0005], [math.nan, 0.1], [math.inf, 0.1]]
)
def test_times_outside_or_not_falling(bad: list[float]) -> None:
    with pytest.raises(TimeError, match="node"):
        times("vp", bad, None)


def test_more_steps_than_the_grid_holds() -> None:
    with pytest.raises(TimeError, match="fewer steps"):
        times("ddpm", "trailing", 1001)


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "3"])
def test_steps_that_are_none(steps: object) -> None:
    with pytest.raises(ArgumentError, match="steps"):
        times("vp", "logsnr", steps)  # type: ignore[arg-type]


def test_a_grid_needs_a_size_and_a_known_name() -> None:
    with pytest.raises(ArgumentError, match="nfe="):
        times("vp", "logsnr", None)
    with pytest.raises(UnknownNameError, match="did you mean 'karras'"):
        times("vp", "karas", 3)


def test_a_number_after_the_colon_is_the_curves_parameter():
    p = rv.process.vp()
    lo, hi = p.lam_range
    plain, bent = nodes(p, "logsnr", 4, "sigma_min"), nodes(p, "logsnr:0.5", 4, "sigma_min")
    assert [n.t for n in nodes(p, "logsnr:1", 4, "sigma_min")] == [n.t for n in plain]
    assert [n.lam for n in bent] == pytest.approx([hi + u**0.5 * (lo - hi) for u in (1, 0.75, 0.5, 0.25, 0)], abs=1e-9)
    e = rv.process.edm()
    ratios = [(0.002**0.2 + u * (80**0.2 - 0.002**0.2)) ** 5 for u in (1, 0.75, 0.5, 0.25, 0)]
    assert [n.t for n in nodes(e, "karras:5", 4, "sigma_min")] == pytest.approx(ratios, rel=1e-12)
    for wrong in ("karras:", "karras:five", "logsnr:0", "logsnr:-1", "karras:inf", "karras:nan"):
        with pytest.raises(ArgumentError, match="positive number"):
            nodes(p, wrong, 4)
    with pytest.raises(ArgumentError, match="takes no number"):
        nodes(p, "time:2", 4)
    with pytest.raises(UnknownNameError, match="did you mean 'logsnr'"):
        nodes(p, "logsn:2", 4)
