"""`reverie demo`: the digits in few evaluations, measured, on one page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from reverie.cli.console import err, examples, out

__all__ = ["EXAMPLES", "demo"]

EXAMPLES = examples("reverie demo -o out/demo", "# then open out/demo/index.html")


def demo(
    output: Annotated[str, typer.Option("-o", "--out", metavar="DIR", help="Folder of the page.")] = "out/demo",
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="A class-conditional model of digits, by name or path.")
    ] = "digits",
    samples: Annotated[int, typer.Option(metavar="N", min=100, help="Samples a quality figure, from 100.")] = 1000,
    seed: Annotated[int, typer.Option(metavar="INT", help="Seed of all noise, from 0 to below 2^64.")] = 0,
) -> None:
    """Make a page that shows what few evaluations give: pictures, errors, quality, orders.

    It takes about a minute on two cores, and ends with the path of one self-contained file.
    """
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from reverie.base import FileError
    from reverie.base.files import atomic, check_writable
    from reverie.cli.page import page
    from reverie.cli.showcase import measure
    from reverie.hub import load
    from reverie.measure import judge

    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"cannot make the folder {output!r}: {error.strerror or error}; choose another with -o"
        ) from None
    check_writable(folder / "index.html")
    began = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description:<42}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task("loading", total=1.0)

        def tell(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        found = measure(load(model), judge(), samples, seed, tell)
    seconds = time.monotonic() - began
    with atomic(folder / "index.html") as temporary:
        temporary.write_text(page(found, seconds), encoding="utf-8")
    for line in found.summary():
        out().print(line, soft_wrap=True)
    out().print(f"[bold]{folder / 'index.html'}[/bold]  {seconds:.0f} s", soft_wrap=True)
