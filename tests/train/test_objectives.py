"""The objectives: a perfect network has no loss, types agree by their known weights, times follow their laws."""

from __future__ import annotations

import math

import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reverie as rv
from reverie.base import ArgumentError, ShapeError, UnknownNameError
from reverie.train import classification, denoising, edm_weight, min_snr_weight, stratified, times, weights
from reverie.train.objectives import parse_weight

P = rv.process.vp("linear")
T = torch.tensor([0.05, 0.3, 0.6, 0.95], dtype=torch.float64)


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, generator=g), torch.randn(4, 3, generator=g)


@pytest.mark.parametrize("kind", ["x0", "eps", "v", "flow"])
def test_oracle_a_perfect_network_has_no_loss(kind: str) -> None:
    """Data at one point c: eps = (x - alpha c) / sigma is known exactly."""
    c = torch.tensor([0.5, -1.0, 2.0])
    alpha, sigma = P.alpha(T)[:, None].float(), P.sigma(T)[:, None].float()

    def net(x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        eps = (x - alpha * c) / sigma
        x0 = c.expand_as(x)
        return {"x0": x0, "eps": eps, "v": alpha * eps - sigma * x0, "flow": eps - x0}[kind]

    x0, noise = c.expand(4, 3), _batch()[1]
    assert denoising(rv.Model(net, P, kind), x0, T, noise).item() < 1e-10
    assert denoising(rv.Model(net, P, kind), x0 + 0.1, T, noise).item() > 1e-4


def test_identity_the_v_loss_weights_the_x0_error_by_one_plus_snr() -> None:
    x0, noise = _batch()
    v = rv.Model(lambda x, label: torch.sin(x), P, "v")
    as_x0 = rv.Model(lambda x, label: v(x, T).x0, P, "x0")
    weight = (1 + (2 * P.lam(T)).exp()).float()
    a, b = denoising(v, x0, T, noise), denoising(as_x0, x0, T, noise, weight=weight)
    assert a.item() == pytest.approx(b.item(), rel=1e-4)


def test_oracle_the_written_sum() -> None:
    x0, noise = _batch()
    want = 0.0
    for i, t in enumerate(T.tolist()):
        x = P.alpha(t) * x0[i] + P.sigma(t) * noise[i]
        want += (i + 1) * ((2 * x - noise[i]) ** 2).mean().item() / 4
    got = denoising(rv.Model(lambda x, label: 2 * x, P, "eps"), x0, T, noise, weight=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert got.item() == pytest.approx(want, rel=1e-6)


def test_the_network_is_told_its_label_and_condition() -> None:
    x0, noise = _batch()
    told = {}

    def net(x: torch.Tensor, label: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        told.update(label=label, labels=class_labels)
        return x

    denoising(rv.Model(net, P, "v", "lam"), x0, T, noise, {"class_labels": torch.arange(4)})
    torch.testing.assert_close(told["label"], P.lam(T).float())
    assert told["labels"].tolist() == [0, 1, 2, 3]


def test_denoising_refuses() -> None:
    x0, noise = _batch()
    m = rv.Model(lambda x, label: x, P)
    with pytest.raises(ShapeError, match="times and weights"):
        denoising(m, x0, T[:3], noise)
    with pytest.raises(ShapeError, match="times and weights"):
        denoising(m, x0, T, noise, weight=torch.ones(3))
    with pytest.raises(ShapeError, match="noise of shape"):
        denoising(m, x0, T, noise[:, :2])


def test_classification_is_the_log_of_the_right_classes_share() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(9.0), 0.0]])
    got = classification(lambda x: logits, torch.zeros(2, 1), torch.tensor([1, 0]))
    assert got.item() == pytest.approx(-(math.log(0.75) + math.log(0.9)) / 2, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(1, 40), seed=st.integers(0, 99))
def test_property_strata_hold_one_each(batch: int, seed: int) -> None:
    u = torch.rand(batch, generator=torch.Generator().manual_seed(seed))
    assert (stratified(u) * batch).floor().tolist() == list(range(batch))


@pytest.mark.parametrize("process", [P, rv.process.flow(), rv.process.edm(), rv.process.vp("cosine")])
def test_times_follow_the_normal_law_of_lam(process: rv.process.Process) -> None:
    u = stratified(torch.full((2000,), 0.5))
    lam = process.lam(times(process, u, "normal-lam", 0.4, 1.5))
    lo, hi = process.lam_range
    law = scipy.stats.truncnorm((lo - 0.4) / 1.5, (hi - 0.4) / 1.5, 0.4, 1.5)
    assert torch.allclose(lam, torch.tensor(law.ppf(u.numpy())), atol=1e-6)


def test_times_follow_the_uniform_law() -> None:
    u = torch.tensor([0.25, 0.75], dtype=torch.float64)
    assert times(rv.process.edm(), u, "uniform").tolist() == pytest.approx(
        [rv.process.edm().t_min + q * (rv.process.edm().t_max - rv.process.edm().t_min) for q in (0.25, 0.75)]
    )


@settings(max_examples=30, deadline=None)
@given(mean=st.floats(-3, 3), std=st.floats(0.2, 50), seed=st.integers(0, 99))
def test_property_times_stay_inside_and_fall_with_u(mean: float, std: float, seed: int) -> None:
    u = torch.rand(50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).sort().values
    t = times(P, u, "normal-lam", mean, std)
    assert P.t_min <= t.min() <= t.max() <= P.t_max
    assert (t.diff() <= 0).all()


@pytest.mark.parametrize("process", [rv.process.flow(), P])
def test_times_follow_the_logit_normal_law(process: rv.process.Process) -> None:
    u = stratified(torch.full((2000,), 0.5))
    t = times(process, u, "logit-normal", -0.3, 0.8)
    lo, hi = (scipy.special.logit(end) for end in (process.t_min, process.t_max))
    law = scipy.stats.truncnorm((lo + 0.3) / 0.8, (hi + 0.3) / 0.8, -0.3, 0.8)
    assert torch.allclose(t, torch.tensor(scipy.special.expit(law.ppf(u.numpy()))), atol=1e-9)


def test_identity_for_the_flow_logit_normal_is_normal_in_lam() -> None:
    """lam = log((1 - t) / t) = -logit(t): the laws are mirrored."""
    u = stratified(torch.full((99,), 0.5))
    a = times(rv.process.flow(), u, "logit-normal", 0.5, 1.2)
    b = times(rv.process.flow(), 1 - u, "normal-lam", -0.5, 1.2)
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def _snr() -> torch.Tensor:
    return (P.alpha(T) / P.sigma(T)) ** 2


def test_oracle_weights_of_the_x0_error() -> None:
    s = 1 / _snr().sqrt()
    torch.testing.assert_close(edm_weight(P, T, 0.5), (s**2 + 0.25) / (s * 0.5) ** 2)
    torch.testing.assert_close(min_snr_weight(P, T, 5.0), _snr().clamp(max=5.0))


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_oracle_min_snr_of_each_type(gamma: float) -> None:
    """The weights of Hang et al. 2023, section 3.4 and appendix."""
    snr = _snr()
    want = {"x0": snr.clamp(max=gamma), "eps": snr.clamp(max=gamma) / snr, "v": snr.clamp(max=gamma) / (snr + 1)}
    for kind, value in want.items():
        torch.testing.assert_close(weights(rv.Model(lambda x, t: x, P, kind), T, f"min-snr:{gamma}"), value)


def test_truncated_snr_is_min_snr_where_there_is_more_signal_than_noise_and_one_below() -> None:
    snr = _snr()
    assert float(snr.min()) < 1 < 3 < float(snr.max())
    for kind, own in {"x0": snr * 0 + 1, "v": 1 / (snr + 1)}.items():
        m = rv.Model(lambda x, t: x, P, kind)
        want = torch.where(snr < 1, own, weights(m, T, "min-snr:3"))
        torch.testing.assert_close(weights(m, T, "truncated-snr:3"), want)


def test_limit_a_large_gamma_weights_the_error_of_eps() -> None:
    torch.testing.assert_close(weights(rv.Model(lambda x, t: x, P, "eps"), T, "min-snr:1e9"), torch.ones(4).double())


def test_identity_edm_is_one_for_its_own_type_and_for_v_at_unit_variance() -> None:
    edm = rv.process.edm()
    t = torch.tensor([0.01, 0.5, 3.0, 60.0], dtype=torch.float64)
    own = rv.Model(lambda x, t: x, edm, rv.model.Target.edm(0.7))
    torch.testing.assert_close(weights(own, t, "edm:0.7"), torch.ones(4).double())
    torch.testing.assert_close(weights(rv.Model(lambda x, t: x, P, "v"), T, "edm:1"), torch.ones(4).double())
    assert weights(own, t) is None


@pytest.mark.parametrize("rule", ["edm:0.5", "min-snr:5", "truncated-snr:5"])
def test_identity_a_weighted_loss_is_that_of_x0_whatever_the_type(rule: str) -> None:
    x0, noise = _batch()
    as_v = rv.Model(lambda x, label: torch.sin(x), P, "v")
    as_x0 = rv.Model(lambda x, label: as_v(x, T).x0, P, "x0")
    a, b = (denoising(m, x0, T, noise, weight=weights(m, T, rule)) for m in (as_v, as_x0))
    assert a.dtype == torch.float32
    assert a.item() == pytest.approx(b.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ("min_snr", "unknown weight 'min_snr'; did you mean 'min-snr'"),
        ("", "unknown weight ''"),
        (
            "min-snr:",
            "a weight is none, edm:DATA, min-snr:GAMMA or truncated-snr:GAMMA with a positive number, got 'min-snr:'",
        ),
        ("min-snr:five", "got 'min-snr:five'"),
        ("min-snr:-5", "got 'min-snr:-5'"),
        ("edm:0", "got 'edm:0'"),
        ("edm:inf", "got 'edm:inf'"),
        ("none:1", "got 'none:1'"),
    ],
)
def test_weights_refuse(weight: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        parse_weight(weight)
    assert isinstance(caught.value, UnknownNameError) == message.startswith("unknown")


def test_times_refuse() -> None:
    with pytest.raises(
        ArgumentError, match=r"'logit-normal' is for times between 0 and 1, .* 0\.002 to 80; take 'normal-lam'"
    ):
        times(rv.process.edm(), torch.rand(3), "logit-normal")
    with pytest.raises(ArgumentError, match=r"logit\(t\) must be positive, got 0"):
        times(rv.process.flow(), torch.rand(3), "logit-normal", 0.0, 0.0)
    u = torch.rand(3)
    with pytest.raises(UnknownNameError, match="normal-lam"):
        times(P, u, "normal-lamm")
    with pytest.raises(ArgumentError, match="must be positive, got 0"):
        times(P, u, "normal-lam", 0.0, 0.0)
    with pytest.raises(ArgumentError, match="no mass"):
        times(P, u, "normal-lam", 100.0, 0.5)
