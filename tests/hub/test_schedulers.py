"""A scheduler of diffusers that runs plans: the same states as `run`, wherever it begins, through saving and loading, and what it refuses."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from test_pipeline import PROMPTS, parts
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError, FileError, TimeError, UnknownNameError
from reverie.hub import Scheduler, scheduler
from reverie.hub.process import process_of
from reverie.hub.spacing import solver_of

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
NAMES = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
EVERY = [
    "ddim",
    "dpmpp-2m",
    "dpmpp-3m",
    "unipc-3",
    "deis-3",
    "ipndm",
    "heun",
    "dpmpp-2s",
    "dpm-3s",
    "lms",
    "kdpm-2",
    "pndm",
]


def start(n: int = 2, dim: int = 3) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def oracle(s: Scheduler) -> rv.oracle.Mixture:
    means = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.5, 0.0]], dtype=torch.float64)
    return rv.oracle.Mixture(means, 0.5, process=s.process)


def said(s: Scheduler, o: rv.Model, x: Tensor, label: float) -> Tensor:
    """What a network of the scheduler's prediction type would say."""
    t = s._time(label)
    return o(x, t).as_(NAMES[s.config.prediction_type])


def loop(s: Scheduler, x: Tensor, first: int = 0, **more: Any) -> Tensor:
    """A pipeline's loop."""
    o = oracle(s)
    for label in s.timesteps[first:]:
        x = s.step(said(s, o, x, float(label)), label, x, **more).prev_sample
    return x


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("solver", EVERY)
def test_the_loop_of_a_pipeline_is_a_run(solver: str, kind: str) -> None:
    s = scheduler(solver, SD, prediction_type=kind)
    s.set_timesteps(6)
    grid = "trailing" if solver != "pndm" else s._nodes()
    plan = rv.solve.plan(solver, s.process, None if solver == "pndm" else 6, grid=grid)
    assert len(s.timesteps) == plan.nfe
    x = start()
    assert torch.allclose(loop(s, x), rv.run(plan, oracle(s), x), atol=1e-9)
    assert torch.allclose(loop(s, x), rv.run(plan, oracle(s), x), atol=1e-9), "a second run without set_timesteps"


@pytest.mark.parametrize("key", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"])
@pytest.mark.parametrize("end", ["zero", "sigma_min"])
def test_grids_by_the_keys_of_diffusers(key: str, end: str) -> None:
    grid = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "exponential", "use_beta_sigmas": "beta"}.get(
        key, "logsnr"
    )
    s = scheduler("dpmpp-2m", SD, final_sigmas_type=end, **{key: True})
    s.set_timesteps(6)
    x, plan = start(), rv.solve.plan("dpmpp-2m", s.process, 6, grid=grid, end=end)
    assert torch.allclose(loop(s, x), rv.run(plan, oracle(s), x), atol=1e-5)  # timesteps are float32
    assert float(s.sigmas[-1]) == pytest.approx(
        0.0 if end == "zero" else s.process.sigma(0.0) / s.process.alpha(0.0), rel=1e-5
    )
    named = scheduler("dpmpp-2m", SD, grid=grid, final_sigmas_type=end)
    named.set_timesteps(6)
    assert torch.equal(named.timesteps, s.timesteps)


@pytest.mark.parametrize(("spacing", "offset"), [("trailing", 0), ("leading", 1)])
def test_ddim_is_that_of_diffusers(spacing: str, offset: int) -> None:
    theirs = DDIMScheduler(
        **SD, timestep_spacing=spacing, steps_offset=offset, set_alpha_to_one=True, clip_sample=False
    )
    ours = scheduler("ddim", theirs)
    ours.set_timesteps(8)
    theirs.set_timesteps(8)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    x = y = start().float()
    for t in theirs.timesteps:
        raw = torch.tanh(y)
        x = ours.step(torch.tanh(x), t, x).prev_sample
        y = theirs.step(raw, t, y).prev_sample
    # theirs reads the label t - 1000 // 8 for the next one, and begins the last step at the first label
    assert torch.allclose(x, y, atol=1e-3 if spacing == "trailing" else 1e-4)


def test_the_keys_of_dpm_solver_name_a_solver() -> None:
    def named(**config: Any) -> tuple[str, dict[str, Any]]:
        return solver_of(Scheduler.from_config(DPMSolverMultistepScheduler(**SD, **config).config).config)

    assert named() == ("dpmpp-2m", {})
    assert named(solver_order=3, lower_order_final=False) == ("dpmpp-3m", {"lower_final": False})
    assert named(solver_order=1) == ("ddim", {})
    assert named(solver_type="heun") == ("dpmpp-2m", {"variant": "heun"})
    assert named(algorithm_type="sde-dpmsolver++") == ("dpmpp-2m-sde", {})
    heun = DPMSolverMultistepScheduler(**SD, solver_type="heun")
    assert solver_of(scheduler("unipc-3", heun).config) == ("unipc-3", {})
    with pytest.raises(ArgumentError, match="algorithm_type 'sde-dpmsolver' of order 2 is none that Reverie has"):
        named(algorithm_type="sde-dpmsolver", final_sigmas_type="sigma_min")
    s = Scheduler.from_config(DPMSolverMultistepScheduler(**SD, timestep_spacing="leading").config)
    s.set_timesteps(6)
    x, theirs = start(), DPMSolverMultistepScheduler(**SD)
    theirs.set_timesteps(timesteps=s.timesteps.tolist())
    y = x.clone()
    for t in s.timesteps:
        x = s.step(torch.tanh(x), t, x).prev_sample
        y = theirs.step(torch.tanh(y), t, y).prev_sample
    assert torch.allclose(x, y, atol=1e-3)


def test_noise_comes_from_the_generator() -> None:
    s = scheduler("dpmpp-2m-sde", SD)
    s.set_timesteps(5)
    made = [loop(s, start(), generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    plan = rv.solve.plan("dpmpp-2m-sde", s.process, 5, grid="trailing")
    g = torch.Generator().manual_seed(0)
    draws = [torch.randn(2, 3, generator=g, dtype=torch.float64) for _ in range(plan.noises)]
    assert torch.allclose(made[0], rv.run(plan, oracle(s), start(), noise=torch.stack(draws)), atol=1e-9)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp-2m", "unipc-3", "heun", "dpmpp-2s"])
@pytest.mark.parametrize("by", ["timestep", "index"])
def test_a_run_that_begins_in_the_middle_has_no_history(solver: str, by: str) -> None:
    s = scheduler(solver, SD)
    s.set_timesteps(6)
    first = 2 * s.order
    assert s.order == (2 if solver in ("heun", "dpmpp-2s") else 1)
    x, plan = start(), rv.solve.plan(solver, s.process, grid=s._nodes()[2:])
    want = rv.run(plan, oracle(s), x)
    loop(s, x)
    if by == "index":
        s.set_begin_index(first)
        s._step_index = None
    assert torch.allclose(loop(s, x, first), want, atol=1e-9)


def test_a_fitted_plan_begins_where_it_was_fitted() -> None:
    made = rv.solve.reroll(rv.solve.unroll(rv.solve.plan("unipc-2", process_of(SD), 4)), "tuned")
    s = scheduler(made, SD)
    s.set_timesteps(4)
    assert torch.allclose(loop(s, start()), rv.run(made, oracle(s), start()), atol=1e-5)
    with pytest.raises(ArgumentError, match="begins with pure noise, not at step 2 of 4"):
        loop(s, start(), first=2)


def test_a_timestep_that_is_no_node_is_one_first_order_step() -> None:
    s = scheduler("dpmpp-2m", SD)
    s.set_timesteps(4)
    x, o = start(), oracle(s)
    plan = rv.solve.plan("ddim", s.process, grid=[600.0, 499.0])
    assert torch.allclose(s.step(said(s, o, x, 600.0), 600, x).prev_sample, rv.run(plan, o, x), atol=1e-9)
    assert s.step_index is None
    whole = loop(s, x)
    s.set_timesteps(4)
    assert torch.equal(loop(s, x), whole)


def test_steps_out_of_order_begin_anew() -> None:
    s = scheduler("dpmpp-2m", SD)
    s.set_timesteps(4)
    x, o = start(), oracle(s)
    first = s.step(said(s, o, x, 749.0), 749, x).prev_sample
    s.step(said(s, o, x, 999.0), 999, x)
    assert s.step_index == 1
    again = s.step(said(s, o, x, 499.0), 499, x).prev_sample
    assert s.step_index == 3
    alone = scheduler("dpmpp-2m", SD)
    alone.set_timesteps(4)
    assert torch.equal(alone.step(said(s, o, x, 749.0), 749, x).prev_sample, first)
    alone.set_timesteps(4)
    assert torch.equal(alone.step(said(s, o, x, 499.0), 499, x).prev_sample, again)


def test_rounded_timesteps_are_still_the_nodes() -> None:
    s = scheduler("dpmpp-3m", SD, use_karras_sigmas=True)
    s.set_timesteps(5)
    x, o, history = start(), oracle(s), start()
    for label in s.timesteps:
        raw = said(s, o, x, float(label))
        x = s.step(raw, label, x).prev_sample
    s.set_timesteps(5)
    for label in s.timesteps:
        history = s.step(said(s, o, history, float(label)), int(label), history).prev_sample
    assert torch.equal(x, history)


def test_timesteps_and_sigmas_of_ones_own() -> None:
    s = scheduler("dpmpp-2m", SD)
    s.set_timesteps(timesteps=[900, 500, 100])
    assert s.timesteps.tolist() == [900, 500, 100]
    assert s.num_inference_steps == 3
    plan = rv.solve.plan("dpmpp-2m", s.process, grid=[900.0, 500.0, 100.0, -1.0])
    assert torch.allclose(loop(s, start()), rv.run(plan, oracle(s), start()), atol=1e-9)
    levels = [float(s.process.sigma(t) / s.process.alpha(t)) for t in (900.0, 500.0, 100.0)]
    s.set_timesteps(sigmas=levels)
    assert s.timesteps.tolist() == pytest.approx([900, 500, 100], abs=1e-4)
    s.set_timesteps(sigmas=[*levels, 0.0])
    assert len(s.timesteps) == 3
    assert s.sigmas.tolist() == pytest.approx([*levels, 0.0])


@pytest.mark.parametrize("mu", [None, 0.8])
def test_flows(mu: float | None) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=mu is not None)
    s = scheduler("euler", theirs)
    assert s.config.prediction_type == "flow_prediction"
    sigmas = torch.linspace(1, 0.25, 4).tolist()
    more = {} if mu is None else {"mu": mu}
    s.set_timesteps(sigmas=sigmas, **more)
    theirs.set_timesteps(sigmas=sigmas, **more)
    assert torch.allclose(s.timesteps, theirs.timesteps, rtol=1e-5)
    assert torch.allclose(s.sigmas, theirs.sigmas, rtol=1e-5)
    x = y = start().float()
    for t in s.timesteps:
        x = s.step(torch.tanh(x), t, x).prev_sample
    for t in theirs.timesteps:
        y = theirs.step(torch.tanh(y), t, y).prev_sample
    assert torch.allclose(x, y, atol=1e-5)
    s.set_timesteps(4, **more)
    assert torch.allclose(s.timesteps, theirs.timesteps, rtol=1e-5)
    noise, t = torch.ones(2, 3), theirs.timesteps[1:2]
    assert torch.allclose(s.scale_noise(y, t, noise), theirs.scale_noise(y, t, noise), atol=1e-5)
    second = scheduler("dpmpp-2m", theirs)
    second.set_timesteps(4, **more)
    plan = rv.solve.plan("dpmpp-2m", second.process, 4, grid="trailing")
    assert torch.allclose(loop(second, start()), rv.run(plan, oracle(second), start()), atol=1e-4)


def test_noise_is_added_as_in_diffusers() -> None:
    theirs, s = DDPMScheduler(**SD), scheduler("ddim", SD)
    x, noise, t = start().float(), torch.ones(2, 3), torch.tensor([3, 900])
    assert torch.allclose(s.add_noise(x, noise, t), theirs.add_noise(x, noise, t), atol=1e-5)
    assert torch.allclose(s.get_velocity(x, noise, t), theirs.get_velocity(x, noise, t), atol=1e-5)
    assert torch.allclose(s.add_noise(x, noise, t[:1]), theirs.add_noise(x, noise, t[:1].repeat(2)), atol=1e-5)
    assert torch.allclose(s.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-5)


def test_clipping_holds_x0() -> None:
    s = scheduler("dpmpp-2m", SD, clip_sample=True, clip_sample_range=0.4)
    s.set_timesteps(5)
    x, o = start(), oracle(s)
    plan = rv.solve.plan("dpmpp-2m", s.process, 5, grid="trailing")
    clipped = rv.Model(lambda x, t: o(x, float(t[0])).x0.clamp(-0.4, 0.4), s.process, "x0", dtype=torch.float64)
    assert torch.allclose(loop(s, x), rv.run(plan, clipped, x), atol=1e-9)
    soft = scheduler("dpmpp-2m", SD, thresholding=True, dynamic_thresholding_ratio=0.5, sample_max_value=3.0)
    soft.set_timesteps(5)
    raw = torch.tensor([[0.5, 1.0, 2.0, 4.0]])
    assert torch.allclose(soft._clipped(raw), torch.tensor([[0.5, 1.0, 1.5, 1.5]]) / 1.5)
    assert torch.equal(soft._clipped(0.1 * raw), 0.1 * raw), "what lies within 1 stays"


def test_types_and_learned_variances() -> None:
    s = scheduler("dpmpp-2m", SD, variance_type="learned_range")
    s.set_timesteps(2)
    x = torch.randn(2, 4, 8, 8)
    raw = torch.randn(2, 8, 8, 8)
    half = s.step(raw.half(), 999, x.half())
    assert half.prev_sample.dtype == torch.float16
    assert half.pred_original_sample.shape == x.shape
    s.set_timesteps(2)
    assert torch.allclose(s.step(raw, 999, x).prev_sample, s.step(raw[:, :4], 999, x).prev_sample)
    pair = s.step(raw[:, :4], 999, x, return_dict=False)
    assert isinstance(pair, tuple)
    assert len(pair) == 2


def test_a_schedule_without_terminal_signal() -> None:
    s = scheduler("dpmpp-2m", SD, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    s.set_timesteps(5)
    assert float(s.process.alpha(999.0)) == 0
    assert s.sigmas[0] == torch.inf
    assert bool(loop(s, start()).isfinite().all())
    theirs = DPMSolverMultistepScheduler(**SD, rescale_betas_zero_snr=True)
    eps = scheduler("dpmpp-2m", theirs)
    assert float(eps.process.alpha(999.0)) == pytest.approx(2.0**-12, rel=1e-6)
    assert torch.allclose(eps.alphas_cumprod, theirs.alphas_cumprod, atol=1e-6)


def test_saved_and_loaded(tmp_path: Path) -> None:
    p = process_of(SD)
    plan = rv.solve.reroll(rv.solve.unroll(rv.solve.plan("unipc-3", p, 4)), "tuned").replace(
        provenance={"model": "somebody"}
    )
    plan.save(tmp_path / "four.json")
    for s in (
        scheduler(tmp_path / "four.json", SD),
        scheduler("dpmpp-3m", SD, grid="karras:5", solver_options={"lower_final": False}),
    ):
        s.save_pretrained(tmp_path / "s")
        again = Scheduler.from_pretrained(tmp_path / "s")
        assert {k: v for k, v in s.config.items() if k[0] != "_"} == {
            k: v for k, v in again.config.items() if k[0] != "_"
        }
        for one in (s, again):
            one.set_timesteps(4)
        assert torch.equal(loop(s, start()), loop(again, start()))
    text = json.loads((tmp_path / "s" / "scheduler_config.json").read_text())
    assert text["_class_name"] == "Scheduler"
    changed = scheduler("ddim", again.config)
    assert (changed.config.grid, changed.config.solver) == ("karras:5", "ddim")


@pytest.fixture(scope="module")
def pipe() -> Any:
    own = parts()
    made = StableDiffusionPipeline(**own, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def picture(pipe: Any, **more: Any) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.from_numpy(pipe(PROMPTS[0], guidance_scale=3.0, generator=g, output_type="np", **more).images)


def test_a_pipeline_draws_what_sample_draws_and_reloads(pipe: Any, tmp_path: Path) -> None:
    m = rv.hub.pipeline.text_to_image(**{k: v for k, v in pipe.components.items() if k in rv.hub.pipeline.PARTS})
    p = m.process
    fitted = rv.solve.reroll(rv.solve.unroll(rv.solve.plan("unipc-2", p, 3, grid="logsnr")), "tuned")
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    for given, plan in (("dpmpp-2m", rv.solve.plan("dpmpp-2m", p, 3, grid="trailing")), (fitted, fitted)):
        pipe.scheduler = scheduler(given, pipe.scheduler.config)
        drawn = picture(pipe, num_inference_steps=3)
        x = rv.run(plan, m | rv.guide.CFG(3.0), latents, cond=m.embed(PROMPTS[:1]))
        ours = (m.decode(x) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        assert (drawn - ours).abs().max() < 1e-3
        pipe.save_pretrained(tmp_path / "pipe")
        again = StableDiffusionPipeline.from_pretrained(tmp_path / "pipe", safety_checker=None)
        again.set_progress_bar_config(disable=True)
        assert type(again.scheduler) is Scheduler
        assert torch.equal(torch.tensor(picture(again, num_inference_steps=3)), torch.tensor(drawn))


def test_a_plan_fitted_to_another_network_is_told(pipe: Any) -> None:
    m = rv.hub.model(pipe)
    own = rv.solve.plan("ddim", m.process, 3).replace(provenance=rv.solve.origin.origin(m | rv.guide.CFG(3.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scheduler(own, pipe).config.plan["provenance"]["model"] == f"{m.name} | CFG(3)"
    with torch.no_grad():
        pipe.unet.conv_in.bias += 1.0
    with pytest.warns(rv.base.OriginWarning, match="not to the network of this pipeline"):
        scheduler(own, pipe)
    with torch.no_grad():
        pipe.unet.conv_in.bias -= 1.0


def test_image_to_image(pipe: Any) -> None:
    other = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    for solver in ("dpmpp-2m", "heun"):
        other.scheduler = scheduler(solver, pipe.scheduler.config, plan=None)
        image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        drawn = picture(other, image=image, strength=0.5, num_inference_steps=4)
        assert drawn.shape == (1, 64, 64, 3)
        assert other.scheduler.step_index == len(other.scheduler.timesteps)


def test_what_it_refuses(tmp_path: Path) -> None:
    s = scheduler("dpmpp-2m", SD)
    x = start()
    with pytest.raises(ArgumentError, match=r"call set_timesteps\(num_inference_steps\) before step"):
        s.step(x, 999, x)
    for wrong in ({}, {"timesteps": [5, 1], "sigmas": [5.0, 1.0]}):
        with pytest.raises(ArgumentError, match="give num_inference_steps, timesteps or sigmas"):
            s.set_timesteps(**wrong)
    with pytest.raises(ArgumentError, match="whole number of at least 1, got 0"):
        s.set_timesteps(0)
    with pytest.raises(TimeError, match="does not lie below node"):
        s.set_timesteps(timesteps=[5, 500])
    with pytest.raises(ArgumentError, match=r"mu = 0\.5 is for use_dynamic_shifting, which the config does not say"):
        s.set_timesteps(4, mu=0.5)
    with pytest.raises(ArgumentError, match="give set_timesteps mu"):
        scheduler("euler", FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)).set_timesteps(4)
    with pytest.raises(ArgumentError, match="shift_terminal, which Reverie's Scheduler does not do"):
        scheduler("euler", FlowMatchEulerDiscreteScheduler(shift_terminal=0.1))
    with pytest.raises(ArgumentError, match="of an EDM scheduler"):
        scheduler("euler", {"sigma_data": 0.5})
    with pytest.raises(UnknownNameError, match="dpmpp-9m"):
        scheduler("dpmpp-9m", SD)
    with pytest.raises(UnknownNameError, match="prediction"):
        scheduler("ddim", SD, prediction_type="noise")
    with pytest.raises(UnknownNameError, match="timestep_spacing"):
        scheduler("ddim", SD, timestep_spacing="even")
    with pytest.raises(ArgumentError, match="use_karras_sigmas and use_beta_sigmas exclude each other"):
        scheduler("ddim", SD, use_karras_sigmas=True, use_beta_sigmas=True)
    with pytest.raises(ArgumentError, match=r"cannot be a scheduler; rv\.sample and rv\.run take it"):
        scheduler(rv.solve.plan("ode-adaptive", s.process), SD).set_timesteps(4)
    with pytest.raises(ArgumentError, match="'ode-adaptive' chooses its steps during the run"):
        scheduler("ode-adaptive", SD)
    plan = rv.solve.plan("dpmpp-2m", s.process, 4)
    fixed = scheduler(plan, SD)
    with pytest.raises(
        ArgumentError,
        match="is of 4 evaluations at its own times, got num_inference_steps=50; give num_inference_steps=4",
    ):
        fixed.set_timesteps(50)
    with pytest.raises(ArgumentError, match="got timesteps or sigmas of your own"):
        fixed.set_timesteps(timesteps=[5, 1])
    with pytest.raises(ArgumentError, match="a plan fits the process that it was made for"):
        scheduler(plan, {"beta_schedule": "linear"}).set_timesteps(4)
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(FileError, match="is not a plan"):
        scheduler(tmp_path / "no.json", SD)
    with pytest.raises(FileError, match="the plan of the scheduler's config is not a plan"):
        Scheduler(plan={"format": "other"})
    wide = plan.replace(
        table=(plan.table[0], *(rv.solve.Stage(s.row * torch.ones(1, 3), s.t, s.to, s.step) for s in plan.table[1:]))
    )
    with pytest.raises(ArgumentError, match="has tensors as coefficients"):
        scheduler(wide, SD)
