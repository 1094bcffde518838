"""`reverie tune`: a plan fitted to one model, with what it gains."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from reverie.cli.console import complain, err, examples, out

__all__ = ["EXAMPLES", "tune"]

EXAMPLES = examples(
    "# five evaluations of the digits, classes in turn; then sample with it",
    "reverie tune digits --steps 5 -o five.json",
    "reverie sample digits --plan five.json -o out.png",
    "# a guided text-to-image model, on prompts like those it will meet",
    'reverie tune shapes "a red circle" "two blue stars" --steps 6 --guide cfg:5 -o six.json',
)  # fmt: skip


def tune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A house model, or the path of a model or pipeline.")],
    prompt: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PROMPT]...", help="What the trajectories show, in turn: texts or classes. Default: all classes."
        ),
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(metavar="FILE", help="Prompts from a text file, one a line, instead of arguments.")
    ] = None,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Evaluations of the plan.")] = 5,
    guide: Annotated[
        str | None,
        typer.Option(
            metavar="cfg:SCALE[:LO,HI][:rescale=PHI]",
            help="The guide to fit for; or none.",
            show_default="the model's own, else none",
        ),
    ] = None,
    output: Annotated[str, typer.Option("-o", "--out", metavar="FILE", help="The plan, NAME.json.")] = "plan.json",
    calibration: Annotated[int, typer.Option(metavar="N", min=2, help="Trajectories to fit, 16 to 64.")] = 64,
    heldout: Annotated[
        int, typer.Option(metavar="N", min=2, help="Others, by which fits are chosen and stopped.")
    ] = 64,
    reference: Annotated[
        str,
        typer.Option(
            metavar="TOL|CALLS", help="Of the exact solutions: a tolerance (1e-4), or calls of a fine plan (100)."
        ),
    ] = "1e-4",
    iterations: Annotated[int, typer.Option(metavar="N", min=1, help="Of the last fits, at most.")] = 60,
    seed: Annotated[
        int, typer.Option(metavar="INT", help="Of the trajectories' noises; no sample begins with one of them.")
    ] = 0,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Rows of each network call.")] = 256,
    device: Annotated[
        str, typer.Option(metavar="NAME", envvar="REVERIE_DEVICE", help="cpu, cuda, ...; auto: cuda if there is one.")
    ] = "auto",
) -> None:
    """Fit times and coefficients of a plan to a model: fewer evaluations for the same error.

    Ctrl-C ends the fit and saves the best plan so far.
    """
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from reverie.base import ArgumentError
    from reverie.base.files import check_writable
    from reverie.cli import parse
    from reverie.hub import load
    from reverie.inspect.entries import value
    from reverie.solve.tuning.tune import Enough
    from reverie.solve.tuning.tune import tune as fit

    check_writable(Path(output))
    base = load(model, parse.device(device))
    words = parse.own_guide(base, guide)
    m = base if words is None else base | parse.guide(words)
    told = parse.told(prompt, prompts)
    if base.embed is not None and base.card.get("classes") is None and not told and words is not None:
        raise ArgumentError(
            f"{base.name} is guided by {words}, and nothing said is what guides compare with; give prompts, or --guide none"
        )
    cond = parse.conditions_in_turn(base, told)
    stopped = threading.Event()
    began = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description:<64}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err(), transient=True) as bar, _noted(stopped):
        task = bar.add_task("loading", total=1.0)

        def tell(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)
            if stopped.is_set() and share < 1:
                raise KeyboardInterrupt if what.startswith("exact") else Enough

        plan = fit(
            m, steps, cond=cond, calibration=calibration, heldout=heldout, seed=seed, batch=batch, reference=value(reference),
            iterations=iterations, tell=tell,
        )  # fmt: skip
    plan.save(output)
    if stopped.is_set():
        complain("the fit was ended early; the plan is the best so far", "stopped")
    _show(plan, m, output, time.monotonic() - began)


def _show(plan: Any, m: Any, output: str, seconds: float) -> None:
    from rich.table import Table

    said = plan.provenance
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for name in ("", "median error", "95th percentile"):
        table.add_column(name, justify="left" if not name else "right")
    for name, key in ((f"best classical plan, {said['begun']}", "before"), ("tuned", "after")):
        table.add_row(name, f"{said[key]['median']:.3g}", f"{said[key]['p95']:.3g}")
    out().print(table)
    out().print(
        f"[bold]{output}[/bold]  {plan.nfe} calls of {m.name}; errors are relative distances to the model's own solutions (reference "
        f"{said['reference']}), on {said['heldout']} noises that had no part in the fit; {seconds:.0f} s",
        soft_wrap=True,
    )


class _noted:
    """While it lasts, the first Ctrl-C is noted instead of raised."""

    def __init__(self, event: threading.Event) -> None:
        self.event, self.before = event, None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._note)  # type: ignore[assignment]

    def _note(self, number: int, frame: Any) -> None:
        if self.event.is_set():
            raise KeyboardInterrupt
        self.event.set()

    def __exit__(self, *exc: object) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)
