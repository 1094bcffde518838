"""DiT: a transformer on an autoencoder's latents under a class label, with a learned variance.

    state (4, h, h);  class_labels (B,), the number of classes meaning none;  heads (eps, variance)

Sources: Peebles & Xie 2023 (2212.09748).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reverie.base import ArgumentError, unknown
from reverie.hub.pipelines.common import assemble, options, pixels, scale_of
from reverie.hub.pipelines.family import VAE, Ask, family
from reverie.hub.process import process_of
from reverie.model import Cond, Model

__all__ = ["dit"]


class _Transformer(nn.Module):
    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, x: Tensor, label: Tensor, *, class_labels: Tensor, **more: Any) -> Tensor:
        said: Tensor = self.transformer(x, timestep=label, class_labels=class_labels, return_dict=False, **more)[0]
        return said


@family(
    "DiTPipeline", parts={"transformer": ("DiTTransformer2DModel", "Transformer2DModel"), "vae": VAE, "scheduler": ()}
)
def dit(pipe: Any, ask: Ask) -> Model:
    """`embed(classes)`: names of the pipeline's labels, or numbers, one or several (a list, or separated by commas), or "all"."""
    config, scale = pipe.transformer.config, scale_of(pipe.vae)
    own = config.sample_size * scale
    size = pixels(ask, (own, own), scale * config.patch_size)
    if size[0] != size[1]:
        raise ArgumentError(f"a DiT makes squares, got size {size}")
    count, labels = int(config.num_embeds_ada_norm), dict(pipe.labels)
    names = {n: name for name, n in reversed(labels.items())}
    numbers = {str(n): n for n in range(count)} | labels

    def embed(classes: Any, **more: Any) -> Cond:
        options(more)
        words = (
            classes.split(",")
            if isinstance(classes, str)
            else classes
            if isinstance(classes, list | tuple)
            else [classes]
        )
        words = [str(word).strip() for word in words] if classes != "all" else [str(n) for n in range(count)]
        for word in words:
            if word not in numbers:
                raise unknown(f"class (numbers 0 to {count - 1} are known too)", word, labels or numbers, "pipe.labels")
        return {"class_labels": torch.tensor([numbers[word] for word in words], device=pipe._execution_device)}

    model = assemble(
        pipe, ask, _Transformer(pipe.transformer), process_of(pipe.scheduler), (config.in_channels, size[0] // scale, size[1] // scale),
        pipe.transformer.out_channels, embed, {"class_labels": count},
    )  # fmt: skip
    model.card = {"classes": [names.get(n, str(n)) for n in range(count)]}
    return model
