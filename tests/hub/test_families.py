"""`hub.model` held against the stock pipeline, family by family: one call, a whole guided run, and the folder read back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EDMEulerScheduler
from torch import Tensor

import reverie as rv
import tiny_pipes
from tiny_pipes import PROMPTS, SIZE

STEPS, SCALE = 4, 3.0


@dataclass
class Case:
    """A family: its stock pipeline, how it is called, and the part of its first network output that is conditional."""

    make: Callable[[], Any]
    net: str = "unet"
    said: Any = field(default_factory=lambda: PROMPTS)
    guided: dict[str, Any] = field(default_factory=lambda: {"guidance_scale": SCALE})
    more: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    shape: tuple[int, int, int] = (4, 8, 8)
    told: Callable[[Any], dict[str, Any]] = lambda m: m.embed(PROMPTS)
    first: tuple[int, int] = (2, 4)
    drawn: bool = False
    grid: str | None = "trailing"
    negative: bool = False


def square(*size: int) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(5))


CONTROL, HOLE = square(2, 3, 16, 16), (square(2, 1, 16, 16) > 0.5).float()
FLUX = {
    "negative_prompt": ["blurry", "blurry"],
    "true_cfg_scale": SCALE,
    "guidance_scale": 2.5,
    "height": 16,
    "width": 16,
}
CASES = {
    "sd eps": Case(tiny_pipes.stable_diffusion),
    "sd v, negative prompt": Case(
        lambda: tiny_pipes.stable_diffusion(predicts="v_prediction"), more={"negative_prompt": ["blurry"] * 2}, negative=True
    ),
    "sd v, zero terminal signal": Case(
        lambda: tiny_pipes.stable_diffusion(scheduler=tiny_pipes.ddim(prediction_type="v_prediction", rescale_betas_zero_snr=True))
    ),
    "sd distilled": Case(
        lambda: tiny_pipes.stable_diffusion(config={"time_cond_proj_dim": 9}), guided={}, more={"guidance_scale": 5.0},
        told=lambda m: m.embed(PROMPTS, guidance=5.0), first=(0, 2),
    ),
    "sd controlnet": Case(
        tiny_pipes.controlled, more={"image": CONTROL, "controlnet_conditioning_scale": 0.7},
        told=lambda m: m.embed(PROMPTS, image=CONTROL, scale=0.7),
    ),
    "sd inpainting": Case(tiny_pipes.inpainting, told=lambda m: m.embed(PROMPTS, image=CONTROL, mask=HOLE)),
    "xl": Case(tiny_pipes.xl, more={"height": 16, "width": 24}, size=(16, 24), shape=(4, 8, 12)),
    "xl, empty prompt and crop": Case(
        lambda: tiny_pipes.xl(force_zeros_for_empty_prompt=False), more={"original_size": (24, 8), "crops_coords_top_left": (2, 4)},
        told=lambda m: m.embed(PROMPTS, original_size=(24, 8), crop=(2, 4)),
    ),
    "xl, negative prompt, two prompts": Case(
        tiny_pipes.xl, more={"negative_prompt": ["blurry"] * 2, "prompt_2": ["a star", "blue"]}, negative=True,
        told=lambda m: m.embed(PROMPTS, prompt_2=["a star", "blue"]),
    ),
    "xl edm": Case(lambda: tiny_pipes.xl(EDMEulerScheduler(sigma_max=20.0)), grid=None),
    "xl edm v": Case(lambda: tiny_pipes.xl(EDMEulerScheduler(prediction_type="v_prediction", sigma_data=1.0)), grid=None),
    "xl controlnet": Case(tiny_pipes.xl_controlled, more={"image": CONTROL}, told=lambda m: m.embed(PROMPTS, image=CONTROL)),
    "sd3": Case(tiny_pipes.sd3, "transformer", grid=None),
    "sd3 without t5": Case(lambda: tiny_pipes.sd3(third=False), "transformer", grid=None),
    "sd3, negative prompt": Case(tiny_pipes.sd3, "transformer", more={"negative_prompt": ["blurry"] * 2}, negative=True, grid=None),
    "flux": Case(
        tiny_pipes.flux, "transformer", guided=FLUX, size=(16, 16), first=(0, 2), told=lambda m: m.embed(PROMPTS, guidance=2.5)
    ),
    "flux not distilled": Case(
        lambda: tiny_pipes.flux(False), "transformer", guided=FLUX | {"width": 24}, size=(16, 24), shape=(4, 8, 12), first=(0, 2)
    ),
    "dit": Case(
        tiny_pipes.dit, "transformer", said=[7, 0], told=lambda m: m.embed([7, "0"]), first=(0, 2), drawn=True
    ),
    "pixart alpha": Case(
        lambda: tiny_pipes.pixart(True), "transformer", size=(16, 24), shape=(4, 8, 12),
        more={"use_resolution_binning": False, "clean_caption": False, "height": 16, "width": 24},
    ),
    "pixart sigma": Case(
        lambda: tiny_pipes.pixart(False), "transformer", more={"use_resolution_binning": False, "clean_caption": False}
    ),
    "ddim": Case(tiny_pipes.unconditional, said=2, guided={}, told=lambda m: {}, first=(0, 2), drawn=True, shape=(1, 8, 8)),
}  # fmt: skip


class Stock:
    """What the stock pipeline makes, and what its network said first."""

    def __init__(self, case: Case) -> None:
        self.case, self.pipe = case, case.make()
        self.start = torch.randn(2, *case.shape, generator=torch.Generator().manual_seed(1))
        outputs: list[Tensor] = []
        net = getattr(self.pipe, case.net)
        hook = net.register_forward_hook(
            lambda _, args, out: outputs.append(out[0] if isinstance(out, tuple) else out.sample)
        )
        more = dict(case.more)
        self.begin = self.start * getattr(self.pipe.scheduler, "init_noise_sigma", 1.0)
        if case.drawn:
            more["generator"] = torch.Generator().manual_seed(1)
        elif "true_cfg_scale" in case.guided:
            more["latents"] = self.pipe._pack_latents(self.start, 2, *case.shape)
        else:
            more["latents"] = self.start
        if self.pipe.__class__.__name__.endswith("InpaintPipeline"):
            hole = 2 * CONTROL - 1
            latents = (
                self.pipe.vae.encode(hole * (1 - HOLE)).latent_dist.mean.detach() * self.pipe.vae.config.scaling_factor
            )
            more |= {"image": CONTROL, "mask_image": HOLE, "masked_image_latents": latents}
        self.picture = self.pipe(case.said, num_inference_steps=STEPS, output_type="pt", **case.guided, **more).images
        hook.remove()
        self.first = outputs[0][slice(*case.first)]
        if self.first.ndim == 3:
            self.first = self.pipe._unpack_latents(self.first, *(SIZE * v for v in case.shape[1:]), SIZE)
        self.timesteps, self.sigmas = self.pipe.scheduler.timesteps, getattr(self.pipe.scheduler, "sigmas", None)
        self.model = rv.hub.model(self.pipe, size=case.size)


@pytest.fixture(scope="module", params=CASES)
def stock(request: pytest.FixtureRequest) -> Stock:
    return Stock(CASES[request.param])


def time_of(stock: Stock) -> float:
    """Of the first timestep."""
    p, t = stock.model.process, float(stock.timesteps[0])
    if isinstance(p, rv.process.VE):
        return float(stock.sigmas[0])
    return p.t_of_sigma(t / 1000) if isinstance(p, rv.process.Flow) else t


def worst(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


def test_one_call_is_that_of_the_stock_pipeline(stock: Stock, record_property: Any) -> None:
    m = stock.model
    assert m.shape == stock.case.shape
    said = m(stock.begin, time_of(stock), **stock.case.told(m))
    assert float(m.label(time_of(stock))) == pytest.approx(float(stock.timesteps[0]), rel=1e-6)
    whole = said.raw if said.variance is None else torch.cat([said.raw, said.variance], dim=1)
    error = worst(whole, stock.first)
    record_property("error", error)
    assert error < 1e-5
    assert float(stock.first.std()) > 1e-2
    swapped = {key: value.flip(0) for key, value in stock.case.told(m).items()}
    other = m(stock.begin, time_of(stock), **swapped).raw
    assert not swapped or worst(other, said.raw) > 1e-4, "what is told is heard"


def test_a_guided_run_makes_the_stock_pipeline_s_pictures(stock: Stock, record_property: Any) -> None:
    m, case = stock.model, stock.case
    if case.negative or "true_cfg_scale" in case.guided:
        m = m.with_null(m.embed("blurry"))
    if case.grid is None:
        pairs = list(zip(stock.sigmas.tolist(), [*stock.timesteps.tolist(), None], strict=True))
        plan = rv.solve.plan("euler", m.process, grid=pairs)
    else:
        plan = rv.solve.plan(
            "euler" if isinstance(m.process, rv.process.Flow) else "ddim", m.process, STEPS, grid=case.grid
        )
    guided = m | rv.guide.CFG(SCALE) if case.guided else m
    with torch.no_grad():
        ours = (m.decode(rv.run(plan, guided, stock.begin, cond=case.told(m))) / 2 + 0.5).clamp(0, 1)
    error = worst(ours, stock.picture)
    record_property("error", error)
    assert error < 1e-3
    inside = (stock.picture > 0) & (stock.picture < 1)
    assert inside.float().mean() > 0.3
    assert float(stock.picture[inside].std()) > 1e-2


def test_its_folder_is_the_same_model(stock: Stock, tmp_path: Path) -> None:
    stock.pipe.save_pretrained(tmp_path / "tiny")
    m = rv.hub.model(tmp_path / "tiny", size=stock.case.size)
    assert (m.name, m.shape, m.process) == ("tiny", stock.model.shape, stock.model.process)
    t = time_of(stock)
    with torch.no_grad():
        told = stock.case.told(m)
        ours, theirs = (x(stock.begin, t, **told) for x in (m, stock.model))
    assert torch.equal(ours.raw, theirs.raw)
    for key, value in (m.null or {}).items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor((stock.model.null or {})[key])), key
    assert not any(q.requires_grad for q in m.net.parameters())  # type: ignore[attr-defined]


def test_every_row_of_a_condition_is_a_prompt(stock: Stock) -> None:
    """So that rows can be selected, merged and cached: those of two prompts together are those of each alone."""
    told = stock.case.told(stock.model)
    assert all(isinstance(v, Tensor) and len(v) == 2 for v in told.values())
    x, t = stock.begin, time_of(stock)
    with torch.no_grad():
        both = stock.model(x, t, **told).raw
        alone = stock.model(x[1:], t, **rv.model.select(told, torch.tensor([1]), 2)).raw
    assert worst(both[1:], alone) < 1e-5
