"""Do the tests notice a wrong formula? Mutants of the solvers and guides, and how many of them the tests kill.

A mutant is the package with one small error in the arithmetic of one module:

    sign     a + b <-> a - b,   a b -> -(a b),   -a -> a,   exp(a) -> exp(-a)
    index    x[i] -> x[i + 1], x[i - 1];  the same in prediction(k), state(k), noise(k), and for the bounds of slices and ranges
    factor   a b -> 2 (a b),    c -> 2 c,        h = ... -> h = (...) / 2
    compare  a < b <-> a <= b,  a > b <-> a >= b,  min <-> max

What cannot be wrong, or whose change nobody could see, is not mutated: docstrings, messages (all of `raise`, f-strings), asserts, type hints,
`__all__`, `__repr__`, show.py; a term or factor of zero; the sign of what is squared or goes to abs; a sign that the sum around it would turn
too; the sign of what goes to log or sqrt (an error at once); constants below 1e-6 (tolerances); capital integers of a module (portions and
streams); axes and sizes (flatten(1), zeros(1), the maxsize of a cache); a < b in `a if a < b else b`; sums of text and lists.

The working tree is copied once. A parent with torch, numpy and pytest loaded first runs every test unchanged, and notes which functions each one
enters; tests that fail then, or that read a clock, do not count. For each mutant it forks a child whose import hook puts the mutated module in
place of the original, and which runs the tests that enter the mutated function, the module's own files first, until one fails. A test
that takes far more processor time than unchanged is a hang, which counts as killed.

    python benchmarks/mutants.py [--n 200] [--seed 0] [--all] [--only solve/deis.py] [--workers 2] [--survivors] [--list]
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import hashlib
import importlib.abc
import importlib.util
import inspect
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

KINDS = ("sign", "index", "factor", "compare")

FIRST = {
    "solve/adaptive.py": ["test_adaptive"],
    "solve/capture.py": ["test_speed"],
    "solve/context.py": ["test_context", "test_run"],
    "solve/files.py": ["test_files"],
    "solve/fold.py": ["test_fold", "test_made_once", "test_run"],
    "solve/grids.py": ["test_grids", "test_tables"],
    "solve/likelihood.py": ["test_likelihood"],
    "solve/line.py": ["test_fold", "test_files"],
    "solve/order.py": ["test_order"],
    "solve/plan.py": ["test_plan", "test_run"],
    "solve/repeat.py": ["test_repeat"],
    "solve/run.py": ["test_run", "test_context"],
    "solve/sample.py": ["test_sample", "test_plan_for"],
    "solve/solver.py": ["test_solver", "test_plan"],
    "solve/consistency.py": ["test_tables_steps"],
    "solve/heun.py": ["test_tables", "test_tables_steps"],
    "solve/kdpm.py": ["test_tables_steps"],
    "solve/langevin.py": ["test_tables_steps"],
    "solve/restart.py": ["test_tables_steps", "test_tables_multistep"],
    "solve/deis.py": ["test_tables_multistep", "test_tables_steps"],
    "solve/pndm.py": ["test_tables_multistep"],
    "solve/sa.py": ["test_tables_multistep"],
    "solve/unipc.py": ["test_tables_multistep"],
    "guide/branches.py": ["test_branches"],
    "guide/cfg.py": ["test_cfg", "test_branches"],
}
"""Which test files most likely kill a mutant of a module; all others follow. Else: the tables of the solvers."""

SEQUENCES = (ast.List, ast.Tuple, ast.ListComp, ast.GeneratorExp, ast.Set, ast.SetComp, ast.Dict, ast.JoinedStr)
MAKE_SEQUENCES = {"list", "tuple", "set", "frozenset", "dict", "str", "repr", "sorted", "join"}
ODD = {"exp", "expm1", "phi", "sin", "tan", "tanh", "erf"}
EVEN = {"abs", "cos", "cosh", "square"}
ROOTS = {"log", "log1p", "log2", "sqrt"}
SYMBOLS = {"prediction", "state", "noise"}
RANGES = {"range", "arange"}
AXES = {
    "flatten", "mean", "sum", "std", "unsqueeze", "squeeze", "size", "chunk", "expand", "reshape", "view", "zeros", "ones", "full", "empty", "round",
    "repeat", "diag", "get_close_matches", "isinstance", "replace", "split", "cat", "stack", "all", "any", "signature", "manual_seed",
}  # fmt: skip
STEPS = {"h", "dt", "width", "half", "delta"}
FLIPS: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
EXTREMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}


# ---------------------------------------------------------------------------------------------------------------- mutants


@dataclass(frozen=True)
class Mutant:
    """One change: of the node with this number in the walk of the module, the choice-th that the rules offer."""

    file: str
    line: int
    column: int
    kind: str
    change: str
    owner: str
    node: int
    choice: int

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.change}"


@dataclass
class Place:
    """A node with what the rules must know of where it stands."""

    node: ast.AST
    parents: tuple[ast.AST, ...]
    owner: str
    integers: frozenset[str]
    skip: bool = False

    def parent(self, up: int = 1) -> ast.AST | None:
        return self.parents[-up] if len(self.parents) >= up else None


def _called(node: ast.AST | None) -> str:
    """The last word of the name of what a call calls."""
    if not isinstance(node, ast.Call):
        return ""
    f = node.func
    return f.id if isinstance(f, ast.Name) else f.attr if isinstance(f, ast.Attribute) else ""


def _sequence(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return _sequence(node.left) or _sequence(node.right)
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, int | float)
    if isinstance(node, ast.IfExp):
        return _sequence(node.body) or _sequence(node.orelse)
    return isinstance(node, SEQUENCES) or _called(node) in MAKE_SEQUENCES


def _number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)


def _zero(node: ast.AST) -> bool:
    return _number(node) and node.value == 0  # type: ignore[attr-defined]


def _product(node: ast.AST | None) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div)


def _factors(node: ast.AST) -> Iterator[ast.AST]:
    if _product(node):
        yield from _factors(node.left)  # type: ignore[attr-defined]
        yield from _factors(node.right)  # type: ignore[attr-defined]
    else:
        yield node


def _integer_names(function: ast.AST) -> frozenset[str]:
    """Names of a function that hold whole numbers for sure: counters, loop variables, parameters said to be int."""
    out: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.arg) and isinstance(node.annotation, ast.Name) and node.annotation.id == "int":
            out.add(node.arg)
        if isinstance(node, ast.For | ast.comprehension):
            call, target = _called(node.iter), node.target
            if call == "enumerate" and isinstance(target, ast.Tuple):
                target = target.elts[0]
            elif call != "range":
                continue
            if isinstance(target, ast.Name):
                out.add(target.id)
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=False))
                for name, value in pairs:
                    whole = (_number(value) and isinstance(value.value, int)) or (  # type: ignore[attr-defined]
                        isinstance(value, ast.Attribute) and value.attr == "k"
                    )
                    if isinstance(name, ast.Name) and whole:
                        out.add(name.id)
    return frozenset(out)


def _left_alone(node: ast.AST, parent: ast.AST | None, field: str) -> bool:
    """Whether nothing under this node is mutated."""
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.keyword) and node.arg == "maxsize":
        return True
    if field in ("annotation", "returns", "bases"):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.FunctionDef) and node.name in ("__repr__", "__str__"):
        return True
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return True
    if isinstance(node, ast.Call) and (
        _called(node).endswith(("Error", "Warning")) or _called(node) in ("unknown", "warn")
    ):
        return True
    if isinstance(parent, ast.Module) and isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [t.id for t in targets if isinstance(t, ast.Name)]
        inside = list(ast.walk(node.value))
        plain = all(isinstance(n, ast.Constant | ast.BinOp | ast.operator) for n in inside)
        if "__all__" in names or (plain and all(name.isupper() or name.strip("_").isupper() for name in names)):
            return True
    return False


def places(tree: ast.Module) -> list[Place]:
    """All nodes in a fixed order, each with its place."""
    out: list[Place] = []

    def walk(node: ast.AST, parents: tuple[ast.AST, ...], owner: str, integers: frozenset[str], skip: bool) -> None:
        out.append(Place(node, parents, owner, integers, skip))
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        inside = f"{owner}.<locals>.{node.name}" if function and _in_function(parents) else owner  # type: ignore[attr-defined]
        if function and not _in_function(parents):
            inside = f"{owner}.{node.name}" if owner else node.name  # type: ignore[attr-defined]
        elif isinstance(node, ast.ClassDef):
            inside = f"{owner}.{node.name}" if owner else node.name
        known = integers | _integer_names(node) if function else integers
        for field, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if not isinstance(child, ast.AST):
                    continue
                outside = function and field == "decorator_list"
                left = skip or _left_alone(child, node, field)
                walk(child, (*parents, node), owner if outside else inside, known, left)

    walk(tree, (), "", frozenset(), False)
    return out


def _in_function(parents: Sequence[ast.AST]) -> bool:
    return any(isinstance(p, ast.FunctionDef) for p in parents)


def _shifted(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    for by in (1, -1):
        if isinstance(node, ast.Constant):
            yield "index", ast.Constant(node.value + by)  # type: ignore[operator]
        else:
            yield "index", ast.BinOp(copy.deepcopy(node), ast.Add() if by > 0 else ast.Sub(), ast.Constant(1))


def _counts(node: ast.AST, integers: frozenset[str]) -> bool:
    """Whether an index is a whole number for sure."""
    if isinstance(node, ast.UnaryOp):
        return _counts(node.operand, integers)
    if isinstance(node, ast.BinOp):
        return (_counts(node.left, integers) or _counts(node.right, integers)) and isinstance(
            node.op, ast.Add | ast.Sub
        )
    return (_number(node) and isinstance(node.value, int)) or (isinstance(node, ast.Name) and node.id in integers)  # type: ignore[attr-defined]


def _is_index(place: Place) -> bool:
    """Whether this is an index, a bound of a slice or a range, or the number of a symbol, as a whole."""
    node, parent = place.node, place.parent()
    if isinstance(parent, ast.Tuple) and isinstance(place.parent(2), ast.Subscript):
        return place.parent(2).slice is parent and _counts(node, place.integers)  # type: ignore[union-attr]
    if isinstance(parent, ast.Subscript):
        return parent.slice is node and _counts(node, place.integers)
    if isinstance(parent, ast.Slice):
        return node in (parent.lower, parent.upper)
    if isinstance(parent, ast.Call) and node in parent.args:
        called, number = _called(parent), parent.args.index(node)  # type: ignore[arg-type]
        if called in SYMBOLS and isinstance(parent.func, ast.Name):
            return number == 0
        return called in RANGES and number < 2
    return False


def _near_index(place: Place) -> bool:
    """Whether the node is a part of an index."""
    for k, p in enumerate(place.parents):
        child = place.parents[k + 1] if k + 1 < len(place.parents) else place.node
        if isinstance(p, ast.Subscript) and p.slice is child:
            return True
        if isinstance(p, ast.Call) and child in p.args and _called(p) in RANGES | SYMBOLS:
            return True
    return False


def _unseen_sign(place: Place) -> bool:
    """Whether the sign of this product cannot matter, or is another mutant's."""
    node, parent = place.node, place.parent()
    if isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Pow) and parent.left is node:
        return _number(parent.right) and parent.right.value % 2 == 0  # type: ignore[attr-defined]
    if isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Add | ast.Sub):
        return parent.right is node
    if isinstance(parent, ast.UnaryOp) or (isinstance(parent, ast.Attribute) and parent.attr in EVEN | ROOTS):
        return True
    return _called(parent) in EVEN | ROOTS


def _with_zero(place: Place) -> bool:
    parent = place.parent()
    return isinstance(parent, ast.Compare) and any(_zero(c) for c in (parent.left, *parent.comparators))


def offers(place: Place) -> Iterator[tuple[str, ast.AST]]:
    """The changes that the rules offer of one node: kind and what takes its place."""
    node, parent = place.node, place.parent()
    if place.skip:
        return
    if isinstance(node, ast.expr) and _is_index(place):
        yield from _shifted(node)
    if isinstance(node, ast.BinOp) and not _sequence(node):
        if isinstance(node.op, ast.Add | ast.Sub) and not _zero(node.left) and not _zero(node.right):
            swapped = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
            if not (
                isinstance(node.op, ast.Sub)
                and _near_index(place)
                and _is_index(place)
                and _number(node.right)
                and node.right.value == 1
            ):  # type: ignore[attr-defined]
                yield "sign", ast.BinOp(copy.deepcopy(node.left), swapped, copy.deepcopy(node.right))
        if _product(node) and not _product(parent) and not _near_index(place):
            if not _unseen_sign(place):
                yield "sign", ast.UnaryOp(ast.USub(), copy.deepcopy(node))
            if not any(_number(f) for f in _factors(node)) and not _with_zero(place) and _called(parent) not in AXES:
                yield "factor", ast.BinOp(ast.Constant(2), ast.Mult(), copy.deepcopy(node))
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub) and not _sequence(node.value):
        swapped = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        yield "sign", ast.AugAssign(copy.deepcopy(node.target), swapped, copy.deepcopy(node.value))
    if (
        isinstance(node, ast.UnaryOp)
        and isinstance(node.op, ast.USub)
        and not _is_index(place)
        and _called(parent) not in AXES
    ):
        yield "sign", copy.deepcopy(node.operand)
    if (
        isinstance(node, ast.Name | ast.Attribute)
        and isinstance(parent, ast.Call)
        and node in parent.args
        and _called(parent) in ODD
    ):
        yield "sign", ast.UnaryOp(ast.USub(), copy.deepcopy(node))
    if (
        _number(node)
        and not _zero(node)
        and abs(node.value) >= 1e-6
        and not _is_index(place)
        and not _near_index(place)
    ):  # type: ignore[attr-defined]
        axis = isinstance(parent, ast.Call | ast.keyword | ast.UnaryOp) and any(
            _called(p) in AXES and node not in ast.walk(p.func) for p in place.parents[-2:] if isinstance(p, ast.Call)
        )
        shift = isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Mod | ast.FloorDiv | ast.LShift)
        if not axis and not shift:
            yield "factor", ast.Constant(2 * node.value)  # type: ignore[attr-defined]
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp | ast.Call | ast.Attribute):
        target = node.targets[0]
        if isinstance(target, ast.Name) and target.id in STEPS:
            yield "factor", ast.Assign(node.targets, ast.BinOp(copy.deepcopy(node.value), ast.Div(), ast.Constant(2)))
    if isinstance(node, ast.Return) and place.owner.rpartition(".")[2] in STEPS and node.value is not None:
        yield "factor", ast.Return(ast.BinOp(copy.deepcopy(node.value), ast.Div(), ast.Constant(2)))
    if isinstance(node, ast.Compare):
        chooses = isinstance(parent, ast.IfExp) and parent.test is node
        sides = {ast.dump(n) for n in (node.left, *node.comparators)}
        if chooses and {ast.dump(parent.body), ast.dump(parent.orelse)} == sides:  # type: ignore[union-attr]
            return
        for j, op in enumerate(node.ops):
            if type(op) in FLIPS:
                ops = list(node.ops)
                ops[j] = FLIPS[type(op)]()
                yield "compare", ast.Compare(copy.deepcopy(node.left), ops, copy.deepcopy(node.comparators))
    if (
        isinstance(node, ast.Call)
        and _called(node) in EXTREMES
        and (len(node.args) != 1 or isinstance(node.func, ast.Name))
    ):
        other = copy.deepcopy(node)
        if isinstance(other.func, ast.Name):
            other.func.id = EXTREMES[_called(node)]
        elif isinstance(other.func, ast.Attribute):
            other.func.attr = EXTREMES[_called(node)]
        yield "compare", other


def mutants(file: str, source: str) -> list[Mutant]:
    """All mutants of a module, in the order of its text."""
    out, seen = [], set()
    for number, place in enumerate(places(ast.parse(source))):
        for choice, (kind, other) in enumerate(offers(place)):
            before, after = _text(place.node), _text(other)
            line = place.node.lineno  # type: ignore[attr-defined]
            column = place.node.col_offset + 1  # type: ignore[attr-defined]
            where = (line, column, before, after)
            if before == after or where in seen:
                continue
            seen.add(where)
            out.append(Mutant(file, line, column, kind, f"{before} -> {after}", place.owner, number, choice))
    return sorted(out, key=lambda m: (m.line, m.node, m.choice))


def _text(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(copy.deepcopy(node)))


def mutate(source: str, mutant: Mutant) -> ast.Module:
    """The module's tree with the mutant's change made."""
    tree = ast.parse(source)
    place = places(tree)[mutant.node]
    _, other = list(offers(place))[mutant.choice]
    ast.copy_location(other, place.node)
    parent = place.parent()
    assert parent is not None
    for field, value in ast.iter_fields(parent):
        if value is place.node:
            setattr(parent, field, other)
        elif isinstance(value, list):
            value[:] = [other if v is place.node else v for v in value]
    return ast.fix_missing_locations(tree)


# ---------------------------------------------------------------------------------------------------------------- children


class Hook(importlib.abc.MetaPathFinder):
    """Finds one module of the copy, with the mutated tree for its code."""

    def __init__(self, module: str, path: Path, tree: ast.Module) -> None:
        self.module, self.path, self.tree = module, path, tree
        self.used = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.module:
            return None
        hook = self

        class Loader(importlib.machinery.SourceFileLoader):
            def get_code(self, fullname: str) -> Any:
                hook.used = True
                return compile(hook.tree, str(hook.path), "exec")

        return importlib.util.spec_from_file_location(name, self.path, loader=Loader(name, str(self.path)))


class Hang(BaseException):
    """A test took far more processor time than it does unchanged."""


def _hang(signum: int, frame: FrameType | None) -> None:
    signal.setitimer(signal.ITIMER_PROF, 2.0)  # again, should something have swallowed it
    raise Hang


class Tests:
    """A pytest plugin: what to run in which order, and what came of it."""

    def __init__(
        self,
        wanted: dict[str, float] | None,
        report: Callable[[dict[str, Any]], None],
        package: Path,
        patience: float = 10.0,
    ) -> None:
        self.wanted, self.report, self.package, self.patience = wanted, report, str(package), patience
        self.entered: set[str] = set()
        self.names: dict[int, tuple[CodeType, str]] = {}
        self.at_import: dict[str, set[str]] = {}
        self.failed: str | None = None
        self.hung = False
        self.began = 0.0
        self.count = 0

    def pytest_configure(self, config: Any) -> None:
        with contextlib.suppress(ImportError):
            from hypothesis import HealthCheck, Phase, settings

            phases = (Phase.explicit, Phase.generate)
            checks = list(HealthCheck)
            settings.register_profile(
                "mutants", deadline=None, database=None, derandomize=True, phases=phases, suppress_health_check=checks
            )
            settings.load_profile("mutants")

    def pytest_sessionstart(self) -> None:
        hooks = [h for h in sys.meta_path if isinstance(h, Hook)]
        sys.meta_path[:] = [*hooks, *(h for h in sys.meta_path if h not in hooks)]  # before pytest's own

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        self.hung |= call.excinfo is not None and call.excinfo.type is Hang

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        with contextlib.suppress(ImportError):
            from hypothesis import settings

            settings.load_profile("mutants")  # a conftest may have chosen its own
        if self.wanted is None:
            items[:] = [i for i in items if not _reads_a_clock(i)]
        else:
            order = {name: k for k, name in enumerate(self.wanted)}
            items[:] = sorted((i for i in items if i.nodeid in order), key=lambda i: order[i.nodeid])

    # unchanged: which functions a test enters

    def trace(self, frame: FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        known = self.names.get(id(code))
        if known is None:
            inside = (
                code.co_filename.startswith(self.package) and code.co_flags & inspect.CO_OPTIMIZED
            )  # no module, no class
            name = f"{code.co_filename[len(self.package) + 1 :]}::{_outer(code.co_qualname)}" if inside else ""
            known = self.names[id(code)] = code, name
        if known[1]:
            self.entered.add(known[1])

    def _take(self) -> set[str]:
        taken, self.entered = self.entered, set()
        return taken

    def pytest_collectreport(self, report: Any) -> None:
        self.hung |= report.failed and Hang.__name__ in str(report.longrepr).rpartition("\n")[2]
        if self.wanted is None:
            self.at_import.setdefault(report.nodeid.partition("::")[0], set()).update(self._take())
        if report.failed and self.failed is None:
            self.failed = f"collection of {report.nodeid}"

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self.began = time.process_time()
        if self.wanted is None:
            for module in list(sys.modules.values()):
                if str(getattr(module, "__file__", None) or "").startswith(os.getcwd()):
                    for value in list(vars(module).values()):
                        if callable(getattr(value, "cache_clear", None)):
                            value.cache_clear()
            self._take()
        else:
            usual = self.wanted.get(nodeid, 1.0)
            signal.setitimer(signal.ITIMER_PROF, self.patience + 10 * usual)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and self.failed is None:
            self.failed = report.nodeid
        if report.when == "teardown":
            self.count += 1
            if self.wanted is None:
                seconds = time.process_time() - self.began
                self.report(
                    {
                        "test": report.nodeid,
                        "seconds": seconds,
                        "enters": sorted(self._take()),
                        "ok": self.failed is None,
                    }
                )
                self.failed = None


def _outer(qualname: str) -> str:
    """The function in whose text a comprehension or lambda stands."""
    while qualname.endswith(">") and "." in qualname and not qualname.endswith("<locals>"):
        qualname = qualname.rpartition(".")[0].removesuffix(".<locals>")
    return qualname


def _reads_a_clock(item: Any) -> bool:
    try:
        return "perf_counter" in inspect.getsource(item.function)
    except (AttributeError, OSError, TypeError):
        return False


def _pytest(root: Path, files: Sequence[str], plugin: Tests) -> int:
    import pytest

    with contextlib.suppress(ImportError):
        import torch

        torch.manual_seed(0)
    options = ["-x"] if plugin.wanted is not None else []
    options += [
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--doctest-modules",
        "--tb=no",
        "-qq",
        "--no-summary",
        "-W",
        "ignore",
    ]
    return int(pytest.main([*options, "--rootdir", str(root), *files], plugins=[plugin]))


@dataclass
class Project:
    """Where things are. `rooms` are mutated, `tests` judge; the package lies under src/."""

    root: Path
    package: str = "reverie"
    rooms: tuple[str, ...] = ("solve", "guide")

    @property
    def home(self) -> Path:
        return self.root / "src" / self.package

    @property
    def targets(self) -> list[str]:
        """What pytest is given, a file or the doctests of a room each."""
        rooms = [r for r in self.rooms if (self.root / "tests" / r).is_dir()]
        files = [
            str(f.relative_to(self.root)) for r in rooms for f in sorted((self.root / "tests" / r).glob("test_*.py"))
        ]
        return files + [f"src/{self.package}/{r}" for r in self.rooms]

    def modules(self) -> list[str]:
        files = [f for r in self.rooms for f in sorted((self.home / r).glob("*.py"))]
        return [str(f.relative_to(self.home)) for f in files if f.name not in ("__init__.py", "show.py")]

    def source(self, file: str) -> str:
        return (self.home / file).read_text()

    def copied(self, to: Path) -> Project:
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", ".hypothesis")
        for part in ("src", "tests"):
            shutil.copytree(self.root / part, to / part, ignore=ignore)
        for name in ("pyproject.toml", "README.md"):
            if (self.root / name).exists():
                shutil.copy(self.root / name, to / name)
        return Project(to, self.package, self.rooms)

    def digest(self, files: Sequence[str]) -> str:
        """Of the contents of these files."""
        parts = [f"{f}:{(self.root / f).read_text() if (self.root / f).exists() else ''}" for f in sorted(files)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Pool:
    """Children that are forked, write lines of JSON to a file each, and are watched."""

    def __init__(self, folder: Path, workers: int, limit: float) -> None:
        self.folder, self.workers, self.limit = folder, workers, limit
        self.running: dict[int, tuple[Any, Path, float]] = {}
        self.started = 0

    def start(self, task: Any, work: Callable[[Callable[[dict[str, Any]], None]], None]) -> None:
        self.started += 1
        out = self.folder / f"child-{self.started}.jsonl"
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            _child(out, work)
        self.running[child] = (task, out, time.monotonic())

    def finished(self) -> Iterator[tuple[Any, list[dict[str, Any]], int]]:
        """Whoever has ended by now: its task, its lines and its exit status; -1 for one that was stopped at the limit."""
        for child, (task, out, began) in list(self.running.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            late = time.monotonic() - began > self.limit
            if not done and not late:
                continue
            if not done:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            del self.running[child]
            lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
            out.unlink(missing_ok=True)
            yield task, lines, os.waitstatus_to_exitcode(status) if done else -1

    def stop(self) -> None:
        for child in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        self.running.clear()


def _child(out: Path, work: Callable[[Callable[[dict[str, Any]], None]], None]) -> None:
    """The life of a child after the fork."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        with out.open("w") as file:

            def report(line: dict[str, Any]) -> None:
                file.write(json.dumps(line) + "\n")
                file.flush()

            try:
                work(report)
                code = 0
            except BaseException:
                report({"trouble": traceback.format_exc(limit=-6)})
    finally:
        os._exit(code)


def _unchanged(project: Project, target: str) -> Callable[[Callable[[dict[str, Any]], None]], None]:
    """A child's work: one target of the unchanged package, traced."""

    def work(report: Callable[[dict[str, Any]], None]) -> None:
        os.chdir(project.root)
        sys.path.insert(0, str(project.root / "src"))
        plugin = Tests(None, report, project.home)
        sys.settrace(plugin.trace)  # type: ignore[arg-type]
        try:
            status = _pytest(project.root, [target], plugin)
        finally:
            sys.settrace(None)
        read = [str(getattr(m, "__file__", None) or "") for m in list(sys.modules.values())]
        inside = {str(Path(f).relative_to(project.root)) for f in read if f.startswith(str(project.root))}
        if plugin.failed is not None:  # of the collection, so that no test ran
            report({"test": plugin.failed, "seconds": 0.0, "enters": [], "ok": False})
        report(
            {"imports": {k: sorted(v) for k, v in plugin.at_import.items()}, "status": status, "read": sorted(inside)}
        )

    return work


def _judged(
    project: Project, mutant: Mutant, stages: Sequence[tuple[Sequence[str], dict[str, float]]], patience: float
) -> Callable[[Callable[[dict[str, Any]], None]], None]:
    """A child's work: tests of a mutant, stage after stage until one fails."""

    def work(report: Callable[[dict[str, Any]], None]) -> None:
        os.chdir(project.root)
        sys.path.insert(0, str(project.root / "src"))
        sys.dont_write_bytecode = True
        room = 8 << 30
        resource.setrlimit(resource.RLIMIT_DATA, (room, room))
        signal.signal(signal.SIGPROF, _hang)
        name = f"{project.package}.{mutant.file.removesuffix('.py').replace('/', '.')}"
        hook = Hook(name, project.home / mutant.file, mutate(project.source(mutant.file), mutant))
        sys.meta_path.insert(0, hook)
        count = 0
        for files, wanted in stages:
            plugin = Tests(wanted, report, project.home, patience)
            signal.setitimer(signal.ITIMER_PROF, 3 * patience)
            try:
                _pytest(project.root, files, plugin)
            except Hang:
                report({"killed": "collection", "why": "hang", "tests": count})
                return
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            count += plugin.count
            if plugin.failed is not None:
                report({"killed": plugin.failed, "why": "hang" if plugin.hung else "failed", "tests": count})
                return
        report({"killed": None, "why": "survived" if hook.used else "never imported", "tests": count})

    return work


# ---------------------------------------------------------------------------------------------------------------- the run


@dataclass
class Part:
    """The unchanged run of one target: of each test its seconds and the functions it enters, and those that collection enters."""

    digest: str
    files: list[str]
    seconds: dict[str, float]
    enters: dict[str, list[str]]
    imports: dict[str, list[str]]
    broken: list[str]


class Baseline:
    """The unchanged run."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.seconds = {t: s for p in parts for t, s in p.seconds.items()}
        self.enters = {t: e for p in parts for t, e in p.enters.items()}
        self.imports = {f: names for p in parts for f, names in p.imports.items()}
        self.broken = sorted(b for p in parts for b in p.broken)

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Tests that enter the mutated function; those that enter any of its module where the mutant stands in none, or where no test does."""
        own, module = f"{mutant.file}::{mutant.owner}", f"{mutant.file}::"
        at_import = {f for f, names in self.imports.items() if own in names}
        found = [t for t, names in self.enters.items() if own in names or t.partition("::")[0] in at_import]
        return found or [t for t, names in self.enters.items() if any(n.startswith(module) for n in names)]


def baseline(
    project: Project, folder: Path, workers: int, out: Path, say: Callable[[str], None], stale: bool = False
) -> Baseline:
    """Run everything unchanged, but for what an earlier run found of the same files; `stale`: or of files changed since."""
    path = out / "unchanged.json"
    kept: dict[str, Part] = {}
    if path.exists():
        with contextlib.suppress(TypeError, ValueError):
            kept = {target: Part(**part) for target, part in json.loads(path.read_text()).items()}
    parts = {t: p for t, p in kept.items() if stale or p.digest == project.digest(p.files)}
    waiting = [t for t in project.targets if t not in parts]
    if waiting:
        say(f"unchanged run of {len(waiting)} files (kept until a source changes) ...")
    waiting.sort(key=lambda t: -(project.root / t).stat().st_size)
    pool = Pool(folder, workers, 1800.0)
    try:
        while waiting or pool.running:
            while waiting and len(pool.running) < workers:
                target = waiting.pop(0)
                pool.start(target, _unchanged(project, target))
            for target, lines, status in pool.finished():
                last = lines[-1] if lines else {}
                if "imports" not in last:
                    parts[target] = Part("", [], {}, {}, {}, [f"{target}: {last.get('trouble', status)}"])
                    continue
                good = [line for line in lines[:-1] if line["ok"]]
                parts[target] = Part(
                    project.digest(last["read"]),
                    last["read"],
                    {line["test"]: line["seconds"] for line in good},
                    {line["test"]: line["enters"] for line in good},
                    last["imports"],
                    [line["test"] for line in lines[:-1] if not line["ok"]],
                )
                out.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps({t: asdict(p) for t, p in {**kept, **parts}.items()}))
            time.sleep(0.02)
    finally:
        pool.stop()
    return Baseline([parts[t] for t in project.targets])


def stages_of(base: Baseline, mutant: Mutant, budget: float) -> list[tuple[list[str], dict[str, float]]]:
    """The tests of a mutant: a few quick ones of the likely files first, then the others, each from quick to slow, as the budget allows."""
    tests = sorted(base.tests_of(mutant), key=lambda t: base.seconds[t])
    likely = FIRST.get(mutant.file, ["test_tables", "test_tables_multistep", "test_tables_steps"])
    likely = [*likely, "test_survivors", "test_survivors_guide"]
    first: list[str] = []
    spent = 0.0
    for t in tests:
        if Path(t.partition("::")[0]).stem in likely and spent < 4.0:
            first.append(t)
            spent += base.seconds[t]
    rest = []
    for t in sorted(set(tests) - set(first), key=lambda t: base.seconds[t]):
        spent += base.seconds[t]
        if spent < budget:
            rest.append(t)
    return [
        (sorted({t.partition("::")[0] for t in part}), {t: base.seconds[t] for t in part})
        for part in (first, rest)
        if part
    ]


@dataclass
class Result:
    """What came of a mutant: killed (by which test), hang (killed by the clock), survived."""

    mutant: Mutant
    verdict: str
    by: str
    tests: int
    seconds: float
    text: str


def judge(
    project: Project,
    chosen: Sequence[Mutant],
    base: Baseline,
    folder: Path,
    workers: int,
    limit: float,
    patience: float,
    budget: float,
    done: Callable[[Result], None],
) -> None:
    """Judge the mutants, calling `done` with each result."""
    pool, waiting = Pool(folder, workers, limit), list(chosen)
    lines_of = {file: project.source(file).splitlines() for file in {m.file for m in chosen}}
    began: dict[Mutant, float] = {}
    try:
        while waiting or pool.running:
            while waiting and len(pool.running) < workers:
                mutant = waiting.pop(0)
                began[mutant] = time.monotonic()
                pool.start(mutant, _judged(project, mutant, stages_of(base, mutant, budget), patience))
            for mutant, lines, status in pool.finished():
                last = lines[-1] if lines else {}
                if status == -1:
                    verdict, by = "hang", f"nothing within {limit:g} s"
                elif status != 0 or "why" not in last:
                    verdict, by = "killed", f"the process died ({status}) {last.get('trouble', '')}".strip()
                elif last["why"] == "hang":
                    verdict, by = "hang", last["killed"]
                elif last["killed"] is not None:
                    verdict, by = "killed", last["killed"]
                else:
                    verdict, by = "survived", last["why"]
                text = lines_of[mutant.file][mutant.line - 1].strip()
                seconds = time.monotonic() - began[mutant]
                done(Result(mutant, verdict, by, last.get("tests", 0), round(seconds, 2), text))
            time.sleep(0.01)
    finally:
        pool.stop()


def summary(results: Sequence[Result]) -> str:
    """A line a file, then the survivors with their source."""
    out = [f"{'':24}{'mutants':>8}{'killed':>8}{'hangs':>7}{'survived':>10}{'rate':>8}"]
    files = sorted({r.mutant.file for r in results})
    for file in [*files, "all"]:
        of = [r for r in results if file in (r.mutant.file, "all")]
        lost = sum(r.verdict == "survived" for r in of)
        hangs = sum(r.verdict == "hang" for r in of)
        out.append(f"{file:24}{len(of):8}{len(of) - lost - hangs:8}{hangs:7}{lost:10}{1 - lost / max(1, len(of)):8.1%}")
    kinds = []
    for kind in KINDS:
        of = [r for r in results if r.mutant.kind == kind]
        if of:
            kinds.append(f"{kind} {1 - sum(r.verdict == 'survived' for r in of) / len(of):.1%} of {len(of)}")
    out.append("killed by kind: " + ", ".join(kinds))
    lost_ones = sorted((r for r in results if r.verdict == "survived"), key=lambda r: (r.mutant.file, r.mutant.line))
    if lost_ones:
        out.append(f"\n{len(lost_ones)} survived:")
    for r in lost_ones:
        out += [f"  {r.mutant.name}   ({r.mutant.kind}, {r.tests} tests)", f"      {r.text}"]
    return "\n".join(out)


def save(path: Path, results: Sequence[Result], about: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({**about, "results": [asdict(r) for r in results]}, indent=1))
    part.replace(path)


def load(path: Path) -> list[Result]:
    return [Result(**{**r, "mutant": Mutant(**r["mutant"])}) for r in json.loads(path.read_text())["results"]]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--n", type=int, default=200, help="size of the random sample (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default 0)")
    parser.add_argument("--all", action="store_true", help="every mutant instead of a sample")
    parser.add_argument("--only", action="append", default=[], help="a module, e.g. solve/deis.py; may be given again")
    parser.add_argument(
        "--kind", action="append", choices=KINDS, default=[], help="of this kind alone; may be given again"
    )
    parser.add_argument("--survivors", action="store_true", help="judge the survivors of the last run again")
    parser.add_argument(
        "--resume", action="store_true", help="judge only what an interrupted run of the same sample left"
    )
    parser.add_argument(
        "--budget", type=float, default=60.0, help="seconds of tests a mutant at most, the quick ones (default 60)"
    )
    parser.add_argument("--stale", action="store_true", help="trust an unchanged run of sources that changed since")
    parser.add_argument("--workers", type=int, default=2, help="mutants at a time (default 2)")
    parser.add_argument(
        "--patience", type=float, default=10.0, help="seconds a test gets beside ten times its own (default 10)"
    )
    parser.add_argument("--limit", type=float, default=900.0, help="seconds a mutant gets in all (default 900)")
    parser.add_argument("--threshold", type=float, default=0.9, help="share that must be killed (default 0.9)")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results (default out/mutants)")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the checkout")
    parser.add_argument("--package", default="reverie", help="the package under src/ (default reverie)")
    parser.add_argument("--rooms", nargs="+", default=["solve", "guide"], help="what is mutated (default solve guide)")
    return parser.parse_args(argv)


def _chosen(project: Project, arguments: argparse.Namespace, results: Path) -> list[Mutant]:
    files = project.modules()
    if lost := sorted(set(arguments.only) - set(files)):
        raise SystemExit(f"no module {', '.join(lost)}; there are: {', '.join(files)}")
    found = [m for f in files if not arguments.only or f in arguments.only for m in mutants(f, project.source(f))]
    found = [m for m in found if not arguments.kind or m.kind in arguments.kind]
    if arguments.survivors:
        if not results.exists():
            raise SystemExit(f"{results} does not exist: run a sample first")
        wanted = {
            (r.mutant.file, r.text, r.mutant.column, r.mutant.change) for r in load(results) if r.verdict == "survived"
        }
        lines = {f: project.source(f).splitlines() for f in files}
        return [m for m in found if (m.file, lines[m.file][m.line - 1].strip(), m.column, m.change) in wanted]
    if arguments.all or arguments.n >= len(found):
        return found
    return random.Random(arguments.seed).sample(found, arguments.n)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    for wish in (signal.SIGINT, signal.SIGTERM):
        signal.signal(wish, signal.default_int_handler)
    out = arguments.out or arguments.root / "out" / "mutants"
    path = out / "results.json"
    with tempfile.TemporaryDirectory(prefix="mutants-") as made:
        folder = Path(made).resolve()
        project = Project(arguments.root.resolve(), arguments.package, tuple(arguments.rooms)).copied(folder / "copy")
        chosen = _chosen(project, arguments, path)
        if arguments.list:
            print("\n".join(f"{m.kind:8} {m.name}" for m in chosen))
            return 0
        _warm()
        say: Callable[[str], None] = lambda text: print(text, flush=True)  # noqa: E731
        base = baseline(project, folder, arguments.workers, out, say, arguments.stale)
        say(f"unchanged: {len(base.seconds)} tests count, {len(base.broken)} do not")
        for name in base.broken[:20]:
            say(f"  fails unchanged: {name}")
        if not base.seconds:
            say("no test passes unchanged, so none can judge")
            return 2
        earlier: list[Result] = []
        if path.exists() and arguments.survivors:
            earlier = [r for r in load(path) if r.verdict != "survived"]
        elif path.exists() and arguments.resume:
            earlier = [r for r in load(path) if r.mutant in chosen]
            chosen = [m for m in chosen if m not in {r.mutant for r in earlier}]
        results = list(earlier)
        began = time.monotonic()
        about = {"seed": arguments.seed, "of": len(earlier) + len(chosen), "broken": base.broken}

        def done(result: Result) -> None:
            results.append(result)
            save(path, results, about)
            _progress(results[len(earlier) :], len(chosen), time.monotonic() - began)

        interrupted = False
        try:
            judge(
                project,
                chosen,
                base,
                folder,
                arguments.workers,
                arguments.limit,
                arguments.patience,
                arguments.budget,
                done,
            )
        except KeyboardInterrupt:
            interrupted = True
        if sys.stderr.isatty():
            print(file=sys.stderr)
        if not results:
            return 130 if interrupted else 0
        rate = 1 - sum(r.verdict == "survived" for r in results) / len(results)
        say(summary(results))
        sample = "all" if arguments.all else f"seed {arguments.seed}"
        say(f"\n{len(results)} of {about['of']} mutants ({sample}), {rate:.1%} killed; {path}")
        if interrupted:
            say("interrupted: what was judged so far is kept")
            return 130
        if rate < arguments.threshold:
            say(f"below {arguments.threshold:.0%}: write what the survivors lack")
            return 1
        return 0


def _progress(results: Sequence[Result], total: int, spent: float) -> None:
    n, lost = len(results), sum(r.verdict == "survived" for r in results)
    left = spent / n * (total - n)
    text = f"[{n}/{total}] {n / spent:.2f} mutants/s, {1 - lost / n:.1%} killed, {lost} survived, about {left / 60:.0f} min left"
    if sys.stderr.isatty():
        print(f"\r{text:<90}", end="", file=sys.stderr, flush=True)
    elif n % 10 == 0 or results[-1].verdict == "survived" or n == total:
        more = f"  {results[-1].mutant.name}" if results[-1].verdict == "survived" else ""
        print(text + more, file=sys.stderr, flush=True)


def _warm() -> None:
    """Load what every child needs, once; never the package itself."""
    import pytest  # noqa: F401

    with contextlib.suppress(ImportError):
        import hypothesis
        import hypothesis.strategies  # noqa: F401
    for name in ("numpy", "scipy.integrate", "scipy.stats", "scipy.special"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)


if __name__ == "__main__":
    raise SystemExit(main())
