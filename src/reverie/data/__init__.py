"""Data: offline datasets, held by a fixed split, and the samples of big jobs."""

from reverie.data.captions import Scene, Thing, caption, demands, parse
from reverie.data.digits import digits
from reverie.data.pictures import pixels
from reverie.data.shapes import render, scene, scenes, shapes
from reverie.data.shards import Samples, samples, write_npz

__all__ = [
    "Samples", "Scene", "Thing", "caption", "demands", "digits", "parse", "pixels", "render", "samples", "scene", "scenes", "shapes", "write_npz",
]  # fmt: skip
