"""Unfinished jobs: samples that are done are kept beside the output until all are.

A sample is a pure function of (model, plan, guide, prompt, seed, batch, id). A digest of all but the id says whether kept samples belong
to a job; so a resumed job, or another job with other ids under the same settings, takes them as they are.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.base import FileError
from reverie.hub.jobs import plan_hash
from reverie.model import Model
from reverie.model.fingerprint import fingerprint
from reverie.nets import read_tensors, write_tensors
from reverie.solve import Plan

__all__ = ["Partial", "digest"]


def digest(model: Model, plan: Plan, settings: Mapping[str, Any]) -> str:
    """A fingerprint of what fixes a sample's bits beside its id: weights, process, plan, and other settings (JSON-able)."""
    said = [settings, fingerprint(model), plan_hash(plan), torch.__version__]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


class Partial:
    """The finished samples of a job, by id.

    Args:
        path: of the hidden file. fingerprint: see `digest`. every: seconds between saves while the job runs.

    Attributes:
        samples: id -> sample `(*shape)`. note: what to tell about a file that was found, or "".
    """

    def __init__(self, path: Path, fingerprint: str, every: float = 10.0) -> None:
        self.path, self.fingerprint, self.every = path, fingerprint, every
        self.samples: dict[int, Tensor] = {}
        self.note, self._saved = "", time.monotonic()
        if not path.exists():
            return
        try:
            tensors, metadata = read_tensors(path)
            if metadata.get("reverie") != fingerprint:
                self.note = f"{path} holds an unfinished job of other settings; it is ignored and will be replaced"
                return
            self.samples = dict(zip(tensors["ids"].tolist(), tensors["samples"], strict=True))
        except (FileError, KeyError, ValueError, TypeError) as error:
            self.note = f"{path} is no unfinished job ({error}); it is ignored and will be replaced"

    def add(self, ids: list[int], x: Tensor) -> None:
        """Take finished samples, and save all of them if the last save is some time ago."""
        self.samples.update(zip(ids, x.detach().cpu(), strict=True))
        if time.monotonic() - self._saved >= self.every:
            self.save()

    def save(self) -> bool:
        """Write the file, if there is anything to keep; says whether there was."""
        if self.samples:
            tensors = {"ids": torch.tensor(list(self.samples)), "samples": torch.stack(list(self.samples.values()))}
            write_tensors(self.path, tensors, {"reverie": self.fingerprint})
            self._saved = time.monotonic()
        return bool(self.samples)

    def remove(self) -> None:
        """Forget the file: the job is finished."""
        self.path.unlink(missing_ok=True)
