"""Reverie's docstrings, read into parts: prose, formulas, examples, and sections whose arguments share lines.

    Args:
        x: samples. t, t_end: the two ends, t_min and t_max by default.

is three arguments in two entries. The names in the signature tell an entry from a word before a colon, so nothing has to be reformatted in the
source. This file knows nothing of the tools that draw the pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from textwrap import dedent

__all__ = [
    "Item",
    "Part",
    "markdown",
    "prose",
    "read",
    "split_named",
    "split_raised",
    "title",
    "without_title",
]

_NAMED = ("args", "attributes")
_HEAD = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")
_NAMES = re.compile(r"\*{0,2}([A-Za-z_]\w*(?:, \*{0,2}[A-Za-z_]\w*)*): *")
_KIND = r"[A-Z]\w*(?:Error|Interrupt|Warning|Exception)(?: \([^)]*\))?"
_RAISED = re.compile(rf"({_KIND}(?:, {_KIND})*)(?:: *|[.;] *|$)")
_ARXIV = re.compile(r"(?<![\d./])(\d{4}\.\d{5})(?!\d)")


@dataclass(frozen=True)
class Item:
    """An entry of a section: the names that share a text. Without names it is a remark."""

    names: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Part:
    """A piece of a docstring: `kind` is text, formula, example, or a section's name in lower case (args, raises, ...)."""

    kind: str
    text: str
    items: tuple[Item, ...] = ()


def read(doc: str, names: Collection[str] = ()) -> list[Part]:
    """The parts of a docstring (as `inspect.cleandoc` leaves it) of something with parameters or attributes of these names."""
    lines, parts, i = doc.strip("\n").splitlines(), [], 0
    while i < len(lines):
        if not lines[i].strip():
            i += 1
        elif head := _HEAD.match(lines[i]):
            j = _until(lines, i + 1, lambda line: bool(line.strip()) and not line.startswith(" "))
            kind, body = head[1].lower(), dedent("\n".join(lines[i + 1 : j])).strip()
            items = split_raised(body) if kind == "raises" else split_named(body, names) if kind in _NAMED else []
            parts.append(Part(kind, body, tuple(items)))
            i = j
        elif lines[i].startswith(">>>"):
            j = _until(lines, i, lambda line: not line.strip())
            parts.append(Part("example", "\n".join(lines[i:j])))
            i = j
        elif lines[i].startswith("    "):
            j = _until(lines, i, lambda line: bool(line.strip()) and not line.startswith("    "))
            parts.append(Part("formula", dedent("\n".join(lines[i:j])).strip("\n").rstrip()))
            i = j
        else:
            j = _until(lines, i, lambda line: not line.strip() or bool(_HEAD.match(line)))
            block = lines[i:j]
            columns = len(block) > 1 and all(re.search(r"\S {3,}\S", line) for line in block)
            parts.append(Part("formula" if columns else "text", "\n".join(block)))
            i = j
    return parts


def _until(lines: list[str], start: int, stop: Callable[[str], bool]) -> int:
    return next((j for j in range(start, len(lines)) if stop(lines[j])), len(lines))


def split_named(body: str, names: Collection[str]) -> list[Item]:
    """Split packed entries `a: ... b, c: ...`.

    An entry begins with known names and a colon, where a line begins or a sentence or clause ended. Without known names a line's own beginning
    decides. A line that begins a sentence of its own, and no entry, is a remark.
    """
    found: list[tuple[int, int, tuple[str, ...]]] = []  # where an entry begins, where its text begins, its names
    for match in _NAMES.finditer(body):
        begins = tuple(part.strip(" *") for part in match[1].split(","))
        line = body.rfind("\n", 0, match.start()) + 1 == match.start()
        ended = re.search(r"[.;)]\s+$", body[: match.start()]) is not None
        if (line and not names) or ((line or ended) and set(begins) <= set(names)):
            found.append((match.start(), match.end(), begins))
    for match in re.finditer(r"(?<=[.!?]\n)(?=[A-Z])", body):
        if all(start != match.start() for start, _, _ in found):
            found.append((match.start(), match.start(), ()))
    if not found or found[0][0] > 0:
        found.append((0, 0, ()))
    found.sort()
    ends = [start for start, _, _ in found[1:]] + [len(body)]
    return [Item(n, _flat(body[text:end]).rstrip(" ;")) for (_, text, n), end in zip(found, ends, strict=True)]


def split_raised(body: str) -> list[Item]:
    """Split packed errors: `ShapeError, TimeError. ArgumentError: a label.` and `ArgumentError (steps), TimeError (times).`"""
    body = _flat(body)
    found = [m for m in _RAISED.finditer(body) if m.start() == 0 or re.search(r"[.;] $", body[: m.start()])]
    items = []
    if not found or found[0].start() > 0:
        items.append(Item((), body[: found[0].start() if found else None].rstrip(" ;")))
    for match, end in zip(found, [m.start() for m in found[1:]] + [len(body)], strict=True):
        said, kinds = body[match.end() : end].strip(" ;"), re.findall(_KIND, match[1])
        notes = [kind.partition(" ")[2] for kind in kinds]
        if any(notes):
            for kind, note in zip(kinds, notes, strict=True):
                items.append(Item((kind.partition(" ")[0],), f"{note} {said}".strip() if said else note[1:-1]))
        else:
            items.append(Item(tuple(kinds), said))
    return items


def _flat(text: str) -> str:
    return " ".join(text.split())


def title(doc: str) -> str:
    """A heading out of a module's first sentence: what stands before its first stop, clause or bracket."""
    text = re.split(r"[:;,.](?:\s|$)| \(|\s(?:in|where|with|that|whose|so)\s", doc.strip(), maxsplit=1)[0]
    return re.sub(r" (of|by|for|to)$", "", _flat(text))


def without_title(parts: list[Part]) -> list[Part]:
    """The parts below a heading made by `title`: without the first paragraph where it says no more than that."""
    return parts[1:] if parts and parts[0].text.rstrip(".") == title(parts[0].text) else parts


def prose(text: str, code: Callable[[str], str] | None = None) -> str:
    """Plain text as Markdown: nothing but `code` has a meaning, and arXiv numbers become links."""
    out = []
    for k, piece in enumerate(text.split("`")):
        if k % 2:
            out.append(code(piece) if code else f"`{piece}`")
            continue
        piece = re.sub(r"([\\*_\[\]#|])", r"\\\1", piece).replace("<", "&lt;").replace(">", "&gt;")
        out.append(_ARXIV.sub(r"[\1](https://arxiv.org/abs/\1)", piece))
    return "".join(out)


def markdown(parts: Iterable[Part], code: Callable[[str], str] | None = None) -> str:
    """Prose, formulas and examples as Markdown; sections are left to whoever knows the types."""
    return "\n\n".join(_markdown(parts, code))


def _markdown(parts: Iterable[Part], code: Callable[[str], str] | None) -> Iterator[str]:
    for part in parts:
        if part.kind == "text":
            yield prose(part.text, code)
        elif part.kind == "formula":
            yield f"``` {{ .text .formula }}\n{part.text}\n```"
        elif part.kind == "example":
            yield f"```pycon\n{part.text}\n```"
