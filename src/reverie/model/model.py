"""A model: a network, its process, what it predicts, and what it is told as time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from reverie.base import ArgumentError, ShapeError, unknown
from reverie.model.conditions import Cond, conditions, unwrap
from reverie.model.prediction import Prediction
from reverie.model.target import Target, as_target
from reverie.process import Process, per_sample

__all__ = ["Codec", "Model"]

_LABELS: dict[str, Callable[[Process, Any], Any]] = {
    "t": lambda p, t: t,
    "lam": lambda p, t: p.lam(t),
    "sigma": lambda p, t: p.sigma(t),
    "c_noise": lambda p, t: p.lam(t) * -0.25,
}


@runtime_checkable
class Codec(Protocol):
    """What maps data to the space in which the process runs, and back (a VAE, a scaling)."""

    def encode(self, data: Tensor) -> Tensor:
        """Data to state, both `(B, ...)`."""
        ...

    def decode(self, state: Tensor) -> Tensor:
        """State to data."""
        ...


class Model:
    """A denoiser that answers in every quantity of the field.

    Args:
        net: called as `net(x, label, **cond)` with x `(B, *shape)` in the network's dtype and label `(B,)` in float32
            (float64 for a float64 network; shaped as t where times differ inside a sample); returns the raw output
            `(B, *shape)`, or one tensor a head (a tuple, or chunks along dimension 1).
        process: what it was trained on.
        predicts: "x0", "eps", "v", "flow", "score", "edm", "edm:<sigma_data>" or a `Target`; a tuple for several
            heads, in which "variance" marks a learned-variance output (kept raw for the solvers that ask for it).
        label: what the network is told as time: None or "t" (the process's time), "lam", "sigma", "c_noise"
            (log(sigma/alpha) / 4, the default of "edm"), or a function of t.
        null: the condition that means "nothing said", for classifier-free guidance: a dict with the keys of `cond`.
        codec: encodes data to states and decodes them.
        embed: prompt -> condition, e.g. `lambda text: {"class_labels": ...}`.
        shape: of one state, without the batch; the default of `sample`.
        dtype: what the network computes in; by default that of its first floating parameter, or as it comes.
        sampling: how it is best sampled, for `sample` where the call does not say otherwise: a dict with any of "solver", "grid", "end".
        name: how it calls itself.

    Attributes:
        card: what a saved model says of itself (data, recipe, figures), empty otherwise.
        calls: times the model was asked. forwards: network forwards a sample that this took (guided models: more than
            one a call).

    Raises:
        UnknownNameError: an unknown prediction type or label. ShapeError: an output of the wrong shape, a condition of
        another batch size.

    >>> import torch, reverie as rv
    >>> m = Model(lambda x, t: x, rv.process.vp(), predicts="eps")
    >>> m(torch.ones(2, 3), 0.5).eps.shape, m.calls
    (torch.Size([2, 3]), 1)
    """

    def __init__(
        self,
        net: Callable[..., Any],
        process: Process,
        predicts: str | Target | Sequence[str | Target] = "eps",
        label: str | Callable[[Any], Any] | None = None,
        null: Mapping[str, Any] | None = None,
        codec: Codec | None = None,
        embed: Callable[..., Cond] | None = None,
        shape: Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
        name: str | None = None,
        sampling: Mapping[str, str] | None = None,
    ) -> None:
        if not callable(net):
            raise ArgumentError(f"net must be callable as net(x, label, **cond), got {type(net).__name__}")
        if not isinstance(process, Process):
            raise ArgumentError(f"process must be a reverie Process (rv.process.vp(), ...), got {process!r:.100}")
        self.net, self.process = net, process
        heads = [predicts] if isinstance(predicts, str | Target) else list(predicts)
        if not heads or heads[0] == "variance":
            raise ArgumentError("predicts needs an affine target first, e.g. 'eps' or ('eps', 'variance')")
        self.targets: tuple[Target | None, ...] = tuple(None if h == "variance" else as_target(h) for h in heads)
        self.target: Target = as_target(heads[0])
        if label is None:
            label = "c_noise" if self.target.name.startswith("edm") else "t"
        if isinstance(label, str) and label not in _LABELS:
            raise unknown("label", label, _LABELS)
        self._label = label
        self.null = None if null is None else dict(null)
        self.codec, self.embed, self.name = codec, embed, name or type(net).__name__
        self.shape = None if shape is None else tuple(int(s) for s in shape)
        first = (
            next((q for q in net.parameters() if q.is_floating_point()), None) if isinstance(net, nn.Module) else None
        )
        self.dtype = dtype or (first.dtype if first is not None else None)
        self.device = first.device if first is not None else torch.device("cpu")
        self.sampling = dict(sampling or {})
        if extra := set(self.sampling) - {"solver", "grid", "end"}:
            raise ArgumentError(f"sampling knows solver, grid and end, not {sorted(extra)}")
        self.card: dict[str, Any] = {}
        self.calls = 0
        self.forwards = 0

    def __repr__(self) -> str:
        heads = ", ".join("variance" if t is None else t.name for t in self.targets)
        return f"Model({self.name}, {self.process}, predicts {heads})"

    def __or__(self, guide: Callable[[Model], Model]) -> Model:
        """`model | guide`: the guided model. A guide is anything that maps a model to a model."""
        if not callable(guide):
            raise ArgumentError(f"a guide maps a model to a model, got {type(guide).__name__}")
        return guide(self)

    def label(self, t: float | Tensor) -> float | Tensor:
        """What the network is told at time t."""
        return _LABELS[self._label](self.process, t) if isinstance(self._label, str) else self._label(t)

    def with_net(self, net: Callable[..., Any], dtype: torch.dtype | None = None) -> Model:
        """The same model around another network of the same kind: compiled, in half precision, with averaged or adapted weights.

        Args:
            net: called as the present one. dtype: what it computes in; by default that of its first floating parameter, else as before.

        >>> import reverie as rv
        >>> m = Model(torch.nn.Identity(), rv.process.vp(), predicts="v")
        >>> m.with_net(torch.nn.Linear(2, 2).bfloat16()).dtype
        torch.bfloat16
        """
        if not callable(net):
            raise ArgumentError(f"net must be callable as net(x, label, **cond), got {type(net).__name__}")
        new = copy.copy(self)
        weights = net.parameters() if isinstance(net, nn.Module) else iter(())
        first = next((q for q in weights if q.is_floating_point()), None)
        new.net, new.calls, new.forwards = net, 0, 0
        if first is not None:
            new.dtype, new.device = first.dtype, first.device
        if dtype is not None:
            new.dtype = dtype
        return new

    def with_null(self, null: Mapping[str, Any]) -> Model:
        """The same model with another null condition: what guidance compares with, e.g. a negative prompt. Guides are kept.

        Raises `ArgumentError` for a condition that lacks keys of the present null condition.

        >>> import reverie as rv
        >>> m = Model(lambda x, t, y: x, rv.process.vp(), null={"y": 0})
        >>> m.with_null({"y": 3}).null, m.null
        ({'y': 3}, {'y': 0})
        """
        if not isinstance(null, Mapping):
            raise ArgumentError(f"a null condition is a dict as m.embed(...) makes it, got {type(null).__name__}")
        if missing := sorted(set(self.null or ()) - set(null)):
            raise ArgumentError(f"the null condition of {self.name} has {missing} too; m.embed(...) makes a whole one")
        new = copy.copy(self)
        new.null, new.calls, new.forwards = dict(null), 0, 0
        base = vars(self).get("base")
        if isinstance(base, Model):  # of a guided model
            vars(new)["base"] = base.with_null(null)
        return new

    def cost(self, t: float | None = None) -> int:
        """Network forwards a sample that one call takes at time t."""
        return 1

    def raw(
        self,
        x: Tensor,
        t: float | Tensor,
        label: Tensor,
        cond: Cond,
        args: Mapping[str, Any] | None = None,
        c_in: float | Tensor = 1.0,
        copies: int = 1,
        run: Any = None,
    ) -> tuple[Tensor, ...]:
        """One network call without conversions: the raw heads in the state's dtype. For `run`; it checks shapes only.

        Args:
            x: state `(B, *shape)`. t: its time. label: `(B,)`. cond: as `conditions` prepared it, for B rows.
            args: further arguments of this call. c_in: factor of the network's input. copies: rows of x a sample
                (branches of a guide).
        """
        h = (
            x
            if isinstance(c_in, float) and c_in == 1.0
            else x * (per_sample(c_in, x) if isinstance(c_in, Tensor) else c_in)
        )
        if self.dtype is not None and h.dtype != self.dtype:
            h = h.to(self.dtype)
        # Never bfloat16: it cannot tell time 999 from 1000.
        told = torch.float64 if h.dtype == torch.float64 else torch.float32
        label = label if label.dtype == told else label.to(told)
        if cond:
            cond = unwrap(cond)
        try:
            out = self.net(h, label, **cond, **args) if args else self.net(h, label, **cond)
        except TypeError as error:
            raise self._unasked(error, {*cond, *(args or ())}) or error from None
        self.calls += 1
        self.forwards += copies
        if len(self.targets) == 1 and isinstance(out, Tensor) and out.shape == x.shape:
            return (out if out.dtype == x.dtype else out.to(x.dtype),)
        return self._split(out, x)

    def _unasked(self, error: TypeError, given: set[str]) -> ArgumentError | None:
        """What a network's complaint about a condition that it was not given means; None where that is not it."""
        lacks = [key for key in self.null or () if key not in given and repr(key) in str(error)]
        if not lacks:
            return None
        way = "m.embed([prompt, ...]) makes it" if self.embed is not None else "m.null holds the unconditional one"
        return ArgumentError(
            f"{self.name} cannot be asked without the condition {', '.join(lacks)}; give cond= ({way})"
        )

    def _split(self, out: Any, x: Tensor) -> tuple[Tensor, ...]:
        n = len(self.targets)
        if isinstance(out, Tensor) and n > 1 and out.ndim == x.ndim > 1 and out.shape[1] == n * x.shape[1]:
            out = out.chunk(n, dim=1)
        elif isinstance(out, Tensor):
            out = (out,)
        if not isinstance(out, tuple | list) or not all(isinstance(o, Tensor) for o in out):
            raise ShapeError(
                f"{self.name} returned {type(out).__name__}; a tensor, or a tuple with one tensor a head, is needed"
            )
        shapes = [tuple(o.shape) for o in out]
        if len(out) != n or any(s != tuple(x.shape) for s in shapes):
            hint = ""
            if n == 1 and len(out) == 1 and x.ndim > 1 and out[0].ndim == x.ndim and out[0].shape[1] == 2 * x.shape[1]:
                hint = f"; with a learned variance, say predicts=({self.target.name!r}, 'variance')"
            raise ShapeError(
                f"{self.name} returned {' and '.join(map(str, shapes))} for a state of shape {tuple(x.shape)} "
                f"and {n} head{'s' if n > 1 else ''}{hint}"
            )
        return tuple(o.to(x.dtype) for o in out)

    def predict(self, x: Tensor, t: float | Tensor, raws: tuple[Tensor, ...], y: Tensor | None = None) -> Prediction:
        """Wrap raw heads as a Prediction of the state x at time t."""
        variance, heads = None, []
        for target, raw in zip(self.targets[1:], raws[1:], strict=True):
            if target is None:
                variance = raw
            else:
                heads.append(Prediction(x, t, raw, target, self.process, y))
        return Prediction(x, t, raws[0], self.target, self.process, y, tuple(heads), variance)

    def __call__(self, x: Tensor, t: float | Tensor, *, y: Tensor | None = None, **cond: Any) -> Prediction:
        """The prediction at state x `(B, *shape)` and time t (float, `(B,)`, or broadcastable).

        Args:
            y: the degraded input, for processes that have one.
            cond: what the network is conditioned on; tensors whose first dimension is B are per sample.
        """
        if not isinstance(x, Tensor) or x.ndim == 0:
            raise ShapeError("a state is a tensor (B, *shape)")
        if isinstance(t, Tensor):
            per_sample(t, x)  # raises unless it fits
        told = self.label(t)
        label = told if isinstance(told, Tensor) else torch.tensor(told, dtype=torch.float64)
        label = (label.float() if x.device.type == "mps" else label).to(x.device)  # MPS has no float64
        if label.shape[1:].numel() == 1:  # (B, 1, ..., 1) is one time a sample too
            label = label.reshape(-1)
            if len(label) not in (1, x.shape[0]):
                raise ShapeError(f"{len(label)} labels for a batch of {x.shape[0]}; give one, or one a sample")
            label = label.expand(x.shape[0])
        c_in = self.target.input_scale(self.process, t)
        raws = self.raw(x, t, label, conditions(cond, x.shape[0], self.null, x.device), c_in=c_in)
        return self.predict(x, t, raws, y)

    def encode(self, data: Tensor) -> Tensor:
        """Data to the state space, by the codec if there is one."""
        return data if self.codec is None else self.codec.encode(data)

    def decode(self, state: Tensor) -> Tensor:
        """States to data, by the codec if there is one."""
        return state if self.codec is None else self.codec.decode(state)
