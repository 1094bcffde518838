"""Every test of this room that names `process` runs on all of them."""

from __future__ import annotations

import pytest
from oracle_problems import PROCESSES


@pytest.fixture(params=PROCESSES.values(), ids=PROCESSES.keys())
def process(request):
    """One process of each kind."""
    return request.param
