from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import torch

from reverie.papers import Record, claims, sources, trial

from . import fakes

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _quick_digests() -> Iterator[None]:
    """The code does not change while its tests run: what a claim rests on is read once."""
    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(lambda roots: sources.digests(roots))
        patch.setattr(claims, "digests", lambda roots, anew=False: dict(once(tuple(roots))))
        yield


@pytest.fixture(scope="session")
def record() -> Record:
    """What a quick trial of the superiority fake finds: two settings, two kinds of cases, five seeds."""
    return trial(fakes.superiority())
