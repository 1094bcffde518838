"""Photographs: the colour pictures and grey textures that scikit-image and scikit-learn carry in their packages.

They are read from the packages' own files, so that nothing is ever downloaded. Whole pictures are held out, both of them free of
any condition (CC0), so that figures may show them: what is restored in a test has no pixel in common with what was trained on.
Grey pictures have three equal channels: edges and grain teach a prior the same whether they are coloured or not. Left out are
drawings, text, micrographs, the sky at night, a retina, and the second picture of the stereo pair, which shows the first's scene.

    astronaut   E. Collins, by NASA; public domain                       camera    a man with a camera, by L. Varshney; CC0
    china       a pavilion, by D. Buechele; CC BY 2.0                    brick     a texture of CC0Textures; CC0
    flower      a dahlia, in scikit-learn from Flickr; CC BY 2.0         grass     a texture of CC0Textures; CC0
    motorcycle  in a garage, by D. Scharstein et al. 2014, Middlebury    gravel    a texture of CC0Textures; CC0
    rocket      Falcon 9 at dusk, by SpaceX; public domain
    chelsea     a cat, by S. van der Walt; CC0, held out                 coffee    a cup, by R. Michetti; CC0, held out

Sources: van der Walt et al. 2014, "scikit-image: image processing in Python"; Pedregosa et al. 2011, "Scikit-learn".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reverie.base import ArgumentError, unknown

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SPLITS", "Photograph", "opened", "photographs", "tensor"]

SPLITS = ("train", "heldout")
"""A split's place here is the number of its stream of noise."""


@dataclass(frozen=True)
class Photograph:
    """Where a picture is, and how it is used.

    Attributes:
        folder, file: the file `file` in a folder of a package, whose name comes first. split: "train" or "heldout". share: how often it is
            drawn from, beside others. texture: whether it has no up and down, so that it may be turned.
    """

    folder: tuple[str, ...]
    file: str
    split: str
    share: float
    texture: bool = False


_SKIMAGE, _SKLEARN = ("skimage", "data"), ("sklearn", "datasets", "images")
PHOTOGRAPHS: dict[str, Photograph] = {
    "astronaut": Photograph(_SKIMAGE, "astronaut.png", "train", 4),
    "china": Photograph(_SKLEARN, "china.jpg", "train", 4),
    "flower": Photograph(_SKLEARN, "flower.jpg", "train", 3),
    "motorcycle": Photograph(_SKIMAGE, "motorcycle_left.png", "train", 5),
    "rocket": Photograph(_SKIMAGE, "rocket.jpg", "train", 1),
    "camera": Photograph(_SKIMAGE, "camera.png", "train", 1),
    "brick": Photograph(_SKIMAGE, "brick.png", "train", 1, texture=True),
    "grass": Photograph(_SKIMAGE, "grass.png", "train", 1, texture=True),
    "gravel": Photograph(_SKIMAGE, "gravel.png", "train", 1, texture=True),
    "chelsea": Photograph(_SKIMAGE, "chelsea.png", "heldout", 1),
    "coffee": Photograph(_SKIMAGE, "coffee.png", "heldout", 1),
}


@lru_cache(maxsize=len(SPLITS))
def opened(split: str) -> dict[str, Image]:
    """The pictures of a split by name, as Pillow has them, in RGB; not to be written to. Raises as `photographs`."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    return {name: _open(photograph) for name, photograph in PHOTOGRAPHS.items() if photograph.split == split}


def _open(photograph: Photograph) -> Image:
    package, *folders = photograph.folder
    name = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package]
    try:
        from PIL import Image

        path = resources.files(package).joinpath(*folders, photograph.file)
    except ImportError as error:
        raise ArgumentError(
            f"the photographs need {name} and Pillow, of which one is not installed: pip install 'reverie[data]'"
        ) from error
    try:
        with path.open("rb") as file:
            return Image.open(file).convert("RGB")
    except OSError as error:
        raise ArgumentError(
            f"the installed {name} has no readable {photograph.file}; take one that has: pip install 'reverie[data]'"
        ) from error


def tensor(picture: Image) -> Tensor:
    """A picture's bytes, `(3, H, W)`, uint8."""
    values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return values.reshape(picture.height, picture.width, 3).permute(2, 0, 1)


def photographs(split: str = "train") -> dict[str, Tensor]:
    """The photographs that patches are cut from, by name.

    Args:
        split: "train" or "heldout", which share no picture.

    Returns:
        Pictures `(3, H, W)`, float32 in [-1, 1], sides of 300 to 741 pixels; grey ones have three equal channels.

    Raises:
        UnknownNameError: another split. ArgumentError: scikit-image or scikit-learn is missing, or lacks a picture.

    >>> {name: tuple(x.shape) for name, x in photographs("heldout").items()}
    {'chelsea': (3, 300, 451), 'coffee': (3, 400, 600)}
    """
    return {name: tensor(picture).contiguous() / 127.5 - 1 for name, picture in opened(split).items()}
