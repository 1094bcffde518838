"""The conditional U-Net of Stable Diffusion and SDXL as a network of Reverie, with what may be told to it besides the text.

    condition                what                                                   where
    encoder_hidden_states    the text, (B, tokens, width)                           always
    text_embeds, time_ids    the pooled text (B, width); sizes and crop (B, 6)      SDXL
    mask, masked_latents     1 where to paint (B, 1, h, w); the rest (B, 4, h, w)   inpainting U-Nets, of 9 channels
    control_image            (B, 3, H, W) in [0, 1]; control_image_1, ... of more   ControlNet
    control_scale            (B,), or (B, nets); 1 where it is not told             ControlNet
    guidance                 (B,), the scale that a distilled U-Net imitates        U-Nets with `time_cond_proj_dim` (LCM)

What is nested for diffusers (`added_cond_kwargs`) is flat here, so that rows of conditions can be selected and merged.

Sources: Rombach et al. 2022 (2112.10752); Podell et al. 2023 (2307.01952, SDXL); Zhang et al. 2023 (2302.05543, ControlNet); Luo et al. 2023
(2310.04378, LCM).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reverie.base import ArgumentError, ShapeError
from reverie.hub.pipelines.common import Latents, cast, default, rows
from reverie.model import Cond

__all__ = ["PARTS", "UNet", "besides", "latent_channels", "picture", "pictures_of", "takes", "unet_of"]

PARTS = {"unet": ("UNet2DConditionModel",), "controlnet": ("ControlNetModel",), "scheduler": ()}


class UNet(nn.Module):
    """A `UNet2DConditionModel`, called as Reverie calls networks.

    Args:
        controls: ControlNets, whose residuals are added. scale: pixels a latent entry (for SDXL's sizes). guidance: what a distilled U-Net is told
            where the condition does not say it.
    """

    def __init__(
        self, unet: nn.Module, controls: Sequence[nn.Module] = (), scale: int = 8, guidance: float = 7.5
    ) -> None:
        super().__init__()
        self.unet, self.controls = unet, nn.ModuleList(controls)
        self.scale, self.guidance = scale, guidance

    def forward(
        self,
        x: Tensor,
        label: Tensor,
        *,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
        mask: Tensor | None = None,
        masked_latents: Tensor | None = None,
        control_scale: Tensor | float | None = None,
        guidance: Tensor | float | None = None,
        **more: Any,
    ) -> Tensor:
        config: Any = self.unet.config
        text = cast(encoder_hidden_states, x)
        if text_embeds is None and config.get("addition_embed_type") == "text_time" and "added_cond_kwargs" not in more:
            raise ArgumentError("SDXL is told text_embeds besides the text; m.embed(prompt) makes both")
        if text_embeds is not None:
            more["added_cond_kwargs"] = {"text_embeds": cast(text_embeds, x), "time_ids": self._sizes(x, time_ids)}
        told = [more.pop(_control(i), None) for i in range(len(self.controls))]
        for i, (net, image) in enumerate(zip(self.controls, told, strict=True)):
            if image is None:
                raise ArgumentError(
                    f"the ControlNet was not told its picture: give it as m.embed(prompt, {_control(i)}=tensor)"
                )
            strength = 1.0 if control_scale is None else _strength(control_scale, i, x)
            added = {"added_cond_kwargs": more["added_cond_kwargs"]} if "added_cond_kwargs" in more else {}
            down, mid = net(
                x, label, text, controlnet_cond=cast(image, x), conditioning_scale=strength, return_dict=False, **added
            )
            before = more.get("down_block_additional_residuals")
            if before is not None:
                down = [a + b for a, b in zip(before, down, strict=True)]
                mid = more["mid_block_additional_residual"] + mid
            more["down_block_additional_residuals"], more["mid_block_additional_residual"] = down, mid
        if config.get("time_cond_proj_dim") is not None:
            w = (
                torch.as_tensor(self.guidance if guidance is None else guidance)
                .to(x.device, torch.float32)
                .expand(len(x))
            )
            more["timestep_cond"] = _embedded(w, config["time_cond_proj_dim"]).to(x)
        if config["in_channels"] > x.shape[1]:
            x = self._painting(x, mask, masked_latents)
        said: Tensor = self.unet(x, label, text, return_dict=False, **more)[0]
        return said

    def _sizes(self, x: Tensor, time_ids: Tensor | None) -> Tensor:
        """SDXL's six numbers: the original size, the crop's corner and the size made, (height, width) each; by default that of the state, whole."""
        if time_ids is not None:
            return time_ids.to(x)
        size = [x.shape[-2] * self.scale, x.shape[-1] * self.scale]
        return torch.tensor([[*size, 0, 0, *size]], dtype=x.dtype, device=x.device).expand(len(x), -1)

    def _painting(self, x: Tensor, mask: Tensor | None, masked: Tensor | None) -> Tensor:
        if mask is None or masked is None:
            raise ArgumentError("an inpainting U-Net is told m.embed(prompt, image=picture, mask=mask)")
        if mask.shape[-2:] != x.shape[-2:]:
            raise ShapeError(f"a mask of latent size {tuple(mask.shape[-2:])} for a state of {tuple(x.shape[-2:])}")
        return torch.cat([x, mask.to(x), masked.to(x)], dim=1)


def _control(i: int) -> str:
    return "control_image" if i == 0 else f"control_image_{i}"


def _strength(scale: Tensor | float, i: int, x: Tensor) -> Tensor:
    """The scale of net i, one a sample, as a factor of its residuals."""
    told = torch.as_tensor(scale).to(x)
    each = told.reshape(len(told) if told.ndim else 1, -1)
    return each[:, min(i, each.shape[1] - 1)].reshape(-1, 1, 1, 1)


def _embedded(w: Tensor, width: int) -> Tensor:
    """The guidance scale as sines and cosines of 1000 (w - 1), which distilled U-Nets were trained on."""
    half = width // 2
    steps = torch.arange(half, dtype=w.dtype, device=w.device) * (-math.log(10000.0) / (half - 1))
    angle = (w * 1000 - 1000)[:, None] * steps.exp()[None]
    return nn.functional.pad(torch.cat([angle.sin(), angle.cos()], dim=1), (0, width % 2))


# -- from a pipeline


def control_nets(pipe: Any) -> list[nn.Module]:
    """The ControlNets of a pipeline, none where it has none.

    Raises `ArgumentError` for one that only works in guess mode.
    """
    control = getattr(pipe, "controlnet", None)
    nets = [] if control is None else list(getattr(control, "nets", [control]))
    for net in (getattr(net, "_orig_mod", net) for net in nets):  # as they were before torch.compile
        if type(net).__name__ != "ControlNetModel":
            raise ArgumentError(f"{type(net).__name__} is no ControlNet that Reverie knows; ControlNetModel is")
        if net.config.get("global_pool_conditions"):
            raise ArgumentError("a ControlNet with global_pool_conditions needs guess mode, which Reverie does not do")
    return nets


def refuse_adapters(unet: Any) -> None:
    """Raise `ArgumentError` where pictures are prompts (an IP-Adapter is loaded)."""
    if unet.config.get("encoder_hid_dim_type") is not None:
        raise ArgumentError(
            f"the U-Net takes {unet.config['encoder_hid_dim_type']} besides the text, which Reverie does not do; pipe.unload_ip_adapter() takes an "
            "IP-Adapter out"
        )


def latent_channels(pipe: Any) -> int:
    """Channels of the state: those of the autoencoder, else what the U-Net gives.

    Raises `ArgumentError` for a U-Net that takes others than these, or these with a mask and a masked picture.
    """
    config = pipe.unet.config
    vae = getattr(pipe, "vae", None)
    own = int(config["out_channels"] if vae is None else vae.config["latent_channels"])
    if config["in_channels"] not in (own, 2 * own + 1):
        raise ArgumentError(
            f"the U-Net takes {config['in_channels']} channels; {own} (latents) or {2 * own + 1} (latents, mask, masked latents) can be told"
        )
    return own


def unet_of(pipe: Any, scale: int) -> UNet:
    """The adapter around a pipeline's own U-Net and ControlNets."""
    refuse_adapters(pipe.unet)
    return UNet(pipe.unet, control_nets(pipe), scale, float(default(type(pipe).__call__, "guidance_scale")))


def picture(value: Any, count: int, size: tuple[int, int], what: str, channels: int = 3) -> Tensor:
    """A picture `(B, channels, H, W)` in [0, 1] as one row a prompt.

    Raises `ShapeError` or `ArgumentError` for what is none.
    """
    if not isinstance(value, Tensor) or value.ndim != 4 or value.shape[1] != channels:
        told = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ShapeError(f"{what} is a tensor (B, {channels}, H, W), got {told}")
    if tuple(value.shape[2:]) != size:
        raise ShapeError(
            f"{what} has {tuple(value.shape[2:])} pixels, the model makes {size}; resize it, or give hub.model size="
        )
    if not value.is_floating_point() or not bool(((value >= 0) & (value <= 1)).all()):
        raise ArgumentError(f"{what} has values in [0, 1], got {value.min().item():.4g} to {value.max().item():.4g}")
    return rows(value, count, what)


def painted(pipe: Any, given: Mapping[str, Any], count: int, size: tuple[int, int], scale: int) -> Cond:
    """The conditions of an inpainting U-Net: the mask at the latents' size and the latents of what it leaves."""
    device, dtype = pipe._execution_device, torch.float32
    image = picture(given["image"], count, size, "image").to(device, dtype)
    mask = picture(given["mask"], count, size, "mask", 1).to(device, dtype)
    mask = (mask >= 0.5).to(dtype)
    left = Latents(pipe.vae).encode((2 * image - 1) * (1 - mask))
    return {"mask": nn.functional.interpolate(mask, size=(size[0] // scale, size[1] // scale)), "masked_latents": left}


def besides(pipe: Any, given: dict[str, Any], count: int, size: tuple[int, int], scale: int) -> Cond:
    """What an `embed` makes of its options beyond the text: mask and picture, ControlNets' pictures, guidance; what was not said is left out."""
    found: Cond = {}
    controls = control_nets(pipe)
    paints = pipe.unet.config["in_channels"] > latent_channels(pipe)
    if paints and (given["image"] is not None or given["mask"] is not None):
        if given["image"] is None or given["mask"] is None:
            raise ArgumentError("an inpainting U-Net needs both image= and mask=")
        found |= painted(pipe, given, count, size, scale)
    device = pipe._execution_device
    if controls:
        named = given["control_image"] if given.get("control_image") is not None or paints else given["image"]
        several = list(named) if isinstance(named, list | tuple) else [named] * (named is not None)
        if several and len(several) != len(controls):
            raise ArgumentError(f"{len(several)} pictures for {len(controls)} ControlNets; give a list of one each")
        for i, image in enumerate(several):
            channels = int(controls[i].config["conditioning_channels"])  # type: ignore[index]
            found[_control(i)] = picture(image, count, size, "the ControlNet's image", channels).to(device)
        if given["scale"] is not None:
            scales = torch.as_tensor(given["scale"], dtype=torch.float32)
            if scales.ndim > 1 or scales.numel() not in (1, len(controls)):
                raise ArgumentError(f"scale is a number, or one a ControlNet ({len(controls)}), got {given['scale']!r}")
            found["control_scale"] = scales.reshape(1, -1).expand(count, len(controls)).to(device)
    if given.get("guidance") is not None:
        found["guidance"] = rows(given["guidance"], count, "guidance").to(device)
    return found


def pictures_of(pipe: Any) -> list[str]:
    """The options of `embed` that are pictures, of which the network needs all: "image" and "mask" to paint, a ControlNet's picture."""
    return [name for name in takes(pipe) if name in ("image", "mask", "control_image")]


def takes(pipe: Any) -> dict[str, Any]:
    """The options of `besides` that this pipeline has."""
    found: dict[str, Any] = {}
    paints, controls = pipe.unet.config["in_channels"] > latent_channels(pipe), control_nets(pipe)
    if paints:
        found |= {"image": None, "mask": None}
    if controls:
        found |= {"control_image" if paints else "image": None, "scale": None}
    if pipe.unet.config.get("time_cond_proj_dim") is not None:
        found["guidance"] = None
    return found
