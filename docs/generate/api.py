"""The public names of every room, from their docstrings: a page a room, in it a section a file, in the order of the room's imports."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import reverie
from generate.docstrings import markdown, prose, read, title, without_title
from generate.page import Page, cell, table

__all__ = ["pages", "public", "rooms"]

HOME = Path(reverie.__file__).parent

# Files of a room that come first on its page; the others follow as the room imports them.
FIRST = {
    "base": ("errors", "noise"),
    "process": ("process", "vp", "ve", "flow"),
    "model": ("model", "prediction", "target"),
    "solve": ("sample", "solver", "run", "plan", "context", "grids", "order", "likelihood"),
    "guide": ("cfg",),
    "train": ("trainer", "recipe"),
}


def rooms() -> tuple[str, ...]:
    """The rooms that a user may import, in their order."""
    return reverie._ROOMS


def pages() -> list[Page]:
    """The overview and a page a room."""
    made = [Page(f"api/{room}.md", room, _room(room)) for room in rooms()]
    rows = [(f"[`rv.{r}`]({r}.md)", cell(prose(_doc(HOME / r / "__init__.py")))) for r in rooms()]
    names = [n for n in reverie.__all__ if n not in rooms() and not n.startswith("__")]
    top = [f"[`rv.{n}`][{getattr(reverie, n).__module__}.{n}]" for n in names]
    text = (
        "# API\n\n`import reverie as rv` loads a room when it is first used. The names used most are at the top too: "
        + ", ".join(top)
        + ".\n\nRooms are imported in this order, and a room uses only rooms before it.\n\n"
        + table(("room", "what is in it"), rows)
        + "\n"
    )
    return [Page("api/index.md", "Rooms", text), *made]


def public(room: str) -> dict[str, list[str]]:
    """Files of a room that define its public names: module -> names, in the order in which the room imports them."""
    tree = _parsed(HOME / room / "__init__.py")
    listed = _all(tree)
    found: dict[str, list[str]] = {}
    later = [inner for node in tree.body if isinstance(node, ast.If) for inner in node.body]  # imported when first used
    for node in (*tree.body, *later):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"reverie.{room}."):
            for alias in node.names:
                if (alias.asname or alias.name) in listed:
                    found.setdefault(str(node.module), []).append(alias.name)
    placed = {name for names in found.values() for name in names}
    if own := [name for name in listed if name not in placed]:
        found[f"reverie.{room}"] = own
    first = [f"reverie.{room}.{name}" for name in FIRST.get(room, ())]
    modules = [*(m for m in first if m in found), *(m for m in found if m not in first)]
    return {module: sorted(found[module], key=_order(module)) for module in modules}


def _order(module: str) -> Callable[[str], int]:
    """Where a name stands in its file."""
    lines = {name: node.lineno for node in _tree(module).body for name in _defined(node)}
    return lambda name: lines.get(name, 0)


def _tree(module: str) -> ast.Module:
    return _parsed(_file(module))


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def _all(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and "__all__" in _defined(node):
            return list(ast.literal_eval(node.value))
    return []


def _file(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    return Path(spec.origin)


def _doc(path: Path) -> str:
    return ast.get_docstring(_parsed(path)) or ""


def _room(room: str) -> str:
    out = [f"# {room}", prose(_doc(HOME / room / "__init__.py"))]
    for module, names in public(room).items():
        doc = _doc(_file(module))
        if module == f"reverie.{room}":
            out.append("## Also here")
        else:
            out += [f"## {title(doc)}", markdown(without_title(read(doc)))]
        constants = {node: [n for n in names if n in _defined(node)] for node in _tree(module).body if not _made(node)}
        for node, group in constants.items():
            if group:
                out += _constant(room, module, node, group)
        for name in names:
            if all(name not in group for group in constants.values()):
                out.append(
                    f"[](){{ #reverie.{room}.{name} }}\n\n::: {module}.{name}\n    options:\n"
                    f"      heading: rv.{room}.{name}\n      toc_label: {name}"
                )
    return "\n\n".join(out) + "\n"


def _made(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.ClassDef)


def _constant(room: str, module: str, node: ast.stmt, names: list[str]) -> list[str]:
    """A constant or the name of a type: what it is in the source, with the text or comment that goes with it."""
    lines, body = _file(module).read_text(encoding="utf-8").splitlines(), _tree(module).body
    after = next((n for n in body if n.lineno > (node.end_lineno or 0)), None)
    said = ""
    if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
        said = str(after.value.value)
    elif lines[node.lineno - 2].startswith("#"):
        said = lines[node.lineno - 2].lstrip("# ")
    keys, code = "", "\n".join(lines[node.lineno - 1 : node.end_lineno])
    if isinstance(node, ast.AnnAssign):
        code = f"{names[0]}: {ast.unparse(node.annotation)}"
        if isinstance(node.value, ast.Dict) and node.value.keys:
            keys = ", ".join(f"`{ast.literal_eval(k)}`" for k in node.value.keys if k)
            keys = f"Names: {keys}."
    anchors = "".join(f"[](){{ #reverie.{room}.{n} }}" for n in names)
    head = f"### {', '.join(f'rv.{room}.{n}' for n in names)} {{ .doc-heading data-toc-label='{', '.join(names)}' }}"
    return [anchors, head, f"```python\n{code}\n```", prose(said), keys]
