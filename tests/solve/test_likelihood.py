"""Likelihoods: against closed-form densities, brute-force Jacobians, the total mass, the way back, and bad input."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reverie as rv
from reverie.base import PRIOR, ArgumentError, Noise, NonFiniteError, ShapeError, TimeError, UnknownNameError
from reverie.solve import likelihood
from reverie.solve.likelihood import Likelihood, log_likelihood, sample_with_likelihood

F64 = torch.float64
RTOL = 1e-4
"""Asked of most solutions here. It bounds nats / D; what comes out is better (1e-5 in all), and the default, 1e-6, far better."""

PROCESSES = {
    "vp-linear": rv.process.vp("linear"),
    "vp-cosine": rv.process.vp("cosine"),
    "subvp": rv.process.subvp(),
    "ve": rv.process.ve(),
    "edm": rv.process.edm(),
    "flow": rv.process.flow(),
    "ddpm": rv.process.ddpm((1 - torch.linspace(1e-4, 0.02, 1000, dtype=F64)).cumprod(0)),
}
FLOW = PROCESSES["flow"]


@pytest.fixture(params=PROCESSES.values(), ids=PROCESSES.keys())
def process(request: Any) -> Any:
    return request.param


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def mixture(p: Any, *shape: int, labels: Any = None) -> rv.oracle.Mixture:
    return rv.oracle.Mixture(0.7 * normal(3, *shape), [0.4, 0.6, 0.8], labels=labels, process=p)


def states(o: rv.oracle.Mixture, n: int, t: float | None = None) -> Tensor:
    """Samples of x_t, at t_min by default."""
    t = o.process.t_min if t is None else t
    x = o.sample(n, dtype=F64)
    return o.process.alpha(t) * x + o.process.sigma(t) * normal(*x.shape, seed=7)


def exact_prior(o: rv.oracle.Mixture) -> Any:
    """The density of x at t_max: what is left is the error of the ODE."""
    return lambda z: o.log_prob(z, o.process.t_max)


class MLP(nn.Module):
    """A smooth random network, conditional on the time."""

    def __init__(self, d: int) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.f = nn.Sequential(nn.Linear(d + 1, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, d))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 2 * self.f(torch.cat([x.flatten(1), t[:, None]], 1)).reshape(x.shape)


def brute_force(m: rv.Model, x: Tensor, cond: Any = None, h: float = 1e-3) -> tuple[Tensor, Tensor]:
    """(latent, log |det dlatent/dx|) of one state by central differences of `solve_ode`, which knows nothing of divergences."""
    d = x.numel()
    e = torch.eye(d, dtype=F64).reshape(d, *x.shape)
    t, t_end = m.process.t_min, m.process.t_max
    both = rv.oracle.solve_ode(m, torch.cat([x[None], x + h * e, x - h * e]), t, t_end, cond, rtol=1e-6)
    jacobian = (both[1 : d + 1] - both[d + 1 :]).reshape(d, d) / (2 * h)
    return both[0], jacobian.det().abs().log()


# -- closed forms


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)], ids=["2", "1x4x4"])
def test_total_nats_of_mixtures(process, shape):
    o = mixture(process, *shape)
    x = states(o, 3)
    answer = log_likelihood(o, x, prior=exact_prior(o), rtol=RTOL)
    torch.testing.assert_close(answer.nats, o.log_prob(x, process.t_min), rtol=0, atol=1e-5)
    assert answer.nats.dtype == F64
    assert answer.error is None
    torch.testing.assert_close(answer.latent, o.solve(x, process.t_min, process.t_max), rtol=RTOL, atol=RTOL)


def test_the_default_accuracy():
    o = mixture(FLOW, 3)
    x = states(o, 2)
    torch.testing.assert_close(log_likelihood(o, x).nats, o.log_prob(x), rtol=0, atol=1e-7)


def test_total_nats_in_many_dimensions():
    o = rv.oracle.Mixture(0.7 * normal(2, 3, 8, 8), [0.05, 0.2], process=PROCESSES["edm"])
    x = states(o, 1)
    answer = log_likelihood(o, x, prior=exact_prior(o), rtol=1e-3)
    torch.testing.assert_close(answer.nats, o.log_prob(x, 0.002), rtol=0, atol=1e-4)  # of some 200 nats


def test_the_volume_of_a_gaussian_in_closed_form(process):
    """dx'/dx = sqrt(v(t') / v(t)) in each direction of the covariance, v = alpha^2 s + sigma^2."""
    q, _ = torch.linalg.qr(normal(4, 4))
    s = torch.tensor([0.01, 0.3, 1.0, 4.0], dtype=F64)
    o = rv.oracle.Gaussian(normal(4, seed=1), q * s @ q.T, process=process)
    before, after = (process.alpha(t) ** 2 * s + process.sigma(t) ** 2 for t in (process.t_min, process.t_max))
    answer = log_likelihood(o, states(o, 2), rtol=RTOL)
    torch.testing.assert_close(answer.volume, ((after / before).log().sum() / 2).expand(2), rtol=0, atol=1e-5)


def test_the_default_prior_where_it_is_right(process):
    """At alpha = 0 (flow, cosine) it is exact; elsewhere it nearly is for data of mean 0 and variance 1."""
    exact = process.alpha(process.t_max) == 0
    o = mixture(process, 5) if exact else rv.oracle.Gaussian(torch.zeros(3), torch.eye(3), process=process)
    x = states(o, 3)
    error = (log_likelihood(o, x, rtol=RTOL).nats - o.log_prob(x, process.t_min)).abs().max()
    assert error < (1e-5 if exact else 1e-3)


def test_the_mismatch_of_the_prior_is_told_from_the_error_of_the_ode():
    o = mixture(PROCESSES["vp-linear"], 5)
    x = states(o, 3)
    default, known = log_likelihood(o, x, rtol=RTOL), log_likelihood(o, x, rtol=RTOL, prior=exact_prior(o))
    assert torch.equal(default.volume, known.volume)
    mismatch = torch.distributions.Normal(0.0, 1.0).log_prob(default.latent).sum(1) - o.log_prob(default.latent, 1.0)
    assert float(mismatch.abs().max()) > 1e-3  # alpha(1) = 0.0066 of the mean is left in the state
    torch.testing.assert_close(default.nats - known.nats, mismatch, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["vp-linear", "flow", "edm"])
def test_clean_data_and_times_inside(name):
    """At t_clean a network of x0 does not know eps; the stretch that is left out must not show."""
    p = PROCESSES[name]
    o = mixture(p, 3)
    x = states(o, 3, p.t_clean)
    clean = log_likelihood(o, x, t=p.t_clean, prior=exact_prior(o), rtol=RTOL)
    torch.testing.assert_close(clean.nats, o.log_prob(x), rtol=0, atol=1e-5)
    t, u = p.t_of_lam(0.7), p.t_of_lam(-0.7)
    x = states(o, 3, t)
    part = log_likelihood(o, x, t=t, t_end=u, prior=lambda z: o.log_prob(z, u), rtol=RTOL)
    torch.testing.assert_close(part.nats, o.log_prob(x, t), rtol=0, atol=1e-5)
    back = log_likelihood(
        o, x, t=t, t_end=p.t_clean, prior=o.log_prob, rtol=RTOL
    )  # towards the data, whose density is known
    torch.testing.assert_close(back.nats, o.log_prob(x, t), rtol=0, atol=1e-5)
    stay = log_likelihood(o, x, t=t, t_end=t, prior=lambda z: o.log_prob(z, t))
    torch.testing.assert_close(stay.volume, torch.zeros(3, dtype=F64), rtol=0, atol=1e-12)


def test_the_steps_are_held_to_the_density_too():
    """A state at the mean never moves: only the divergence, steep where sigma passes the data's spread, says how long a step may be."""
    o = rv.oracle.Gaussian(torch.zeros(2), torch.diag(torch.tensor([0.01, 0.02])) ** 2, process=FLOW)
    x = torch.zeros(1, 2)
    torch.testing.assert_close(log_likelihood(o, x, rtol=RTOL).nats, o.log_prob(x), rtol=0, atol=1e-5)


# -- Hutchinson's estimator


@pytest.mark.parametrize("law", ["rademacher", "normal"])
def test_hutchinson_is_within_three_standard_errors(law):
    """... and its standard error is of the right size: the mean square of the deviations in its units is about 1."""
    o = mixture(PROCESSES["vp-cosine"], 2, 3)
    x = states(o, 12)
    answer = log_likelihood(o, x, divergence="hutchinson", probes=64, law=law, rtol=RTOL)
    assert answer.error is not None
    z = (answer.nats - o.log_prob(x, 1e-3)) / answer.error
    assert float(answer.error.min()) > 0
    assert float(z.abs().max()) < 3
    assert 0.25 < float(z.square().mean()) < 2.2


def test_hutchinson_with_signs_is_exact_where_coordinates_are_independent():
    o = rv.oracle.Gaussian(normal(3), torch.diag(torch.tensor([0.1, 1.0, 3.0])), process=FLOW)
    x = states(o, 2)
    answer = log_likelihood(o, x, divergence="hutchinson", probes=2, rtol=RTOL)
    torch.testing.assert_close(answer.nats, o.log_prob(x), rtol=0, atol=1e-5)
    assert answer.error is not None
    assert float(answer.error.max()) < 1e-6
    one = log_likelihood(o, x, divergence="hutchinson", rtol=RTOL)
    assert one.error is not None
    assert bool(one.error.isnan().all())  # one probe cannot tell


def test_probes_belong_to_the_sample_and_to_the_seed():
    o = mixture(FLOW, 2, 3)
    x = states(o, 5)

    def estimate(rows: list[int], **more: Any) -> Tensor:
        return log_likelihood(o, x[rows], divergence="hutchinson", probes=2, rtol=1e-2, **more).nats

    together = estimate([0, 1, 2, 3, 4], index=[10, 11, 12, 13, 14])
    torch.testing.assert_close(estimate([3], index=[13]), together[3:4], rtol=0, atol=1e-9)
    torch.testing.assert_close(estimate([4, 1], index=[14, 11]), together[[4, 1]], rtol=0, atol=1e-9)
    blocks = estimate([0, 1, 2, 3, 4], index=[10, 11, 12, 13, 14], batch=2)
    torch.testing.assert_close(blocks, together, rtol=0, atol=1e-9)
    for other in ({"index": [14]}, {"index": [13], "seed": 1}, {"index": [13], "law": "normal"}):
        assert abs(float(estimate([3], **other) - together[3])) > 1e-3


def test_exact_likelihoods_do_not_depend_on_the_batch():
    o = mixture(PROCESSES["edm"], 4)
    x = states(o, 5)
    together = log_likelihood(o, x, rtol=RTOL)
    alone = log_likelihood(o, x[2:3], rtol=RTOL)
    torch.testing.assert_close(alone.nats, together.nats[2:3], rtol=0, atol=1e-9)
    assert int(alone.nfe) == int(together.nfe[2])
    before = o.calls
    again = log_likelihood(o, x[2:3], rtol=RTOL)
    assert int(again.nfe) == o.calls - before


# -- conditions and guidance


def test_conditions_belong_to_the_sample():
    o = mixture(PROCESSES["vp-cosine"], 2, labels=[0, 0, 1])
    x, labels = states(o, 4), torch.tensor([0, 1, -1, 1])
    answer = log_likelihood(o, x, cond={"class_labels": labels}, batch=3, rtol=RTOL)
    expected = o.log_prob(x, 1e-3, class_labels=labels)
    torch.testing.assert_close(answer.nats, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("guide", [rv.guide.CFG(2.5), rv.guide.CFG(2.0, rescale=0.5)], ids=["plain", "rescaled"])
def test_guided_volumes_against_finite_differences(guide):
    o = mixture(FLOW, 3)
    x, labels = states(o, 2), torch.tensor([0, 2])
    answer = log_likelihood(o, x, cond={"class_labels": labels}, guide=guide, rtol=RTOL)
    for i in range(2):
        latent, volume = brute_force(o | guide, x[i], {"class_labels": labels[i]})
        torch.testing.assert_close(answer.latent[i], latent, rtol=0, atol=1e-6)
        torch.testing.assert_close(answer.volume[i], volume, rtol=0, atol=1e-5)


def test_a_guided_density_has_mass_one():
    o = rv.oracle.Mixture([[-1.0], [0.5]], [0.5, 0.4], labels=[0, 1], process=FLOW)
    x = torch.linspace(-6, 6, 241, dtype=F64)[:, None]
    options: dict[str, Any] = {"cond": {"class_labels": 1}, "guide": rv.guide.CFG(2.0), "batch": 241, "rtol": 1e-3}
    density = log_likelihood(o, x, **options).nats.exp()
    assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1, abs=1e-4)
    expected = o.log_prob(x, 0.0, class_labels=1).exp()
    assert float((density - expected).abs().max()) > 0.05  # guidance has moved it


# -- networks


@pytest.mark.parametrize(("name", "predicts"), [("flow", "flow"), ("vp-linear", "eps"), ("edm", "edm")])
def test_networks_against_finite_differences_of_the_flow(name, predicts):
    net = MLP(4)
    m = rv.Model(net, PROCESSES[name], predicts)
    fine = rv.Model(copy.deepcopy(net).double(), PROCESSES[name], predicts)
    x = normal(1, 2, 2)
    latent, volume = brute_force(fine, x[0])
    answer = log_likelihood(m, x.float())
    torch.testing.assert_close(answer.volume, volume[None], rtol=0, atol=1e-4)
    scale = float(latent.abs().max())
    torch.testing.assert_close(answer.latent[0] / scale, latent / scale, rtol=0, atol=1e-4)
    torch.testing.assert_close(log_likelihood(fine, x, rtol=RTOL).volume, volume[None], rtol=0, atol=1e-4)
    assert all(p.grad is None for p in net.parameters())


class Stubborn(torch.autograd.Function):
    """tanh, whose backward pass cannot be vectorised."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.tensor(g.tolist(), dtype=g.dtype) * (1 - x.tanh() ** 2)


def test_a_network_that_refuses_the_vectorised_backward_pass():
    x = normal(2, 3)
    plain = rv.Model(lambda x, t: x.tanh(), FLOW, "flow")
    stubborn = rv.Model(lambda x, t: Stubborn.apply(x), FLOW, "flow")
    for options in ({}, {"divergence": "hutchinson", "probes": 3}):
        expected = log_likelihood(plain, x, rtol=1e-3, **options).nats
        torch.testing.assert_close(log_likelihood(stubborn, x, rtol=1e-3, **options).nats, expected)


def test_backward_passes_in_portions(monkeypatch):
    o = mixture(FLOW, 7)
    x = states(o, 2)
    expected = log_likelihood(o, x, rtol=1e-2).nats
    monkeypatch.setattr(likelihood, "AT_ONCE", 45)  # three vectors for two samples
    torch.testing.assert_close(log_likelihood(o, x, rtol=1e-2).nats, expected, rtol=0, atol=1e-9)


def test_a_network_that_hides_from_autograd_is_refused():
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x.detach() * self.w

    for net in (Hidden(), torch.no_grad()(lambda x, t: 2 * x)):
        with pytest.raises(ArgumentError, match="autograd does not see"):
            log_likelihood(rv.Model(net, PROCESSES["vp-linear"], "eps"), normal(1, 2))


def test_under_inference_mode():
    o = mixture(FLOW, 2)
    expected = log_likelihood(o, o.sample(2), rtol=RTOL).nats
    with torch.inference_mode():
        torch.testing.assert_close(log_likelihood(o, o.sample(2), rtol=RTOL).nats, expected)


# -- the way back


@pytest.mark.parametrize(
    "options", [{}, {"divergence": "hutchinson", "probes": 3, "seed": 4}], ids=["exact", "hutchinson"]
)
def test_samples_have_the_likelihood_they_came_with(options):
    for name in ("ve", "flow"):
        o = mixture(PROCESSES[name], 2, 2)
        x, told = sample_with_likelihood(o, 3, start=5, rtol=RTOL, **options)
        again = log_likelihood(o, x, index=[5, 6, 7], rtol=RTOL, **options)
        torch.testing.assert_close(again.nats, told.nats, rtol=0, atol=1e-5)
        torch.testing.assert_close(again.volume, told.volume, rtol=0, atol=1e-5)
        scale = o.process.prior_std()
        torch.testing.assert_close(again.latent / scale, told.latent / scale, rtol=0, atol=1e-5)
        if not options:
            exact = sample_with_likelihood(o, told.latent, prior=exact_prior(o), rtol=RTOL)
            torch.testing.assert_close(exact[0], x, rtol=0, atol=1e-12)
            torch.testing.assert_close(exact[1].nats, o.log_prob(x, o.process.t_min), rtol=0, atol=1e-5)


def test_the_noise_is_that_of_sample():
    o = mixture(FLOW, 2)
    x, told = sample_with_likelihood(o, seed=3, index=[4, 9])
    assert torch.equal(told.latent, Noise(3).normal((2,), index=[4, 9], stream=PRIOR, dtype=F64))
    torch.testing.assert_close(x, o.solve(told.latent), rtol=0, atol=1e-6)
    close = rv.sample(o, index=[4, 9], seed=3, steps=200, dtype=F64)
    torch.testing.assert_close(x, close, rtol=0, atol=1e-2)


# -- units


def test_bits_per_dim():
    """Data v of standard deviation 40 in units of a 255th: 1/2 log2(2 pi e 40^2) bits at the mean square, by way of v / 127.5 - 1."""
    p = PROCESSES["vp-cosine"]
    o = rv.oracle.Gaussian(torch.zeros(4), torch.eye(4) * (40 / 127.5) ** 2, process=p)
    x = torch.tensor([[1.0, -1.0, 1.0, 1.0]], dtype=F64) * 40 / 127.5
    bits = log_likelihood(o, x, t=p.t_clean).bits_per_dim(scale=127.5)
    assert bits.item() == pytest.approx(0.5 * math.log2(2 * math.pi * math.e * 1600), abs=1e-5)
    z = torch.zeros(1, 3, dtype=F64)
    zero = Likelihood(z[:, 0] - 3 * math.log(2), z, z[:, 0], z[:, 0], None, z[:, 0].long())
    assert [zero.bits_per_dim(s).item() for s in (1, 128, 256)] == pytest.approx([1.0, 8.0, 9.0])
    with pytest.raises(ArgumentError, match="scale"):
        zero.bits_per_dim(0)


def test_its_source_can_be_cited():
    assert "2011.13456" in rv.cite(log_likelihood)
    assert "2011.13456" in rv.cite(sample_with_likelihood)


# -- few samples, few coordinates, bad input


def test_none_and_scalars():
    o = mixture(FLOW, 2)
    none = log_likelihood(o, torch.zeros(0, 2))
    assert none.nats.shape == (0,)
    assert none.latent.shape == (0, 2)
    m = rv.Model(lambda x, t: x.tanh(), FLOW, "flow")
    x = normal(3)
    expected = log_likelihood(m, x[:, None]).nats
    torch.testing.assert_close(log_likelihood(m, x).nats, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"t": 1.5}, TimeError, "t = 1.5 is outside"),
        ({"t": 0.5, "t_end": 0.25}, ArgumentError, "t_end = 0.25 is nearer to the data than t = 0.5; give prior="),
        ({"divergence": "exat"}, UnknownNameError, "did you mean 'exact'"),
        ({"law": "gauss"}, UnknownNameError, "unknown law of probes 'gauss'"),
        ({"probes": 3}, ArgumentError, "divergence='hutchinson'"),
        ({"divergence": "hutchinson", "probes": 0}, ArgumentError, "at least 1, got 0"),
        ({"index": [1]}, ShapeError, "index has 1 ids for 2 samples"),
        ({"index": [1, -2]}, ArgumentError, "got -2"),
        ({"batch": 0}, ArgumentError, "batch must be"),
        ({"rtol": 2.0}, ArgumentError, "rtol must lie"),
        ({"prior": lambda z: z}, ShapeError, r"\(2,\), got \(2, 3\)"),
        ({"cond": {"class_labels": torch.zeros(5)}}, ShapeError, "batch of 2"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        log_likelihood(rv.Model(lambda x, t: x.tanh(), FLOW, "flow"), normal(2, 3), **options)


def test_bad_states_and_models():
    m = rv.Model(lambda x, t: x.tanh(), FLOW, "flow")
    with pytest.raises(ArgumentError, match=r"torch.uint8: scale it first"):
        log_likelihood(m, torch.zeros(1, 2, dtype=torch.uint8))
    with pytest.raises(ShapeError, match="states"):
        log_likelihood(m, 1.0)  # type: ignore[arg-type]
    with pytest.raises(NonFiniteError, match=r"samples \[8\] are not finite"):
        log_likelihood(m, torch.tensor([[0.0], [math.nan]]), index=[7, 8])
    with pytest.raises(NonFiniteError, match=r"not finite for samples \[8\]") as caught:
        log_likelihood(
            rv.Model(lambda x, t: (x - 1).sqrt(), FLOW, "flow"), torch.tensor([[9.0], [0.5]]), index=[7, 8], batch=1
        )
    assert caught.value.samples == (8,)
    with pytest.raises(ArgumentError, match=r"D = 5000 .* divergence='hutchinson'"):
        log_likelihood(m, torch.zeros(1, 5000))
    with pytest.raises(ArgumentError, match=r"torch.float16, too coarse .*net.float\(\)"):
        log_likelihood(rv.Model(nn.Linear(2, 2).half(), FLOW, "flow"), torch.zeros(1, 2))
    with pytest.raises(ArgumentError, match=r"a prediction of eps says nothing .* t_end=0.999"):
        log_likelihood(rv.Model(lambda x, t: x.tanh(), FLOW, "eps"), torch.zeros(1, 2))
    with pytest.raises(ShapeError, match="give shape="):
        sample_with_likelihood(m, 2)
    with pytest.raises(ArgumentError, match="n must be a whole number >= 0, got -1"):
        sample_with_likelihood(m, -1, shape=(2,))
    with pytest.raises(ShapeError, match="latents are a floating tensor"):
        sample_with_likelihood(m, torch.zeros(3, 2, dtype=torch.long))


def test_processes_that_are_not_covered(monkeypatch):
    m = rv.Model(lambda x, t: x.tanh(), FLOW, "flow")
    with monkeypatch.context() as patch:
        patch.setattr(type(FLOW), "gamma", lambda self, t: t)
        with pytest.raises(ArgumentError, match="degraded input y"):
            log_likelihood(m, torch.zeros(1, 2))
    with monkeypatch.context() as patch:
        patch.setattr(type(FLOW), "draw", lambda self, *a, **k: None)
        with pytest.raises(ArgumentError, match="does not start from Gaussian noise; give prior="):
            log_likelihood(m, torch.zeros(1, 2))
