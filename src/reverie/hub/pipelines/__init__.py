"""Families of diffusers' pipelines as models, one file a family; `family.FAMILIES` lists them by class name."""

from reverie.hub.pipelines import (
    dit,
    flux,
    pixart,
    stable_diffusion,
    stable_diffusion_3,
    stable_diffusion_xl,
    unconditional,
)
from reverie.hub.pipelines.family import FAMILIES, Ask, Family, family, find, known, wrapped

__all__ = [
    "FAMILIES", "Ask", "Family", "dit", "family", "find", "flux", "known", "pixart", "stable_diffusion", "stable_diffusion_3",
    "stable_diffusion_xl", "unconditional", "wrapped",
]  # fmt: skip
