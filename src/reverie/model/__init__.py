"""Models: a network, its process and what it predicts; the only place that converts between prediction types."""

from reverie.model.anatomy import Anatomy, anatomy
from reverie.model.anatomy.calls import Attend, AttentionMap, Tokens
from reverie.model.anatomy.patch import attention, inputs, outputs, record_attention, replace
from reverie.model.anatomy.places import Place, Places
from reverie.model.conditions import Cond, Shared, conditions, in_turn, merge, select
from reverie.model.interpolant import DRIFT, VELOCITY
from reverie.model.mean_reverting import MR_VELOCITY
from reverie.model.model import Codec, Model
from reverie.model.prediction import Prediction
from reverie.model.target import KINDS, Affine, Target, as_target

__all__ = [
    "DRIFT", "KINDS", "MR_VELOCITY", "VELOCITY", "Affine", "Anatomy", "Attend", "AttentionMap", "Codec", "Cond", "Model", "Place", "Places",
    "Prediction", "Shared", "Target", "Tokens", "anatomy", "as_target", "attention", "conditions", "in_turn", "inputs", "merge", "outputs",
    "record_attention", "replace", "select",
]  # fmt: skip
