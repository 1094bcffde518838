"""The Python fragments of the pages run, in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.mark.parametrize(
    ("page", "asserts", "prints"),
    [
        ("index.md", 2, "dpmpp-2m"),
        ("nouns.md", 12, "dpmpp-2m"),
        ("sampling.md", 4, "unipc-3"),
        ("starts.md", 7, "tensor("),
        ("gradients.md", 5, ""),
        ("claims.md", 4, "mixture/10"),
        ("training.md", 4, ""),
        ("tuning.md", 4, "fitted to mixture; error"),
    ],
)
def test_fragments_run(page: str, asserts: int, prints: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / page).read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))
    assert code.count("assert") >= asserts
    exec(compile(code, page, "exec"), {})
    printed = capsys.readouterr().out
    assert prints in printed
    for shown in re.findall(r"``` \{ \.text \.plan \}\n(.*?)```", text, re.S):
        assert shown in printed


def test_every_solver_and_grid_has_its_place() -> None:
    from reverie.solve import SOLVERS
    from reverie.solve.grids import GRIDS, PLACED

    text = (DOCS / "sampling.md").read_text()
    named = set(re.findall(r"`([a-z0-9-]+)[:`\[]", text))
    assert set(SOLVERS) - {"deis-3", "unipc-1"} <= named
    assert {*GRIDS, *PLACED} <= named
