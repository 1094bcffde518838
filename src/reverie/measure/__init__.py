"""Measures: metrics and estimators over samples."""

from reverie.measure.frechet import frechet_distance
from reverie.measure.judge import Judge, judge
from reverie.measure.nearest import nearest_distance
from reverie.measure.sliced import Sliced, sliced_wasserstein
from reverie.measure.spread import class_spread, spread_ratio

__all__ = [
    "Judge",
    "Sliced",
    "class_spread",
    "frechet_distance",
    "judge",
    "nearest_distance",
    "sliced_wasserstein",
    "spread_ratio",
]
