"""Oracles: models whose every answer is exact, and what follows from that: data, densities, solutions, posteriors."""

from reverie.oracle.gaussian import Gaussian
from reverie.oracle.interpolant import Joined
from reverie.oracle.mixture import Mixture
from reverie.oracle.ode import solve_ode
from reverie.oracle.points import Points

__all__ = ["Gaussian", "Joined", "Mixture", "Points", "solve_ode"]
