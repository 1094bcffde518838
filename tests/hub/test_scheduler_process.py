"""Processes, prediction types and labels from diffusers' schedulers and from their configs, held against the schedulers' own numbers."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

import reverie as rv
from reverie.base import ArgumentError, UnknownNameError
from reverie.hub.process import betas_of, label_of, predicts_of, process_of

SCHEDULES = [
    {"beta_schedule": "linear"},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "sigmoid", "num_train_timesteps": 300},
    {"trained_betas": [0.01, 0.02, 0.5]},
]


@pytest.mark.parametrize("config", SCHEDULES)
def test_levels_are_those_of_the_scheduler_in_double_precision(config: dict[str, Any]) -> None:
    s = DDPMScheduler(**config)
    p = process_of(s)
    own, ours = s.alphas_cumprod.double(), torch.tensor(p.alphas_cumprod, dtype=torch.float64)
    rounding = 1e-6 + 2**-24 / (
        1 - betas_of(config)
    )  # of the scheduler: its 1 - beta is a float32, and beta up to 0.999
    assert bool((((own - ours) / ours).abs() < rounding).all())
    assert process_of(config) == process_of(dict(s.config)) == p
    assert float(((betas_of(config) - s.betas.double()) / s.betas.double()).abs().max()) < 1e-6
    assert torch.allclose((1 - betas_of(config)).cumprod(0), ours, rtol=1e-12, atol=0)
    assert (predicts_of(s), label_of(s, p)) == ("eps", "t")


@pytest.mark.parametrize("config", SCHEDULES)
def test_zero_terminal_signal_is_exactly_zero(config: dict[str, Any]) -> None:
    more = {**config, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    p = process_of(DDPMScheduler(**more))
    ours = torch.tensor(p.alphas_cumprod, dtype=torch.float64)
    own = DDPMScheduler(**more).alphas_cumprod.double()
    assert (p.alpha(p.t_max), float(ours[-1]), float(betas_of(more)[-1])) == (0.0, 0.0, 1.0)
    assert float((own - ours).abs().max()) < 1e-6
    far = ours > 1e-3  # towards the end the difference of two roots is left, of which float32 keeps few digits
    assert float(((own - ours) / ours)[far].abs().max()) < 2e-6
    if "trained_betas" not in config and config["beta_schedule"] != "sigmoid":  # which Euler lacks
        assert process_of(EulerDiscreteScheduler(**more)) == p  # it puts 2^-24 at the end


def test_a_network_that_predicts_noise_keeps_a_signal() -> None:
    for config in SCHEDULES:
        more = {**config, "rescale_betas_zero_snr": True}
        abar = process_of(more).alphas_cumprod
        assert 0 < abar[-1] == min(2**-24, abar[-2] / 2)
        assert abar[:-1] == process_of({**more, "prediction_type": "sample"}).alphas_cumprod[:-1]
    m = rv.Model(lambda x, t: x, process_of(more), predicts_of(more))
    assert torch.isfinite(m(torch.ones(1, 2), m.process.t_max).x0).all()


def test_levels_that_were_set_by_hand_are_kept() -> None:
    s = DDIMScheduler()
    s.alphas_cumprod = s.alphas_cumprod**2
    assert process_of(s).alphas_cumprod == tuple(s.alphas_cumprod.tolist())
    assert process_of(diffusers.UnCLIPScheduler()).alphas_cumprod[500] == pytest.approx(0.49, abs=0.01)
    video = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=2.0)
    assert process_of(video) == process_of(dict(video.config))
    assert torch.allclose(torch.tensor(process_of(video).alphas_cumprod), video.alphas_cumprod.float(), rtol=1e-5)


# -- flow


def flow_schedulers() -> list[tuple[Any, float]]:
    changed = FlowMatchEulerDiscreteScheduler(shift=2.0)
    changed.set_shift(5.0)
    return [
        (FlowMatchEulerDiscreteScheduler(shift=3.0), 3.0),
        (changed, 5.0),
        (diffusers.FlowMatchHeunDiscreteScheduler(shift=2.0), 2.0),
        (DPMSolverMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"), 3.0),
        (UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=1.5, prediction_type="flow_prediction"), 1.5),
    ]


@pytest.mark.parametrize(("scheduler", "shift"), flow_schedulers())
def test_a_flow_has_its_shift_and_is_told_the_scheduler_s_timesteps(scheduler: Any, shift: float) -> None:
    p = process_of(scheduler)
    assert (p, predicts_of(scheduler)) == (rv.process.flow(shift), "flow")
    scheduler.set_timesteps(7)
    label, sigmas = label_of(scheduler, p), scheduler.sigmas[: len(scheduler.timesteps)]
    assert callable(label)
    ours = torch.tensor([label(p.t_of_sigma(float(s))) for s in sigmas])
    assert torch.allclose(
        ours, scheduler.timesteps.float(), atol=1.0 if scheduler.timesteps.dtype == torch.int64 else 1e-3
    )
    m = rv.Model(lambda x, t: x * 0 + t[:, None], p, predicts_of(scheduler), label=label)
    assert m(torch.ones(2, 1), torch.tensor([1.0, 0.5])).raw[0].item() == 1000.0


def test_a_dynamic_shift_follows_the_picture() -> None:
    s = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.3, max_shift=1.1, base_image_seq_len=64, max_image_seq_len=1024
    )
    mu = 0.3 + (500 - 64) * (1.1 - 0.3) / (1024 - 64)
    s.set_timesteps(sigmas=[1.0, 0.6, 0.2], mu=mu)
    for p in (process_of(s, tokens=500), process_of(s, mu=mu)):
        assert torch.allclose(torch.tensor([p.sigma(t) for t in (1.0, 0.6, 0.2)]), s.sigmas[:3])
    linear = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear")
    linear.set_timesteps(sigmas=[0.6, 0.2], mu=0.8)
    assert process_of(linear, mu=0.8).sigma(0.6) == pytest.approx(float(linear.sigmas[0]))
    with pytest.raises(ArgumentError, match=r"follows the picture's size; give tokens="):
        process_of(s)
    with pytest.raises(ArgumentError, match=r"mu = 0.5 is for use_dynamic_shifting"):
        process_of({"shift": 3.0}, mu=0.5)
    assert process_of({"shift": 3.0}, tokens=500) == rv.process.flow(3.0)


# -- EDM


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sd", [0.5, 1.3])
def test_edm_s_preconditioning_is_that_of_the_scheduler(kind: str, sd: float) -> None:
    s = EDMEulerScheduler(sigma_min=0.01, sigma_max=20.0, sigma_data=sd, prediction_type=kind)
    p = process_of(s)
    assert p == rv.process.edm(0.01, 20.0)
    x, raw = torch.randn(2, 3), torch.randn(2, 3)
    seen: dict[str, torch.Tensor] = {}

    def net(h: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        seen.update(h=h, label=label)
        return raw

    m = rv.Model(net, p, predicts_of(s), label=label_of(s, p))
    for sigma in (0.02, 0.7, 19.0):
        said = m(x, sigma)
        assert torch.allclose(said.x0, s.precondition_outputs(x, raw, torch.tensor(sigma)), atol=1e-5)
        assert torch.allclose(seen["h"], s.precondition_inputs(x, torch.tensor(sigma)))
        assert torch.allclose(seen["label"], s.precondition_noise(torch.tensor(sigma)).expand(2))


# -- what has none


def test_a_config_without_its_class_is_read_by_its_keys() -> None:
    assert process_of({"shift": 2.0}) == rv.process.flow(2.0)
    assert process_of({"sigma_data": 0.5, "sigma_max": 10.0}) == rv.process.edm(0.002, 10.0)
    assert process_of({"_class_name": "FlowMatchEulerDiscreteScheduler"}) == rv.process.flow()
    assert predicts_of({"use_flow_sigmas": True, "flow_shift": 3.0}) == "flow"
    assert predicts_of({"beta_end": 0.02, "prediction_type": "sample"}) == "x0"
    assert process_of({"beta_end": 0.02, "num_train_timesteps": 10}).t_max == 9


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (diffusers.IPNDMScheduler(), "IPNDMScheduler has no noise levels that Reverie knows"),
        (diffusers.CMStochasticIterativeScheduler(), "CMStochasticIterativeScheduler has no noise levels"),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_min": 0.1}, "ScoreSdeVeScheduler has no noise levels"),
        ({"num_train_timesteps": 1000}, "this config has no noise levels"),
        (
            EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction"),
            "timestep_type 'continuous'",
        ),
        (5, "a scheduler of diffusers or its config is needed, got int"),
        ({"beta_schedule": "laplace"}, r"unknown beta_schedule 'laplace'.*scaled_linear"),
        ({"trained_betas": [0.5, 1.5]}, "betas lie between 0 and 1"),
        ({"shift": 1.0, "invert_sigmas": True}, "invert_sigmas runs from data to noise"),
    ],
)
def test_what_has_no_process_is_named(source: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        process_of(source)


def test_prediction_types_that_reverie_lacks_are_named() -> None:
    with pytest.raises(UnknownNameError, match="prediction type of a scheduler 'mystery'"):
        predicts_of({"beta_end": 0.02, "prediction_type": "mystery"})
    with pytest.raises(UnknownNameError, match=r"'sample'.*epsilon, v_prediction"):
        predicts_of({"sigma_data": 0.5, "prediction_type": "sample"})
