"""Targets: every pair of prediction types, on random affine ground truth, at random times and at both ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError, UnknownNameError
from reverie.model import KINDS, Affine, Target, as_target
from reverie.process import Process
from reverie.process.flow import Flow


@dataclass(frozen=True)
class Residual(Flow):
    """A toy process with a degraded input: x_t = (1 - t) x0 + t (1 - t) y + t eps."""

    name: ClassVar[str] = "test-residual"

    def gamma(self, t):  # type: ignore[no-untyped-def]
        return self._lift(lambda u: u * (1 - u), t)


def _abar() -> Tensor:
    return (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)


def _zero_terminal(abar: Tensor) -> Tensor:
    root = abar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


PROCESSES: dict[str, Process] = {
    "linear": rv.process.vp("linear"),
    "scaled_linear": rv.process.vp("scaled_linear"),
    "cosine": rv.process.vp("cosine"),
    "subvp": rv.process.subvp(),
    "edm": rv.process.edm(),
    "flow": rv.process.flow(),
    "flow-3": rv.process.flow(3.0),
    "sd": rv.process.ddpm(_abar()),
    "sd-zero-snr": rv.process.ddpm(_zero_terminal(_abar())),
    "residual": Residual(),
}
every = pytest.mark.parametrize("p", PROCESSES.values(), ids=PROCESSES.keys())

NAMES = [*KINDS, "edm:1.3"]
CUSTOM = Target(
    x0=lambda p, t: 0.3 + p.sigma(t),
    eps=lambda p, t: 2 + 0 * t,
    y=lambda p, t: 1 + p.alpha(t),
    scale=lambda p, t: 0.5 + 0 * t,
    name="custom",
)


def truth(kind: str, p: Process, t: float, x0: Tensor, eps: Tensor, y: Tensor) -> Tensor:
    """What a perfect network of that kind says, from the papers' definitions, without the code under test."""
    a, s = p.alpha(t), p.sigma(t)
    if kind.startswith("edm"):
        sd = 0.5 if kind == "edm" else float(kind[4:])
        r = s / a  # Karras et al. 2022 on x / alpha = x0 + r eps
        skip, out = sd**2 / (r**2 + sd**2), r * sd / math.sqrt(r**2 + sd**2)
        return (x0 - skip * (x0 + r * eps)) / out
    return {
        "x0": x0,
        "eps": eps,
        "v": a * eps - s * x0,
        "flow": eps - x0,
        "score": -eps / s,
        "custom": ((0.3 + s) * x0 + 2 * eps + (1 + a) * y) / 0.5,
    }[kind]


def draw(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    x0, eps, y = torch.randn(3, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x0, eps, y


def apply(a: Affine, x: Tensor, raw: Tensor, y: Tensor) -> Tensor:
    return a.x * x + a.raw * raw + a.y * y


@every
@pytest.mark.parametrize("have", [*NAMES, "custom"])
def test_every_pair_converts_exactly(p: Process, have: str) -> None:
    """1e-12 relative to the terms that are added: where sigma / alpha is large, x0 of eps loses digits by nature."""
    x0, eps, y = draw()
    u = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for t in (p.t_min + (p.t_max - p.t_min) * (0.01 + 0.98 * u)).tolist():
        x = p.alpha(t) * x0 + p.gamma(t) * y + p.sigma(t) * eps
        raw = truth(have, p, t, x0, eps, y)
        for want in [*NAMES, "custom"]:
            a = (CUSTOM if have == "custom" else as_target(have)).to(CUSTOM if want == "custom" else want, p, t)
            scale = max(1.0, *(float((c * q).abs().max()) for c, q in zip(a, (x, raw, y), strict=True)))
            error = float((apply(a, x, raw, y) - truth(want, p, t, x0, eps, y)).abs().max())
            assert error < 1e-12 * scale, (have, want, t, error, scale)


@every
@given(seed=st.integers(0, 99), u=st.floats(0.02, 0.98), have=st.sampled_from(NAMES), via=st.sampled_from(NAMES))
@settings(max_examples=25, deadline=None)
def test_conversions_compose(p: Process, seed: int, u: float, have: str, via: str) -> None:
    t = p.t_min + (p.t_max - p.t_min) * u
    x0, eps, y = draw(seed)
    x = p.perturb(x0, t, eps, y=y)
    raw = as_target(have).of(p, t, x0, eps)
    middle = apply(as_target(have).to(via, p, t), x, raw, y)
    back = apply(as_target(via).to(have, p, t), x, middle, y)
    bound = 1e-11 * (1 + p.sigma(t) / p.alpha(t) + p.alpha(t) / p.sigma(t)) ** 2
    torch.testing.assert_close(back, raw, rtol=bound, atol=bound)


@every
@pytest.mark.parametrize("kind", [*NAMES, "custom"])
def test_of_is_what_a_perfect_network_says(p: Process, kind: str) -> None:
    x0, eps, y = draw()
    t = torch.tensor([0.3, 0.7], dtype=torch.float64) * (p.t_max - p.t_min) + p.t_min
    target = CUSTOM if kind == "custom" else as_target(kind)
    out = target.of(p, t, x0, eps, y)
    rows = [truth(kind, p, float(u), x0[i], eps[i], y[i]) for i, u in enumerate(t)]
    torch.testing.assert_close(out, torch.stack(rows), rtol=1e-10, atol=1e-11)
    assert target.of(p, t, x0.float(), eps.float(), y.float()).dtype == torch.float32


@every
def test_a_type_is_itself_without_rounding(p: Process) -> None:
    for t in (p.t_min, 0.37 * p.t_max + 0.63 * p.t_min, p.t_max):
        for kind in [*NAMES, CUSTOM]:
            assert as_target(kind).to(kind, p, t) == (0.0, 1.0, 0.0)
    batch = as_target("v").to("v", p, torch.full((3,), p.t_max))
    assert [c.tolist() for c in batch] == [[0.0] * 3, [1.0] * 3, [0.0] * 3]


@every
def test_a_batch_of_times_is_its_rows(p: Process) -> None:
    t = p.t_min + (p.t_max - p.t_min) * torch.tensor([[0.2], [0.5], [0.9]], dtype=torch.float64)
    for have in NAMES:
        for want in NAMES:
            many = as_target(have).to(want, p, t)
            assert all(c.shape == (3, 1) and c.dtype == torch.float64 for c in many)
            for i in range(3):
                single = as_target(have).to(want, p, float(t[i]))
                assert all(type(c) is float for c in single)
                assert [float(c[i]) for c in many] == pytest.approx(list(single), rel=1e-12, abs=1e-15)


# -- the ends of time

CLEAN = [(n, q) for n, q in PROCESSES.items() if n not in ("sd", "sd-zero-snr")]  # sigma(t_clean) = 0
NOISE = [(n, PROCESSES[n]) for n in ("cosine", "flow", "flow-3", "sd-zero-snr", "residual")]  # alpha(t_max) = 0


@pytest.mark.parametrize("p", [q for _, q in CLEAN] + [PROCESSES["sd"]], ids=lambda q: repr(q)[:24])
def test_at_sigma_zero(p: Process) -> None:
    t = p.t_clean
    x0, eps, y = draw()
    x = p.alpha(t) * x0 + p.gamma(t) * y
    known = {"eps": ("x0", "eps", "v", "flow", "edm", "edm:1.3"), "x0": ("x0",), "score": ("x0", "eps", "score")}
    for have in NAMES:
        derivable = known.get(have, known["eps"])
        raw = {"x0": x0, "eps": eps, "v": eps, "flow": eps - x0, "score": torch.full_like(eps, 7.0)}.get(have, -eps)
        for want in NAMES:
            if want == have or want in derivable:
                a = as_target(have).to(want, p, t)
                value = apply(a, x, raw, y)
                if want in ("x0", "eps", "flow", "v") and have != "score":
                    torch.testing.assert_close(value, truth(want, p, t, x0, eps, y), rtol=1e-14, atol=1e-14)
                if want.startswith("edm"):  # F -> -eps as sigma -> 0, whatever the data's scale
                    torch.testing.assert_close(value, -eps, rtol=1e-13, atol=1e-13)
                if have == "score" and want == "x0":
                    torch.testing.assert_close(value, x0, rtol=1e-14, atol=1e-14)
            elif have != "score":
                with pytest.raises(ArgumentError, match=rf"{want} cannot be derived .*t = {t:g}"):
                    as_target(have).to(want, p, t)


def test_the_score_s_noise_vanishes_with_sigma() -> None:
    """eps = -sigma score: a finite score at sigma = 0 says E[eps | x_0] = 0, which is true."""
    a = as_target("score").to("eps", rv.process.flow(), 0.0)
    assert (a.x, abs(a.raw), a.y) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("p", [q for _, q in NOISE], ids=[n for n, _ in NOISE])
def test_at_alpha_zero(p: Process) -> None:
    t = p.t_max
    s = p.sigma(t)
    x0, eps, y = draw()
    x = p.gamma(t) * y + s * eps
    raws = {"x0": x0, "eps": eps, "v": -s * x0, "flow": eps - x0, "score": -eps / s}
    raws |= {"edm": x0 / 0.5, "edm:1.3": x0 / 1.3}
    for have in NAMES:
        for want in NAMES:
            if have in ("eps", "score") and want not in ("eps", "score"):
                with pytest.raises(
                    ArgumentError, match=rf"{want} cannot be derived from a prediction of {have} at t = "
                ):
                    as_target(have).to(want, p, t)
            else:
                value = apply(as_target(have).to(want, p, t), x, raws[have], y)
                torch.testing.assert_close(value, raws[want], rtol=1e-13, atol=1e-13)


def test_one_impossible_time_in_a_batch_is_named() -> None:
    p = rv.process.flow()
    with pytest.raises(ArgumentError, match=r"t = 1\.0, where alpha = 0\.0 and sigma = 1\.0"):
        as_target("eps").to("x0", p, torch.tensor([0.5, 1.0, 0.25]))
    with pytest.raises(ArgumentError, match=r"score cannot be derived at t = 0\.0"):
        as_target("flow").to("score", p, torch.tensor([[0.5], [0.0]]))
    mixed = as_target("x0").to("x0", p, torch.tensor([0.5, 0.0]))
    assert mixed.raw.tolist() == [1.0, 1.0]  # type: ignore[union-attr]
    doubled = Target(lambda p, t: 2 + 0 * t, lambda p, t: 0 * t, name="2 x0")
    a = doubled.to("x0", p, torch.tensor([0.5, 0.0]))
    assert a.x.tolist() == [0.0, 1.0]  # type: ignore[union-attr]
    assert a.raw.tolist() == [0.5, 0.0]  # type: ignore[union-attr]

    class Halved(rv.process.VE):  # clean data arrive scaled: x_0 = x0 / 2
        def _log_alpha(self, t: Tensor) -> Tensor:
            return 0 * t - math.log(2.0)

    assert doubled.to("x0", Halved(t_min=0.1, t_max=1.0), 0.0) == (2.0, 0.0, 0.0)


# -- EDM


@pytest.mark.parametrize("sd", [0.5, 1.3])
@pytest.mark.parametrize("sigma", [0.002, 0.5, 3.0, 80.0])
def test_edm_is_table_1_of_karras_et_al(sd: float, sigma: float) -> None:
    p, target = rv.process.edm(), Target.edm(sd)
    a = target.to("x0", p, sigma)
    assert a.x == pytest.approx(sd**2 / (sigma**2 + sd**2), rel=1e-12)
    assert a.raw == pytest.approx(sigma * sd / math.sqrt(sigma**2 + sd**2), rel=1e-12)
    assert target.input_scale(p, sigma) == pytest.approx(1 / math.sqrt(sigma**2 + sd**2), rel=1e-12)
    model = rv.Model(lambda x, label: x, p, predicts=target)
    assert model.label(sigma) == pytest.approx(math.log(sigma) / 4)


@every
def test_edm_has_unit_variance_in_and_out_on_every_process(p: Process) -> None:
    """The defining property, for data of std sd: c_in x and the regression target both have variance 1."""
    sd = 0.7
    for u in (0.01, 0.3, 0.9):
        t = p.t_min + (p.t_max - p.t_min) * u
        target = Target.edm(sd)
        total = (p.alpha(t) * sd) ** 2 + p.sigma(t) ** 2
        assert target.input_scale(p, t) == pytest.approx(total**-0.5, rel=1e-12)
        k = torch.tensor(t, dtype=torch.float64)
        assert (target.x0(p, k) * sd) ** 2 + target.eps(p, k) ** 2 == pytest.approx(1.0, rel=1e-12)


def test_sigma_data_by_name() -> None:
    assert as_target("edm:0.7") is as_target("edm:0.7")
    assert as_target("edm:0.5") is as_target("edm")
    assert as_target("edm:0.7").name == "edm:0.7"
    assert as_target(as_target("edm:0.123456789").name) is Target.edm(0.123456789)
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ArgumentError, match="sigma_data must be positive"):
            Target.edm(bad)
    for name in ("edm:", "edm:x", "edm:-1"):
        with pytest.raises(ArgumentError, match=r"edm:0\.5"):
            as_target(name)


# -- y, names, refusals


def test_the_degraded_input_enters_every_quantity() -> None:
    p = Residual()
    a = as_target("eps").to("x0", p, 0.5)
    assert a == pytest.approx((2.0, -1.0, -0.5))  # x0 = (x - t (1 - t) y - t eps) / (1 - t)
    on_eps_minus_y = Target(lambda p, t: 0 * t, lambda p, t: 1 + 0 * t, y=lambda p, t: -1 + 0 * t, name="residual")
    assert on_eps_minus_y.to("eps", p, 0.5) == pytest.approx((0.0, 1.0, 1.0))
    assert on_eps_minus_y.to("x0", p, 0.5) == pytest.approx((2.0, -1.0, -1.5))
    assert as_target("eps").to(on_eps_minus_y, p, 0.5) == pytest.approx((0.0, 1.0, -1.0))
    x0, eps, y = draw()
    with pytest.raises(ArgumentError, match=r"residual is a function of the degraded input: give y="):
        on_eps_minus_y.of(p, 0.5, x0, eps)
    torch.testing.assert_close(on_eps_minus_y.of(p, 0.5, x0, eps, y), eps - y)
    assert torch.equal(as_target("eps").of(p, 0.5, x0, eps, torch.full_like(y, math.nan)), eps)


def test_an_infinite_training_target_is_refused() -> None:
    x0, eps, _ = draw()
    with pytest.raises(ArgumentError, match=r"score cannot be derived at t = 0\.0"):
        as_target("score").of(rv.process.flow(), torch.tensor([0.5, 0.0]), x0, eps)


def test_unknown_kinds() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown prediction type 'epsilon'; did you mean 'eps'"):
        as_target("epsilon")
    with pytest.raises(UnknownNameError, match="prediction type"):
        as_target("eps").to("noise", rv.process.vp(), 0.5)
    with pytest.raises(UnknownNameError):
        as_target(None)  # type: ignore[arg-type]
