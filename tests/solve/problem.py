"""The small problem on which runs are tested: an overlapping mixture in 4 dimensions, on the linear variance-preserving process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import reverie as rv
from reverie.solve import Plan, Stage

from . import reference as ref

P = ref.PROCESSES["vp"]
MEANS, STD = ref.mixture(4, 3)
DATA = ref.data_of(P, MEANS, STD)


def x_of(b: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(b, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def oracle(kind: str = "eps", p: Any = P) -> rv.Model:
    return ref.model_of(p, kind, ref.data_of(p, MEANS, STD))


def table(*stages: Stage, **more: Any) -> Plan:
    return Plan("hand", P, stages, stages[0].t or 1.0, **more)
