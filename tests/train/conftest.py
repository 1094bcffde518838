"""The tiny recipe, and one thread: bits are compared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tiny_recipe import TINY

from reverie.train import Recipe


@pytest.fixture
def tiny() -> Recipe:
    return Recipe.of(TINY)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
