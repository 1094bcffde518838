"""`reverie compare`: which solver a model should be sampled with, at few network forwards."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from reverie.cli.console import complain, err, examples, out

__all__ = ["EXAMPLES", "compare"]

EXAMPLES = examples(
    "# every solver on the digits at 5, 8 and 12 calls of the model",
    "reverie compare digits",
    "# three of them, guided (two forwards a call), on the sevens",
    "reverie compare digits 7 --solvers ddim,dpmpp-2m,dpmpp-3m --guide cfg:2 -o out/sevens",
    "# the same solver on three grids, with noise, and a saved plan, at 4 and 6 steps",
    "reverie compare digits --steps 4,6 --solvers dpmpp-2m@logsnr,dpmpp-2m@karras:5,dpmpp-2m@time,ddim:eta=1,plan.json",
)  # fmt: skip

_WHAT, _HOW, _RULER, _OUT = "What is compared", "How samples are made", "How they are measured", "Where it goes"


def compare(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A house model (digits), or the path of a model's folder or .json file."),
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help='What to draw, as in \'reverie sample\': "7", "0,1,2", "all". Default: all in turn.'
        ),
    ] = None,
    solvers: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Names, NAME@GRID, NAME:OPTION=VALUE (also end=zero), or saved plans (plan.json).",
            show_default="all that draw no noise",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    nfe: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Budgets, in calls of the model; a guided call takes two forwards.",
            show_default="5,8,12, without --steps",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Instead of --nfe: steps. A solver of more calls than steps is shown, but not ranked.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    n: Annotated[
        int,
        typer.Option("-n", "--count", metavar="N", min=20, help="Samples of each row, from 20.", rich_help_panel=_HOW),
    ] = 300,
    seed: Annotated[
        int, typer.Option(metavar="INT", help="Seed of all noise, from 0 to below 2^64.", rich_help_panel=_HOW)
    ] = 0,
    grid: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of all solvers that do not name their own.",
            show_default="each solver's",
            rich_help_panel=_HOW,
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="denoise, sigma_min or zero, likewise.",
            show_default="each solver's",
            rich_help_panel=_HOW,
        ),
    ] = None,
    guide: Annotated[
        str | None,
        typer.Option(
            metavar="cfg:SCALE[:LO,HI][:rescale=PHI]",
            help="Classifier-free guidance, as in 'reverie sample'.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(metavar="N", min=1, help="Rows of each network call: memory and speed.", rich_help_panel=_HOW)
    ] = 64,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, ...", rich_help_panel=_HOW)] = "cpu",
    reference: Annotated[
        str,
        typer.Option(
            metavar="RTOL|CALLS|none",
            help="The fine solution: a tolerance below 1 (the ODE solved to it), a number of calls of a fine plan, or none.",
            rich_help_panel=_RULER,
        ),
    ] = "1e-4",
    fine: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=20,
            help="How many samples are compared with their fine solution, from 20.",
            rich_help_panel=_RULER,
        ),
    ] = 100,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Real samples (N, *shape), as .npy or .safetensors; a part is held out for the noise floor.",
            show_default="those of the house model",
            rich_help_panel=_RULER,
        ),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "-o", "--out", metavar="DIR", help="Folder of compare.json and compare.png.", rich_help_panel=_OUT
        ),
    ] = "out/compare",
) -> None:
    """Compare solvers on a model, by network forwards.

    The error to the model's own fine solution, and the distances of the samples to real data, each with an interval. The best at a budget is
    marked only where it is better than all others by more than the noise. An interrupted comparison keeps its finished rows: the same
    command goes on from there, and one with more solvers or budgets takes them too.
    """
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    from reverie.base import FileError
    from reverie.base.files import check_writable
    from reverie.cli import parse
    from reverie.hub import load
    from reverie.inspect import Comparison
    from reverie.inspect import compare as run
    from reverie.inspect.entries import split

    folder = Path(output)
    by = "steps" if steps is not None and nfe is None else "nfe"
    calls, numbers = _numbers("--nfe", nfe), _numbers("--steps", steps)
    exact = _reference(reference)
    chosen = None if solvers is None else split(solvers)
    guidance = None if guide is None else parse.guide(guide)
    m = load(model, parse.device(device))
    cond = parse.cycled(m, prompt, range(n))[0] or None
    real = None if data is None else _data(data)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"cannot make the folder {output!r}: {error.strerror or error}; choose another with -o"
        ) from None
    table, picture = folder / "compare.json", folder / "compare.png"
    check_writable(table)
    check_writable(picture)
    began = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description:<28}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task("loading", total=1.0)

        def tell(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        try:
            found = run(
                m, chosen, cond=cond, guide=guidance, n=n, seed=seed, grid=grid, end=end, batch=batch, reference=exact, fine=fine,
                data=real, path=table, progress=tell, nfe=calls, steps=numbers,
            )  # fmt: skip
        except KeyboardInterrupt:
            bar.stop()
            rows = len(Comparison.load(table).rows) if table.exists() else 0
            state = f"{rows} rows are in {table}" if rows else "no row was finished yet"
            complain(f"{state}; the same command goes on from there", "stopped")
            raise typer.Exit(130) from None
    seconds = time.monotonic() - began
    out().print(_coloured(str(found)), soft_wrap=True)
    drawn = _draw(found, picture)
    out().print(
        f"\n[bold]{table}[/bold]{drawn}  {len(found.rows)} rows, {len(found.budgets)} budget{'s' * (len(found.budgets) > 1)} "
        f"of {'steps' if by == 'steps' else 'calls'}, {seconds:.0f} s",
        soft_wrap=True,
    )


def _coloured(text: str) -> Any:
    from rich.text import Text

    shown = Text(text)
    shown.highlight_regex(r"[\d.]+(?: ± [\d.]+)? \*", "bold green")
    shown.highlight_regex(r"[\d.]+(?: ± [\d.]+)? =(?=\s)", "green")
    shown.highlight_regex(r"(?m)^(?:\d+ (?:call|step)s?|noise floor)$", "bold")
    shown.highlight_regex(r"(?m)^(?:±|error:|distances:|note:) .*$", "dim")
    return shown


def _draw(found: Any, picture: Path) -> str:
    from reverie.base import ArgumentError

    try:
        found.plot(picture)
    except ArgumentError as error:  # the table is worth having without it
        complain(str(error), "note")
        return ""
    return f", [bold]{picture.name}[/bold]"


def _numbers(what: str, text: str | None) -> list[int] | None:
    from reverie.base import ArgumentError

    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ArgumentError(f"{what} takes whole numbers with commas, for example 5,8,12, got {text!r}") from None


def _reference(text: str) -> float | int | None:
    from reverie.base import ArgumentError

    if text.lower() == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        raise ArgumentError(
            f"--reference takes a tolerance (1e-4), a number of calls (200), or none, got {text!r}"
        ) from None
    return int(value) if value >= 1 and value == int(value) else value


def _data(name: str) -> Any:
    import torch

    from reverie.base import ArgumentError, FileError
    from reverie.nets import read_tensors

    if name.endswith(".npy"):
        import numpy

        try:
            return torch.from_numpy(numpy.load(name, allow_pickle=False)).float()
        except (OSError, ValueError, TypeError) as error:
            raise FileError(f"cannot read {name!r}: {error}") from None
    if not name.endswith(".safetensors"):
        raise ArgumentError(f"--data takes a .npy or .safetensors file, got {name!r}")
    tensors, _ = read_tensors(Path(name))
    if "samples" not in tensors and len(tensors) != 1:
        raise FileError(f"{name!r} holds {', '.join(sorted(tensors))}; one tensor, or one named 'samples', is needed")
    return tensors.get("samples", next(iter(tensors.values())))
