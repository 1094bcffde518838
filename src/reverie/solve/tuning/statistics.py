"""Empirical statistics of a model along its own ODE: the three functions l, s, b of lam that flatten what a solver has to integrate.

With y = x / alpha the probability flow is dy / dlam = -exp(-lam) eps. For any function l(lam) it is

    dy / dlam = -l y - f,      f = (sigma eps - l x) / alpha,

and f changes along it by f', which is modelled as s f + b. Where x_lam = alpha x0 + sigma z, with x0 of the model's own fine samples,

    l = E[v sigma J v]           J = d eps / dx, v = +-1 at random: the mean diagonal of sigma J, so that f depends least on x
    s = cov(f, f') / var(f),     b = E[f'] - s E[f]                                              the regression of f' on f
    f' = exp(-lam) ((l - 1) eps + deps / dlam) - (dl / dlam) x / alpha                           deps / dlam: along the ODE

l = 1, s = b = 0 is data prediction; l = 0, s = -1, b = 0 noise prediction. The derivatives are central differences of the model's answers, so that
guided models, compiled and half-precision ones have statistics too. The same x0, z and v serve at every lam, which makes the curves smooth.

Source: Zheng et al. 2023 (2310.13268, equations 7 to 14, and appendix C.1).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.base import TRAIN, ArgumentError, FileError, Noise, ReverieError, ShapeError, implements, unknown
from reverie.base.checks import at_least
from reverie.base.files import atomic, read_bytes
from reverie.model import Model, select
from reverie.model.fingerprint import feed
from reverie.process import Process, from_spec
from reverie.solve.fine import Fine
from reverie.solve.origin import origin
from reverie.solve.tuning.common import state_shape

__all__ = ["Statistics", "statistics"]

FORMAT, VERSION, LIMIT = "reverie-statistics", 1, 2 << 30
PER = ("model", "channel", "coordinate")
_WIDTH = {torch.float32: 1e-2, torch.float16: 1e-1, torch.bfloat16: 1e-1}
"""Of differences, as a part of sigma and in lam, by what the network computes in."""
_SEED = 1 << 40
_CURVES = ("l", "s", "b")


@dataclass(frozen=True, eq=False)
class Statistics:
    """The functions l, s and b of lam, linear between knots and constant beyond them.

    Attributes:
        process: whose lam this is. lam: knots `(M,)`, rising. l, s, b: `(M, *shape)`, float64, shape broadcastable to a state; `()` for
            numbers.
        provenance: model, fingerprint, samples, seed and whatever else they come from.

    Raises `ArgumentError` or `ShapeError` for knots that do not rise, and curves that are not finite or do not fit them.

    >>> import reverie as rv
    >>> data = Statistics.constant(rv.process.vp(), l=1.0)
    >>> [c.tolist() for c in data.at(torch.tensor([0.3]))]
    [[1.0], [0.0], [0.0]]
    """

    process: Process
    lam: Tensor
    l: Tensor
    s: Tensor
    b: Tensor
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("lam", *_CURVES):
            object.__setattr__(self, name, torch.as_tensor(getattr(self, name), dtype=torch.float64).cpu())
        if self.lam.ndim != 1 or len(self.lam) < 2 or not bool((self.lam.diff() > 0).all()):
            raise ArgumentError(f"the knots are at least two rising values of lam, got {self.lam.tolist()!r:.100}")
        shapes = [tuple(getattr(self, name).shape) for name in _CURVES]
        if len(set(shapes)) != 1 or shapes[0][:1] != (len(self.lam),):
            raise ShapeError(f"l, s and b have one row a knot ({len(self.lam)}) and one shape, got {shapes}")
        if bad := [name for name in ("lam", *_CURVES) if not bool(getattr(self, name).isfinite().all())]:
            raise ArgumentError(f"statistics must be finite; {', '.join(bad)} is not")

    @classmethod
    def constant(
        cls,
        process: Process,
        l: float | Tensor = 1.0,
        s: float | Tensor = 0.0,
        b: float | Tensor = 0.0,
    ) -> Statistics:
        """The same l, s and b at every lam: numbers, or tensors broadcastable to a state. (1, 0, 0) is data, (0, -1, 0) noise prediction."""
        curves = torch.broadcast_tensors(*(torch.as_tensor(v, dtype=torch.float64) for v in (l, s, b)))
        first, second, third = (c.expand(2, *c.shape).clone() for c in curves)
        return cls(process, torch.tensor([-1.0, 1.0]), first, second, third)

    def at(self, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """l, s and b at places `(n,)`, each `(n, *shape)`."""
        j = torch.searchsorted(self.lam, lam).clamp(1, len(self.lam) - 1)
        u = ((lam - self.lam[j - 1]) / (self.lam[j] - self.lam[j - 1])).clamp(0, 1)
        u = u.reshape(-1, *[1] * (self.l.ndim - 1))
        return tuple(torch.lerp(c[j - 1], c[j], u) for c in (self.l, self.s, self.b))  # type: ignore[return-value]

    def __str__(self) -> str:
        of, told = self.provenance.get("model", "numbers"), self.provenance.get("samples")
        size = "x".join(map(str, self.l.shape[1:]))
        given = f", {told} samples" if told else ""
        return f"<{of}, {len(self.lam)} knots{f' of {size}' if size else ''}{given}, {self._digest()[:8]}>"

    __repr__ = __str__

    def _digest(self) -> str:
        h = hashlib.sha256()
        feed(h, {name: getattr(self, name) for name in ("lam", *_CURVES)})
        return h.hexdigest()

    def spec(self) -> dict[str, Any]:
        """What a saved plan says of the statistics that it was compiled with; the table holds what they came to."""
        return {"statistics": str(self), "sha256": self._digest(), **self.provenance}

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; atomically. Raises `FileError`."""
        from safetensors.torch import save

        head = {
            "format": FORMAT,
            "version": VERSION,
            "process": self.process.spec(),
            "provenance": dict(self.provenance),
        }
        tensors = {name: getattr(self, name).contiguous().clone() for name in ("lam", *_CURVES)}
        try:
            blob = save(tensors, {"reverie": json.dumps(head)})
        except TypeError as error:
            raise FileError(f"cannot save the statistics: {error}; provenance is numbers, strings and lists") from None
        with atomic(path) as temporary:
            temporary.write_bytes(blob)

    @classmethod
    def load(cls, path: str | Path) -> Statistics:
        """Read what `save` wrote. Raises `FileError` (missing, malformed, oversized, newer version)."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        blob = read_bytes(path, LIMIT)
        try:
            tensors = load(blob)
            told = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")]).get("__metadata__", {})
            head = json.loads(told["reverie"])
            if head["format"] != FORMAT or not 1 <= head["version"] <= VERSION:
                raise FileError(
                    f"{str(path)!r} has {head['format']} version {head['version']}; this Reverie reads {FORMAT} up to {VERSION}"
                )
            lam, l, s, b = (tensors[name] for name in ("lam", *_CURVES))
            return cls(from_spec(head["process"]), lam, l, s, b, head["provenance"])
        except FileError:
            raise
        except (SafetensorError, ReverieError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileError(f"{str(path)!r} holds no statistics: {type(error).__name__} {error}") from None


@implements("dpm-solver-v3")
def statistics(
    m: Model,
    n: int = 256,
    *,
    knots: int = 61,
    per: str = "model",
    shape: Sequence[int] | None = None,
    cond: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch: int = 64,
    fine: int = 100,
    data: Tensor | None = None,
    width: float | None = None,
) -> Statistics:
    """Estimate the statistics l, s, b of a model, guided or not, for the solver "dpm-v3".

    Args:
        n: samples; `knots`: values of lam, even over the process. The model is asked 5 n knots times, and fine n times for the samples.
        per: "model" (one number a knot, from all coordinates), "channel", or "coordinate" (noisy unless n is large).
        shape: of one state; by default the model's. cond: conditions of the n samples, under which it will be used.
        seed: of noises that `sample` never draws. batch: rows of a network call.
        data: states `(n, *shape)` at sigma = 0, instead of the model's own samples of `fine` calls each.
        width: of the differences, a part of sigma in x and in lam; by default 1e-3, for networks in float32 1e-2, in half precision 0.1.

    Raises:
        ArgumentError: numbers out of range. ShapeError: no shape, or data of another one. UnknownNameError: per.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2) / 4, process=rv.process.vp())
    >>> found = statistics(o, 8, knots=5)
    >>> t = o.process.t_of_lam(float(found.lam[2]))      # l = sigma^2 / (alpha^2 / 4 + sigma^2) on Gaussian data
    >>> abs(float(found.l[2]) - o.process.sigma(t) ** 2 / (o.process.alpha(t) ** 2 / 4 + o.process.sigma(t) ** 2)) < 1e-9
    True
    """
    if per not in PER:
        raise unknown("per", per, PER)
    at_least(n=(n, 2), knots=(knots, 3), batch=(batch, 1), fine=(fine, 2))
    width = _WIDTH.get(m.dtype, 1e-3) if width is None else width  # type: ignore[arg-type]
    if not 0 < width < 0.5:
        raise ArgumentError(f"width is a part of sigma, in (0, 0.5), got {width!r}")
    size = state_shape(m, shape)
    p = m.process
    own = Fine(m, n, size, cond=cond, seed=seed, batch=batch, reference=fine, stream=TRAIN)
    if data is None:
        data = own(p.t_max, p.t_clean)
    elif data.shape != (n, *size):
        raise ShapeError(f"data must be {(n, *size)}, got {tuple(data.shape)}")
    x0 = data.double().cpu()
    noise = Noise(seed)
    z = noise.normal(size, range(_SEED, _SEED + n), stage=0, stream=TRAIN).double()
    v = noise.normal(size, range(_SEED, _SEED + n), stage=1, stream=TRAIN).double().sign()
    low, high = p.lam_range
    if high - low < 4 * width:
        raise ArgumentError(f"lam runs from {low:.3g} to {high:.3g} on {p}: too little for differences of {width:g}")
    lam = torch.linspace(low + width, high - width, knots, dtype=torch.float64)
    l, mean, second = _moments(m, lam.tolist(), x0, z, v, own.cond, batch, width, per)
    s, b = _regression(p, lam, l, mean, second, max(1e-3, 10 * width**2))
    provenance = {
        **origin(m), "network": repr(m), "samples": n, "seed": seed, "per": per,
        "conditional": cond is not None, "width": width,
    }  # fmt: skip
    return Statistics(p, lam, l, s, b, provenance)


def _moments(
    m: Model,
    lams: Sequence[float],
    x0: Tensor,
    z: Tensor,
    v: Tensor,
    cond: Any,
    batch: int,
    width: float,
    per: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """l, and of q = (eps, x, deps / dlam) the mean `(M, 3, *)` and the second moments `(M, 3, 3, *)`."""
    p, n = m.process, len(x0)
    out = []
    for lam in lams:
        node, up, down = (p.t_of_lam(value) for value in (lam, lam + width, lam - width))
        alpha, sigma = p.alpha(node), p.sigma(node)
        slope = (p.log_alpha(up) - p.log_alpha(down)) / (p.lam(up) - p.lam(down))  # d log alpha / dlam
        sums: list[Any] = [0.0, 0.0, 0.0]
        for rows in torch.arange(n).split(batch):
            told = select(cond, rows.to(m.device), n) if n > 1 else cond

            def eps(x: Tensor, t: float, told: Any = told) -> Tensor:
                with torch.no_grad():
                    return m(x.to(m.device), t, **told).eps.double().cpu()

            x, w = alpha * x0[rows] + sigma * z[rows], v[rows]
            # E[v sigma J v]; antithetic, and the step grows with sigma, on whose scale the answer changes
            h = width * sigma
            diagonal = sigma * w * (eps(x + h * w, node) - eps(x - h * w, node)) / (2 * h)
            now = eps(x, node)
            along = slope * x - sigma * now  # dx / dlam on the ODE
            change = (eps(x + width * along, up) - eps(x - width * along, down)) / (2 * width)
            q = torch.stack([now, x, change])
            parts = (diagonal.sum(0), q.sum(1), torch.einsum("ik...,jk...->ij...", q, q))
            sums = [a + _pooled(part, x0.ndim - 1, per) for a, part in zip(sums, parts, strict=True)]
        out.append([a / n for a in sums])
    return tuple(torch.stack(column) for column in zip(*out, strict=True))  # type: ignore[return-value]


def _pooled(value: Tensor, dims: int, per: str) -> Tensor:
    """The mean over the coordinates that share a number; the last `dims` dimensions are a state's."""
    if per == "coordinate" or dims == 0:
        return value
    if per == "model":
        return value.flatten(value.ndim - dims).mean(-1)
    return value if dims == 1 else value.mean(tuple(range(-dims + 1, 0)), keepdim=True)


def _regression(
    p: Process,
    lam: Tensor,
    l: Tensor,
    mean: Tensor,
    second: Tensor,
    least: float,
) -> tuple[Tensor, Tensor]:
    """s and b, from f = (a, q) and f' = (c, q), linear in q = (eps, x, deps / dlam); an f below a part `least` of its terms is none."""
    shaped = (-1, *[1] * (l.ndim - 1))
    shrink, alpha = (-lam).exp().reshape(shaped), p.alpha(p.t_of_lam(lam)).reshape(shaped)
    inside = l.clamp(
        1e-12, 1 - 1e-12
    )  # l is in (0, 1) but for noise; its logit is nearly linear in lam (on Gaussian data, exactly)
    slope = torch.gradient(inside.logit(), spacing=(lam,), dim=0)[0]
    slope = inside * (1 - inside) * _smooth(slope, round(len(lam) / 24))
    a = torch.stack([shrink.expand_as(l), -l / alpha, torch.zeros_like(l)], 1)
    c = torch.stack([shrink * (l - 1), -slope / alpha, shrink.expand_as(l)], 1)
    covariance = second - mean[:, :, None] * mean[:, None]
    among, between = (torch.einsum("mi...,mij...,mj...->m...", a, covariance, d) for d in (a, c))
    first, change = (a * mean).sum(1), (c * mean).sum(1)
    # where f hardly varies (Gaussian data) what is left of it is the error of the differences, of order width^2: s goes to 0
    scale = shrink**2 * second[:, 0, 0] + (l / alpha) ** 2 * second[:, 1, 1]
    s = between / (among + least**2 * scale)
    return s, change - s * first


def _smooth(curve: Tensor, reach: int) -> Tensor:
    """The mean over the knots up to `reach` away; fewer at the ends."""
    total = torch.cat([torch.zeros_like(curve[:1]), curve.cumsum(0)])
    k = torch.arange(len(curve))
    low, high = (k - reach).clamp(min=0), (k + reach + 1).clamp(max=len(curve))
    return (total[high] - total[low]) / (high - low).reshape(-1, *[1] * (curve.ndim - 1))
