"""What mkdocs runs: the generated pages, and their places in the navigation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT / "docs") not in sys.path:
    sys.path.insert(0, str(ROOT / "docs"))  # stays, so that mkdocstrings finds `generate.extension`

from generate import bridge, expressway, frontier, gradients, stability  # noqa: E402
from generate.contents import ROOT_FILES, SECTIONS  # noqa: E402
from generate.page import Page  # noqa: E402

_made: dict[str, list[Page]] = {}
_FIGURES = {
    frontier.MARK: frontier.frontier, stability.MARK: stability.stability, expressway.MARK: expressway.expressway, bridge.MARK: bridge.bridge,
    gradients.MARK: gradients.gradients,
}  # fmt: skip


def on_config(config: MkDocsConfig) -> None:
    """Make the pages, and write `NAME: folder/*` of the navigation out."""
    _made.update({folder: make() for folder, make in SECTIONS.items()})
    config.nav = _written_out(config.nav)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add what was made, and the files of the root."""
    for pages in _made.values():
        for page in pages:
            files.append(File.generated(config, page.path, content=page.text))
    for path, name in ROOT_FILES.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, path, content=text))


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Put figures where a page has their mark."""
    for mark, draw in _FIGURES.items():
        if mark in markdown:
            markdown = markdown.replace(mark, draw())
    return markdown


def _written_out(nav: Any) -> Any:
    if isinstance(nav, list):
        return [_written_out(entry) for entry in nav]
    if isinstance(nav, dict):
        return {name: _written_out(entry) for name, entry in nav.items()}
    if isinstance(nav, str) and nav.endswith("/*"):
        return [{page.title: page.path} for page in _made[nav.removesuffix("/*")] if page.path.endswith(".md")]
    return nav
