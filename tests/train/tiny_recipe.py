"""A training small enough for tests."""

from __future__ import annotations

from typing import Any

TINY: dict[str, Any] = {
    "name": "tiny",
    "net": {"name": "unet", "args": {"widths": [8, 8], "depth": 1, "embed": 8, "heads": 2, "dropout": 0.3}},
    "steps": 8,
    "batch": 8,
    "warmup": 2,
    "ema": 0.9,
    "save_every": 3,
    "check_every": 4,
}
