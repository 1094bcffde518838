"""Our docstrings as mkdocstrings wants them: read by `docstrings.read`, with types out of the signature and links to what they name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

from generate.api import public, rooms
from generate.docstrings import Item, Part, markdown, prose, read

__all__ = ["Reverie"]


class Reverie(griffe.Extension):
    """Puts our own reading of every docstring in the place of a parser's."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        for room in rooms():
            for module, names in public(room).items():
                for name in names:
                    self.known.setdefault(name, f"{module}.{name}")

    def on_object(self, *, obj: griffe.Object, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Parse the docstring of any object of the package."""
        if obj.docstring is not None:
            self.modules = loader.modules_collection
            obj.docstring.__dict__["parsed"] = list(self._sections(obj, obj.docstring))

    def _sections(self, obj: griffe.Object, doc: griffe.Docstring) -> Iterator[griffe.DocstringSection]:
        names = set(_parameters(obj)) | (set(obj.members) if obj.is_class else set())
        waiting: list[Part] = []
        for part in read(doc.value, names):
            if part.kind in ("text", "formula", "example"):
                waiting.append(part)
                continue
            if waiting:
                yield griffe.DocstringSectionText(markdown(waiting, self._code))
                waiting = []
            yield from self._section(obj, part)
        if waiting:
            yield griffe.DocstringSectionText(markdown(waiting, self._code))

    def _section(self, obj: griffe.Object, part: Part) -> Iterator[griffe.DocstringSection]:
        if part.kind in ("returns", "yields"):
            yield griffe.DocstringSectionText(f"*{part.kind.capitalize()}*: {self._prose(part.text)}")
            return
        named = [item for item in part.items if item.names]
        if part.kind == "raises" and named:
            yield griffe.DocstringSectionRaises([self._raised(obj, *one) for item in named for one in _each(item)])
        elif part.kind == "args" and named:
            yield griffe.DocstringSectionParameters([self._parameter(obj, *o) for item in named for o in _each(item)])
        elif named:
            yield griffe.DocstringSectionAttributes([self._attribute(obj, *o) for item in named for o in _each(item)])
        head = "*Raises* " if part.kind == "raises" else ""
        for item in part.items:
            if not item.names:
                yield griffe.DocstringSectionText(head + self._prose(item.text))

    def _parameter(self, obj: griffe.Object, name: str, text: str) -> griffe.DocstringParameter:
        p = _parameters(obj).get(name)
        default = None if p is None or p.kind is None or p.kind.name.startswith("var_") else p.default
        annotation = None if p is None else p.annotation
        stars = {"var_positional": "*", "var_keyword": "**"}.get(p.kind.name if p is not None and p.kind else "", "")
        return griffe.DocstringParameter(
            stars + name, description=self._prose(text), annotation=annotation, value=default
        )

    def _attribute(self, obj: griffe.Object, name: str, text: str) -> griffe.DocstringAttribute:
        member = obj.members.get(name)
        annotation = getattr(member, "annotation", None) or getattr(member, "returns", None)
        if annotation is None and name in _parameters(obj):
            annotation = _parameters(obj)[name].annotation
        return griffe.DocstringAttribute(name, description=self._prose(text), annotation=annotation)

    def _raised(self, obj: griffe.Object, name: str, text: str) -> griffe.DocstringRaise:
        known = self.known.get(name)  # the module may not import what others raise for it
        parent = self.modules[known.rpartition(".")[0]] if known else obj.module
        return griffe.DocstringRaise(annotation=griffe.ExprName(name, parent=parent), description=self._prose(text))

    def _prose(self, text: str) -> str:
        return prose(text, self._code)

    def _code(self, text: str) -> str:
        """Code, linked if it names something public: a class or error, its member, or a qualified or compound name."""
        found = re.fullmatch(r"(?:rv\.|reverie\.)?(?:[a-z]+\.)?(\w+)((?:\.\w+)*)(?:\([^)]*\))?", text)
        if found and found[1] in self.known and (re.search("[A-Z_]", found[1]) or "." in text or "(" in text):
            return (
                f'<autoref optional identifier="{self.known[found[1]]}{found[2]}"><code>{_html(text)}</code></autoref>'
            )
        return f"`{text}`"


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _each(item: Item) -> Iterator[tuple[str, str]]:
    """Name by name; the text follows the last, and the template draws it once for all of them."""
    for k, name in enumerate(item.names):
        yield name, item.text if k == len(item.names) - 1 else ""


def _parameters(obj: griffe.Object) -> dict[str, griffe.Parameter]:
    found = getattr(obj, "parameters", None)
    return {p.name: p for p in found} if found else {}
