"""The package read as text: what implements what, what rests on what, and what of a source counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import reverie as rv
from reverie.papers import closure, implementations, sources
from reverie.papers.claims import claimed, rests_on
from reverie.papers.sources import digests, essence

CACHED = [f for f in vars(sources).values() if hasattr(f, "cache_clear")]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Writes files of a package named reverie that stands in the place of ours: room__file="source"."""
    root = tmp_path / "reverie"

    def make(files: dict[str, str]) -> None:
        for name, text in {"__init__.py": "", **files}.items():
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            for folder in file.relative_to(root).parents:
                (root / folder / "__init__.py").touch()
        (root / "hub" / "models").mkdir(parents=True, exist_ok=True)
        for f in CACHED:
            f.cache_clear()

    monkeypatch.setattr(sources, "_ROOT", root)
    yield make
    monkeypatch.undo()
    for f in CACHED:
        f.cache_clear()


def rests(text: str, **more: str) -> set[str]:
    """What `reverie.papers.claims.one` rests on."""
    return {str(part) for part in closure(["reverie.papers.claims.one"])} - {"reverie.papers.claims.one"}


ROOMS = {
    "__init__.py": '_NAMES = {"load": "hub", "Plan": "solve"}\n_ROOMS = ("solve", "hub")\n',
    "base/__init__.py": "from reverie.base.errors import Error\nfrom reverie.base.noise import Noise\n",
    "base/errors.py": "class Error(Exception): ...\n",
    "base/noise.py": "from reverie.base import Error\n",
    "solve/__init__.py": "\n".join(
        (
            "from reverie.solve.table import Plan, Stage as Step",
            "from reverie.solve.solver import plan",
            "from reverie.solve.run import run",
        )
    ),
    "solve/table.py": "from reverie.base import Error\n",
    "solve/plan.py": "PLAN = 1\n",
    "solve/solver.py": "from reverie.solve.table import Plan\n",
    "solve/run.py": "",
    "solve/ddim.py": "from reverie.solve.solver import plan\n@solver('ddim', order=1)\ndef ddim(): ...\n",
    "solve/deis.py": '"""About."""\n@solver("deis-4")\n@implements("deis", "other")\ndef deis_4():\n    """DEIS.\n\n    More."""\n',
    "hub/__init__.py": "from reverie.hub.house import load\n",
    "hub/house.py": "from reverie import nets\ndef load():\n    return nets.build()\n",
    "nets/__init__.py": "from reverie.nets.unet import UNet\ndef build():\n    return UNet\n",
    "nets/unet.py": "",
}


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", ""),
        ("import torch, json\nfrom pathlib import Path", ""),
        ("from reverie.solve import Plan", "base.errors solve.table"),
        ("from reverie.solve import Plan as P", "base.errors solve.table"),
        ("from reverie.solve import Step", "base.errors solve.table"),
        ("from reverie.solve.run import run", "solve.run"),
        ("from reverie.solve import run", "solve.run"),
        ("from reverie.base import Noise", "base.errors base.noise"),
        ("import reverie as rv\nrv.solve.run(5)", "solve.run"),
        ("import reverie as rv\nx = [rv.solve.run(5).more.and_more]", "solve.run"),
        ("import reverie as rv\nrv.Plan(5)", "base.errors solve.table"),
        ("import reverie as rv\nrv.load('x')", "hub.house nets nets.unet"),
        ("import reverie\nreverie.solve.run(5)", "solve.run"),
        ("import reverie.solve as s\ns.run(5)", "solve.run"),
        ("import reverie.solve.run as r\nr.run(5)", "solve.run"),
        ("from reverie import solve\nsolve.run(5)", "solve.run"),
        ("from reverie import solve as s\ns.Plan(5)", "base.errors solve.table"),
        ("from reverie import load", "hub.house nets nets.unet"),
        ("def f():\n    from reverie.solve import run", "solve.run"),
        ("try:\n    from reverie.solve import run\nexcept ImportError:\n    pass", "solve.run"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from reverie.solve import run", ""),
        ("if TYPE_CHECKING:\n    from reverie.solve import run\nelse:\n    from reverie.base import Error", "base.errors"),
        ("s = 'ddim'", "base.errors solve.ddim solve.solver solve.table"),
        ("s = ['ddim@quadratic:eta=0', 5]", "base.errors solve.ddim solve.solver solve.table"),
        ("s = 'deis-4@{grid}'", "solve.deis"),
        ("s = 'ddim is a solver'", ""),
    ],
)  # fmt: skip
def test_what_a_claim_rests_on(package, text, want):
    package({**ROOMS, "papers/claims/one.py": text})
    assert rests(text) == {f"reverie.{name}" for name in want.split()}


@pytest.mark.parametrize(
    "text",
    [
        "from reverie.solve import plan",
        "import reverie as rv\nrv.solve.plan(5)",
        "from reverie import solve as s\ns.plan(5)",
    ],
)
def test_a_name_of_a_room_is_what_the_room_binds_to_it_not_a_module_of_that_name(package, text):
    """As `rv.solve.plan` of ours: the function of solve/solver.py, though there is a solve/plan.py."""
    package({**ROOMS, "papers/claims/one.py": text})
    assert "reverie.solve.solver" in rests(text)


def test_a_module_is_still_found_where_the_room_binds_nothing_to_its_name(package):
    package({**ROOMS, "papers/claims/one.py": "from reverie.solve import ddim\nfrom reverie.nets import unet"})
    assert {"reverie.solve.ddim", "reverie.nets.unet"} <= rests("")


def test_strings_name_solvers_only_in_claims(package):
    package({**ROOMS, "hub/house.py": "s = 'ddim'", "papers/claims/one.py": "from reverie.hub import load"})
    assert rests("") == {"reverie.hub.house"}


def test_files_of_a_house_model_that_is_named(package):
    models = {f"hub/models/{name}": "1" for name in ("digits.json", "digits.safetensors", "digits.md", "digits2.json")}
    package({**ROOMS, **models, "papers/claims/one.py": "import reverie as rv\nrv.load('digits')"})
    found = digests(["reverie.papers.claims.one"])
    assert "hub/models/digits.safetensors" in found
    assert {k for k in found if "digits" in k} == {"hub/models/digits.json", "hub/models/digits.safetensors"}
    package({"hub/models/digits.safetensors": "2"} | {"__init__.py": ROOMS["__init__.py"]})
    after = digests(["reverie.papers.claims.one"])
    assert [k for k in found if found[k] != after[k]] == ["hub/models/digits.safetensors"]


def test_a_digest_changes_with_the_code_and_not_with_its_comments(package):
    one = "papers/claims/one.py"
    package({**ROOMS, one: "from reverie.solve import Plan\n"})
    before = digests(["reverie.papers.claims.one"])
    package({**ROOMS, one: '"""New."""\nfrom reverie.solve import Plan  # why\n\n'})
    assert digests(["reverie.papers.claims.one"]) == before
    package(
        {**ROOMS, one: "from reverie.solve import Plan\n", "solve/table.py": "from reverie.base import Error\nX = 1\n"}
    )
    after = digests(["reverie.papers.claims.one"])
    assert [k for k in before if before[k] != after[k]] == ["reverie.solve.table"]


def test_what_is_written_to_implement_a_paper(package):
    package(ROOMS)
    assert set(implementations()) == {"deis", "other"}
    (place,) = implementations()["deis"]
    assert (place.module, place.name, place.solver, place.line) == ("reverie.solve.deis", "deis_4", "deis-4", 4)
    assert (place.summary, place.about, place.path) == ("DEIS.", "About.", "solve/deis.py")


def test_two_marks_of_one_kind_on_one_object(package):
    """The registry takes both."""
    package({**ROOMS, "solve/deis.py": '@implements("one")\n@implements("two")\ndef f(): ...\n'})
    assert set(implementations()) == {"one", "two"}


# Of our own package.


def test_the_closure_of_a_solver():
    found = closure(["reverie.solve.deis"])
    assert {"reverie.solve.deis", "reverie.solve.grids", "reverie.solve.plan", "reverie.process.process"} <= set(found)
    assert not {
        "reverie.solve",
        "reverie.solve.unipc",
        "reverie.solve.sa",
        "reverie.process",
        "reverie",
        "reverie.base",
    } & set(found)


def test_a_plan_of_ours_rests_on_the_solvers_register():
    assert rv.solve.plan.__module__ == "reverie.solve.solver"
    assert sources._resolve("reverie.solve", "plan") == "reverie.solve.solver"
    for name in rv.solve.__all__:
        module = getattr(getattr(rv.solve, name), "__module__", None)
        if module is not None and module.startswith("reverie."):
            assert sources._resolve("reverie.solve", name) == module, name


@pytest.mark.parametrize("slug", claimed())
def test_the_closure_of_a_claim(slug):
    found = set(rests_on(slug))
    stem = slug.replace("-", "_")
    assert {f"reverie.papers.claims.{stem}", "reverie.papers.claim", "reverie.papers.verdict"} <= found
    assert {place.module for place in implementations()[slug]} <= found
    assert not {"reverie", "reverie.solve", "reverie.papers", "reverie.cli"} & found, "a whole room"
    assert not any(name.startswith("reverie.cli.") for name in found)
    assert "reverie.papers.figure" not in found
    text = Path(rv.papers.claims.__file__).with_name(f"{stem}.py").read_text().partition("use=")[0]  # what runs
    for word in re.findall(r'"([a-z0-9-]+)(?:[@:][^"]*)?"', text):
        if word in rv.solve.SOLVERS:
            assert rv.solve.SOLVERS[word].build.__module__ in found, word
    if re.search(r"from reverie\.papers\.problems import [^\n]*\bdigits\b", text):
        assert {
            "reverie.nets.unet",
            "reverie.hub.house",
            "hub/models/digits.json",
            "hub/models/digits.safetensors",
        } <= found
    if '"frechet"' in text:
        assert {"reverie.measure.frechet", "reverie.measure.judge", "measure/judge-digits.safetensors"} <= found


def test_solver_names_in_strings_lead_to_their_modules():
    found = set(rests_on("dpm-solver"))
    assert {"reverie.solve.ddim", "reverie.solve.singlestep"} <= found
    assert not {"reverie.solve.unipc", "reverie.solve.deis", "reverie.solve.sa", "reverie.solve.restart"} & found


def test_imports_are_absolute_for_the_closure_sees_no_others():
    for module, file in sources._modules().items():
        assert not re.search(r"(?m)^\s*from \.", file.read_text(encoding="utf-8")), module


def test_every_registered_solver_is_found_in_the_text():
    assert dict(sources._solvers()) == {name: entry.build.__module__ for name, entry in rv.solve.SOLVERS.items()}


def test_files_of_data_beside_a_module_that_bear_its_name(package):
    files = {"hub/house-a.json": "{}", "hub/other.json": "{}", "hub/house-a.md": "", "hub/house.py": ""}
    package({**ROOMS, **files, "papers/claims/one.py": "from reverie.hub import load"})
    assert rests("") == {"reverie.hub.house", str(sources._ROOT / "hub" / "house-a.json")}
    assert "hub/house-a.json" in digests(["reverie.papers.claims.one"])


def test_a_change_of_code_is_noticed_within_a_claims_own_file(tmp_path):
    file = Path(rv.papers.claims.__file__).with_name("deis.py")
    text = file.read_text()
    assert essence(text) != essence(text.replace("factor=2.0", "factor=1.5", 1))
    assert essence(text) == essence(text.replace("from __future__", "# a comment\n\nfrom __future__", 1))


def test_an_essence_of_every_file_is_python_still():
    for module, file in sources._modules().items():
        text = file.read_text(encoding="utf-8")
        short = essence(text)
        assert len(short) <= len(text)
        assert not short.startswith('"""'), module


# What of a source counts.

SOURCE = '''"""About."""

from x import y  # why


class A:
    """Doc of a class."""

    z: int = 1
    text = "# no comment"

    def f(self, a="#", b=2):  # a comment
        """Doc,
        of two lines.
        """
        # a line of its own
        return f"{a}#{b}" + 'x'


def g():
    return """no docstring, # and no comment"""
'''


def test_the_essence():
    assert essence(SOURCE).split("\n") == [
        "from x import y",
        "class A:",
        "    z: int = 1",
        '    text = "# no comment"',
        '    def f(self, a="#", b=2):',
        """        return f"{a}#{b}" + 'x'""",
        "def g():",
        '    return """no docstring, # and no comment"""',
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("About.", "About this."),
        ("About.", "About.\n\nMore."),
        ("# why", ""),
        ("  # why", "    # another"),
        ("Doc of a class.", "Doc."),
        ("of two lines.", "of\n\n   three lines."),
        ("# a line of its own", "# one more\n        # line"),
        ("\n\n\n", "\n"),
        ("def g():", "\n\ndef g():   "),
    ],
)
def test_what_does_not_count(old, new):
    assert SOURCE.replace(old, new) != SOURCE
    assert essence(SOURCE.replace(old, new)) == essence(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("z: int = 1", "z: int = 2"),
        ('"#"', '"##"'),
        ("# no comment", "# no more"),
        ("{a}#{b}", "{a}{b}"),
        ("# and no comment", "# and"),
        ("b=2", "b=3"),
        ("return f", "return  f"),
        ("def g():", "def h():"),
        ("from x import y", "from x import z"),
        ("no docstring,", "no docstring,\n\n"),
        ("no docstring, ", "no docstring,  "),
        ("class A", "@mark\nclass A"),
    ],
)
def test_what_counts(old, new):
    assert SOURCE.replace(old, new) != SOURCE
    assert essence(SOURCE.replace(old, new)) != essence(SOURCE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('x = """a\n\nb"""', 'x = """a\nb"""'),
        ('x = """a\n\nb"""', 'x = """a\n\n\nb"""'),
        ('x = """a  \nb"""', 'x = """a\nb"""'),
        ('def f(x=1): "doc"', 'def f(x=2): "doc"'),
        ('def f(): "doc"; return 1', 'def f(): "doc"; return 2'),
        ('x = "\\x0c"\ny = "a\x0cb"  # c\nz = 1  # d', 'x = "\\x0c"\ny = "a\x0cb"  # c\nz = 2  # d'),
        ('y = "a\u2028b"\nz = "#1"  # d', 'y = "a\u2028b"\nz = "#2"  # d'),
    ],
)
def test_what_counts_in_rare_sources(one, other):
    """Blank lines and trailing spaces within a string; what shares a line with a docstring; line separators that Python does not count."""
    assert essence(one) != essence(other)
