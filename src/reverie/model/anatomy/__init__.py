"""Where a network's attentions, blocks, encoder, middle and decoder are, and how to act on them while it runs.

The one place that knows the names of modules. It works by structure and class name and imports no library.

    from reverie.model import anatomy, attention
    a = anatomy(model)                                                    # U-Nets and transformers of diffusers, Reverie's own
    middle = a.self_attention.where(part="middle")
    with attention(middle, lambda place, q, k, v, mask, attend: v):       # identity attention, as in perturbed-attention guidance
        model(x, t)

Five context managers patch places: `outputs`, `inputs`, `replace`, `attention`, `record_attention`. They may be nested, and laid over each other at
one place; of two, the one opened later is the outer one: its function is asked first, and what it calls meets the function of the other. They leave
nothing behind, whatever happens inside and in whatever order they are closed.

A patch belongs to the module, not to a thread or a model: whoever calls the module meanwhile, through any model and in any thread, meets it. All rows
of a batch come at once; the branches of a guide are rows. What `torch.compile` made, in or around the network that was given to `anatomy`, runs as it
was written while a place inside it is patched. A network with gradient checkpointing computes again in the backward pass, which must then lie inside
the manager.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from reverie.model.anatomy.calls import Attend, AttentionMap, Tokens
from reverie.model.anatomy.patch import attention, inputs, outputs, record_attention, replace
from reverie.model.anatomy.places import Place, Places
from reverie.model.anatomy.read import GROUPS, Reading, read, read_by_hand

__all__ = [
    "Anatomy", "Attend", "AttentionMap", "Place", "Places", "Tokens", "anatomy", "attention", "inputs", "outputs", "record_attention", "replace",
]  # fmt: skip

Names = Iterable[str] | Mapping[str, Iterable[str]]


@dataclass(frozen=True)
class Anatomy:
    """The places of a network, each list in the order of execution.

    Attributes:
        net: the network itself, without adapters and wrappers. kind: "U-Net", "transformer", or "by hand".
        self_attention: of picture tokens to each other. cross_attention: of picture tokens to text. joint_attention: over text and picture together.
        blocks: what a stream of features passes from end to end: residual and attention blocks and resamplers of a U-Net, a transformer's blocks.
        feedforward: the layers after attention.
    """

    net: nn.Module
    kind: str
    self_attention: Places
    cross_attention: Places
    joint_attention: Places
    blocks: Places
    feedforward: Places

    @property
    def attention(self) -> Places:
        """All attention, list after list: self, cross, joint."""
        return self.self_attention + self.cross_attention + self.joint_attention

    @property
    def skips(self) -> Places:
        """The blocks of a decoder whose last `place.skip` input channels come from the encoder."""
        return Places(p for p in self.blocks if p.skip)

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(getattr(self, g))} {g.replace('_', '-')}" for g in GROUPS if getattr(self, g))
        return f"Anatomy({type(self.net).__name__}, {self.kind}: {counts})"

    @classmethod
    def of(
        cls,
        model_or_net: Any,
        *,
        self_attention: Names = (),
        cross_attention: Names = (),
        joint_attention: Names = (),
        blocks: Names = (),
        feedforward: Names = (),
        text: str | None = None,
        patch: int = 1,
    ) -> Anatomy:
        """The places of any network, named by hand; without names, what `anatomy` finds.

        Args:
            model_or_net: a network, or a model on it. self_attention, ...: names as in `named_modules()`, in the order of execution, all of the part
                "body"; or a dict with the parts "encoder", "middle", "decoder", "body".
            text: whether in joint attention the text's tokens come "first" or "last". patch: pixels of the network's input a token, along a side.

        Raises:
            UnknownNameError: no such module or part. ArgumentError: no network, or another value of text or patch.

        >>> net = nn.Sequential(nn.Linear(2, 2), nn.SiLU(), nn.Linear(2, 2))
        >>> Anatomy.of(net, blocks={"encoder": ["0"], "decoder": ["2"]}).blocks
        <0: block 0, encoder, scale 1, Linear>
        <2: block 1, decoder, scale 1, Linear>
        """
        given = (self_attention, cross_attention, joint_attention, blocks, feedforward)
        if not any(given):
            return anatomy(model_or_net)
        return cls._from("by hand", read_by_hand(model_or_net, dict(zip(GROUPS, given, strict=True)), text, patch))

    @classmethod
    def _from(cls, kind: str, r: Reading) -> Anatomy:
        return cls(r.net, kind, **{group: Places(places) for group, places in r.groups.items()})


def anatomy(model_or_net: Any) -> Anatomy:
    """The places of a network: of diffusers' UNet2DModel, UNet2DConditionModel, DiT, PixArt, SD3 and Flux transformers, and of Reverie's UNet.

    Args:
        model_or_net: the network, or what holds exactly one: a Model, guided or not, an adapter, a pipeline, a function around it, a network
            that is compiled or adapted by LoRA.

    Raises:
        ArgumentError: a network that is not known (name its places by `Anatomy.of`), or several.

    >>> import reverie as rv
    >>> a = anatomy(rv.nets.UNet(widths=(8, 16), depth=1, embed=16))
    >>> a
    Anatomy(UNet, U-Net: 1 self-attention, 6 blocks)
    >>> a.blocks.where(part=("middle", "decoder"))
    <middle.0: resnet 2, middle, scale 2, _Block>
    <attention: attention 3, middle, scale 2, _Attention>
    <middle.1: resnet 4, middle, scale 2, _Block>
    <up.0.0: resnet 5, decoder, scale 1, skip 8, _Block>
    """
    return Anatomy._from(*read(model_or_net))
