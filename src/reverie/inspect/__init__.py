"""Inspect: what takes a model and measures it."""

from reverie.inspect.compare import compare
from reverie.inspect.comparison import Comparison, Floor, Row
from reverie.inspect.entries import Entry, entry
from reverie.inspect.figures import Figure
from reverie.inspect.painters import Agreement, agreement

__all__ = ["Agreement", "Comparison", "Entry", "Figure", "Floor", "Row", "agreement", "compare", "entry"]
