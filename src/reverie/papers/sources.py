"""The package read as text: where a paper is implemented, and what a piece of code rests on.

Nothing is imported for it, so it is quick, needs no extra, and sees what is written. A test holds it to what the running registry says.

What a module rests on is the closure of its imports inside Reverie, resolved name by name: `from reverie.solve import Plan` rests on
`solve/plan.py`, not on all that `solve/__init__.py` names. A name that is looked up at run time is an import too: in a claim, a string that is
the name of a registered solver or of a house model counts as one.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Place", "closure", "digests", "essence", "implementations"]

_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Place:
    """Where a paper is implemented.

    Attributes:
        module, name: "reverie.solve.deis", "deis_3". line: where its definition begins. doc: its docstring. about: its module's docstring.
        solver: the name under which it is registered as a solver, or "".
    """

    module: str
    name: str
    line: int
    doc: str
    about: str
    solver: str = ""

    @property
    def summary(self) -> str:
        """The first sentence of the docstring."""
        return " ".join(self.doc.split("\n\n")[0].split())

    @property
    def path(self) -> str:
        """The file, from the package's folder."""
        return str(_modules()[self.module].relative_to(_ROOT))


@functools.cache
def _modules() -> Mapping[str, Path]:
    """All modules of the package: dotted name -> file."""
    found = {}
    for file in sorted(_ROOT.rglob("*.py")):
        parts = file.relative_to(_ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_modules()[module].read_text(encoding="utf-8"))


def _marks(node: ast.AST) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Decorators that are calls with string arguments: name -> strings."""
    for decorator in getattr(node, "decorator_list", ()):
        if isinstance(decorator, ast.Call):
            name = (
                decorator.func.attr if isinstance(decorator.func, ast.Attribute) else getattr(decorator.func, "id", "")
            )
            words = (a.value for a in decorator.args if isinstance(a, ast.Constant))
            yield str(name), tuple(word for word in words if isinstance(word, str))


@functools.cache
def implementations() -> Mapping[str, tuple[Place, ...]]:
    """Every `@implements("slug")` that is written in the package, by slug.

    >>> [p.solver for p in implementations()["pndm"]]
    ['pndm']
    """
    found: dict[str, list[Place]] = {}
    for module, file in _modules().items():
        if "implements(" not in file.read_text(encoding="utf-8"):
            continue
        tree = _tree(module)
        about = ast.get_docstring(tree) or ""
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            marks = list(_marks(node))
            solver = next((words[0] for mark, words in marks if mark == "solver" and words), "")
            for slug in (word for mark, words in marks if mark == "implements" for word in words):
                place = Place(module, node.name, node.lineno, ast.get_docstring(node) or "", about, solver)
                found.setdefault(slug, []).append(place)
    return {slug: tuple(places) for slug, places in sorted(found.items())}


@functools.cache
def _solvers() -> Mapping[str, str]:
    """Registered solvers: name -> module."""
    found = {}
    for module, file in _modules().items():
        if module.startswith("reverie.solve.") and "@solver(" in file.read_text(encoding="utf-8"):
            for node in _tree(module).body:
                for mark, words in _marks(node):
                    if mark == "solver" and words:
                        found[words[0]] = module
    return found


@functools.cache
def _house() -> Mapping[str, tuple[Path, ...]]:
    """The files of the house models, by name, without their cards in prose."""
    files = [f for f in sorted((_ROOT / "hub" / "models").iterdir()) if f.suffix != ".md"]
    return {f.stem: tuple(g for g in files if g.stem == f.stem) for f in files}


@functools.cache
def _beside(module: str) -> tuple[Path, ...]:
    """The data files of a module: those beside it that have its name, "judge-digits.json" beside "judge.py"."""
    file = _modules()[module]
    found = (f for f in file.parent.glob(f"{file.stem}-*") if f.suffix in (".json", ".toml", ".safetensors"))
    return tuple(sorted(found))


def _resolve(package: str, name: str) -> str:
    """The module that `from package import name` rests on."""
    modules = _modules()
    if modules.get(package, Path()).name != "__init__.py":
        return package
    for node in ast.walk(_tree(package)):  # first, for a name that the room binds hides its module of that name
        if isinstance(node, ast.ImportFrom) and node.module and node.module != package:
            for alias in node.names:
                if (alias.asname or alias.name) == name and node.module.split(".")[0] == "reverie":
                    return _resolve(node.module, alias.name)
    if f"{package}.{name}" in modules:
        return f"{package}.{name}"
    for node in ast.walk(_tree(package)):  # lazy names: a table {"name": "room"}
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == name and isinstance(value, ast.Constant):
                    room = f"{package}.{value.value!s}"
                    if room in modules:
                        return _resolve(room, name)
    return package


def _body(tree: ast.Module) -> Iterator[ast.AST]:
    """Everything but what only a type checker reads."""
    queue: list[ast.AST] = [tree]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            queue += node.orelse
            continue
        yield node
        queue += ast.iter_child_nodes(node)


@functools.cache
def _imports(module: str) -> frozenset[str]:
    """The modules of Reverie that a module's text names. A room that is only passed through, as in `rv.solve.plan`, is none of them."""
    nodes = list(_body(_tree(module)))
    found: set[str] = set()
    rooms: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "reverie":
            for alias in node.names:
                target = _resolve(node.module, alias.name)
                if target != node.module and _is_room(target):
                    rooms[alias.asname or alias.name] = target
                else:
                    found.add(target)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "reverie":
                    rooms[alias.asname or "reverie"] = alias.name if alias.asname else "reverie"
    for node in nodes:
        names = _chain(node)
        if names and names[0] in rooms:
            target = rooms[names[0]]
            for name in names[1:]:
                before, target = target, _resolve(target, name)
                if target == before or not _is_room(target):
                    found.add(target)
                    break
    return frozenset(found)


def _is_room(module: str) -> bool:
    return _modules()[module].name == "__init__.py"


def _chain(node: ast.AST) -> list[str]:
    """The names of `a.b.c`; empty for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) and names else []


def _named(module: str) -> Iterator[str | Path]:
    """What the strings of a module name: solvers and house models."""
    for node in _body(_tree(module)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            word = node.value.split(":")[0].split("@")[0]
            if word in _solvers():
                yield _solvers()[word]
            yield from _house().get(word, ())


def closure(roots: Iterable[str]) -> list[str | Path]:
    """What modules rest on, themselves included: modules of Reverie, and files of house models that they name.

    Args:
        roots: dotted names of modules.

    >>> "reverie.solve.grids" in closure(["reverie.solve.deis"]), "reverie.solve.unipc" in closure(["reverie.solve.deis"])
    (True, False)
    """
    files: set[Path] = set()
    seen: set[str] = set()
    queue = list(roots)
    while queue:
        module = queue.pop()
        if module in seen:
            continue
        seen.add(module)
        queue += _imports(module)
        files.update(_beside(module))
        for named in _named(module) if module.startswith("reverie.papers.") else ():
            if isinstance(named, Path):
                files.add(named)
            else:
                queue.append(named)
    return [*sorted(seen), *sorted(files)]


def digests(roots: Iterable[str], anew: bool = False) -> dict[str, str]:
    """A digest of everything in the closure, by name; of modules without their comments, docstrings and blank lines.

    A file is read when it is first asked for, and then kept, as an imported module is; `anew` reads it again.
    """
    read = _digest.__wrapped__ if anew else _digest
    parts = closure(roots)
    return {str(p.relative_to(_ROOT)) if isinstance(p, Path) else p: read(p) for p in parts}


@functools.cache
def _digest(part: str | Path) -> str:
    if isinstance(part, Path):
        content = part.read_bytes()
    else:
        content = essence(_modules()[part].read_text(encoding="utf-8")).encode()
    return hashlib.sha256(content).hexdigest()[:12]


def essence(source: str) -> str:
    """Python source without what cannot change its results: comments, docstrings, blank lines, trailing spaces.

    >>> essence('\"\"\"About.\"\"\"\\nx = 1  # one\\n\\n\\ny = "#"\\n')
    'x = 1\\ny = "#"'
    """
    lines = source.split("\n")
    tree = ast.parse(source)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    inside: set[int] = set()  # rows that begin within a string, whose spaces count
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)):
            inside.update(range(node.lineno, node.end_lineno or node.lineno))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                _cut(lines, first)
                inside.difference_update(range(first.lineno, first.end_lineno or first.lineno))
    return "\n".join(
        line if row in inside or row + 1 in inside else line.rstrip()
        for row, line in enumerate(lines)
        if row in inside or line.strip()
    )


def _cut(lines: list[str], node: ast.Expr) -> None:
    """Remove an expression from the lines; its columns count bytes."""
    top, bottom = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    before = lines[top].encode()[: node.col_offset].decode()
    after = lines[bottom].encode()[node.end_col_offset :].decode()
    lines[top : bottom + 1] = [before + after, *[""] * (bottom - top)]
