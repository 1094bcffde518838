"""Data: offline datasets, held by a fixed split, and the samples of big jobs."""

from reverie.data.digits import digits
from reverie.data.drawing import render
from reverie.data.parsing import parse
from reverie.data.patches import patches
from reverie.data.photographs import photographs
from reverie.data.pictures import pixels
from reverie.data.request import demands
from reverie.data.shapes import scene, scenes, shapes
from reverie.data.shards import Samples, samples, write_npz
from reverie.data.things import Scene, Thing
from reverie.data.wording import caption

__all__ = [
    "Samples", "Scene", "Thing", "caption", "demands", "digits", "parse", "patches", "photographs", "pixels", "render", "samples", "scene",
    "scenes", "shapes", "write_npz",
]  # fmt: skip
