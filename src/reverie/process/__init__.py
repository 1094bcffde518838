"""Forward processes: how clean data become noise, one family a file."""

from reverie.process.ddpm import DDPM, ddpm
from reverie.process.flow import Flow, dynamic_shift, flow
from reverie.process.interpolant import Interpolant, interpolant, regression
from reverie.process.mean_reverting import MeanReverting, mean_reverting
from reverie.process.pfgmpp import PFGMpp, pfgmpp
from reverie.process.process import Process, float64, from_spec, per_sample
from reverie.process.ve import VE, edm, ve
from reverie.process.vp import VP, Cosine, Linear, ScaledLinear, SubVP, subvp, vp

__all__ = [
    "DDPM", "VE", "VP", "Cosine", "Flow", "Interpolant", "Linear", "MeanReverting", "PFGMpp", "Process", "ScaledLinear", "SubVP", "ddpm",
    "dynamic_shift", "edm", "float64", "flow", "from_spec", "interpolant", "mean_reverting", "per_sample", "pfgmpp", "regression", "subvp", "ve",
    "vp",
]  # fmt: skip
