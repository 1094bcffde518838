"""`reverie convert`: a pipeline's folder with a plan as its scheduler."""

from __future__ import annotations

from typing import Annotated

import typer

from reverie.cli.console import examples, out

__all__ = ["EXAMPLES", "convert"]

EXAMPLES = examples(
    "# a Stable Diffusion folder that samples with dpmpp-3m, in diffusers and whatever loads its folders",
    "reverie convert my-model my-model-3m --solver dpmpp-3m",
    "# with a plan that was fitted to it",
    'reverie tune my-model --steps 5 --guide cfg:7.5 --prompts prompts.txt -o five.json',
    "reverie convert my-model my-model-five --plan five.json --half",
)  # fmt: skip


def convert(
    source: Annotated[str, typer.Argument(metavar="MODEL", help="A pipeline's folder, or a house model that is one.")],
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where to; a pipeline that is there is replaced.")],
    solver: Annotated[str | None, typer.Option(metavar="NAME", help="See 'reverie solvers'.")] = None,
    grid: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where its steps lie: logsnr, karras:RHO, ... Default: trailing."),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the solver. Repeatable.")
    ] = None,
    plan: Annotated[str | None, typer.Option(metavar="FILE", help="A saved plan instead.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Write weights in half precision.")] = False,
) -> None:
    """Write a pipeline's folder anew, with a plan of Reverie's as its scheduler."""
    from pathlib import Path

    from reverie.base import ArgumentError
    from reverie.cli import parse
    from reverie.hub.house import find
    from reverie.hub.save import save_pipeline
    from reverie.solve import Plan

    if plan is not None and (solver, grid, option) != (None, None, None):
        raise ArgumentError("a saved plan has its own solver, grid and options; leave them out, or leave --plan out")
    if solver is None and plan is None and (grid, option) != (None, None):
        raise ArgumentError("--grid and --option belong to a solver; name one with --solver")
    place = find(source)
    if not place.is_dir():
        raise ArgumentError(f"{source!r} is no pipeline of diffusers, so there is no folder of one to write")
    more = {} if grid is None else {"grid": grid}
    if option:
        more["solver_options"] = parse.options(option)  # type: ignore[assignment]
    made = save_pipeline(place, Path(folder), solver=Plan.load(plan) if plan else solver, half=half, **more)
    size = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
    out().print(
        f"[bold]{folder}[/bold]  {size / 1e6:.1f} MB, scheduler {plan or solver or 'as it was'}", soft_wrap=True
    )
