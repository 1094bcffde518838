"""Guides: model -> model by branches; `model | guide`."""

from reverie.guide.branches import Branches, Guide, Guided
from reverie.guide.cfg import CFG

__all__ = ["CFG", "Branches", "Guide", "Guided"]
