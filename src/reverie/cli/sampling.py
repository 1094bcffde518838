"""`reverie sample`: a model's samples, in few evaluations, as a picture or as numbers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reverie.cli.console import complain, err, examples, out

if TYPE_CHECKING:
    from reverie.model import Model
    from reverie.solve import Plan

__all__ = ["EXAMPLES", "sample"]

EXAMPLES = examples(
    "# sixteen digits in eight evaluations, classes in turn",
    "reverie sample digits -o out.png",
    "# forty sevens, guided, in six evaluations",
    'reverie sample digits 7 -n 40 --steps 6 --guide cfg:2 -o sevens.png',
    "# a thousand samples as numbers; stop with Ctrl-C, and the same command goes on",
    'reverie sample digits -n 1000 --nfe 10 --batch 100 -o samples.safetensors',
    "# samples 1000 to 1999 of the same seed, one file each",
    "reverie sample digits -n 1000 --start 1000 -o more/",
)  # fmt: skip

_HOW, _WHICH, _OUT = "How they are made", "Which samples", "Where they go"


def sample(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A house model (digits), or the path of a model's folder or .json file."),
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help='What to draw: a class ("7"), several ("0,1,2"), or "all". Sample i gets entry i mod their number. Default: all in turn.',
        ),
    ] = None,
    n: Annotated[
        int, typer.Option("-n", "--count", metavar="N", min=1, help="How many samples.", rich_help_panel=_WHICH)
    ] = 16,
    seed: Annotated[
        int, typer.Option(metavar="INT", help="Seed of all noise, from 0 to below 2^64.", rich_help_panel=_WHICH)
    ] = 0,
    start: Annotated[
        int,
        typer.Option(
            metavar="ID",
            min=0,
            help="Id of the first sample. Seed and id determine a sample, in any job.",
            rich_help_panel=_WHICH,
        ),
    ] = 0,
    solver: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="See 'reverie solvers'.",
            show_default="the model's own, else dpmpp-2m",
            rich_help_panel=_HOW,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Steps of the solver, from 1.", show_default="8, without --nfe", rich_help_panel=_HOW
        ),
    ] = None,
    nfe: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Instead of --steps: the most calls of the model a sample may take.", rich_help_panel=_HOW
        ),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Where the steps lie: logsnr, time, karras, trailing; logsnr:POWER, karras:RHO. Default: the model's own, else the solver's.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How it ends: denoise (the last step goes to sigma = 0), sigma_min (some noise stays), zero (sigma = 0 as an extra step).",
            show_default="the model's own, else denoise",
            rich_help_panel=_HOW,
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="An option of the solver, e.g. eta=0.5. Repeatable.", rich_help_panel=_HOW
        ),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="A saved plan (reverie plan ... -o), instead of the six above.", rich_help_panel=_HOW
        ),
    ] = None,
    guide: Annotated[
        str | None,
        typer.Option(
            metavar="cfg:SCALE[:LO,HI][:rescale=PHI]",
            help="Classifier-free guidance: scale (1: none; two forwards a call otherwise), the times between which it acts, and the "
            "share in 0 to 1 by which the contrast is pulled back.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Rows of each network call: memory and speed, and part of what fixes the bits.",
            rich_help_panel=_HOW,
        ),
    ] = 16,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, ...", rich_help_panel=_HOW)] = "cpu",
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--out",
            metavar="PATH",
            help="NAME.png: a contact sheet, settings inside. FOLDER/: a PNG a sample, named by id. NAME.safetensors, NAME.npy: raw numbers.",
            rich_help_panel=_OUT,
        ),
    ] = "out.png",
    columns: Annotated[
        int | None,
        typer.Option(metavar="N", help="Of the contact sheet, from 1. Default: a tidy number.", rich_help_panel=_OUT),
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Screen pixels a pixel, from 1. Default: enough to be seen.", rich_help_panel=_OUT
        ),
    ] = None,
    captions: Annotated[bool, typer.Option(help="Write each sample's class below it.", rich_help_panel=_OUT)] = True,
) -> None:
    """Sample a trained model in few evaluations.

    An interrupted job keeps what it has finished: the same command goes on from there, and ends with the same bits.
    """
    from reverie.base import ArgumentError
    from reverie.cli import parse
    from reverie.cli.output import Output
    from reverie.cli.partial import Partial, digest
    from reverie.hub import load

    target = Output(output, columns, scale, captions)
    settings = {"solver": solver, "steps": steps, "nfe": nfe, "grid": grid, "end": end, "option": option or None}
    given = [f"--{name}" for name, value in settings.items() if value is not None]
    if plan is not None and given:
        raise ArgumentError(f"a saved plan has its own solver, steps and grid; leave out {', '.join(given)}")
    guidance = None if guide is None else parse.guide(guide)
    more = parse.options(option or [])
    base = load(model, _device(device))
    table = _plan(base, plan, solver, steps, nfe, grid, end, more)
    guided = base if guidance is None else base | guidance
    ids = list(range(start, start + n))
    cond, names, cycle = parse.cycled(base, prompt, ids)
    if base.codec is None:
        target.check(base.shape)
    said = {"guide": guide, "prompt": prompt, "seed": seed, "batch": batch, "device": device}
    kept = Partial(target.partial, digest(base, table, said))
    if kept.note:
        complain(kept.note, "note")
    began = time.monotonic()
    had = sum(i in kept.samples for i in ids)
    if had:
        err().print(f"resumed: {had} of {n} samples were done")
    _fill(guided, table, kept, ids, cond, seed, batch)
    x = _stacked(kept.samples, ids)
    target.write(x, ids, names, cycle, _record(base, table, said, ids, names))
    kept.remove()
    seconds = time.monotonic() - began
    forwards = guided.cost(None) if table.rule is not None else (table.cost(guided) or 0)
    out().print(
        f"[bold]{output}[/bold]  {n} sample{'s' * (n > 1)}, {table.solver}, {table.nfe} calls and {forwards} network forwards each, "
        f"{seconds:.1f} s",
        soft_wrap=True,
    )


def _device(name: str) -> Any:
    import torch

    from reverie.base import ArgumentError

    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ArgumentError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from None


def _plan(
    model: Model,
    file: str | None,
    solver: str | None,
    steps: int | None,
    nfe: int | None,
    grid: str | None,
    end: str | None,
    more: dict[str, Any],
) -> Plan:
    from reverie.base import ArgumentError
    from reverie.solve import Plan, plan_for

    if file is None:
        if steps is not None and nfe is not None:
            raise ArgumentError(f"give --steps or --nfe, not both (got {steps} and {nfe})")
        steps = 8 if steps is None and nfe is None else steps
        return plan_for(model, solver, steps=steps, nfe=nfe, grid=grid, end=end, **more)
    table = Plan.load(file)
    if table.process != model.process:
        raise ArgumentError(
            f"{file!r} was made for {table.process}, {model.name} has {model.process}; make it with --process MODEL"
        )
    return table


def _fill(model: Model, plan: Plan, kept: Any, ids: list[int], cond: dict[str, Any], seed: int, batch: int) -> None:
    """Sample what is not kept yet, with a bar; on Ctrl-C or an error, finished samples are saved first."""
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    from reverie.solve import sample_blocks

    todo = [i for i in ids if i not in kept.samples]
    if not todo:
        return
    take = torch.tensor([i - ids[0] for i in todo])
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("samples"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task(f"{model.name}, {plan.solver}", total=len(ids), completed=len(ids) - len(todo))
        try:
            here = {name: value[take] for name, value in cond.items()}
            for positions, x in sample_blocks(model, index=todo, plan=plan, cond=here, seed=seed, batch=batch):
                kept.add([todo[p] for p in positions], x)
                bar.advance(task, len(positions))
        except BaseException as error:
            saved = kept.save()
            if isinstance(error, KeyboardInterrupt):
                bar.stop()
                state = f"{len(kept.samples)} samples are kept in {kept.path}" if saved else "nothing was finished yet"
                complain(f"{state}; the same command goes on from there", "stopped")
                raise typer.Exit(130) from None
            raise


def _stacked(samples: dict[int, Any], ids: list[int]) -> Any:
    import torch

    return torch.stack([samples[i] for i in ids])


def _record(model: Model, plan: Plan, said: dict[str, Any], ids: list[int], names: list[str] | None) -> dict[str, Any]:
    """The settings that made the samples, as plain values."""
    import torch

    import reverie

    return {
        "model": model.name,
        "solver": plan.solver,
        "nfe": plan.nfe,
        "plan": str(plan),
        **said,
        "ids": ids,
        "classes": names,
        "versions": {"reverie": reverie.__version__, "torch": torch.__version__},
    }
