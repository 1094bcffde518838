"""In and out: house models and model files."""

from reverie.hub.house import embed_classes, house_models, load

__all__ = ["embed_classes", "house_models", "load"]
