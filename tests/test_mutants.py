"""The mutation run judges rightly: on a package of four functions, and in what it makes of the solvers."""

from __future__ import annotations

import ast
import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "mutants.py"
SOURCE = '''"""A package."""

from __future__ import annotations

__all__ = ["area"]


def area(a: float, b: float) -> float:
    """The product.

    >>> area(2, 3)
    6
    """
    return a * b


def count(n: int, one: int) -> int:
    i = 0
    while i != n:
        i += one
    return i


def untested(a: float, b: float) -> float:
    if a == b:
        raise ValueError(f"{a + b} " + "is" + " not wanted")
    return a - b


def broken(a: float, b: float) -> float:
    return b - a
'''
TESTS = """from toy.solve.area import area, broken, count

def test_count():
    assert count(3, 1) == 3

def test_area():
    assert area(3, 5) == 15

def test_broken():
    assert broken(1, 2) == 0
"""
SPEC = importlib.util.spec_from_file_location("mutants", SCRIPT)
assert SPEC is not None
assert SPEC.loader is not None
script = importlib.util.module_from_spec(SPEC)
sys.modules["mutants"] = script  # dataclasses look their module up
SPEC.loader.exec_module(script)


def changes(body: str) -> set[str]:
    return {f"{m.kind} {m.change}" for m in script.mutants("solve/a.py", body)}


def test_a_planted_error_is_caught_and_the_source_stays_as_it_is(tmp_path: Path) -> None:
    for path, text in {"src/toy/solve/area.py": SOURCE, "tests/solve/test_area.py": TESTS}.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    for package in ("src/toy", "src/toy/solve"):
        (tmp_path / package / "__init__.py").touch()
    command = [sys.executable, str(SCRIPT), "--root", str(tmp_path), "--package", "toy", "--rooms", "solve", "--all"]
    run = subprocess.run([*command, "--patience", "0.3"], capture_output=True, text=True, check=False)
    assert "3 tests count, 1 do not" in run.stdout, run.stdout + run.stderr  # the doctest is the third
    assert "fails unchanged: tests/solve/test_area.py::test_broken" in run.stdout
    found = json.loads((tmp_path / "out/mutants/results.json").read_text())["results"]
    verdicts = {r["mutant"]["change"]: r["verdict"] for r in found}
    assert verdicts == {
        "a * b -> -(a * b)": "killed",
        "a * b -> 2 * (a * b)": "killed",
        "i += one -> i -= one": "hang",
        "a - b -> a + b": "survived",
        "b - a -> b + a": "survived",  # its only test fails anyway, so that it proves nothing
    }
    assert run.returncode == 1  # 3 of 5 are fewer than 90 %
    assert "survived:\n  solve/area.py:27:12: a - b -> a + b" in run.stdout
    assert (tmp_path / "src/toy/solve/area.py").read_text() == SOURCE


def test_mutants_are_the_same_in_every_run_and_each_differs_from_the_source_in_one_place() -> None:
    project = script.Project(ROOT)
    assert "solve/deis.py" in project.modules()
    assert "solve/show.py" not in project.modules()
    source = project.source("solve/exponential.py")
    found = script.mutants("solve/exponential.py", source)
    assert found == script.mutants("solve/exponential.py", source)
    assert len({(m.line, m.column, m.change) for m in found}) == len(found) > 50
    for m in random.Random(0).sample(found, 20):
        unchanged, made = ast.unparse(ast.parse(source)), ast.unparse(script.mutate(source, m))
        assert made != unchanged
        assert len(set(made.splitlines()) - set(unchanged.splitlines())) == 1
        compile(script.mutate(source, m), "a.py", "exec")


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("def f(a, b): return a + b", {"sign a + b -> a - b"}),
        ("def f(a, b): return (a * b) ** 2", {"factor a * b -> 2 * (a * b)", "factor 2 -> 4"}),
        ("def f(h): return exp(h)", {"sign h -> -h"}),
        ("def f(x, k: int): return x[k]", {"index k -> k + 1", "index k -> k - 1"}),
        ("def f(k): return prediction(k)", {"index k -> k + 1", "index k -> k - 1"}),
        ("def f(a): return a[1:]", {"index 1 -> 2", "index 1 -> 0"}),
        ("def f(): return range(3)", {"index 3 -> 4", "index 3 -> 2"}),
        ("def f(a, b): return a < b", {"compare a < b -> a <= b"}),
        ("def f(a, b): return max(a, b)", {"compare max(a, b) -> min(a, b)"}),
        ("h = a - b", {"sign a - b -> a + b", "factor h = a - b -> h = (a - b) / 2"}),
    ],
)
def test_rules(body: str, wanted: set[str]) -> None:
    assert changes(body) == wanted


@pytest.mark.parametrize(
    "body",
    [
        'def f(a): "1 + 1"',
        "def f(a): raise ValueError(a * 2 + 1)",
        "def f(a): assert a[1] < 2 * a",
        "def f(a): return f'{a + 1}'",
        "def f(a: X[1] | None = None) -> X[2]: ...",
        "_CHUNK = 1 << 22",
        "__all__ = ['a', 'b'] + other",
        "class A:\n    def __repr__(self): return 2 * self.a",
        "def f(a, b): return a if a < b else b",
        "def f(a): return a + 0",
        "def f(a): return a.flatten(1)",
        "def f(a, b): return [b] + [a]",
        "def f(name): return TABLE[name]",
    ],
)
def test_what_cannot_be_seen_is_left_alone(body: str) -> None:
    assert changes(body) == set()
