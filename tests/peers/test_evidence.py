"""What docs/peers.md says of diffusers 0.42.1 and k-diffusion 0.1.1.post1, each statement reproduced; a failure means that a peer has changed."""

from __future__ import annotations

import inspect
import math
import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv

diffusers = pytest.importorskip("diffusers")

import diffusers_peers as peers  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
SD = peers.BETAS["sd"]


def scheduler(cls: str, steps: int, **options: Any) -> Any:
    s = getattr(diffusers, cls)(**{**({} if cls.startswith("Flow") else SD), **options})
    s.set_timesteps(steps)
    return s


def run(s: Any, net: Any = None) -> list[Tensor]:
    """Every state of its loop in float32."""
    x = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * float(s.init_noise_sigma)
    states = [x]
    for t in s.timesteps:
        asked = s.scale_model_input(x, t) if hasattr(s, "scale_model_input") else x
        out = torch.tanh(asked + float(t) / 1000) if net is None else net(asked, t)
        x = s.step(out, t, x, return_dict=False)[0]
        states.append(x)
    return states


# -- formulas


def _march(kind: str, steps: int, order: int, eta: float) -> float:
    """Error of the mean at lam = 2 from lam = -2 for data exp(lam / 2), which depends on time alone; no noise, and an exact start."""
    lams = torch.linspace(-2, 2, steps + 1, dtype=torch.float64)
    sigmas = torch.exp(-lams)
    places, weights = (torch.tensor(v, dtype=torch.float64) for v in _legendre())
    exact = [torch.ones(peers.SHAPE, dtype=torch.float64)]
    for s, t in pairwise(lams):
        h, (a_t, s_t) = t - s, _vp(t)
        u = h / 2 * (1 + places)
        rate = (1 + eta) * torch.exp(-(1 + eta) * (h - u)) * torch.exp((s + u) / 2)
        exact.append(s_t / _vp(s)[1] * torch.exp(-eta * h) * exact[-1] + a_t * h / 2 * (weights * rate).sum())
    if kind == "diffusers":
        made = _march_diffusers(sigmas, order, eta, exact)
    else:
        p = rv.process.edm(1e-3, 1e3)
        options: Any = {"variant": "taylor", "lower_final": False}
        if order == 3:
            options["released"] = kind == "released"
        if eta:
            options["eta"] = eta
        plan = rv.solve.plan(f"dpmpp-{order}m" + ("-sde" if eta else ""), p, grid=sigmas.tolist(), **options)
        m = rv.Model(lambda x, t: t.rsqrt().reshape(-1, 1, 1, 1).expand_as(x), p, predicts="x0", label="t")
        z = torch.zeros(max(plan.noises, 1), *peers.SHAPE, dtype=torch.float64)

        class ExactStart:
            def after(self, r: Any) -> None:
                if r.k < order - 1:
                    r.x = exact[r.k + 1] / _vp(lams[r.k + 1])[0]

        made = rv.run(plan, m, exact[0] / _vp(lams[0])[0], noise=z, hooks=ExactStart()) * _vp(lams[-1])[0]
    return float((made - exact[-1]).abs().max())


def _march_diffusers(sigmas: Tensor, order: int, eta: float, exact: list[Tensor]) -> Tensor:
    s = scheduler(
        "DPMSolverMultistepScheduler",
        len(sigmas) - 1,
        solver_order=order,
        solver_type="heun",
        algorithm_type="sde-dpmsolver++" if eta else "dpmsolver++",
        final_sigmas_type="sigma_min",
        lower_order_final=False,
        prediction_type="sample",
    )

    def data(i: int) -> Tensor:
        return sigmas[i].rsqrt().expand(peers.SHAPE)

    s.sigmas, s.timesteps = sigmas, torch.arange(len(sigmas) - 1, 0, -1)
    s._step_index, s.lower_order_nums = order - 1, order - 1
    s.model_outputs = [data(0), *(data(i) for i in range(order - 1))]
    x, zero = exact[order - 1], torch.zeros(len(sigmas), *peers.SHAPE, dtype=torch.float64)
    with peers.widened(s), peers.fed(s, iter(zero)):
        for i in range(order - 1, len(sigmas) - 1):
            x = s.step(data(i), s.timesteps[i], x, return_dict=False)[0]
    return x


def _legendre() -> Any:
    numpy = pytest.importorskip("numpy")
    return numpy.polynomial.legendre.leggauss(12)


def _vp(lam: Tensor) -> tuple[Tensor, Tensor]:
    return torch.sigmoid(2 * lam).sqrt(), torch.sigmoid(-2 * lam).sqrt()


def _slope(kind: str, order: int, eta: float) -> float:
    return math.log2(_march(kind, 40, order, eta) / _march(kind, 80, order, eta))


def test_third_order_update_is_of_second_order() -> None:
    assert abs(_slope("diffusers", 3, 0.0) - 2) < 0.15
    assert abs(_slope("released", 3, 0.0) - 2) < 0.15
    assert _slope("reverie", 3, 0.0) > 2.8
    vp = rv.process.vp()
    assert rv.solve.check_order("dpmpp-3m", vp, released=True).order == 2
    assert rv.solve.check_order("dpmpp-3m", vp).order == 3


def test_third_order_sde_is_of_first_order() -> None:
    assert abs(_slope("diffusers", 2, 1.0) - 2) < 0.15
    assert abs(_slope("diffusers", 3, 1.0) - 1) < 0.15
    assert 6 < _march("diffusers", 40, 3, 1.0) / _march("diffusers", 40, 2, 1.0) < 7
    assert abs(_slope("released", 3, 1.0) - 2) < 0.15  # k-diffusion
    assert _slope("reverie", 3, 1.0) > 2.8


def test_weight_of_the_second_difference_has_the_wrong_sign() -> None:
    """m0, m1, m2 = 0, 1, 4 at even steps have no slope at the node and D2 = 1: what is left of a step is that weight."""

    def weight(algorithm: str, h: float) -> float:
        s = scheduler(
            "DPMSolverMultistepScheduler",
            4,
            solver_order=3,
            algorithm_type=algorithm,
            prediction_type="sample",
        )
        s.sigmas = torch.exp(h * torch.arange(5.0, 0.0, -1.0, dtype=torch.float64))
        s._step_index = 2
        alpha = 1 / float((1 + s.sigmas[3] ** 2).sqrt())
        flat = torch.zeros(1, dtype=torch.float64)
        made = s.multistep_dpm_solver_third_order_update([flat + 4, flat + 1, flat], sample=flat, noise=flat)
        return float(made) / alpha

    for h in (0.3, 0.03, 0.003):
        derived = (1 - math.exp(-2 * h) - 2 * h) / (2 * h) ** 2 + 0.5
        assert weight("sde-dpmsolver++", h) == pytest.approx(derived - 1, abs=1e-6)
        assert 0 < derived < h  # vanishes with h
    assert weight("sde-dpmsolver++", 0.003) == pytest.approx(-1, abs=0.01)  # does not
    assert abs(weight("dpmsolver++", 0.003)) < 0.003


def _point_mass(cls: str, steps: int, kind: str, **options: Any) -> float:
    """Distance from the only datum there is, 0.7, with the exact network for it."""
    s = scheduler(cls, steps, prediction_type=kind, **options)
    abar, x = s.alphas_cumprod.double(), peers.start()
    with peers.widened(s):
        for t in s.timesteps:
            a, b = abar[int(t)].sqrt(), (1 - abar[int(t)]).sqrt()
            eps = (x - a * 0.7) / b
            x = s.step(eps if kind == "epsilon" else a * eps - b * 0.7, t, x, return_dict=False)[0]
    return float((x - 0.7).abs().max())


def test_pndm_mixes_v_of_different_times() -> None:
    for more in ({"skip_prk_steps": True}, {}):
        options: Any = {"set_alpha_to_one": True, **more}
        assert _point_mass("PNDMScheduler", 20, "epsilon", **options) < 1e-12
        assert _point_mass("PNDMScheduler", 20, "v_prediction", **options) > 1e-3
    assert _point_mass("DDIMScheduler", 20, "v_prediction", clip_sample=False) < 1e-12
    # the same scheduler is right, and Reverie's, when eps is made of v before it combines
    line = next(p for p in peers.peers() if p.name == "PLMS" and p.steps == 20)
    assert peers.parity(line).states < 1e-12


def test_ipndm_ignores_its_first_call() -> None:
    s = diffusers.IPNDMScheduler()
    s.set_timesteps(8)
    assert float(s.alphas[0]) == 0.0  # the division is by max(0, 1e-8)
    ends = []
    for first in (0.0, 1000.0):
        s.set_timesteps(8)
        ends.append(run(s, lambda x, t, first=first: torch.tanh(x) + (first if float(t) == 1.0 else 0.0))[1])
    assert torch.equal(ends[0], ends[1])


def test_brownian_motion_of_the_sde_scheduler_runs_in_sigma() -> None:
    """The two noises of a step s -> s1 -> t are correlated as Brownian motion in sigma; those of the SDE as in 1 / sigma^2."""
    s = scheduler("DPMSolverSDEScheduler", 8, noise_sampler_seed=0)
    sampler = inspect.getmodule(type(s)).BrownianTreeNoiseSampler(torch.zeros(5000), 1.0, 4.0, 0)  # type: ignore[union-attr]
    a, m, b = 4.0, 2.0, 1.0
    one, whole = sampler(a, m), sampler(a, b)
    made = float((one * whole).mean())
    in_sigma = math.sqrt((a - m) / (a - b))
    of_the_sde = math.sqrt((m**-2 - a**-2) / (b**-2 - a**-2))
    assert made == pytest.approx(in_sigma, abs=0.03)
    assert in_sigma - of_the_sde > 0.3


def test_the_sde_scheduler_takes_no_generator() -> None:
    assert "generator" not in inspect.signature(diffusers.DPMSolverSDEScheduler.step).parameters
    ends = []
    for seed in (0, 1):
        torch.manual_seed(seed)  # the global one is what counts
        ends.append(run(scheduler("DPMSolverSDEScheduler", 6))[-1])
    assert (ends[0] - ends[1]).abs().max() > 0.01


# -- last steps


def test_ddpm_fixed_large_ends_in_noise_with_trailing_spacing() -> None:
    def net_of(s: Any) -> Any:  # the exact network for data 0
        return lambda x, t: x / (1 - s.alphas_cumprod[t]).sqrt()

    for spacing, left in (("trailing", 0.37), ("leading", 0.0)):
        s = scheduler("DDPMScheduler", 8, variance_type="fixed_large", timestep_spacing=spacing, clip_sample=False)
        x, net = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)), net_of(s)
        torch.manual_seed(0)
        for t in s.timesteps:
            x = s.step(net(x, t), t, x, return_dict=False)[0]
        assert float(x.std()) == pytest.approx(left, abs=0.02)
    plan = rv.solve.plan("ddpm", rv.process.ddpm(s.alphas_cumprod.double()), steps=8, variance="large")
    assert plan.noises == 7


def test_ddim_keeps_the_noise_of_label_zero() -> None:
    """Stable Diffusion's configuration, set_alpha_to_one=False, ends at abar[0]; with steps_offset=0 too, the last call moves nothing."""
    s = scheduler("DDIMScheduler", 20, set_alpha_to_one=False, steps_offset=1, clip_sample=False)
    assert peers.pairs(s)[-1][0] == pytest.approx(0.0292, abs=1e-4)
    states = run(scheduler("DDIMScheduler", 20, set_alpha_to_one=False, clip_sample=False))
    assert (states[-1] - states[-2]).abs().max() < 1e-6
    assert rv.solve.plan("ddim", rv.process.ddpm(s.alphas_cumprod.double()), steps=20).end == "denoise"


@pytest.mark.parametrize("cls", ["DEISMultistepScheduler", "SASolverScheduler"])
def test_last_step_of_deis_and_sa_solver_has_length_zero(cls: str) -> None:
    for kind in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"):
        s = scheduler(cls, 10, **{kind: True})
        assert s.sigmas[-1] == s.sigmas[-2] > 0
    if cls.startswith("DEIS"):
        states = run(scheduler(cls, 10, use_karras_sigmas=True))
        assert (states[-1] - states[-2]).abs().max() < 1e-6


# -- NaN

DPM, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
KARRAS_MIN = {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}


@pytest.mark.parametrize(
    ("cls", "steps", "options"),
    [
        (UNIPC, 10, {"solver_type": "bh1"}),
        (UNIPC, 10, {"lower_order_final": False}),
        (UNIPC, 10, {"solver_order": 3, "lower_order_final": False, **KARRAS_MIN}),
        (DPM, 20, {"solver_order": 3, **KARRAS_MIN}),
        (DPM, 20, {"solver_type": "heun", **KARRAS_MIN}),
        (DPM, 20, {"solver_type": "heun", "use_lu_lambdas": True, "final_sigmas_type": "sigma_min"}),
        ("DDPMScheduler", 20, {"variance_type": "fixed_large_log"}),
    ],
)
def test_nan(cls: str, steps: int, options: dict[str, Any]) -> None:
    assert not run(scheduler(cls, steps, **options))[-1].isfinite().all()


def test_unipc_of_order_three_into_zero_raises() -> None:
    with pytest.raises(RuntimeError, match="solve"):
        run(scheduler(UNIPC, 10, solver_order=3, lower_order_final=False))


def test_eps_at_zero_terminal_signal_is_infinite() -> None:
    s = scheduler("DDIMScheduler", 10, rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False)
    assert not run(s)[-1].isfinite().all()


def test_reverie_names_what_has_no_answer() -> None:
    p = rv.process.ddpm(scheduler("DDIMScheduler", 10).alphas_cumprod.double())
    with pytest.raises(rv.base.TimeError, match="does not lie below"):
        rv.solve.plan("dpmpp-3m", p, grid=peers.pairs(scheduler(DPM, 20, solver_order=3, **KARRAS_MIN)))
    for name, options in (("unipc-2", {"variant": "bh1"}), ("unipc-3", {"lower_final": False})):
        plan = rv.solve.plan(name, p, steps=10, **options)
        assert rv.run(plan, rv.Model(peers.Net(), p, predicts="eps"), peers.start()).isfinite().all()


# -- nodes


@pytest.mark.parametrize(("betas", "error"), [("sd", 1.3e-5), ("linear", 8.3e-5), ("cosine", 2.6e-4)])
def test_float32_abar_loses_digits(betas: str, error: float) -> None:
    """Relative error of the smallest sigma / alpha; float32 itself holds 6e-8."""
    s = diffusers.DDIMScheduler(**peers.BETAS[betas])
    made, exact = (peers.process(s, exact=e) for e in (False, True))
    ratio = [p.sigma(0.0) / p.alpha(0.0) for p in (made, exact)]
    assert abs(ratio[0] / ratio[1] - 1) == pytest.approx(error, rel=0.05)


@pytest.mark.parametrize(
    ("kind", "first", "at_fifty"),
    [
        ("use_karras_sigmas", 45, 1),
        ("use_exponential_sigmas", 19, 3),
        ("use_lu_lambdas", 29, 2),
        ("use_beta_sigmas", 32, 1),
    ],
)
def test_labels_twice(kind: str, first: int, at_fifty: int) -> None:
    def doubles(n: int, cls: str = DPM) -> int:
        labels = scheduler(cls, n, **{kind: True}).timesteps.tolist()
        return len(labels) - len(set(labels))

    assert doubles(first - 1) == 0 < doubles(first)
    assert doubles(50) == at_fifty
    if kind != "use_lu_lambdas":
        assert doubles(50, "EulerDiscreteScheduler") == 0  # fractional labels
        assert doubles(50, UNIPC) == at_fifty


def test_beta_sigmas_run_over_the_end_from_32_steps() -> None:
    """The first label comes twice; the loop starts at the second and runs one index too far."""
    assert run(scheduler(DPM, 31, use_beta_sigmas=True))[-1].isfinite().all()
    for n in (32, 50):
        with pytest.raises(IndexError):
            run(scheduler(DPM, n, use_beta_sigmas=True))
        told = scheduler(DPM, n, use_beta_sigmas=True)
        told.set_begin_index(0)
        assert run(told)[-1].isfinite().all()


def test_labels_are_cut_not_rounded() -> None:
    kept = scheduler("EulerDiscreteScheduler", 10, use_exponential_sigmas=True).timesteps.double()
    cut = scheduler(DPM, 10, use_exponential_sigmas=True).timesteps.double()
    assert torch.equal(cut[1:], kept[1:].floor())
    assert (kept - cut)[1:].max() > 0.7
    assert (cut[0], round(float(kept[0]), 4)) == (998, 999)  # 998.99999 is cut too


def test_beta_sigmas_are_quantiles_in_sigma() -> None:
    s = scheduler(DPM, 9, use_beta_sigmas=True)
    assert [round(t) for _, t in peers.pairs(s)[:-1]][
        4
    ] > 850  # the middle of 9 labels; the paper's is the middle of time
    p = rv.process.ddpm(s.alphas_cumprod.double())
    times = rv.solve.plan("dpmpp-2m", p, steps=9, grid="beta", end="zero").times
    assert times[4] == pytest.approx(499.5, abs=1)


def test_trailing_spacing_can_add_a_label_below_zero() -> None:
    """np.arange(1000, 0, -1000 / 61) has 62 elements."""
    for cls in ("DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", DPM, UNIPC):
        labels = scheduler(cls, 61, timestep_spacing="trailing").timesteps.tolist()
        assert (len(labels), labels[-1]) == (62, -1)
    few, many = (
        run(scheduler("DDIMScheduler", n, timestep_spacing="trailing", clip_sample=False))[-1] for n in (60, 61)
    )
    assert (few - many).abs().max() > 1  # alphas_cumprod[-1] is the noisiest of all
    p = rv.process.ddpm(scheduler("DDIMScheduler", 61).alphas_cumprod.double())
    assert len(rv.solve.plan("ddim", p, steps=61, grid="trailing").times) == 62


def test_ddim_steps_to_other_levels_than_it_asks_at() -> None:
    """prev_timestep = t - 1000 // N, whatever the spacing: with linspace the state is up to 18 labels from its label at 8 steps."""
    s = scheduler("DDIMScheduler", 8, timestep_spacing="linspace", clip_sample=False)
    abar, z = s.alphas_cumprod.double(), peers.start()
    x = abar[999].sqrt() * 0.7 + (1 - abar[999]).sqrt() * z
    with peers.widened(s):
        x = s.step(z, s.timesteps[0], x, return_dict=False)[0]
    assert torch.allclose(x, abar[874].sqrt() * 0.7 + (1 - abar[874]).sqrt() * z)
    assert int(s.timesteps[1]) == 856
    assert (
        _point_mass(
            "PNDMScheduler", 8, "epsilon", timestep_spacing="linspace", skip_prk_steps=True, set_alpha_to_one=True
        )
        > 0.3
    )
    assert _point_mass("DDIMScheduler", 7, "epsilon", timestep_spacing="trailing", clip_sample=False) > 0.05


def test_number_of_calls_is_not_the_number_of_steps() -> None:
    counts = {
        ("PNDMScheduler", ()): 29,
        ("PNDMScheduler", (("skip_prk_steps", True),)): 21,
        ("HeunDiscreteScheduler", ()): 39,
        ("KDPM2DiscreteScheduler", ()): 39,
        ("DPMSolverSDEScheduler", ()): 39,
        ("DPMSolverSinglestepScheduler", ()): 20,  # ten steps of two calls
        (DPM, (("timestep_spacing", "trailing"), ("lambda_min_clipped", -1.0))): 13,
    }
    for (cls, options), count in counts.items():
        assert len(scheduler(cls, 20, **dict(options)).timesteps) == count


def test_karras_range_depends_on_the_spacing() -> None:
    for cls in ("Euler", "Heun", "LMS", "KDPM2"):
        cls = f"{cls}DiscreteScheduler"
        first = {
            sp: float(scheduler(cls, 8, use_karras_sigmas=True, timestep_spacing=sp).sigmas[0])
            for sp in ("linspace", "leading")
        }
        assert first["linspace"] == pytest.approx(14.615, abs=1e-3)
        assert first["leading"] == pytest.approx(7.334, abs=1e-3)
    s = scheduler("EulerDiscreteScheduler", 8, use_karras_sigmas=True, timestep_spacing="trailing")
    assert float(s.sigmas[-2]) == pytest.approx(0.398, abs=1e-3)
    assert float(scheduler(DPM, 8, use_karras_sigmas=True, timestep_spacing="leading").sigmas[0]) > 14.6


def test_lambda_min_clipped_does_not_clip_karras() -> None:
    options: Any = {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}
    assert float(scheduler(DPM, 10, **options).sigmas[0]) < math.exp(5.1)
    assert float(scheduler(DPM, 10, use_karras_sigmas=True, **options).sigmas[0]) > 20000


def test_flow_match_shifts_its_last_sigma_twice() -> None:
    s = scheduler("FlowMatchEulerDiscreteScheduler", 8, shift=3.0)

    def shift(x: float) -> float:
        return 3 * x / (1 + 2 * x)

    assert float(s.sigmas[-2]) == pytest.approx(shift(shift(1e-3)), rel=1e-4)
    assert float(s.sigmas[-3] - s.sigmas[-2]) > 0.3  # then the last call moves by 0.009
    plan = rv.solve.plan("euler", rv.process.flow(3.0), steps=8, grid="time")
    assert rv.process.flow(3.0).sigma(plan.times[-2]) == pytest.approx(shift(1 / 8))


def test_euler_starts_with_too_little_noise() -> None:
    s = scheduler("EulerDiscreteScheduler", 8, timestep_spacing="trailing")
    top = float(s.sigmas[0])
    assert float(s.init_noise_sigma) == pytest.approx(top)
    assert 1 - top / math.sqrt(top**2 + 1) == pytest.approx(2.3e-3, abs=1e-4)


def test_singlestep_rewrites_its_configuration() -> None:
    s = diffusers.DPMSolverSinglestepScheduler(**SD)
    assert s.config.lower_order_final is False
    s.set_timesteps(8)
    assert s.config.lower_order_final is True


# -- harmless


def test_lms_quadrature_is_exact_enough() -> None:
    """scipy's quad at epsrel=1e-4 integrates cubics to rounding: no difference to exact integrals."""
    line = next(p for p in peers.peers() if p.name == "LMS Karras" and p.steps == 20)
    assert peers.parity(line).states < 1e-7


def test_lcm_boundary_terms_are_small() -> None:
    s = diffusers.LCMScheduler(**SD)
    skip, out = s.get_scalings_for_boundary_condition_discrete(torch.tensor(19))
    assert float(skip) < 1e-5
    assert 1 - float(out) < 1e-5


# -- the page


def test_fragments_of_the_page_run() -> None:
    text = (peers.ROOT / "docs" / "peers.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))
    assert code.count("assert") >= 8
    exec(compile(code, "docs/peers.md", "exec"), {})


def test_every_statement_of_the_page_has_its_test() -> None:
    text = (peers.ROOT / "docs" / "peers.md").read_text()
    for library, kind in (("diffusers", "schedulers"), ("k-diffusion", "samplers")):
        lines = {p.name: p.cls for p in peers.peers(library)}
        assert re.search(rf"{len(lines)} (configurations )?of {len(set(lines.values()))} {library} {kind}", text)
    named = set(re.findall(r"`(test_\w+)`", text))
    own = {name for name in globals() if name.startswith("test_")}
    assert named <= own
    assert own - named <= {"test_fragments_of_the_page_run", "test_every_statement_of_the_page_has_its_test"}
