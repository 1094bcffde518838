"""`reverie train`: a recipe, trained; it can be stopped and goes on."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from reverie.cli.console import complain, examples, out

__all__ = ["EXAMPLES", "train"]

EXAMPLES = examples(
    "# the house model of digits, as it was trained (about half an hour on two cores)",
    "reverie train digits",
    "# a recipe of your own, shorter, elsewhere",
    "reverie train recipe.yaml --steps 2000 -o runs/try",
    "# and then",
    "reverie sample runs/try -o out.png",
)


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A YAML file, or a recipe of the package: digits, digits-judge, patches, shapes-vae, shapes, shapes-layout, shapes-flow, "
            "shapes-judge.",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            help="Folder of the model, the checkpoints and the log.",
            show_default="runs/NAME",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Optimiser steps, from 1, instead of the recipe's own number.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew, and remove the checkpoints in the folder.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Train a model by a recipe.

    Ctrl-C saves a checkpoint; the same command goes on from the newest one, and ends with the same bits.
    """
    from reverie.train import train as run

    try:
        done = run(recipe, out=output, steps=steps, resume=not fresh, quiet=quiet)
    except KeyboardInterrupt as stop:
        complain(str(stop) or "the same command goes on from the newest checkpoint", "stopped")
        raise typer.Exit(130) from None
    figures = ", ".join(f"{name} {value:.4g}" for name, value in done.figures.items())
    out().print(f"[bold]{done.weights}[/bold]  {done.steps} steps, {figures}", soft_wrap=True)
    if json.loads(done.card.read_text(encoding="utf-8")).get("kind") == "reverie-model":
        out().print(f"[dim]next: reverie sample {done.card} -o out.png[/dim]", soft_wrap=True)
