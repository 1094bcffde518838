"""Inside one call of an attention layer: its products softmax(q k^T / sqrt(d)) v, and which tokens they join.

A `TorchFunctionMode` that is active while the layer runs, and only in its thread, sees every `scaled_dot_product_attention`, which is what the
processors of diffusers and the native backend of its dispatcher come down to. A product written out, as in Reverie's own network, is known by its
steps: q k^T of four dimensions, factors and terms, softmax over the last dimension, times v.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from reverie.base import ArgumentError, ShapeError
from reverie.model.anatomy.places import Place, argument

__all__ = ["Attend", "AttentionMap", "Function", "Products", "Tokens", "enclosing"]

Function = Callable[[Place, Tensor, Tensor, Tensor, Tensor | None, "Attend"], Tensor]
Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]


class Tokens(NamedTuple):
    """Which tokens of a sequence are the picture's and which the text's; a slice that is empty where there are none.

    >>> tokens = Tokens(picture=slice(7, 263), text=slice(0, 7))
    >>> torch.zeros(2, 263, 8)[:, tokens.text].shape
    torch.Size([2, 7, 8])
    """

    picture: slice
    text: slice


class AttentionMap(NamedTuple):
    """Attention probabilities of one call, `(B, heads, queries, keys)`; what queries and keys are; the picture's (rows, columns), if known."""

    weights: Tensor
    queries: Tokens
    keys: Tokens
    grid: tuple[int, int] | None


# -- what surrounds a call


class _Open(threading.local):
    def __init__(self) -> None:
        self.calls: dict[int, list[Arguments]] = {}


_OPEN = _Open()


def enclosing(module: nn.Module) -> Callable[..., Any]:
    """The layer of a patch that notes a module's arguments, for its thread, while it runs."""

    def note(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        calls = _OPEN.calls.setdefault(id(module), [])
        calls.append((args, kwargs))
        try:
            return original(*args, **kwargs)
        finally:
            calls.pop()
            if not calls:
                _OPEN.calls.pop(id(module), None)

    return note


@dataclass
class _Call:
    """One call of an attention layer."""

    place: Place
    own: Arguments

    def around(self) -> Arguments | None:
        frame = self.place.about.frame
        if frame is None or frame is self.place.module:
            return None
        calls = _OPEN.calls.get(id(frame))
        return calls[-1] if calls else None

    def picture(self) -> tuple[int | None, tuple[int, int] | None]:
        """The number of picture tokens, and their grid; None for what cannot be known."""
        own = argument(self.place.module, *self.own, 0)
        if isinstance(own, Tensor) and own.ndim == 4:
            return own.shape[2] * own.shape[3], (own.shape[2], own.shape[3])
        count = None
        if isinstance(own, Tensor) and own.ndim == 3 and self._beside_text():
            count = own.shape[1]
        around, frame = self.around(), self.place.about.frame
        if around is None or frame is None:
            return count, None
        x = argument(frame, *around, 0)
        if not isinstance(x, Tensor):
            return count, None
        if x.ndim == 4:
            rows, columns = (side // self.place.about.patch for side in x.shape[2:])
            return (rows * columns if count is None else count), (rows, columns)
        return (x.shape[1] if count is None else count), _grid_of_ids(argument(frame, *around, "img_ids"))

    def _beside_text(self) -> bool:
        return (
            self.place.kind != "joint-attention"
            or argument(self.place.module, *self.own, "encoder_hidden_states") is not None
        )

    def tokens(self, total: int, keys: bool) -> Tokens:
        """What a sequence of `total` queries or keys is made of."""
        kind, order = self.place.kind, self.place.about.text
        if kind != "joint-attention":
            none, all_of_them = slice(0, 0), slice(0, total)
            return Tokens(none, all_of_them) if kind == "cross-attention" and keys else Tokens(all_of_them, none)
        count, _ = self.picture()
        if count is None or order is None or count > total:
            raise ArgumentError(
                f"which of the {total} tokens at {self.place.name} are text is not known; call the whole network, not a block of it, and for "
                "places given by hand say Anatomy.of(..., text='first' or 'last')"
            )
        text = total - count
        if order == "first":
            return Tokens(slice(text, total), slice(0, text))
        return Tokens(slice(0, count), slice(count, total))


def _grid_of_ids(ids: Any) -> tuple[int, int] | None:
    """Rows and columns of tokens with ids (., row, column), if these go through a whole grid row by row."""
    if not isinstance(ids, Tensor) or ids.shape[-1] != 3 or ids.numel() == 0:
        return None
    at = (ids[0] if ids.ndim == 3 else ids)[:, 1:]
    at = (at - at.amin(0)).round().long()
    rows, columns = (int(n) + 1 for n in at.amax(0))
    if rows * columns != len(at):
        return None
    return (
        (rows, columns) if torch.equal(at[:, 0] * columns + at[:, 1], torch.arange(len(at), device=at.device)) else None
    )


# -- a product


class Attend:
    """What the network would do with q, k, v, `(B, heads, tokens, width)`, at this call; and what is known of the call.

    Attributes:
        queries, keys: which tokens of the network's own q and k are the picture's and which the text's. Reading raises `ArgumentError` where that is
            not known. grid: the picture's tokens as (rows, columns), None where that is not known.
    """

    def __init__(
        self, call: _Call, counts: tuple[int, int], run: Callable[..., Tensor], weights: Callable[..., Tensor]
    ) -> None:
        self._call, self._counts, self._run, self._weights = call, counts, run, weights

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The output `(B, heads, queries, width of v)`; mask: True or 0 where a key is seen, False or a negative number where not."""
        return self._run(q, k, v, mask)

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """The probabilities softmax(q k^T / sqrt(d)), `(B, heads, queries, keys)`, in float32 at least; times v they are the output."""
        return self._weights(q, k, mask)

    @property
    def queries(self) -> Tokens:
        """What q holds."""
        return self._call.tokens(self._counts[0], keys=False)

    @property
    def keys(self) -> Tokens:
        """What k and v hold."""
        return self._call.tokens(self._counts[1], keys=True)

    @property
    def grid(self) -> tuple[int, int] | None:
        """(rows, columns) of the picture's tokens."""
        grid = self._call.picture()[1]
        if grid is None:
            return None
        try:
            picture = self.queries.picture
        except ArgumentError:
            return None
        return grid if grid[0] * grid[1] == picture.stop - picture.start else None


@dataclass(frozen=True)
class _Fused:
    """A call of `scaled_dot_product_attention`; rest: what it was told beyond q, k, v and mask."""

    rest: Mapping[str, Any]

    def run(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **self.rest)

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        wide = torch.promote_types(q.dtype, torch.float32)
        if self.rest.get("enable_gqa"):
            k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        scale = self.rest.get("scale")
        scores = (q.to(wide) @ k.to(wide).transpose(-1, -2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if self.rest.get("is_causal"):
            scores = scores.masked_fill(
                ~torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(), -torch.inf
            )
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.to(wide)
        return scores.softmax(-1)


@dataclass(frozen=True)
class _Written:
    """A product written out: the tensor it has come to, the first factors, and the steps since."""

    now: Tensor
    q: Tensor
    k: Tensor
    steps: tuple[Callable[[Tensor], Tensor], ...] = ()
    soft: Callable[[Tensor], Tensor] | None = None

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        scores = q @ k.transpose(-1, -2)
        for step in self.steps:
            scores = step(scores)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        assert self.soft is not None
        return self.soft(scores)

    def run(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return self.weights(q, k, mask) @ v


_FUSED = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


class Products(TorchFunctionMode):
    """Hands the products of one call of an attention layer to functions; the last of them is asked first."""

    def __init__(
        self, functions: Sequence[tuple[Place, Function]], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.functions, self.own = functions, (args, kwargs)
        self.count = 0
        self.written: dict[int, _Written] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            given = dict(zip(_FUSED, args, strict=False)) | kwargs
            q, k, v = (given.pop(name) for name in _FUSED[:3])
            mask = given.pop("attn_mask", None)
            return self._hand(q, k, v, mask, _Fused(given))
        name = getattr(func, "__name__", "")
        if name == "matmul" and all(isinstance(a, Tensor) and a.ndim == 4 for a in args[:2]):
            known = self.written.get(id(args[0]))
            if known is not None and known.soft is not None:
                return self._hand(known.q, known.k, args[1], None, known)
            out = func(*args, **kwargs)
            return self._keep(_Written(out, args[0], args[1].transpose(-1, -2)))
        known = self.written.get(id(args[0])) if args else None
        if known is None or known.soft is not None or name not in ("mul", "div", "add", "softmax"):
            return func(*args, **kwargs)

        def step(scores: Tensor) -> Tensor:
            out: Tensor = func(scores, *args[1:], **kwargs)
            return out

        if name == "softmax":
            last = (args[1] if len(args) > 1 else kwargs.get("dim")) in (-1, 3)
            return (
                self._keep(_Written(step(known.now), known.q, known.k, known.steps, step))
                if last
                else func(*args, **kwargs)
            )
        return self._keep(_Written(step(known.now), known.q, known.k, (*known.steps, step)))

    def _keep(self, written: _Written) -> Tensor:
        self.written[id(written.now)] = written
        return written.now

    def _hand(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, product: _Fused | _Written) -> Tensor:
        self.count += 1
        run: Callable[..., Tensor] = product.run
        if q.ndim != 4:
            raise ShapeError(
                f"{self.functions[0][0].name} multiplies q of shape {tuple(q.shape)}; (B, heads, tokens, width) is what can be patched"
            )
        for place, function in self.functions:
            attend = Attend(_Call(place, self.own), (q.shape[-2], k.shape[-2]), run, product.weights)
            run = _checked(place, function, attend)
        return run(q, k, v, mask)


def _checked(place: Place, function: Function, attend: Attend) -> Callable[..., Tensor]:
    def run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        out: Any = function(place, q, k, v, mask, attend)
        wanted = (*q.shape[:-1], v.shape[-1])
        if not isinstance(out, Tensor) or tuple(out.shape) != wanted:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ShapeError(
                f"the function at {place.name} ({place.kind}) returned {got}; a tensor {wanted} is needed: (B, heads, queries, width). "
                "To leave the layer as it is, return attend(q, k, v, mask)"
            )
        return out

    return run
