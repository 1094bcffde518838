"""What the site has beside the pages written by hand. Further kinds of pages are named here, and placed in mkdocs.yml."""

from __future__ import annotations

from collections.abc import Callable

from generate import api, claims, rooms, solvers
from generate.page import Page

__all__ = ["ROOT_FILES", "SECTIONS"]

SECTIONS: dict[str, Callable[[], list[Page]]] = {
    "solvers": solvers.pages,
    "papers": rooms.pages,
    "claims": claims.pages,
    "api": api.pages,
}
"""A folder of the site, and what makes its pages."""

ROOT_FILES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Pages that lie at the root of the repository."""
