"""Training an autoencoder whose latents a diffusion model can learn.

    loss = mean (decode(z) - x)^2 + kl mean KL(q(z | x) || N(0, 1)),      z = mean + std eps of q(z | x) = N(mean, std^2)

The first term alone would give latents of any size and roughness; the second, a little of it, keeps them finite and smooth.

Source: Kingma & Welling 2014 (1312.6114); Rombach et al. 2022 (2112.10752, section 3.1, without the adversarial and perceptual terms).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from reverie.base import ShapeError

__all__ = ["autoencoding", "psnr"]


def autoencoding(net: nn.Module, x: Tensor, noise: Tensor, kl: float = 1e-5) -> Tensor:
    """The loss of an autoencoder in diffusers' manner (`AutoencoderKL`), a scalar.

    Args:
        net: with `encode(x).latent_dist` and `decode(z).sample`. x: pictures `(B, C, H, W)` in [-1, 1]. noise: of the latents' shape.
        kl: weight of the divergence, a mean over latent entries, in nats.

    Raises:
        ShapeError: noise of another shape than the latents.
    """
    q: Any = net.encode(x).latent_dist  # type: ignore[operator]
    if noise.shape != q.mean.shape:
        raise ShapeError(f"the latents have shape {tuple(q.mean.shape)}, the noise {tuple(noise.shape)}")
    shown: Tensor = net.decode(q.mean + q.std * noise).sample  # type: ignore[operator]
    mean, logvar = q.mean.float(), q.logvar.float()
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
    return (shown.float() - x).square().mean() + kl * divergence.mean()


@torch.no_grad()
def psnr(net: nn.Module, x: Tensor, batch: int = 64) -> float:
    """The peak signal-to-noise ratio in dB, 10 log10(4 / mean squared error), of pictures `(N, C, H, W)` in [-1, 1] sent through the autoencoder."""
    total = 0.0
    for part in x.split(batch):
        there: Any = net.encode(part).latent_dist.mean  # type: ignore[operator]
        back = net.decode(there).sample.clamp(-1, 1)  # type: ignore[operator]
        total += (back.float() - part).square().mean((1, 2, 3)).sum().item()
    return 10 * math.log10(4 * len(x) / max(total, 1e-12))
