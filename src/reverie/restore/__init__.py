"""Restoration: pictures from damaged ones."""

from reverie.restore.optimal_start import FixedStart, OptimalStart, optimal_start

__all__ = ["FixedStart", "OptimalStart", "optimal_start"]
