"""Patches: functions put around the calls of modules, taken away again without a trace."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from reverie.base import ArgumentError
from reverie.model.anatomy.calls import Attend, AttentionMap, Function, Products, enclosing
from reverie.model.anatomy.places import ATTENTION, Place

__all__ = ["attention", "inputs", "outputs", "record_attention", "replace"]

Layer = Callable[..., Any]
_LOCK = threading.RLock()
_ABSENT = object()


class _Patch:
    """What stands in a module's `forward` (or another slot of its `__dict__`) while it is patched: the layers, the last one outermost."""

    def __init__(self, module: nn.Module, slot: str) -> None:
        self.module, self.slot = module, slot
        self.own: Any = module.__dict__.get(slot, _ABSENT)
        self.layers: tuple[Layer, ...] = ()
        self.functions: tuple[tuple[Place, Function], ...] = ()
        self.__wrapped__ = getattr(module, slot)

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """The module as it was."""
        if self.own is _ABSENT:
            return getattr(type(self.module), self.slot)(self.module, *args, **kwargs)
        return self.own(*args, **kwargs)

    def attended(self, *args: Any, **kwargs: Any) -> Any:
        """The module as it was, its products handed to the functions of `attention`."""
        functions = self.functions
        if not functions:
            return self.original(*args, **kwargs)
        with Products(functions, args, kwargs) as products:
            out = self.original(*args, **kwargs)
        if products.count == 0:
            raise _unseen(functions[-1][0])
        return out

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call: Layer = self.attended
        for layer in self.layers:
            call = functools.partial(layer, call)
        return call(*args, **kwargs)


def _unseen(place: Place) -> ArgumentError:
    processor = getattr(place.module, "processor", None)
    how = f" (its processor is {type(processor).__name__})" if processor is not None else ""
    return ArgumentError(
        f"{place.name} ran without a call of torch.nn.functional.scaled_dot_product_attention{how}, so its attention cannot be patched; "
        "give it a processor that makes one, e.g. net.set_attn_processor(AttnProcessor2_0()), or the backend net.set_attention_backend('native')"
    )


def _at(module: nn.Module, slot: str) -> _Patch:
    """The patch of a module's slot, installed if need be."""
    patch = module.__dict__.get(slot)
    if not isinstance(patch, _Patch):
        patch = _Patch(module, slot)
        module.__dict__[slot] = patch
    return patch


def _leave(patch: _Patch) -> None:
    """Restore a slot whose patch holds nothing any more."""
    if patch.layers or patch.functions:
        return
    if patch.module.__dict__.get(patch.slot) is not patch:
        raise ArgumentError(
            f"the {patch.slot} of a {type(patch.module).__name__} was changed by something else while it was patched (by hooks of accelerate, say); "
            "close the context manager before that is set up or removed"
        )
    if patch.own is _ABSENT:
        del patch.module.__dict__[patch.slot]
    else:
        patch.module.__dict__[patch.slot] = patch.own


def _add(stack: ExitStack, module: nn.Module, slot: str, kind: str, entry: Any) -> None:
    """Put an entry into the patch of a module's slot, among its `layers` or its `functions`, until the stack closes."""
    with _LOCK:
        patch = _at(module, slot)
        setattr(patch, kind, (*getattr(patch, kind), entry))

    def undo() -> None:
        with _LOCK:
            setattr(patch, kind, tuple(one for one in getattr(patch, kind) if one is not entry))
            _leave(patch)

    stack.callback(undo)


def _add_layer(stack: ExitStack, module: nn.Module, layer: Layer, slot: str = "forward") -> None:
    _add(stack, module, slot, "layers", layer)


def _add_function(stack: ExitStack, place: Place, function: Function) -> None:
    _add(stack, place.module, "forward", "functions", (place, function))


def _uncompile(stack: ExitStack, places: Iterable[Place]) -> None:
    """Let what `torch.compile` made of the modules around places run as it was written."""
    if "torch._dynamo" not in sys.modules:
        return
    tops = {id(top): top for place in places for top in place.about.tops}
    for module in {id(m): m for top in tops.values() for m in top.modules()}.values():
        if "_orig_mod" in module._modules:
            written: Any = module._modules["_orig_mod"]
            _add_layer(stack, module, lambda compiled, *args, _as=written, **kwargs: _as(*args, **kwargs))
        if module.__dict__.get("_compiled_call_impl") is not None:
            plain = module._call_impl
            _add_layer(
                stack, module, lambda compiled, *args, _as=plain, **kwargs: _as(*args, **kwargs), "_compiled_call_impl"
            )


def _several(places: Place | Iterable[Place], function: Any) -> tuple[Place, ...]:
    places = (places,) if isinstance(places, Place) else tuple(places)
    if not places or not all(isinstance(p, Place) for p in places):
        wrong = next((type(p).__name__ for p in places if not isinstance(p, Place)), None)
        raise ArgumentError(
            "no place was selected, so nothing would be patched; print(anatomy(model).blocks) shows what there is"
            if wrong is None
            else f"places are those of an Anatomy, e.g. anatomy(model).self_attention, not {wrong}"
        )
    if not callable(function):
        raise ArgumentError(f"a function is needed, got {type(function).__name__}")
    return places


@contextmanager
def _around(places: Place | Iterable[Place], function: Any, layer_of: Callable[[Place], Layer]) -> Iterator[None]:
    places = _several(places, function)
    with ExitStack() as stack:
        _uncompile(stack, places)
        for place in places:
            _add_layer(stack, place.module, layer_of(place))
        yield


def outputs(
    places: Place | Iterable[Place], f: Callable[[Place, Any, tuple[Any, ...], dict[str, Any]], Any]
) -> AbstractContextManager[None]:
    """While it is open, f(place, output, args, kwargs) sees what each module returns, and may return something else.

    Args:
        places: one or several. f: its result takes the output's place; None leaves it. `place.output` and `place.with_output` read and write the
            picture's features whatever the module returns.

    Raises `ArgumentError`, when entered, for no places or no function.

    >>> import torch, reverie as rv
    >>> net = rv.nets.UNet(widths=(8, 16), depth=1, embed=16)
    >>> a = rv.model.anatomy(net)
    >>> with outputs(a.blocks, lambda place, output, args, kwargs: print(place.name, tuple(output.shape))):
    ...     y = net(torch.zeros(1, 1, 8, 8), torch.zeros(1))
    down.0.0 (1, 8, 8, 8)
    down.1 (1, 16, 4, 4)
    middle.0 (1, 16, 4, 4)
    attention (1, 16, 4, 4)
    middle.1 (1, 16, 4, 4)
    up.0.0 (1, 8, 8, 8)
    """

    def layer_of(place: Place) -> Layer:
        def layer(call: Layer, *args: Any, **kwargs: Any) -> Any:
            out = call(*args, **kwargs)
            new = f(place, out, args, kwargs)
            return out if new is None else new

        return layer

    return _around(places, f, layer_of)


def inputs(
    places: Place | Iterable[Place],
    f: Callable[[Place, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], Mapping[str, Any]] | None],
) -> AbstractContextManager[None]:
    """While it is open, f(place, args, kwargs) sees what each module is given, and may return other (args, kwargs).

    Args:
        places: one or several. f: None leaves the arguments. `place.input` and `place.with_input` read and write the features.

    Raises `ArgumentError`, when entered, for no places or no function; at a call, where f returns neither None nor a pair.
    """

    def layer_of(place: Place) -> Layer:
        def layer(call: Layer, *args: Any, **kwargs: Any) -> Any:
            new: Any = f(place, args, kwargs)
            if new is None:
                return call(*args, **kwargs)
            if not (
                isinstance(new, tuple)
                and len(new) == 2
                and isinstance(new[0], tuple | list)
                and isinstance(new[1], Mapping)
            ):
                raise ArgumentError(
                    f"the function at {place.name} must return (args, kwargs), a tuple and a dict, or None; got {type(new).__name__}"
                )
            return call(*new[0], **new[1])

        return layer

    return _around(places, f, layer_of)


def replace(places: Place | Iterable[Place], f: Callable[..., Any]) -> AbstractContextManager[None]:
    """While it is open, f(place, original, *args, **kwargs) is what each module computes; original(*args, **kwargs) is what it computed.

    A block that f does not call costs nothing: `lambda place, original, *args, **kwargs: place.idle(args, kwargs)` skips it.

    Args:
        places: one or several.

    Raises `ArgumentError`, when entered, for no places or no function.
    """

    def layer_of(place: Place) -> Layer:
        def layer(call: Layer, *args: Any, **kwargs: Any) -> Any:
            return f(place, call, *args, **kwargs)

        return layer

    return _around(places, f, layer_of)


@contextmanager
def attention(places: Place | Iterable[Place], f: Function) -> Iterator[None]:
    """While it is open, f(place, q, k, v, mask, attend) is what each attention layer computes between its projections.

    Args:
        places: one or several of an anatomy's attention lists.
        f: given q, k, v `(B, heads, tokens, width)` and a mask or None, returns the output `(B, heads, queries, width)`. attend(q, k, v, mask) is
            what the network would do; see `Attend` for what else is known of the call. A layer that makes several products (an image prompt
            beside the text) asks f for each.

    Raises:
        ArgumentError: when entered, no places, or places that are not attention; at a call, a layer whose products cannot be seen.
        ShapeError: f returned something of another shape.

    >>> import torch, reverie as rv
    >>> net = rv.nets.UNet(widths=(8, 16), depth=1, embed=16, heads=2)
    >>> a = rv.model.anatomy(net)
    >>> def look(place, q, k, v, mask, attend):
    ...     print(place.name, tuple(q.shape), attend.grid)
    ...     return attend(q, k, v, mask)
    >>> with attention(a.self_attention, look):
    ...     y = net(torch.zeros(1, 1, 8, 8), torch.zeros(1))
    attention (1, 2, 16, 8) (4, 4)
    """
    places = _several(places, f)
    for place in places:
        if place.kind not in ATTENTION:
            raise ArgumentError(
                f"{place.name} is of kind {place.kind!r}, not attention; select from an anatomy's self_attention, cross_attention or joint_attention"
            )
    with ExitStack() as stack:
        _uncompile(stack, places)
        frames = {
            id(p.about.frame): p.about.frame
            for p in places
            if p.about.frame is not None and p.about.frame is not p.module
        }
        for frame in frames.values():
            _add_layer(stack, frame, enclosing(frame))
        for place in places:
            _add_function(stack, place, f)
        yield


@contextmanager
def record_attention(
    places: Place | Iterable[Place], keep: Callable[[Place, AttentionMap], Any] = lambda place, found: found
) -> Iterator[dict[str, list[Any]]]:
    """While it is open, collects attention probabilities, for small maps: a list by place name, one entry a call.

    The network's output does not change, and probabilities carry gradients where it does.

    Args:
        places: one or several of an anatomy's attention lists.
        keep: what to keep of an `AttentionMap`, e.g. its mean over heads on the CPU; all of it takes B heads queries keys numbers a call.

    Raises:
        ArgumentError: as `attention`; or two places of one name.

    >>> import torch, reverie as rv
    >>> net = rv.nets.UNet(widths=(8, 16), depth=1, embed=16, heads=2)
    >>> with record_attention(rv.model.anatomy(net).self_attention) as maps:
    ...     y = net(torch.zeros(1, 1, 8, 8), torch.zeros(1))
    >>> maps["attention"][0].weights.shape
    torch.Size([1, 2, 16, 16])
    """
    places = _several(places, keep)
    found: dict[str, list[Any]] = {place.name: [] for place in places}
    if len(found) < len(places):
        raise ArgumentError("two places have one name; record those of one network at a time, and each once")

    def look(place: Place, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, attend: Attend) -> Tensor:
        entry = AttentionMap(attend.weights(q, k, mask), attend.queries, attend.keys, attend.grid)
        found[place.name].append(keep(place, entry))
        return attend(q, k, v, mask)

    with attention(places, look):
        yield found
