"""Where the samples of `reverie sample` go as they are finished: a file, or a folder of pictures or shards; both are filled in pieces."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from reverie.cli.console import complain, err, out

if TYPE_CHECKING:
    from reverie.cli.output import Output
    from reverie.hub.jobs import Source
    from reverie.model import Model
    from reverie.solve import Plan

__all__ = ["fill_file", "fill_folder", "record", "say", "stacked"]


def fill_folder(
    target: Output,
    asked: str | None,
    source: Source,
    said: dict[str, Any],
    n: int,
    start: int,
    shard: int | None,
    share: tuple[int, int],
) -> None:
    """Fill a folder; rank 0 shows how far all are, and waits for all."""
    from reverie.base import ArgumentError
    from reverie.cli import jobs, parse
    from reverie.data import write_npz
    from reverie.hub.jobs import Shards, Store, cell_size, fill, made_with

    model, plan, batch = source.model, source.plan, source.batch
    shape = model.shape if model.codec is None else None
    form = jobs.form(target.path, asked, n, shape is None or (len(shape) == 3 and shape[0] in (1, 3)))
    if form in ("png", "npz"):
        target.check(shape)
    if form != "png" and not (target.columns is None and target.scale is None):
        raise ArgumentError(f"columns and scale shape pictures; {target.name!r} gets shards (--format {form})")
    if form == "png" and shard is not None:
        raise ArgumentError("--shard is of shards; this folder gets a picture a sample (--format png)")
    rank, began, quiet = share[0], time.monotonic(), share[0] != 0
    cell = cell_size(n, batch, share[1])

    def note(text: str) -> None:
        complain(text, "note")

    def names(ids: Sequence[int]) -> list[str] | None:
        return parse.names(model, said["prompt"], source.labels(ids), ids)

    store: Store
    if form == "png":
        settings = record(
            model, plan, said | {"seed": source.seed, "batch": batch, "device": str(model.device)}, [], None
        )
        settings["settings"] = source.settings | {"scale": target.scale or 1}
        store = jobs.Pictures(target, start, n, cell, names, settings, share, note)
    else:
        values = "uint8" if form == "npz" else "float32"
        store = Shards(
            target.path, source.settings, start, n, source.labels, values, shard, cell, share, made_with(model), note
        )
        if rank == 0 and not (target.path / "plan.json").exists():
            plan.save(target.path / "plan.json")
    had = n - _count(store.missing())
    if had and not quiet:
        err().print(f"resumed: {had} of {n} samples were done" if had < n else f"all {n} samples were done")
    try:
        with jobs.stoppable(), jobs.shown(f"{model.name}, {plan.solver}", n, quiet) as report:
            fill(store, source.blocks, share, report)
            if form == "npz" and rank == 0:
                write_npz(target.path, target.path / "samples.npz")
    except KeyboardInterrupt:
        if not quiet:
            done = n - _count(store.missing())
            state = f"{done} of {n} samples are in {target.name}" if done else "nothing was finished yet"
            complain(f"{state}; the same command goes on from there", "stopped")
        raise typer.Exit(130) from None
    if quiet:
        return
    if form == "png":
        store.claims.path.unlink(missing_ok=True)
    seconds = time.monotonic() - began
    rate = f", {(n - had) / seconds:.3g} samples/s" if had < n else ""
    if form != "png":
        rate += f"; read them with rv.data.samples({target.name!r})" + (" or samples.npz" if form == "npz" else "")
    say(target.name, n, plan, source.guided, seconds, rate)


def fill_file(source: Source, kept: Any, ids: list[int]) -> None:
    """Sample what is not kept yet, with a bar; on Ctrl-C or an error, finished samples are saved first."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    todo = [i for i in ids if i not in kept.samples]
    if not todo:
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("samples"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err(), transient=True) as bar:
        what = f"{source.model.name}, {source.plan.solver}"
        task = bar.add_task(what, total=len(ids), completed=len(ids) - len(todo))
        try:
            for positions, x in source.parts(todo):
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


def stacked(samples: dict[int, Any], ids: list[int]) -> Any:
    import torch

    return torch.stack([samples[i] for i in ids])


def say(output: str, n: int, plan: Plan, guided: Model, seconds: float, made: str = "") -> None:
    if plan.rule is None:
        cost = f"{plan.nfe} calls and {plan.cost(guided) or 0} network forwards each"
    else:  # as many as the samples needed
        cost = f"{guided.calls} calls of the model in all"
    out().print(
        f"[bold]{output}[/bold]  {n} sample{'s' * (n > 1)}, {plan.solver}, {cost}, {seconds:.1f} s{made}",
        soft_wrap=True,
    )


def record(model: Model, plan: Plan, said: dict[str, Any], ids: list[int], names: list[str] | None) -> dict[str, Any]:
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
        "prompts" if model.card.get("classes") is None else "classes": names,
        "versions": {"reverie": reverie.__version__, "torch": torch.__version__},
    }


def _count(runs: Sequence[tuple[int, int]]) -> int:
    return sum(b - a for a, b in runs)
