"""Oracles: models whose every answer is exact, and what follows from that: data, densities, solutions, posteriors."""

from reverie.oracle.gaussian import Gaussian
from reverie.oracle.mixture import Mixture
from reverie.oracle.ode import solve_ode

__all__ = ["Gaussian", "Mixture", "solve_ode"]
