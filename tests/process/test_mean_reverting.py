"""Mean reversion: the released schedules, the SDE's moments, and that every solver's step is the ordinary step of x - y."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError, ShapeError, UnknownNameError
from reverie.model import MR_VELOCITY
from reverie.solve import SOLVERS

P = rv.process.mean_reverting()
TWIN = rv.process.ddpm(P.alpha(torch.arange(101.0)) ** 2)
"""Variance preserving, with the same alpha at all times."""
TIMES = [100.0, 81.5, 60.0, 44.25, 30.0, 12.5, 3.0, -1.0]
Y = torch.tensor([0.8, -0.3, 0.5], dtype=torch.float64)
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
O = rv.oracle.Mixture([[1.0, 0.0, -1.0], [-1.0, 2.0, 0.5]], 0.7, process=TWIN)
"""The law of (x0 - y) / sigma_inf."""


def released(T: int, eps: float) -> tuple[list[float], list[float]]:
    """alpha and sigma / sigma_inf at labels 0 .. T as the released code builds them, in float64."""
    c = [math.cos((j / (T + 2) + 0.008) / 1.008 * math.pi * 0.5) ** 2 for j in range(T + 3)]
    theta = [1 - v / c[0] for v in c][1:-1]
    dt = -math.log(eps) / sum(theta)
    total = [dt * sum(theta[: j + 1]) for j in range(T + 1)]
    return [math.exp(-i) for i in total], [math.sqrt(1 - math.exp(-2 * i)) for i in total]


def model(kind: str, y: Tensor | float) -> rv.Model:
    """The exact model of data y + sigma_inf z0 with z0 of the law O, on P."""

    def net(x: Tensor, t: Tensor) -> Tensor:
        z0 = O((x - y) / P.sigma_inf, t[:1].double().item()).x0
        x0 = y + P.sigma_inf * z0
        if kind == "x0":
            return x0
        a, s = P.alpha(t[:1].double()), P.sigma(t[:1].double())
        eps = (x - a * x0 - (1 - a) * y) / s
        return eps if kind == "eps" else a * P.sigma_inf * eps - s / P.sigma_inf * (x0 - y)

    return rv.Model(net, P, MR_VELOCITY if kind == "velocity" else kind)


@pytest.mark.parametrize("T", [100, 7])
def test_the_released_schedule_at_its_labels(T: int) -> None:
    p = rv.process.mean_reverting(labels=T, sigma_inf=0.3)
    alpha, share = released(T, 0.005)
    labels = torch.arange(T + 1.0)
    torch.testing.assert_close(p.alpha(labels), torch.tensor(alpha, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(p.sigma(labels), 0.3 * torch.tensor(share, dtype=torch.float64), rtol=1e-10, atol=0)
    assert (p.alpha(-1), p.sigma(-1), p.gamma(-1)) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_between_labels_the_integral_is_linear_and_all_follows_from_it(schedule: str) -> None:
    p = rv.process.mean_reverting(schedule, labels=20, sigma_inf=0.7)
    t = torch.linspace(-1, 20, 211, dtype=torch.float64)
    torch.testing.assert_close(p.alpha(t) ** 2 + (p.sigma(t) / 0.7) ** 2, torch.ones_like(t))
    torch.testing.assert_close(p.alpha(t) + p.gamma(t), torch.ones_like(t))
    low = p.log_alpha(t.floor())
    torch.testing.assert_close(p.log_alpha(t), low + (t - t.floor()) * (p.log_alpha(t.floor().clamp(max=19) + 1) - low))
    assert p.alpha(20.0) == pytest.approx(0.005, rel=1e-12)
    inner = torch.linspace(-0.999, 20, 301, dtype=torch.float64)
    assert (p.t_of_lam(p.lam(inner)) - inner).abs().max() < 1e-9
    theta = p.theta(torch.arange(20.0) + 0.5)
    if schedule == "constant":
        torch.testing.assert_close(theta, theta[:1].expand(20))
    else:
        assert (theta.diff() > 0).all()


def test_the_sde_has_these_moments() -> None:
    """mean' = theta (y - mean), variance' = 2 theta (sigma_inf^2 - variance)."""
    t, h = torch.arange(0.0, 99.0, 7.0, dtype=torch.float64) + 0.37, 1e-4
    theta = P.theta(t)
    x0, y = 0.2, 0.9
    mean = [P.alpha(u) * x0 + P.gamma(u) * y for u in (t - h, t, t + h)]
    torch.testing.assert_close((mean[2] - mean[0]) / (2 * h), theta * (y - mean[1]), rtol=1e-6, atol=1e-9)
    variance = [P.sigma(u) ** 2 for u in (t - h, t, t + h)]
    torch.testing.assert_close(
        (variance[2] - variance[0]) / (2 * h), 2 * theta * (P.sigma_inf**2 - variance[1]), rtol=1e-6, atol=1e-9
    )
    torch.testing.assert_close(P.diffusion(t) ** 2, 2 * P.sigma_inf**2 * theta)


def test_perturb_and_prior() -> None:
    eps = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = P.perturb(X, 40.0, eps, Y)
    torch.testing.assert_close(x - Y, P.alpha(40.0) * (X - Y) + P.sigma(40.0) * eps)
    torch.testing.assert_close((x - Y) / P.sigma_inf, TWIN.perturb((X - Y) / P.sigma_inf, 40.0, eps))
    for t in (None, 80.0):
        torch.testing.assert_close(P.prior(eps, t, Y), Y + P.sigma_inf * eps)
    assert torch.equal(P.prior(eps), P.sigma_inf * eps)
    with pytest.raises(ShapeError, match="y of shape"):
        P.prior(eps, y=torch.zeros(2, 3))


def test_the_velocity_is_the_paper_s() -> None:
    t = 33.3
    a, s = P.alpha(t), P.sigma(t) / P.sigma_inf
    x, v = X, X.flip(0)
    pred = rv.Model(lambda x, t: v, P, MR_VELOCITY)(x, t, y=Y.expand(4, 3))
    torch.testing.assert_close(pred.x0, a * x + (1 - a) * Y - s * v)
    torch.testing.assert_close(pred.eps, (a * v + s * (x - Y)) / P.sigma_inf)
    with pytest.raises(ArgumentError, match="needs the degraded input"):
        _ = rv.Model(lambda x, t: v, P, MR_VELOCITY)(x, t).x0
    with pytest.raises(ArgumentError, match=r"belongs to rv\.process\.mean_reverting\(\), not to Flow"):
        MR_VELOCITY.to("x0", rv.process.flow(), 0.5)


STATIC = [
    name
    for name, s in SOLVERS.items()
    if not s.dynamic and name not in ("ddpm",) and not name.startswith(("dpm-v3", "dc-"))
]


@pytest.mark.parametrize("name", STATIC)
def test_every_step_is_the_ordinary_step_of_x_minus_y(name: str) -> None:
    """The same rows with y = 0, where they are what the solver wrote."""
    options = {"eta": 1.0} if name in ("ddim",) else {}
    try:
        plan = rv.solve.plan(name, P, grid=TIMES, **options)
    except ArgumentError as refused:
        pytest.skip(f"refuses these nodes: {refused}")
    start = P.sigma_inf * X
    for kind in ("x0", "velocity"):
        moved = rv.run(plan, model(kind, Y), start + Y, inputs={"y": Y})
        plain = rv.run(plan, model(kind, 0.0), start, inputs={"y": torch.zeros(3)})
        torch.testing.assert_close(moved, plain + Y, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options"),
    [("ddim", {}), ("ddim", {"eta": 0.7}), ("heun", {}), ("dpmpp-2m", {}), ("dpmpp-3m", {}), ("dpm-2m", {}), ("dpmpp-2m-sde", {}),
     ("dpmpp-2s", {}), ("unipc-3", {}), ("deis-3", {"variable": "rho"}), ("euler-maruyama", {}), ("ddpm", {"variance": "large"})],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["x0", "eps", "velocity"])
def test_up_to_a_scale_it_is_variance_preserving(name: str, options: dict[str, object], kind: str) -> None:
    """x = y + sigma_inf z with z of a `ddpm` process that knows neither y nor sigma_inf."""
    times = TIMES[:-1] if kind == "eps" or name == "dpm-2m" else TIMES
    plan, other = (rv.solve.plan(name, p, grid=times, **options) for p in (P, TWIN))
    moved = rv.run(plan, model(kind, Y), Y + P.sigma_inf * X, inputs={"y": Y}, noise=3)
    plain = rv.run(other, O, X, noise=3)
    torch.testing.assert_close(moved, Y + P.sigma_inf * plain, rtol=0, atol=1e-12)


def test_rows_are_the_paper_s() -> None:
    s, t = 60.0, 44.25
    k, h = P.sigma(t) / P.sigma(s), P.lam(t) - P.lam(s)
    a, b = P.alpha(t), P.alpha(s)
    p1 = math.expm1(-h)

    def row(name: str, stage: int = 0, **options: object) -> dict[object, float]:
        return rv.solve.plan(name, P, grid=[81.5, s, t] if stage else [s, t], **options).table[stage].row.terms

    ode = row("dpmpp-2m")
    assert ode["x", 0] == pytest.approx(k)
    assert ode["p", 0, 0] == pytest.approx(-a * p1)
    assert ode["i", "y"] == pytest.approx(1 - k + k * b - a)
    second = row("dpmpp-2m", 1, variant="taylor", lower_final=False)
    r = (P.lam(s) - P.lam(81.5)) / h
    assert second["p", 0, 0] == pytest.approx(-a * (p1 / h + 1) / r)
    assert second["i", "y"] == pytest.approx(1 - k + k * b - a)
    noise = row("dpm-2m")
    assert (noise["x", 0], noise["i", "y"]) == pytest.approx((a / b, 1 - a / b))
    assert noise["p", 0, 0] == pytest.approx(-P.sigma(t) * math.expm1(h))
    sde, share = row("dpmpp-2m-sde"), -math.expm1(-2 * h)
    assert sde["x", 0] == pytest.approx(k * math.exp(-h))
    assert sde["p", 0, 0] == pytest.approx(a * share)
    assert sde["n", 0] == pytest.approx(P.sigma(t) * math.sqrt(share))
    assert sde["i", "y"] == pytest.approx(1 - a / b * math.exp(-2 * h) - a * share)


def test_order_on_the_exact_flow() -> None:
    """The record's check: slopes between 20 and 160 steps of at least 0.85 and 1.8."""
    gauss = rv.oracle.Gaussian([0.4, -1.0, 2.0], torch.diag(torch.tensor([0.5, 1.0, 2.0])), process=TWIN)
    exact = Y + P.sigma_inf * gauss.solve(X, 100.0, 1.0)
    span = (1.0, (P.lam(0.0) - P.lam(1.0)) / (P.lam(0.0) - P.lam(100.0)))

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return Y + P.sigma_inf * gauss((x - Y) / P.sigma_inf, t[:1].double().item()).x0

    m = rv.Model(denoise, P, "x0")
    for name, least in (("ddim", 0.85), ("dpmpp-2m", 1.8)):
        errors = [
            (rv.run(rv.solve.plan(name, P, steps=n, end="sigma_min", span=span), m, Y + P.sigma_inf * X, inputs={"y": Y}) - exact).abs().max()
            for n in (20, 160)
        ]  # fmt: skip
        assert math.log2(errors[0] / errors[1]) / 3 > least


def test_sampling_takes_y_a_sample() -> None:
    def net(x: Tensor, t: Tensor, y: Tensor) -> Tensor:  # x0 = y + 1, known exactly
        return y + 1

    m = rv.Model(net, P, "x0", shape=(3,))
    y = torch.arange(6.0).reshape(2, 3)
    x = rv.sample(m, n=2, solver="dpmpp-2m", steps=6, grid="time", cond={"y": y}, inputs={"y": y}, batch=4)
    torch.testing.assert_close(x, y + 1)
    plan = rv.solve.plan("dpmpp-2m", P, steps=5)
    assert plan.inputs == ("y",)
    with pytest.raises(ArgumentError, match=r"needs inputs \['y'\]"):
        rv.run(plan, m, X, cond={"y": X})
    with pytest.raises(ArgumentError, match="'ode-adaptive' makes its rows during the run, without the degraded input"):
        rv.solve.plan("ode-adaptive", P)


def test_time_travel_keeps_y() -> None:
    plan = rv.solve.plan("dpmpp-2m", P, grid=TIMES).repeat(2, length=3)
    moved = rv.run(plan, model("x0", Y), P.sigma_inf * X + Y, inputs={"y": Y})
    plain = rv.run(plan, model("x0", 0.0), P.sigma_inf * X, inputs={"y": torch.zeros(3)})
    torch.testing.assert_close(moved, plain + Y, rtol=0, atol=1e-12)


def test_plans_without_y_are_as_they_were() -> None:
    plan = rv.solve.plan("dpmpp-2m", rv.process.vp(), steps=5)
    assert plan.inputs == ()
    assert rv.solve.degraded.with_input(plan) is plan


def test_spec_range_and_errors() -> None:
    assert rv.process.from_spec(json.loads(json.dumps(P.spec()))) == P
    assert P.lam_range == (P.lam(100.0), P.lam(0.0))
    assert rv.process.mean_reverting(sigma_inf=2.0).lam_range[0] == -5.0
    with pytest.raises(UnknownNameError, match="unknown schedule 'cosin'"):
        rv.process.mean_reverting("cosin")
    for options, message in (
        ({"sigma_inf": 0.0}, "sigma_inf must be positive"),
        ({"alpha_end": 1.0}, "alpha_end"),
        ({"labels": 0}, "labels, the last"),
        ({"labels": 2.5}, "labels, the last"),
    ):
        with pytest.raises(ArgumentError, match=message):
            rv.process.mean_reverting(**options)
    with pytest.raises(ArgumentError, match=r"0 <= t_min < t_max <= 100"):
        rv.process.MeanReverting(t_min=-1.0)
