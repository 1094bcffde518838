"""In and out: house models and model files, and big jobs into folders."""

from reverie.hub.house import embed_classes, house_models, load
from reverie.hub.jobs import Filled, sample_folder

__all__ = ["Filled", "embed_classes", "house_models", "load", "sample_folder"]
