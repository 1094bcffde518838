"""Models: a network, its process and what it predicts; the only place that converts between prediction types."""

from reverie.model.conditions import Cond, Shared, conditions, merge, select
from reverie.model.model import Codec, Model
from reverie.model.prediction import Prediction
from reverie.model.target import KINDS, Affine, Target, as_target

__all__ = [
    "KINDS", "Affine", "Codec", "Cond", "Model", "Prediction", "Shared", "Target",
    "as_target", "conditions", "merge", "select",
]  # fmt: skip
