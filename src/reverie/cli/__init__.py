"""The command line: `reverie sample`, `solvers`, `plan`, `train`, `demo`. It needs the extra `cli` (typer, rich, pillow)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a check failed, 2 a mistake in what was asked, 130 interrupted.

    Args:
        arguments: words after `reverie`; by default those of the process.

    >>> main(["--version"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    SystemExit: 0
    """
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        print(
            f"error: the command line needs {error.name}; install it with: pip install 'reverie[cli]'", file=sys.stderr
        )
        raise SystemExit(2) from None
    from reverie.cli.app import app

    app(args=None if arguments is None else list(arguments), prog_name="reverie")
