"""Data: offline datasets, held by a fixed split."""

from reverie.data.digits import digits

__all__ = ["digits"]
