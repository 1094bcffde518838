"""The site: what its navigation names is there, every solver and public name has its place, and docstrings are read as they are meant.

Nothing here needs the extra `docs`; `make docs` builds the whole, and warns of every broken link.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from inspect import getdoc, isclass, ismodule, isroutine, signature
from pathlib import Path
from typing import Any

import pytest
import yaml

import reverie as rv
from reverie.solve import SOLVERS, OrderCheck

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

from generate import api, contents, solvers  # noqa: E402
from generate.docstrings import Item, markdown, prose, read, split_named, split_raised, title  # noqa: E402

SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def check(name: str) -> OrderCheck:
    """A stand-in for the measurement, which takes seconds."""
    return OrderCheck(name, 1, 1.25, (1.0, 1.25), (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def solver_pages() -> dict[str, str]:
    return {page.path: page.text for page in solvers.pages(check)}


def named(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for entry in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from named(entry)


def test_what_the_navigation_names_is_there() -> None:
    entries = list(named(SITE["nav"]))
    folders = {entry.removesuffix("/*") for entry in entries if entry.endswith("/*")}
    assert folders == set(contents.SECTIONS)
    for entry in entries:
        if not entry.endswith("/*"):
            assert (DOCS / entry).is_file() or (ROOT / contents.ROOT_FILES[entry]).is_file()
    assert {path.name for path in DOCS.glob("*.md")} <= set(entries)
    for path in (*SITE["extra_css"], *SITE["extra"]["polyfills"], SITE["theme"]["logo"], *SITE["hooks"]):
        assert (DOCS / path).is_file() or (ROOT / path).is_file()


def test_nothing_is_fetched_from_a_host() -> None:
    assert SITE["theme"]["font"] is False
    assert SITE["use_directory_urls"] is False
    assert any("iframe-worker" in path for path in SITE["extra"]["polyfills"])  # else the offline plugin names a host
    for path in (ROOT / "mkdocs.yml", *DOCS.glob("assets/*.css"), *DOCS.glob("assets/*.js")):
        assert not re.search(r"(https?:)?//\w+\.\w", path.read_text()), path


def test_every_solver_has_its_section_with_options_and_table(solver_pages: dict[str, str]) -> None:
    overview, everything = solver_pages["solvers/index.md"], "\n".join(solver_pages.values())
    for name, entry in SOLVERS.items():
        page = f"solvers/{entry.build.__module__.rpartition('.')[2]}.md"
        assert f"({page.removeprefix('solvers/')}#{name})" in overview
        section = solver_pages[page].split(f"## {name} {{ #{name} }}")[1].split("\n## ")[0]
        assert str(solvers.shown(entry)) in section
        assert (getdoc(entry.build) or "").splitlines()[0][:20] in section.replace("\\", "")
        for option in entry.options:
            (row,) = re.findall(rf"^\| `{option}` \|.*\|$", section, re.M)
            assert len(row.split("|")[-2].strip()) > 3, (name, option)
    assert (
        "[Zhang\N{NO-BREAK SPACE}&\N{NO-BREAK SPACE}Chen\N{NO-BREAK SPACE}2023](https://arxiv.org/abs/2204.13902)"
        in overview
    )
    assert everything.count("\n## ") == len(SOLVERS)
    assert overview.count("| 1.25 |") == len(SOLVERS)


def test_the_measured_order_is_that_of_check_order() -> None:
    found = solvers.measured("dpmpp-2m")
    assert found is not None
    assert found.measured == rv.solve.check_order("dpmpp-2m", rv.process.vp()).measured
    assert solvers.measured("ode-adaptive") is None


def test_every_public_name_has_its_place() -> None:
    assert set(api.rooms()) == {name for name in rv.__all__ if ismodule(getattr(rv, name))}
    pages = {page.path: page.text for page in api.pages()}
    for room in api.rooms():
        module = importlib.import_module(f"reverie.{room}")
        for name in module.__all__:
            assert f"{{ #reverie.{room}.{name} }}" in pages[f"api/{room}.md"], name
        for source, names in api.public(room).items():
            for name in names:
                thing = getattr(module, name)
                assert getattr(importlib.import_module(source), name) is thing
                if isclass(thing) or isroutine(thing):
                    assert thing.__module__ == source


def test_packed_arguments_are_split_by_the_names_of_the_signature() -> None:
    body = (
        'variant: "midpoint" (default) or "taylor". lower_final: let it fall\n    towards the end (default: when N < 10).\n'
        "churn: S_churn, together; churn_min, churn_max: the range (x: y); churn_noise: its factor."
    )
    names = ("variant", "lower_final", "churn", "churn_min", "churn_max", "churn_noise")
    assert split_named(body, names) == [
        Item(("variant",), '"midpoint" (default) or "taylor".'),
        Item(("lower_final",), "let it fall towards the end (default: when N < 10)."),
        Item(("churn",), "S_churn, together"),
        Item(("churn_min", "churn_max"), "the range (x: y)"),
        Item(("churn_noise",), "its factor."),
    ]


def test_words_before_a_colon_are_no_arguments() -> None:
    assert split_named("x: states. Two kinds: a and b. t: times.", ("x", "t")) == [
        Item(("x",), "states. Two kinds: a and b."),
        Item(("t",), "times."),
    ]
    assert split_named("data: x: no name of its own here", ("data", "x")) == [
        Item(("data",), "x: no name of its own here")
    ]
    assert split_named("x: states. note: what is no name", ("x",)) == [Item(("x",), "states. note: what is no name")]
    assert split_named("n: how many.\nEverything else as for `run`.", ("n",)) == [
        Item(("n",), "how many."),
        Item((), "Everything else as for `run`."),
    ]
    assert split_named("**options: the solver's own.", ("options",)) == [Item(("options",), "the solver's own.")]


def test_packed_errors_are_split() -> None:
    assert split_raised("ShapeError, TimeError. ArgumentError: a label,\nor a point.") == [
        Item(("ShapeError", "TimeError"), ""),
        Item(("ArgumentError",), "a label, or a point."),
    ]
    assert split_raised("UnknownNameError, ArgumentError (steps, end), TimeError (times).") == [
        Item(("UnknownNameError",), ""),
        Item(("ArgumentError",), "steps, end"),
        Item(("TimeError",), "times"),
    ]
    assert split_raised("as `run`; FileError: none.") == [Item((), "as `run`"), Item(("FileError",), "none.")]
    assert split_raised("RuntimeError (from torch): no.") == [Item(("RuntimeError",), "(from torch) no.")]


def test_a_docstring_is_read_in_its_parts() -> None:
    doc = "One.\n\n    a = b,\n\n    c = d\n\nArgs:\n    x: it.\n\nRaises as `run`.\n\n>>> f(1)\n2"
    parts = read(doc, ("x",))
    assert [p.kind for p in parts] == ["text", "formula", "args", "text", "example"]
    assert parts[1].text == "a = b,\n\nc = d"
    assert parts[2].items == (Item(("x",), "it."),)
    drawn = markdown(parts)
    assert "``` { .text .formula }\na = b,\n\nc = d\n```" in drawn
    assert "```pycon\n>>> f(1)\n2\n```" in drawn


def test_plain_text_has_no_markup_but_code() -> None:
    assert prose("(B, *shape) of *x* and x_t < 1, `a*b`") == r"(B, \*shape) of \*x\* and x\_t &lt; 1, `a*b`"
    assert prose("Lu 2022 (2206.00927)") == "Lu 2022 ([2206.00927](https://arxiv.org/abs/2206.00927))"


def test_titles() -> None:
    assert title("Restart: Heun down, and up.") == "Restart"
    assert title("The order of a solver, measured on its table.") == "The order of a solver"
    assert title("Noise as a pure function of (seed, stage): the same.") == "Noise as a pure function"


@pytest.mark.parametrize("room", api.rooms())
def test_sections_of_the_docstrings_are_understood(room: str) -> None:
    """Every entry of Args names something, and no argument of a function hides in another's text."""
    module = importlib.import_module(f"reverie.{room}")
    for name in module.__all__:
        thing = getattr(module, name)
        if not isroutine(thing):
            continue
        names = tuple(signature(thing).parameters)
        for part in read(getdoc(thing) or "", names):
            if part.kind == "args":
                assert part.items[0].names, (name, part.items[0])
                told = [n for item in part.items for n in item.names]
                assert set(told) <= set(names), name
                for item in part.items:
                    hidden = re.findall(r"[.;] (\w+): ", item.text)
                    assert not set(hidden) & set(names), (name, item)
            elif part.kind == "raises":
                assert any(item.names for item in part.items), (name, part)
