"""What holds for every process: the inverse of lam, agreement of floats and tensors, the SDE, perturb, prior, spec."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reverie as rv
from reverie.base import ArgumentError, ShapeError, TimeError, UnknownNameError
from reverie.process import Process, per_sample

SD_BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
SD = (1 - SD_BETAS).cumprod(0)
DDPM_LINEAR = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)


def squared_cosine(n: int = 1000) -> list[float]:
    """Nichol & Dhariwal's betas, clipped at 0.999, as the discrete schedulers build them."""

    def abar(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    product, out = 1.0, []
    for i in range(n):
        product *= 1 - min(1 - abar((i + 1) / n) / abar(i / n), 0.999)
        out.append(product)
    return out


def zero_terminal(abar: torch.Tensor) -> torch.Tensor:
    """Lin et al. 2023 (2305.08891, algorithm 1)."""
    root = abar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


PROCESSES: dict[str, Process] = {
    "linear": rv.process.vp("linear"),
    "linear-other": rv.process.vp("linear", beta_min=0.2, beta_max=8.0),
    "scaled_linear": rv.process.vp("scaled_linear"),
    "cosine": rv.process.vp("cosine"),
    "subvp": rv.process.subvp(),
    "ve": rv.process.ve(),
    "edm": rv.process.edm(),
    "flow": rv.process.flow(),
    "flow-3": rv.process.flow(3.0),
    "flow-0.5": rv.process.flow(0.5),
    "sd": rv.process.ddpm(SD),
    "ddpm-linear": rv.process.ddpm(DDPM_LINEAR),
    "ddpm-cosine": rv.process.ddpm(squared_cosine()),
    "sd-zero-snr": rv.process.ddpm(zero_terminal(SD)),
    "ddpm-short": rv.process.ddpm([0.9, 0.5, 0.1]),
}
every = pytest.mark.parametrize("p", PROCESSES.values(), ids=PROCESSES.keys())
unit = st.floats(0.0, 1.0, allow_nan=False)


def inner(p: Process, n: int = 2001) -> torch.Tensor:
    """Times of the open interval, close to both ends too."""
    u = torch.linspace(0, 1, n, dtype=torch.float64)[1:-1]
    u = torch.cat([torch.tensor([1e-9, 1e-6, 1e-4]).double(), u, 1 - torch.tensor([1e-4, 1e-6, 1e-9]).double()])
    return p.t_min + (p.t_max - p.t_min) * u


@every
def test_t_of_lam_inverts_lam(p: Process) -> None:
    t = inner(p)
    assert (p.t_of_lam(p.lam(t)) - t).abs().max() < 1e-9


@every
def test_t_of_ratio_inverts_sigma_over_alpha(p: Process) -> None:
    t = inner(p, 101)
    assert (p.t_of_ratio((p.log_sigma(t) - p.log_alpha(t)).exp()) - t).abs().max() < 1e-9


@pytest.mark.parametrize("p", [PROCESSES[k] for k in ("linear", "cosine", "subvp", "sd", "flow", "scaled_linear")])
def test_the_inverse_holds_down_to_clean_data(p: Process) -> None:
    t = p.t_clean + torch.logspace(-6, -1, 20, dtype=torch.float64)
    assert (p.t_of_lam(p.lam(t)) - t).abs().max() < 1e-9
    assert p.t_of_ratio(0.0) == p.t_clean
    assert p.sigma(p.t_clean) == 0
    assert p.alpha(p.t_clean) == 1


@every
@given(u=unit, w=unit)
@settings(max_examples=30, deadline=None)
def test_lam_falls_with_time_and_inverts(p: Process, u: float, w: float) -> None:
    lo, hi = p.lam_range
    a, b = sorted((lo + (hi - lo) * u, lo + (hi - lo) * w))
    ta, tb = p.t_of_lam(a), p.t_of_lam(b)
    assert p.t_min - 1e-9 <= tb <= ta <= p.t_max + 1e-9
    assert p.lam(ta) == pytest.approx(a, abs=1e-7)
    assert p.lam(ta) == pytest.approx(p.log_alpha(ta) - p.log_sigma(ta), abs=1e-12)
    if b - a > 1e-6:
        assert tb < ta


@every
def test_floats_tensors_shapes_and_dtypes_agree(p: Process) -> None:
    t = inner(p, 9)
    for f in (p.alpha, p.sigma, p.gamma, p.log_alpha, p.log_sigma, p.lam, p.drift, p.diffusion):
        value = f(t.reshape(-1, 1))
        assert value.shape == (len(t), 1)
        assert value.dtype == torch.float64
        single = [f(float(u)) for u in t]
        assert all(type(s) is float for s in single)
        torch.testing.assert_close(value.flatten(), torch.tensor(single, dtype=torch.float64), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(f(t.float()), f(t.float().double()), rtol=0, atol=0)
        assert f(torch.tensor(float(t[3]))).ndim == 0
    assert p.lam(int(p.t_max) or 1) == p.lam(float(int(p.t_max) or 1))


@every
def test_a_time_is_never_aliased(p: Process) -> None:
    t = torch.full((3,), p.t_max, dtype=torch.float64)
    p.sigma(t).zero_()
    assert (t == p.t_max).all()


@every
def test_logarithms_are_those_of_alpha_and_sigma(p: Process) -> None:
    t = inner(p, 101)
    torch.testing.assert_close(p.log_alpha(t).exp(), p.alpha(t), rtol=1e-12, atol=0)
    torch.testing.assert_close(p.log_sigma(t).exp(), p.sigma(t), rtol=1e-12, atol=0)


@every
def test_sde_coefficients_are_the_derivatives(p: Process) -> None:
    span = p.t_max - p.t_min
    t = p.t_min + span * torch.linspace(0.0513, 0.9487, 23, dtype=torch.float64)
    if isinstance(p, rv.process.DDPM):
        t = t.floor() + 0.5  # derivatives jump at the labels
    h = 1e-5 * span
    d_log_alpha = (p.log_alpha(t + h) - p.log_alpha(t - h)) / (2 * h)
    d_variance = (p.sigma(t + h) ** 2 - p.sigma(t - h) ** 2) / (2 * h)
    torch.testing.assert_close(p.drift(t), d_log_alpha, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(
        p.diffusion(t) ** 2, d_variance - 2 * d_log_alpha * p.sigma(t) ** 2, rtol=1e-6, atol=1e-12
    )


@every
def test_drift_and_diffusion_carry_the_marginals(p: Process) -> None:
    """The moment equations of dx = f x dt + g dw, integrated by RK4, give alpha and sigma^2 back."""
    if isinstance(p, rv.process.DDPM):
        a, b = 1.0, 1.9  # inside one interval between labels: smooth
    else:
        a, b = (p.t_of_lam(lam) for lam in (1.0, -1.0))
    n = 200
    h = (b - a) / n
    m, s = p.alpha(a), p.sigma(a) ** 2

    def rate(t: float, m: float, s: float) -> tuple[float, float]:
        f, g = p.drift(t), p.diffusion(t)
        return f * m, 2 * f * s + g * g

    for i in range(n):
        t = a + i * h
        k1 = rate(t, m, s)
        k2 = rate(t + h / 2, m + h / 2 * k1[0], s + h / 2 * k1[1])
        k3 = rate(t + h / 2, m + h / 2 * k2[0], s + h / 2 * k2[1])
        k4 = rate(t + h, m + h * k3[0], s + h * k3[1])
        m += h / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
        s += h / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
    assert m == pytest.approx(p.alpha(b), rel=1e-6)
    assert s == pytest.approx(p.sigma(b) ** 2, rel=1e-6)


@pytest.mark.parametrize("name", ["linear", "sd", "flow-3"])
def test_sde_coefficients_under_inference_mode(name: str) -> None:
    p = rv.process.from_spec(PROCESSES[name].spec())
    t = 0.4 * p.t_max
    with torch.inference_mode():
        inside = p.drift(t), p.diffusion(t), p.diffusion(torch.tensor([t])).item()
    with torch.no_grad():
        assert inside[:2] == (p.drift(t), p.diffusion(t))
    assert p.drift(t) == inside[0]
    assert inside[2] == pytest.approx(inside[1], rel=1e-6)


@every
def test_lam_range_is_finite_and_inside(p: Process) -> None:
    lo, hi = p.lam_range
    assert math.isfinite(lo)
    assert math.isfinite(hi)
    assert lo < hi
    assert p.t_min <= p.t_of_lam(hi) + 1e-12
    assert p.t_of_lam(lo) <= p.t_max + 1e-12


@every
def test_spec_round_trip_through_json(p: Process) -> None:
    q = rv.process.from_spec(json.loads(json.dumps(p.spec())))
    assert q == p
    assert hash(q) == hash(p)
    assert q.lam_range == p.lam_range
    assert repr(q) == repr(p)


def test_a_process_is_immutable_and_differs_from_others() -> None:
    p = rv.process.vp()
    with pytest.raises(AttributeError):
        p.t_max = 2.0  # type: ignore[misc]
    values = list(PROCESSES.values())
    assert all((a == b) == (i == j) for i, a in enumerate(values) for j, b in enumerate(values))


def test_malformed_specs_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown process 'flwo'; did you mean 'flow'"):
        rv.process.from_spec({"name": "flwo"})
    for spec in (
        3,
        {},
        {"name": 3},
        {"name": "flow", "shfit": 2},
        {"name": "flow", "shift": "big"},
        {"name": "flow", "shift": -1},
        {"name": "ddpm"},
        {"name": "ddpm", "alphas_cumprod": "abc"},
        {"name": "ddpm", "alphas_cumprod": [0.5, 0.6]},
        {"name": "ddpm", "alphas_cumprod": 3},
    ):
        with pytest.raises(ArgumentError):
            rv.process.from_spec(spec)  # type: ignore[arg-type]


# -- perturb and prior


@every
def test_perturb_takes_every_form_of_time(p: Process) -> None:
    x0, noise = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = p.t_min + (p.t_max - p.t_min) * torch.tensor([0.1, 0.35, 0.6, 0.9], dtype=torch.float64)
    expected = torch.stack(
        [p.alpha(float(u)) * a + p.sigma(float(u)) * b for u, a, b in zip(t, x0, noise, strict=True)]
    )
    one = p.perturb(x0, float(t[1]), noise)
    torch.testing.assert_close(one[1], expected[1], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(p.perturb(x0, t[1], noise), one, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(p.perturb(x0, t[1:2], noise), one, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(p.perturb(x0, t, noise), expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(p.perturb(x0, t.reshape(4, 1, 1, 1), noise), expected, rtol=1e-13, atol=1e-13)
    per_row = t.reshape(1, 1, 4, 1)[:, :, [0, 1, 2, 3, 1]]
    mixed = p.perturb(x0, per_row, noise)
    torch.testing.assert_close(mixed[:, :, 4], one[:, :, 4], rtol=1e-13, atol=1e-13)
    assert p.perturb(x0.float(), t, noise.float()).dtype == torch.float32


def test_perturb_refuses_what_does_not_fit() -> None:
    p, x = rv.process.flow(), torch.zeros(2, 3, 4)
    with pytest.raises(ShapeError, match=r"noise of shape \(1, 3, 4\)"):
        p.perturb(x, 0.5, torch.zeros(1, 3, 4))
    with pytest.raises(ShapeError, match="3 times for a batch of 2"):
        p.perturb(x, torch.full((3,), 0.5), x)
    with pytest.raises(ShapeError, match="do not broadcast"):
        p.perturb(x, torch.full((2, 5, 1), 0.5), x)
    with pytest.raises(ShapeError, match="do not broadcast"):
        p.perturb(x, torch.full((7, 2, 3, 4), 0.5), x)
    with pytest.raises(ShapeError, match="y of shape"):
        p.perturb(x, 0.5, x, y=torch.zeros(5, 2, 3, 4))
    with pytest.raises(
        ArgumentError, match="must be floating"
    ):  # integer pictures would be multiplied by alpha cut to 0
        p.perturb(x.to(torch.uint8), 0.5, torch.zeros_like(x))


def test_per_sample_of_a_batch_of_scalars() -> None:
    assert per_sample(torch.tensor([1.0, 2.0]), torch.zeros(2)).shape == (2,)
    assert per_sample(torch.tensor(1.0), torch.zeros(2, 3)).shape == ()
    assert per_sample(torch.tensor([1.0], dtype=torch.float64), torch.zeros(2, 3)).dtype == torch.float32


@every
def test_prior_scales_the_noise(p: Process) -> None:
    noise = torch.ones(2, 3)
    assert (p.prior(noise) == noise * p.prior_std()).all()
    variance_preserving = isinstance(p, rv.process.VP)
    assert p.prior_std() == pytest.approx(1.0 if variance_preserving else p.sigma(p.t_max))
    if variance_preserving and not isinstance(p, rv.process.SubVP):
        assert p.alpha(p.t_max) ** 2 + p.sigma(p.t_max) ** 2 == pytest.approx(p.prior_std() ** 2)
    t = (p.t_min + p.t_max) / 2
    assert (p.prior(noise, t) == noise * p.prior_std(t)).all()
    assert (p.prior(noise, t, y=noise) == p.prior(noise, t)).all()


def test_draw_is_elementary_noise_of_the_asked_kind() -> None:
    p, noise = rv.process.vp(), rv.Noise(3)
    a = p.draw(noise, (2, 4), index=[5, 7], stage=2, stream=1, dtype=torch.float64)
    assert a.dtype == torch.float64
    assert torch.equal(a, noise.normal((2, 4), index=[5, 7], stage=2, stream=1, dtype=torch.float64))


def test_an_infinite_lam_is_refused_with_its_end() -> None:
    with pytest.raises(TimeError, match=r"sigma = 0 at t = 0\.0"):
        rv.process.vp("linear", t_min=0.0).lam_range  # noqa: B018
    with pytest.raises(TimeError, match=r"sigma = 0 at t = 0\.0"):
        rv.process.vp("cosine", t_min=0.0).lam_range  # noqa: B018
