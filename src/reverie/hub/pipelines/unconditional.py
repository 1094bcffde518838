"""DDPM and DDIM: a U-Net on pixels that is told nothing but the time (or a class, where it was trained with classes).

Sources: Ho et al. 2020 (2006.11239); Song et al. 2021 (2010.02502).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from reverie.hub.pipelines.common import assemble, pair, pixels
from reverie.hub.pipelines.family import Ask, family
from reverie.hub.process import process_of
from reverie.model import Model

__all__ = ["unconditional"]


class _UNet(nn.Module):
    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, label: Tensor, **more: Any) -> Tensor:
        said: Tensor = self.unet(x, label, return_dict=False, **more)[0]
        return said


@family("DDPMPipeline", "DDIMPipeline", parts={"unet": ("UNet2DModel",), "scheduler": ()})
def unconditional(pipe: Any, ask: Ask) -> Model:
    """No codec, no `embed`, no null condition."""
    config = pipe.unet.config
    step = 2 ** (len(config.block_out_channels) - 1)
    h, w = pixels(ask, pair(config.sample_size), step)
    shape = (config.in_channels, h, w)
    return assemble(pipe, ask, _UNet(pipe.unet), process_of(pipe.scheduler), shape, config.out_channels)
