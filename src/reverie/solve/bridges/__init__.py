"""Schrödinger bridges through several snapshots: exact for linear references, learned for others, with a reference that is refined."""

from reverie.solve.bridges.families import Affine, Features, Parametric
from reverie.solve.bridges.learned import LearnedBridge, Regressor, exponential, ipfp
from reverie.solve.bridges.linear import ExactBridge, LinearSDE, couple, sinkhorn
from reverie.solve.bridges.multimarginal import MultiBridge, multimarginal_bridge

__all__ = [
    "Affine", "ExactBridge", "Features", "LearnedBridge", "LinearSDE", "MultiBridge", "Parametric", "Regressor",
    "couple", "exponential", "ipfp", "multimarginal_bridge", "sinkhorn",
]  # fmt: skip
