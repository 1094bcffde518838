"""How the places of a network are found: by structure and class name, without importing the library that defines it."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from reverie.base import ArgumentError, unknown
from reverie.model.anatomy.places import PARTS, About, Place, bare
from reverie.model.model import Model

__all__ = ["GROUPS", "KNOWN", "Reading", "find", "read", "read_by_hand"]

GROUPS = ("self_attention", "cross_attention", "joint_attention", "blocks", "feedforward")


def _named(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules by name, the names without what `torch.compile` adds to them."""
    for name, module in net.named_modules():
        yield ".".join(part for part in name.split(".") if part != "_orig_mod"), module


@dataclass
class Reading:
    """The places of a network while they are being found; see `About` for frame, patch and tops."""

    net: nn.Module
    tops: tuple[nn.Module, ...]
    frame: nn.Module | None = None
    patch: int = 1
    groups: dict[str, list[Place]] = field(default_factory=lambda: {g: [] for g in GROUPS})

    def __post_init__(self) -> None:
        self.names = {id(module): name for name, module in _named(self.net)}

    def add(self, module: Any, group: str, kind: str, part: str, scale: int, **more: Any) -> None:
        """One place more, the last of its group so far."""
        module = bare(module)
        of_place = {k: more.pop(k) for k in ("widths", "skip") if k in more}
        about = About(**{"frame": self.frame, "patch": self.patch, "tops": self.tops, **more})
        places = self.groups[group]
        places.append(Place(self.names[id(module)], kind, part, len(places), scale, module, about=about, **of_place))

    def attends(self, module: Any, kind: str, part: str, scale: int, **more: Any) -> None:
        """One place of attention more; kind is "self", "cross" or "joint"."""
        self.add(module, f"{kind}_attention", f"{kind}-attention", part, scale, **more)

    def inside(self, block: Any, part: str, scale: int) -> None:
        """The self- and cross-attention and the feed-forward layers of a transformer block."""
        if (first := bare(getattr(block, "attn1", None))) is not None:
            self.attends(first, "cross" if getattr(block, "only_cross_attention", False) else "self", part, scale)
        if (second := bare(getattr(block, "attn2", None))) is not None:
            self.attends(second, "cross" if getattr(second, "is_cross_attention", False) else "self", part, scale)
        for name, kind in (("ff", "feedforward"), ("ff_context", "text-feedforward")):
            if (layer := getattr(block, name, None)) is not None:
                self.add(layer, "feedforward", kind, part, scale)


# -- U-Nets of diffusers


def _unet(r: Reading, net: Any) -> None:
    skips, scale = _skips(net), 1
    for level in map(bare, net.down_blocks):
        _level(r, level, "encoder", scale, skips)
        for module in _resamplers(level, "down"):
            r.add(module, "blocks", "downsample", "encoder", scale, widths=_widths(module))
            scale *= 2
    if net.mid_block is not None:
        _level(r, bare(net.mid_block), "middle", scale, skips)
    for level in map(bare, net.up_blocks):
        _level(r, level, "decoder", scale, skips)
        for module in _resamplers(level, "up"):
            r.add(module, "blocks", "upsample", "decoder", scale, widths=_widths(module))
            scale = max(scale // 2, 1)


def _level(r: Reading, level: Any, part: str, scale: int, skips: Mapping[int, int]) -> None:
    """A level's blocks in the order of its forward: the middle begins and ends with a residual block, others end with attention."""
    resnets, attentions = list(level.resnets), list(getattr(level, "attentions", None) or ())
    lead = 1 if part == "middle" else max(len(resnets) - len(attentions), 0)
    pairs = itertools.zip_longest(*([attentions, resnets[lead:]] if part == "middle" else [resnets[lead:], attentions]))
    for module in (*resnets[:lead], *itertools.chain.from_iterable(pairs)):
        if module is None:
            continue
        if any(module is resnet for resnet in resnets):
            r.add(module, "blocks", "resnet", part, scale, widths=_widths(module), skip=skips.get(id(module), 0))
        else:
            _attending(r, bare(module), part, scale)


def _attending(r: Reading, block: Any, part: str, scale: int) -> None:
    """An attention block of a U-Net: an attention layer by itself, or transformer blocks behind a projection."""
    r.frame = block
    if hasattr(block, "to_q"):
        r.add(block, "blocks", "attention", part, scale)
        if getattr(block, "added_kv_proj_dim", None) is None:
            r.attends(block, "cross" if getattr(block, "is_cross_attention", False) else "self", part, scale)
        else:  # its keys are the text's and, unless it is cross-attention only, after them the picture's
            r.attends(block, "cross" if block.only_cross_attention else "joint", part, scale, text="first")
        return
    r.add(block, "blocks", "transformer", part, scale, widths=_widths(block), at=None if hasattr(block, "attn2") else 0)
    several = (
        [block.transformers[i] for i in block.transformer_index_for_condition]
        if hasattr(block, "transformers")
        else [block]
    )
    for one in several:
        for inner in [one] if hasattr(one, "attn2") else map(bare, bare(one).transformer_blocks):
            r.inside(inner, part, scale)


def _resamplers(level: Any, way: str) -> list[Any]:
    """What halves or doubles the picture; of levels that carry a small picture beside the features, what does it to the features."""
    if hasattr(level, f"resnet_{way}"):
        one = getattr(level, f"resnet_{way}")
        return [] if one is None else [one]
    return list(getattr(level, f"{way}samplers", None) or ())


def _widths(module: Any) -> tuple[int, int] | None:
    module = bare(module)
    inner = getattr(module, "in_channels", None) or getattr(module, "channels", None)
    outer = getattr(module, "out_channels", None) or inner
    return (inner, outer) if isinstance(inner, int) and isinstance(outer, int) else None


def _skips(net: Any) -> dict[int, int]:
    """Channels that each residual block of the decoder takes from the encoder; nothing where the widths do not add up that way."""
    hidden = _base(net.conv_in).out_channels
    kept, found = [hidden], {}
    for level in map(bare, net.down_blocks):
        for module in (*level.resnets, *_resamplers(level, "down")):
            widths = _widths(module)
            if widths is None:
                return {}
            hidden = widths[1]
            kept.append(hidden)
    for level in map(bare, net.up_blocks):
        for resnet in level.resnets:
            widths = _widths(resnet)
            if widths is None or not kept or widths[0] != hidden + kept[-1]:
                return {}
            found[id(resnet)] = kept.pop()
            hidden = widths[1]
    return {} if kept else found


def _base(layer: Any) -> Any:
    """The layer under an adapter such as LoRA's."""
    return getattr(layer, "base_layer", layer)


# -- transformers of diffusers


def _transformer(r: Reading, net: Any) -> None:
    """Blocks of one stream (DiT, PixArt), of two with the picture's tokens first (SD3), and of two or one with the text's first (Flux)."""
    flux = hasattr(net, "single_transformer_blocks")
    scale = r.patch = 1 if flux else _patch(net)
    r.frame = net
    for block in map(bare, net.transformer_blocks):
        if hasattr(block, "attn1"):
            r.add(block, "blocks", "transformer", "body", scale)
        else:
            r.add(block, "blocks", "joint", "body", scale, at=1)
            r.attends(block.attn, "joint", "body", scale, text="first" if flux else "last", at=0)
        r.inside(block, "body", scale)
    for block in map(bare, net.single_transformer_blocks if flux else ()):
        r.add(block, "blocks", "single", "body", scale, at=1)
        r.attends(block.attn, "joint", "body", scale, text="first")


def _patch(net: Any) -> int:
    size = net.config["patch_size"]
    if not isinstance(size, int):
        raise ArgumentError(
            f"{type(net).__name__} has patches of {size!r}; square ones are known, of a whole number of pixels"
        )
    return size


# -- Reverie's own


def _own_unet(r: Reading, net: Any) -> None:
    scale, kept = 1, []

    def add(block: Any, part: str, skip: int = 0) -> int:
        block = bare(block)
        widths = _base(block.conv1).in_channels, _base(block.conv2).out_channels
        r.add(block, "blocks", "resnet", part, scale, widths=widths, skip=skip)
        return int(widths[1])

    for level, halve in zip(net.down[::2], net.down[1::2], strict=True):
        kept.append([add(block, "encoder") for block in level][-1])
        r.add(halve, "blocks", "downsample", "encoder", scale, widths=_widths(_base(halve)))
        scale *= 2
    for i, block in enumerate(net.middle):
        add(block, "middle")
        if i == 0 and hasattr(net.attention, "qkv"):
            r.add(net.attention, "blocks", "attention", "middle", scale)
            r.attends(net.attention, "self", "middle", scale)
    for level in reversed(net.up):
        scale //= 2
        for i, block in enumerate(level):
            add(block, "decoder", kept.pop() if i == 0 else 0)


# -- which is which

_UNET = ("U-Net", ("conv_in", "down_blocks", "mid_block", "up_blocks"), _unet)
_TRANSFORMER = ("transformer", ("transformer_blocks", "config"), _transformer)
KNOWN: dict[str, tuple[str, tuple[str, ...], Callable[[Reading, Any], None]]] = {
    "UNet2DModel": _UNET,
    "UNet2DConditionModel": _UNET,
    "DiTTransformer2DModel": _TRANSFORMER,
    "PixArtTransformer2DModel": _TRANSFORMER,
    "SD3Transformer2DModel": _TRANSFORMER,
    "FluxTransformer2DModel": _TRANSFORMER,
    "UNet": ("U-Net", ("first", "down", "middle", "attention", "up", "last_norm"), _own_unet),
}


def _known(module: nn.Module) -> str | None:
    """The name under which a module's class, or one that it derives from, is known."""
    for kind in type(module).__mro__:
        if kind.__name__ in KNOWN and all(hasattr(module, a) for a in KNOWN[kind.__name__][1]):
            return kind.__name__
    return None


def _held(thing: Any) -> list[Any]:
    """What a model, an adapter or a function holds that may be, or hold, the network."""
    if isinstance(thing, Model):
        return [thing.net]
    if isinstance(thing, nn.Module):
        return list(thing.children())
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if inspect.ismethod(thing):
        return [thing.__self__]
    held = list(getattr(thing, "__dict__", {}).values())
    for cell in getattr(thing, "__closure__", None) or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # a variable that has no value yet
            continue
    return [h for h in held if isinstance(h, nn.Module | Model) or (callable(h) and not isinstance(h, type))]


def _search(thing: Any, found: Callable[[nn.Module], bool], deep: int = 4) -> dict[nn.Module, nn.Module]:
    """The modules inside a thing for which `found` holds, not looking inside these, with the outermost module that holds each."""
    hits: dict[nn.Module, nn.Module] = {}
    seen: set[int] = set()

    def visit(one: Any, top: nn.Module | None, deep: int) -> None:
        if id(one) in seen or deep < 0:
            return
        seen.add(id(one))
        if isinstance(one, nn.Module):
            top = one if top is None else top
            if bare(one) is one and found(one):
                hits[one] = top
                return
        for held in _held(one):
            visit(held, top, deep if isinstance(one, nn.Module) else deep - 1)

    visit(thing, None, deep)
    return hits


def find(thing: Any) -> tuple[str, nn.Module, tuple[nn.Module, ...]]:
    """The known name of the one network inside a model, adapter, wrapper, pipeline or function; the network; the outermost module around it."""
    hits = _search(thing, lambda m: _known(m) is not None)
    if len(hits) > 1:
        raise ArgumentError(
            f"{type(thing).__name__} holds {len(hits)} networks ({', '.join(type(m).__name__ for m in hits)}); give the one that is meant"
        )
    for net, top in hits.items():
        name = _known(net)
        assert name is not None
        return name, net, (top,)
    inner = next(iter(_search(thing, lambda m: True)), thing.net if isinstance(thing, Model) else thing)
    raise ArgumentError(
        f"the parts of {type(inner).__name__} are not known, nor of anything inside it; known are {', '.join(KNOWN)}. "
        "Name its modules by hand: Anatomy.of(net, self_attention=['blocks.0.attn', ...], blocks={'encoder': [...], ...})"
    )


def read(thing: Any) -> tuple[str, Reading]:
    """The kind of network, and its places."""
    name, net, tops = find(thing)
    kind, _, reader = KNOWN[name]
    r = Reading(net, tops)
    reader(r, net)
    return kind, r


def read_by_hand(thing: Any, groups: Mapping[str, Any], text: str | None, patch: int) -> Reading:
    """The places that are named, in the order given."""
    if text not in (None, "first", "last"):
        raise ArgumentError(f"text is 'first' or 'last', where text tokens come in joint attention, got {text!r}")
    if isinstance(patch, bool) or not isinstance(patch, int) or patch < 1:
        raise ArgumentError(f"patch is a whole number of pixels of at least 1, got {patch!r}")
    hits = _search(thing, lambda m: True)
    if len(hits) != 1:
        raise ArgumentError(
            f"{type(thing).__name__} holds {len(hits)} modules at its surface; give the network itself, an nn.Module"
        )
    ((net, top),) = hits.items()
    r = Reading(net, (top,), net, patch)
    modules = dict(_named(net))
    for group, given in groups.items():
        kind = {"blocks": "block"}.get(group, group.replace("_", "-"))
        for part, names in given.items() if isinstance(given, Mapping) else [("body", given)]:
            if part not in PARTS:
                raise unknown("part", part, PARTS)
            for name in [names] if isinstance(names, str) else names:
                if name not in modules or not name:
                    raise unknown("module", name, modules, f"{type(net).__name__}.named_modules()")
                r.add(modules[name], group, kind, part, patch, text=text)
    return r
