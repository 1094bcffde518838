"""Where a plan's fitted numbers come from, and a warning where they are used on something else."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping

from reverie.base import OriginWarning
from reverie.model import Model
from reverie.model.fingerprint import fingerprint
from reverie.solve.plan import Plan

__all__ = ["check_origin"]


def check_origin(plan: Plan, model: Model | Mapping[str, Model], depth: int = 4) -> None:
    """Warn (`OriginWarning`) where a plan was fitted to another model, or to another guide or scale, than the one that it is run on.

    A model is looked at once for a plan; changing its weights in between is not noticed. depth: frames to the caller's line.
    """
    wanted = plan.provenance.get("fingerprint")
    if wanted is None or not isinstance(model, Model):
        return
    last = plan._folds.get("origin")
    if last is not None and last() is model:
        return
    plan._folds["origin"] = weakref.ref(model)
    if fingerprint(model) != wanted:
        fitted = plan.provenance.get("model", "another model")
        other = "the same name with other weights" if fitted == model.name else model.name
        warnings.warn(
            f"this {plan.solver!r} plan was fitted to {fitted}, and is run on {other}: its errors here are unknown; fit it to this model "
            "(rv.solve.tune), or take a classical plan",
            OriginWarning,
            stacklevel=depth,
        )
