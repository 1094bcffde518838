"""Plans: solvers compiled to tables, and the loop that runs them."""

import importlib

from reverie.solve.adjoint import Adjoint
from reverie.solve.analytic_init import AnalyticInit
from reverie.solve.bridges.linear import LinearSDE
from reverie.solve.bridges.multimarginal import MultiBridge, multimarginal_bridge
from reverie.solve.capture import Captured, capture
from reverie.solve.context import Run
from reverie.solve.dmcmc import Chains, denoising_langevin, denoising_mcmc
from reverie.solve.dpm_ot import SemiDiscrete, TransportStart
from reverie.solve.fine import Fine
from reverie.solve.grids import ENDS, GRIDS, Node, nodes
from reverie.solve.interpolant import interpolant_plan
from reverie.solve.inverse import amplification
from reverie.solve.levels import exact_levels, level_loss, noise_levels
from reverie.solve.likelihood import Likelihood, log_likelihood, sample_with_likelihood
from reverie.solve.line import Line, given, noise, one, prediction, state
from reverie.solve.oms import OneMoreStep, oms_loss
from reverie.solve.order import OrderCheck, check_order
from reverie.solve.own_starts import own_starts
from reverie.solve.plan import Plan, Stage, dynamic, rule
from reverie.solve.run import run
from reverie.solve.sample import plan_for, sample, sample_blocks
from reverie.solve.solver import SOLVERS, Solver, Table, plan, solver
from reverie.solve.stability import Multistep, linear_multistep
from reverie.solve.teleport import Teleport
from reverie.solve.time_shift import time_shift
from reverie.solve.tuning.bellman import BellmanGrid, bellman_grid
from reverie.solve.tuning.cascade import Cascade
from reverie.solve.tuning.compensate import compensate
from reverie.solve.tuning.evolve import Found, evolve
from reverie.solve.tuning.genome import Genome
from reverie.solve.tuning.s3 import search_solver
from reverie.solve.tuning.score import endpoint_error
from reverie.solve.tuning.statistics import Statistics, statistics
from reverie.solve.tuning.timesets import search_times
from reverie.solve.tuning.tune import tune
from reverie.solve.unroll import Unrolled, reroll, unroll

__all__ = [
    "ENDS",
    "GRIDS",
    "SOLVERS",
    "Adjoint",
    "AnalyticInit",
    "BellmanGrid",
    "Captured",
    "Cascade",
    "Chains",
    "Fine",
    "Found",
    "Genome",
    "Likelihood",
    "Line",
    "LinearSDE",
    "MultiBridge",
    "Multistep",
    "Node",
    "OneMoreStep",
    "OrderCheck",
    "Plan",
    "Run",
    "SemiDiscrete",
    "Solver",
    "Stage",
    "Statistics",
    "Table",
    "Teleport",
    "TransportStart",
    "Unrolled",
    "amplification",
    "bellman_grid",
    "capture",
    "check_order",
    "compensate",
    "denoising_langevin",
    "denoising_mcmc",
    "dynamic",
    "endpoint_error",
    "evolve",
    "exact_levels",
    "given",
    "interpolant_plan",
    "level_loss",
    "linear_multistep",
    "log_likelihood",
    "multimarginal_bridge",
    "nodes",
    "noise",
    "noise_levels",
    "oms_loss",
    "one",
    "own_starts",
    "plan",
    "plan_for",
    "prediction",
    "reroll",
    "rule",
    "run",
    "sample",
    "sample_blocks",
    "sample_with_likelihood",
    "search_solver",
    "search_times",
    "solver",
    "state",
    "statistics",
    "time_shift",
    "tune",
    "unroll",
]  # fmt: skip

# Registered in the order in which they are listed.
for _family in (
    "ddim", "heun", "kdpm", "singlestep", "multistep", "unipc", "dpm_v3", "dc", "usf", "deis", "pndm", "sa", "langevin", "restart", "consistency",
    "adaptive", "two_level", "ghvb", "evodiff", "bdia",
):  # fmt: skip
    importlib.import_module(f"reverie.solve.{_family}")
