"""`reverie demo`: digits in few evaluations, measured, and pictures from words, on one page."""

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
    words: Annotated[
        str, typer.Option(metavar="MODEL", help="A text-to-image model of drawn scenes, by name or path.")
    ] = "shapes",
    samples: Annotated[int, typer.Option(metavar="N", min=100, help="Samples a quality figure, from 100.")] = 1000,
    seed: Annotated[int, typer.Option(metavar="INT", help="Seed of all noise, from 0 to below 2^64.")] = 0,
) -> None:
    """Make a page that shows what few evaluations give: pictures, errors, quality, orders.

    It takes a minute or two on two cores, and ends with the path of one self-contained file.
    """
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from reverie.base import FileError
    from reverie.base.files import atomic, check_writable
    from reverie.cli.page import page
    from reverie.cli.scenes import check, draw
    from reverie.cli.showcase import measure
    from reverie.hub import house_models, load
    from reverie.measure import judge

    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"cannot make the folder {output!r}: {error.strerror or error}; choose another with -o"
        ) from None
    check_writable(folder / "index.html")
    scenic = load(words) if words in house_models() or (words != "shapes" and words) else None
    if scenic is not None:
        check(scenic)
    began = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description:<42}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task("loading", total=1.0)

        def tell(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        found = measure(load(model), judge(), samples, seed, tell)
        tell("pictures from words", 1.0)
        scenes = None if scenic is None else draw(scenic, seed, source=words)
    seconds = time.monotonic() - began
    with atomic(folder / "index.html") as temporary:
        temporary.write_text(page(found, seconds, scenes), encoding="utf-8")
    missing = f"no model {words!r} is here, so no pictures from words; set REVERIE_MODELS to the folder that holds it"
    for line in [*found.summary(), missing if scenes is None else scenes.summary()]:
        out().print(line, soft_wrap=True)
    out().print(f"[bold]{folder / 'index.html'}[/bold]  {seconds:.0f} s", soft_wrap=True)
