"""Where a plan's fitted numbers come from, and a warning where they are used on something else."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping

from reverie.base import OriginWarning
from reverie.model import Model
from reverie.model.fingerprint import fingerprint
from reverie.solve.plan import Plan

__all__ = ["check_origin", "origin"]


def origin(model: Model) -> dict[str, str]:
    """What a fit writes into its provenance: the model's name, guides included, its fingerprint, which does not depend on precision, and that of the
    model without guides ("unguided")."""
    base = vars(model).get("base", model)
    return {
        "model": model.name or "",
        "fingerprint": fingerprint(model, exact=False),
        "unguided": fingerprint(base, exact=False),
    }


def check_origin(plan: Plan, model: Model | Mapping[str, Model]) -> None:
    """Warn (`OriginWarning`), once, where a plan was fitted to another model, guide or scale than the one that it is run on."""
    wanted = plan.provenance.get("fingerprint")
    if wanted is None or not isinstance(model, Model):
        return
    found = fingerprint(model, exact=False)
    told = plan._folds.setdefault("foreign", set())
    if found == wanted or found in told:
        return
    told.add(found)
    fitted = plan.provenance.get("model", "another model")
    other = "the same name with other weights or settings" if fitted == model.name else model.name
    warnings.warn(
        f"this {plan.solver!r} plan was fitted to {fitted}, and is run on {other}: its errors here are unknown; fit it to this model "
        "(rv.solve.tune, or reverie tune), or take a classical plan",
        OriginWarning,
        stacklevel=_outside(),
    )


def _outside() -> int:
    """How far up the first caller outside of Reverie is."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "reverie":
        level, frame = level + 1, frame.f_back
    return level
