"""Exact likelihood by the probability-flow ODE, forwards and backwards.

Along the flow dx/dt = w(x, t) the density of the states changes by the divergence, d log p_t(x_t) / dt = -div w: so the log-density of a sample
is that of where it comes from plus an integral. As `oracle.ode` does, we go along theta = atan2(sigma, alpha) with the state as a direction,

    x_t = rho y,    rho = sqrt(alpha^2 + sigma^2),    dy / dtheta = u(y, theta),

where nothing is singular. The density of y is q(y) = rho^D p_t(rho y), since dx = rho^D dy, and d log q(y_theta) / dtheta = -div_y u. Between the
times t and t' (angles theta, theta'), with x' the state that the flow makes of x,

    log p_t'(x') + D log rho'  =  log p_t(x) + D log rho - integral_theta^theta' div_y u dtheta,    that is

    log p_t(x) = log p_t'(x') + volume,    volume = integral_theta^theta' div_y u dtheta + D log(rho' / rho) = log |det dx'/dx|.

div_y u = trace J, J = du/dy, by products v^T J (one backward pass each), through whatever the model is made of, guidance included:

    exact        sum_i e_i^T J e_i over the D basis vectors: no error but that of the solution
    hutchinson   mean_k v_k^T J v_k,    E[v v^T] = I: unbiased, its standard error told by the scatter over probes

A probe stays the same during a whole solve (a fresh one at each stage would make the right-hand side rough), and is a function of (seed, sample
id, k), so that a sample's estimate depends on no other sample. The integral is carried beside the state, divided by D, under the same error
control; with several probes, each is a component of its own. The same probe there and back gives the same estimate.

Sources: Song et al. 2021 (2011.13456, section 4.3 and appendix D.2), Grathwohl et al. 2019 (1810.01367, FFJORD: Hutchinson's estimator in the flow,
the probe kept), Chen et al. 2018 (1806.07366, the change of density), Hutchinson 1989.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.base import PRIOR, ArgumentError, Noise, NonFiniteError, ShapeError, cites, implements, unknown
from reverie.model import Model, Prediction, conditions, select
from reverie.oracle.ode import ANGULAR, EDGE, angle, check_time, integrate, predictor, silent_at_clean, tolerance
from reverie.process import Process

__all__ = ["DIVERGENCES", "LAWS", "Likelihood", "log_likelihood", "sample_with_likelihood"]

DIVERGENCES = ("exact", "hutchinson")
LAWS = ("rademacher", "normal")

EXACT = 4096
"""Largest D for which an exact divergence, D backward passes an evaluation, is attempted (a CIFAR-10 picture has 3072)."""

PROBES = 24
"""The stream of probes: draws of another stream are independent of it."""

AT_ONCE = 2**18
"""Entries of the vectors that one batched backward pass carries; what the network keeps for them grows with it."""

Prior = Callable[[Tensor], Tensor]
"""States (B, *shape) at the noise end -> their log-density in nats, (B,)."""


@dataclass(frozen=True, eq=False)
class Likelihood:
    """What the probability flow says of B samples; every tensor is float64 but `nfe`.

    Attributes:
        nats: (B,), log p_t(x) = log_prior + volume, summed over the coordinates.
        latent: (B, *shape), the state at t_end that belongs to each sample.
        log_prior: (B,), its log-density there, nats.
        volume: (B,), log |det dlatent/dx|, nats: the integral of the divergence, the scaling of the coordinates included.
        error: (B,), standard error of `nats` over the probes (NaN for one probe, which cannot tell); None where the divergence is exact.
        nfe: (B,) int64, how often the model was asked about each sample. Each time it took D backward passes (exact) or `probes` of them.
    """

    nats: Tensor
    latent: Tensor
    log_prior: Tensor
    volume: Tensor
    error: Tensor | None
    nfe: Tensor

    def bits_per_dim(self, scale: float = 1.0) -> Tensor:
        """-nats / (D log 2) + log2(scale), (B,): the code length of one coordinate of the data, in units of the data.

        Args:
            scale: units of the data in one unit of the state. 1: bits of the state's own density. For 8-bit values v and uniform dequantisation,
                0 <= u < 1: 128 for states (v + u) / 128 - 1 in [-1, 1] (the papers' +7), 256 for (v + u) / 256 (+8), 127.5 for v / 127.5 - 1
                (+6.994).

        Raises `ArgumentError` unless scale is positive and finite.

        >>> z = torch.zeros(1, 3, dtype=torch.float64)
        >>> Likelihood(z[:, 0], z, z[:, 0], z[:, 0], None, z[:, 0].long()).bits_per_dim(scale=128).item()
        7.0
        """
        if not 0 < scale < math.inf:
            raise ArgumentError(
                f"scale is the units of the data in one unit of the state, > 0 and finite, got {scale!r}"
            )
        return -self.nats / (self.latent.shape[1:].numel() * math.log(2)) + math.log2(scale)


@implements("score-sde")
@cites("ffjord")
def log_likelihood(
    m: Model,
    x: Tensor,
    *,
    t: float | None = None,
    t_end: float | None = None,
    divergence: str = "exact",
    probes: int = 1,
    law: str = "rademacher",
    seed: int = 0,
    index: Sequence[int] | None = None,
    cond: Mapping[str, Any] | None = None,
    guide: Callable[[Model], Model] | None = None,
    rtol: float | None = None,
    prior: Prior | None = None,
    batch: int = 16,
) -> Likelihood:
    """log p_t(x) under the model's probability flow, in nats: log prior(latent) + log |det dlatent/dx|; see the module.

    Args:
        x: (B, *shape), floating: states at time t, whose density is meant. With a codec, encode the data first. Where t_min > 0, clean data stand
            in for slightly noised ones, as in the paper.
        t, t_end: the data end and the noise end, t_min and t_max by default.
        divergence: "exact", D backward passes an evaluation, D up to 4096; "hutchinson", unbiased, `probes` of them.
        probes: how many a sample. law: of their entries, "rademacher" (+-1, the smaller variance) or "normal".
        seed, index: sample i draws its probes by (seed, index[i]); index is 0 .. B-1 by default.
        cond: the condition; per-sample tensors have B rows.
        guide: anything that maps a model to a model. The density of a guided model is the one that its own flow carries, which is not the product of
            powers of densities that guidance is named after.
        rtol: wanted error of the latent relative to 1 + max |x|, and of nats / D, in [1e-13, 1). By default 1e-6, and 1e-4 for a network below
            float64, about what its rounding supports at low cost; the steps are held to rtol / 1000, and what comes out is usually better. A ReLU
            network's divergence jumps, and costs thousands of evaluations at 1e-4: ask for 1e-2.
        prior: log-density of the states at t_end, (B, *shape) -> (B,) nats; by default that of N(0, prior_std(t_end)^2), the law from which `sample`
            starts. An oracle's `lambda z: o.log_prob(z, t_end)` leaves the error of the ODE alone, without the mismatch of the prior.
        batch: samples treated at once; it bounds the memory, and changes an answer by no more than the network's rounding.

    Raises:
        TimeError: a time outside the process. ShapeError: x, index, cond or the prior's answer does not fit. NonFiniteError: x or an answer is not
        finite (samples named by id). ArgumentError: an option out of range; D above 4096 with "exact"; a process with a degraded input y; noise that
        is not Gaussian, or t_end < t, without `prior`; a float16 or bfloat16 network; a prediction that says nothing of the data at an end (eps
        where alpha = 0); a network through which autograd does not see the state; rtol out of reach.

    Sources: Song et al. 2021 (2011.13456, eq. 39), Grathwohl et al. 2019 (1810.01367).

    >>> import reverie as rv
    >>> o = rv.oracle.Gaussian([1.0, 0.0], [[4.0, 0.0], [0.0, 1.0]], process=rv.process.flow())
    >>> x = torch.tensor([[3.0, 1.0]])
    >>> round(log_likelihood(o, x).nats.item(), 5), round(o.log_prob(x, 0.0).item(), 5)
    (-3.53102, -3.53102)
    """
    if not isinstance(x, Tensor) or x.ndim == 0:
        raise ShapeError("x is a tensor of states (B, *shape)")
    if not x.is_floating_point():
        raise ArgumentError(f"x must be floating, got {x.dtype}: scale it first, e.g. x.float() / 127.5 - 1")
    if m.shape is not None and tuple(x.shape[1:]) != tuple(m.shape):
        raise ShapeError(
            f"states of {m.name} have shape {tuple(m.shape)}, got {tuple(x.shape[1:])}; with a codec, encode the data first"
        )
    ids = _ids(len(x), index)
    guided = m if guide is None else m | guide
    t, t_end = _times(guided, t, t_end, prior)
    how = _How(divergence, probes, law, seed)
    latent, volume, nfe = _carry(guided, x, t, t_end, how, ids, cond, rtol, batch)
    return _likelihood(guided.process, latent, t_end, volume, nfe, how, prior)


@implements("score-sde")
@cites("ffjord")
def sample_with_likelihood(
    m: Model,
    n: int | Tensor = 16,
    *,
    shape: Sequence[int] | None = None,
    t: float | None = None,
    t_end: float | None = None,
    divergence: str = "exact",
    probes: int = 1,
    law: str = "rademacher",
    seed: int = 0,
    start: int = 0,
    index: Sequence[int] | None = None,
    cond: Mapping[str, Any] | None = None,
    guide: Callable[[Model], Model] | None = None,
    rtol: float | None = None,
    prior: Prior | None = None,
    batch: int = 16,
) -> tuple[Tensor, Likelihood]:
    """Samples of the probability flow at time t together with their log p_t, at the price of the likelihood alone.

    (x, l) such that `log_likelihood(m, x, ...)` gives l again, up to rtol: the same solution, run from the noise end to the data end.

    Args:
        n: how many samples, whose noise is that of `sample` for the same seed and ids; or latents (B, *shape), floating, states at t_end.
        shape: of one state; by default the model's. start, index: sample ids are start .. start + n - 1, or those of `index`.
        Everything else as for `log_likelihood`; t is the data end, t_end the noise end.

    Returns:
        x: (B, *shape) float64 states (`m.decode(x)` for data), and their `Likelihood`, of which `latent` is where they started.

    Raises as `log_likelihood`, and ShapeError when the shape is not known.

    >>> import reverie as rv
    >>> o = rv.oracle.Gaussian([1.0], [[4.0]], process=rv.process.flow())
    >>> x, l = sample_with_likelihood(o, 3)
    >>> bool((l.nats - o.log_prob(x)).abs().max() < 1e-5)
    True
    """
    guided = m if guide is None else m | guide
    p = guided.process
    t, t_end = _times(guided, t, t_end, prior)
    if isinstance(n, Tensor):
        if n.ndim == 0 or not n.is_floating_point():
            raise ShapeError(f"latents are a floating tensor (B, *shape), got {n.dtype} of shape {tuple(n.shape)}")
        ids, z = _ids(len(n), index, start), n.detach().double()
    else:
        size = m.shape if shape is None else tuple(shape)
        if size is None:
            raise ShapeError(
                "the model does not know its state's shape; give shape=(channels, height, width), without the batch"
            )
        ids = _ids(n if index is None else len(index), index, start)
        z = p.prior(p.draw(Noise(seed), size, ids, stage=0, stream=PRIOR, device=m.device, dtype=torch.float64), t_end)
    how = _How(divergence, probes, law, seed)
    x, volume, nfe = _carry(guided, z, t_end, t, how, ids, cond, rtol, batch)
    return x, _likelihood(p, z, t_end, -volume, nfe, how, prior)


@dataclass(frozen=True)
class _How:
    """How the divergence is taken."""

    divergence: str
    probes: int
    law: str
    seed: int

    def __post_init__(self) -> None:
        if self.divergence not in DIVERGENCES:
            raise unknown("divergence", self.divergence, DIVERGENCES)
        if self.law not in LAWS:
            raise unknown("law of probes", self.law, LAWS)
        if isinstance(self.probes, bool) or not isinstance(self.probes, int) or self.probes < 1:
            raise ArgumentError(f"probes must be a whole number of at least 1, got {self.probes!r}")
        if self.exact and self.probes != 1:
            raise ArgumentError(
                f"an exact divergence takes no probes, got probes={self.probes}; say divergence='hutchinson'"
            )

    @property
    def exact(self) -> bool:
        return self.divergence == "exact"

    def draw(self, shape: Sequence[int], ids: list[int], device: torch.device) -> Tensor:
        """(probes, B, *shape) float64; probe k of a sample is a function of (seed, sample id, k)."""
        noise, stages = Noise(self.seed), range(self.probes)
        if self.law == "normal":
            return noise.normals(shape, ids, stages, PROBES, device, torch.float64)
        signs = [noise.integers(2, shape, ids, k, PROBES, device) for k in stages]
        return torch.stack(signs).double() * 2 - 1


class _Divergence:
    """trace du/dy of each sample: exact for `probes` None, else v^T (du/dy) v for each of probes (K, B, *shape)."""

    def __init__(self, probes: Tensor | None) -> None:
        self.probes = probes
        self.one_by_one = False  # once a network has refused the batched backward pass

    def __call__(self, u: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """(b, K) or (b, 1), for u(y), both (b, *shape), of these rows."""
        d = y.shape[1:].numel()
        wide = max(1, AT_ONCE // max(1, y.numel()))
        out: list[Tensor] = []
        for k in range(0, d if self.probes is None else len(self.probes), wide):
            if self.probes is None:
                basis = torch.zeros(min(wide, d - k), d, dtype=y.dtype, device=y.device)
                basis.diagonal(k).fill_(1.0)
                v = basis.reshape(-1, 1, *y.shape[1:]).expand(-1, *y.shape)
            else:
                v = self.probes[k : k + wide, rows]
            out.append((v * self._products(u, y, v)).reshape(len(v), len(y), d).sum(2))
        terms = torch.cat(out).mT
        return terms.sum(1, keepdim=True) if self.probes is None else terms

    def _products(self, u: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """v^T du/dy for each of v (K, b, *shape): in one vectorised backward pass, or one by one where the network's operations refuse that."""
        if len(v) > 1 and not self.one_by_one:
            try:
                return torch.autograd.grad(u, y, v, retain_graph=True, is_grads_batched=True)[0]
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError:  # the loop raises it again if vectorisation was not the reason
                self.one_by_one = True
        return torch.stack([torch.autograd.grad(u, y, w, retain_graph=True)[0] for w in v])


@torch.inference_mode(False)
@torch.no_grad()
def _carry(
    m: Model,
    x: Tensor,
    t: float,
    t_end: float,
    how: _How,
    ids: list[int],
    cond: Mapping[str, Any] | None,
    rtol: float | None,
    batch: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """States of time t at time t_end, (B, *shape); log |det| of that map, (B, K), for each probe; evaluations, (B,)."""
    p, n, shape = m.process, len(x), x.shape[1:]
    d = shape.numel()
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ArgumentError(f"batch must be a whole number of at least 1, got {batch!r}")
    if how.exact and d > EXACT:
        raise ArgumentError(
            f"an exact divergence takes D = {d} backward passes an evaluation, and at most {EXACT} are attempted; "
            f"say divergence='hutchinson', which takes one a probe"
        )
    if m.dtype in (torch.float16, torch.bfloat16):
        raise ArgumentError(
            f"{m.name} computes in {m.dtype}, too coarse for a likelihood; give it as float32 (net.float())"
        )
    x = x.detach().to(torch.float64, copy=True)
    if not bool((ok := x.reshape(n, d).isfinite().all(1)).all()):
        bad = tuple(ids[j] for j in (~ok).nonzero()[:, 0].tolist())
        raise NonFiniteError(f"the states of samples {list(bad[:8])} are not finite", samples=bad)
    tol = tolerance((1e-6 if m.dtype in (None, torch.float64) else 1e-4) if rtol is None else rtol)
    prepared = conditions(cond, n, m.null, x.device)
    (first, rho), (last, rho_end) = angle(p, t), angle(p, t_end)
    if silent_at_clean(m):  # below EDGE the flow moves nothing by more than EDGE^2
        first, last = max(first, EDGE), max(last, EDGE)
    end = torch.empty_like(x)
    volume = torch.empty(n, how.probes, dtype=torch.float64, device=x.device)
    nfe = torch.zeros(n, dtype=torch.int64, device=x.device)
    for rows in torch.arange(n, device=x.device).split(batch):
        here = [ids[j] for j in rows.tolist()]
        divergence = _Divergence(None if how.exact else how.draw(shape, here, x.device))
        ask = predictor(m, t, t_end, select(prepared, rows, n), len(rows))
        spent = torch.zeros_like(rows)
        f = _right_hand_side(m, ask, divergence, shape, spent)
        both = torch.cat([x[rows].reshape(-1, d) / rho, volume.new_zeros(len(rows), how.probes)], 1)
        try:
            both = integrate(f, both, first, last, tol)
        except NonFiniteError as error:
            bad = tuple(here[j] for j in error.samples)
            message = f"the model's answer, or its divergence, is not finite for samples {list(bad[:8])}"
            raise NonFiniteError(message, samples=bad) from None
        end[rows] = both[:, :d].reshape(-1, *shape) * rho_end
        volume[rows] = d * (both[:, d:] + math.log(rho_end / rho))
        nfe[rows] = spent
    return end, volume, nfe


def _right_hand_side(
    m: Model, ask: Callable[..., Prediction], divergence: _Divergence, shape: Sequence[int], spent: Tensor
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """d(y, volume / D) / dtheta for rows (y, volume / D); `spent` (B,) counts the evaluations of each sample."""
    d = math.prod(shape)
    checked = False

    def f(both: Tensor, theta: Tensor, rows: Tensor) -> Tensor:
        nonlocal checked
        with torch.enable_grad():
            y = both[:, :d].reshape(-1, *shape).clone().requires_grad_()
            said = ask(y, theta, rows)
            if not checked:
                _check_seen(m, said.raw, y)
                checked = True
            u = said.as_(ANGULAR)
            trace = divergence(u, y, rows)
        spent[rows] += 1
        return torch.cat([u.detach().reshape(-1, d), trace / d], 1)

    return f


def _check_seen(m: Model, raw: Tensor, y: Tensor) -> None:
    """A network that hides from autograd would leave its part of the divergence out, silently."""
    grad = torch.autograd.grad(raw.sum(), y, retain_graph=True, allow_unused=True)[0] if raw.requires_grad else None
    if grad is None:
        raise ArgumentError(
            f"autograd does not see how {m.name} depends on the state, so it has no divergence; "
            f"take torch.no_grad, detach and conversions to other libraries out of the network's forward pass"
        )


def _times(m: Model, t: float | None, t_end: float | None, prior: Prior | None) -> tuple[float, float]:
    """The data end and the noise end, checked."""
    p = m.process
    t, t_end = p.t_min if t is None else check_time(p, t), p.t_max if t_end is None else check_time(p, t_end)
    if bool((p.gamma(torch.linspace(t, t_end, 9, dtype=torch.float64)) != 0).any()):
        raise ArgumentError(f"{p} has a degraded input y; its probability flow is not covered by log_likelihood")
    if prior is None and t_end < t:
        raise ArgumentError(
            f"t_end = {t_end:g} is nearer to the data than t = {t:g}; give prior=, the log-density there"
        )
    if prior is None and (type(p).draw is not Process.draw or type(p).prior is not Process.prior):
        raise ArgumentError(
            f"{p} does not start from Gaussian noise; give prior=, the log-density at t_end = {t_end:g}"
        )
    for name, u in (("t_end", t_end), ("t", t)):
        if p.alpha(u) == 0:
            try:
                m.target.to(ANGULAR, p, u)
            except ArgumentError:
                short = p.t_of_lam(p.lam_range[0])
                raise ArgumentError(
                    f"at {name} = {u:g} of {p} alpha = 0, and a prediction of {m.target.name} says nothing of the data "
                    f"there; stop short of it, e.g. {name}={short:.4g}"
                ) from None
    return t, t_end


def _likelihood(
    p: Process, latent: Tensor, t_end: float, volume: Tensor, nfe: Tensor, how: _How, prior: Prior | None
) -> Likelihood:
    """Prior and volume (B, probes) put together."""
    n, k = volume.shape
    if prior is None:
        std, d = p.prior_std(t_end), latent.shape[1:].numel()
        squares = (latent / std).square().reshape(n, d).sum(1)
        log_prior = -squares / 2 - d * (math.log(std) + math.log(2 * math.pi) / 2)
    else:
        log_prior = prior(latent)
        if not isinstance(log_prior, Tensor) or log_prior.shape != (n,):
            got = tuple(log_prior.shape) if isinstance(log_prior, Tensor) else type(log_prior).__name__
            raise ShapeError(f"prior(z) must give one log-density a sample, ({n},), got {got}")
        log_prior = log_prior.detach().double().to(latent.device)
    mean = volume.mean(1)
    error = None if how.exact else volume.std(1) / math.sqrt(k) if k > 1 else torch.full_like(mean, math.nan)
    return Likelihood(log_prior + mean, latent, log_prior, mean, error, nfe)


def _ids(n: int, index: Sequence[int] | None, start: int = 0) -> list[int]:
    """n sample ids."""
    for name, value in (("n", n), ("start", start)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ArgumentError(f"{name} must be a whole number >= 0, got {value!r}")
    ids = list(range(start, start + n)) if index is None else [int(i) for i in index]
    if len(ids) != n:
        raise ShapeError(f"index has {len(ids)} ids for {n} samples")
    if ids and min(ids) < 0:
        raise ArgumentError(f"sample ids are >= 0, got {min(ids)}")
    return ids
