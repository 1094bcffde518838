"""Plans: solvers compiled to tables, and the loop that runs them."""

import importlib

from reverie.solve.capture import Captured, capture
from reverie.solve.context import Run
from reverie.solve.grids import ENDS, GRIDS, Node, nodes
from reverie.solve.likelihood import Likelihood, log_likelihood, sample_with_likelihood
from reverie.solve.line import Line, given, noise, prediction, state
from reverie.solve.order import OrderCheck, check_order
from reverie.solve.plan import Plan, Stage, dynamic, rule
from reverie.solve.run import run
from reverie.solve.sample import plan_for, sample, sample_blocks
from reverie.solve.solver import SOLVERS, Solver, Table, plan, solver

__all__ = [
    "ENDS", "GRIDS", "SOLVERS", "Captured", "Likelihood", "Line", "Node", "OrderCheck", "Plan", "Run", "Solver", "Stage", "Table",
    "capture", "check_order",
    "dynamic", "given", "log_likelihood", "nodes", "noise", "plan", "plan_for", "prediction", "rule", "run", "sample", "sample_blocks",
    "sample_with_likelihood", "solver", "state",
]  # fmt: skip

# Registered in the order in which they are listed.
for _family in (
    "ddim", "heun", "kdpm", "singlestep", "multistep", "unipc", "deis", "pndm", "sa", "langevin", "restart", "consistency", "adaptive",
):  # fmt: skip
    importlib.import_module(f"reverie.solve.{_family}")
