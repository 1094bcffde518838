"""Data: offline datasets, held by a fixed split, and the samples of big jobs."""

from reverie.data.digits import digits
from reverie.data.pictures import pixels
from reverie.data.shards import Samples, samples, write_npz

__all__ = ["Samples", "digits", "pixels", "samples", "write_npz"]
