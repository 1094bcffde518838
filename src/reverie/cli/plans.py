"""`reverie solvers` and `reverie plan`: what there is to sample with, and what it does, as tables."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import typer

from reverie.cli.console import examples, out

__all__ = ["PLAN_EXAMPLES", "SOLVERS_EXAMPLES", "plan", "solvers"]

SOLVERS_EXAMPLES = examples("reverie solvers", "reverie solvers unipc-2 sa-solver", "reverie solvers --json")
PLAN_EXAMPLES = examples(
    "# the table behind eight steps of the default solver",
    "reverie plan dpmpp-2m --steps 8",
    "# on a flow with shift 3, saved for 'reverie sample --plan'",
    "reverie plan heun --process flow:3 --nfe 9 -o plan.json",
    "# measure the order of accuracy of the third-order update as it was released",
    "reverie plan dpmpp-3m --steps 8 --option released=true --check-order",
)


def solvers(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these solvers.", show_default="all")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """List the solvers: order of accuracy, calls of the model a step, noise, default grid, options."""
    from reverie.base import unknown
    from reverie.solve import SOLVERS

    for name in names or ():
        if name not in SOLVERS:
            raise unknown("solver", name, SOLVERS)
    entries = [e for e in _entries() if not names or e["name"] in names]
    if as_json:
        typer.echo(json.dumps(entries, indent=1, allow_nan=False))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 1, 0))
    for name, justify in (
        ("name", "left"),
        ("order", "right"),
        ("calls\na step", "right"),
        ("noise", "left"),
        ("grid", "left"),
        ("", "left"),
    ):
        table.add_column(name, justify=justify, no_wrap=name == "name")  # type: ignore[arg-type]
    for e in entries:
        options = ", ".join(f"{k}={'-' if v is None else v}" for k, v in e["options"].items())
        small = "  ".join(filter(None, [f"({options})" if options else "", ", ".join(e["papers"])]))
        what = Text.assemble(e["summary"], (f"\n{small}" if small else "", "dim"))
        table.add_row(
            Text(e["name"], "cyan"),
            str(e["order"]),
            "" if e["calls_a_step"] is None else f"{e['calls_a_step']:g}",
            e["noise"],
            e["grid"],
            what,
        )
    out().print(table)
    out().print(
        "[dim]noise: 'option' means that an option adds it. Defaults in brackets; set them with --option NAME=VALUE.[/dim]"
    )


def _entries() -> list[dict[str, Any]]:
    import reverie as rv
    from reverie.solve import SOLVERS

    p, found = rv.process.vp(), []
    for name, entry in SOLVERS.items():
        short, long = (rv.solve.plan(name, p, steps=None if entry.dynamic else n) for n in (9, 12))
        calls = None if entry.dynamic else ((long.nfe or 0) - (short.nfe or 0)) / 3
        noise = "always" if long.noises else "option" if entry.stochastic else "none"
        papers = [*getattr(entry.build, "__papers__", ()), *getattr(entry.build, "__cites__", ())]
        found.append(
            {
                "name": name,
                "order": entry.order_of(entry.options),
                "calls_a_step": calls,
                "noise": noise,
                "grid": entry.grid,
                "options": {k: "inf" if v == math.inf else v for k, v in entry.options.items()},
                "summary": entry.summary,
                "papers": papers,
            }
        )
    return found


def plan(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A solver, see 'reverie solvers'.")],
    process: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="vp, vp:cosine, vp:scaled_linear, subvp, ve, edm, flow, flow:SHIFT, or a model, whose process is taken.",
        ),
    ] = "vp",
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Steps, from 1.", show_default="8, without --nfe")
    ] = None,
    nfe: Annotated[
        int | None, typer.Option(metavar="N", help="Instead of --steps: the most calls of the model.")
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Where the steps lie: logsnr, karras, time, quadratic, beta, trailing, leading, linspace, ... Default: the solver's.",
        ),
    ] = None,
    end: Annotated[str, typer.Option(metavar="NAME", help="How it ends: denoise, sigma_min, zero.")] = "denoise",
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the solver. Repeatable.")
    ] = None,
    output: Annotated[str | None, typer.Option("-o", "--out", metavar="FILE", help="Also save it, as JSON.")] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check-order",
            help="Also measure the order of accuracy of a step; exit code 1 if it is not the declared one.",
        ),
    ] = False,
) -> None:
    """Compile a solver and print its table.

    A row says when the model is asked, and which linear combination of states (x), answers (D data, e noise, u flow) and noises (z)
    makes the next state.
    """
    import reverie as rv
    from reverie.base import ArgumentError
    from reverie.cli import parse
    from reverie.solve.solver import takes_steps

    if steps is not None and nfe is not None:
        raise ArgumentError(f"give --steps or --nfe, not both (got {steps} and {nfe})")
    options = parse.options(option or [])
    p = parse.process(process)
    table = rv.solve.plan(
        name,
        p,
        8 if steps is None and nfe is None and takes_steps(name) else steps,
        nfe=nfe,
        grid=grid,
        end=end,
        **options,
    )
    typer.echo(str(table))
    if output is not None:
        table.save(output)
        out().print(f"\nsaved as [bold]{output}[/bold]", soft_wrap=True)
    if check:
        found = rv.solve.check_order(name, p, **options)
        verdict = f"but {found.declared} is declared"
        if found.holds:
            verdict = "as declared" if found.order == found.declared else f"at least the declared {found.declared}"
        typer.echo(
            f"\norder {found.measured:.2f} measured (rates {found.rates[0]:.2f}, {found.rates[1]:.2f}), {verdict}"
        )
        if not found.holds:
            raise typer.Exit(1)
