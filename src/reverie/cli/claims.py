"""`reverie claims`: run the papers' claims, list their verdicts, and tell the whole story."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from reverie.cli.console import complain, err, examples, out

__all__ = ["app", "list_", "report", "run", "told"]

RUN_EXAMPLES = examples(
    "reverie claims run dpm-solver",
    "# everything of a room, or whatever changed since it was measured",
    "reverie claims run --room solve",
    "reverie claims run --stale",
)  # fmt: skip
app = typer.Typer(
    no_args_is_help=True,
    epilog=RUN_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)


@app.callback()
def claims_() -> None:
    """Put papers to the test: each claim is measured beside its baseline and its null control, and gets a verdict."""


@app.command(epilog=RUN_EXAMPLES)
def run(
    slugs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SLUG]...", help="Papers, see 'reverie claims list'.", show_default=False),
    ] = None,
    room: Annotated[str | None, typer.Option(metavar="ROOM", help="All claims of a room.")] = None,
    stale: Annotated[
        bool, typer.Option("--stale", help="All claims without a whole record, or whose code changed since.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="All claims.")] = False,
    budget: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="quick: one to two minutes. full: more seeds and samples. tiny: a look, not recorded.",
        ),
    ] = "quick",
    seeds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Seeds; with another number than the claim's nothing is recorded.",
            show_default="the claim's",
        ),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            help="Folder of the plots, and of the records of a trial that is not recorded.",
        ),
    ] = "out/claims",
    records: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the records.",
            show_default="the package's in a checkout, else that of your own data",
        ),
    ] = None,
) -> None:
    """Run claims: print each table, draw the plot, write the record, give the verdict.

    An interrupted claim records nothing and harms nothing; its finished seeds are kept, and the same command goes on from there. Exit code 1: a
    null control passed where it must fail, so that there is no verdict.
    """
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from reverie.base import ArgumentError, FileError, unknown
    from reverie.base.files import check_writable
    from reverie.papers import BUDGETS, ControlError, claim_of, claimed, find, status, trial, write
    from reverie.papers.claims import rests_on
    from reverie.papers.figure import save
    from reverie.papers.records import own_folder
    from reverie.papers.state import file_name

    if budget not in BUDGETS:
        raise unknown("budget", budget, BUDGETS)
    chosen = list(dict.fromkeys(slugs or ()))
    kept_in = Path(records) if records is not None else own_folder()
    if room is not None or stale or everything:
        if chosen:
            raise ArgumentError(f"give slugs ({', '.join(chosen)}), or --room, --stale, --all, not both")
        fits = [s for s in find(room=room, folder=records) if s.has_claim]
        chosen = [s.paper.slug for s in fits if not stale or s.stale or s.record is None]
        if not chosen:
            why = "all records are up to date" if fits else f"no paper of {room!r} has a claim yet"
            out().print(f"nothing to run: {why}")
            return
    if not chosen:
        raise ArgumentError(f"name a claim ({', '.join(claimed())}), or --room ROOM, --stale, --all")
    todo = [claim_of(slug) for slug in chosen]
    recorded = {c.slug: budget != "tiny" and seeds in (None, c.seeds_of(BUDGETS[budget])) for c in todo}
    plots = Path(output)
    for folder, remedy in ((plots, "-o"), *[(kept_in, "--records")] * any(recorded.values())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(
                f"cannot make the folder {str(folder)!r}: {error.strerror or error}; choose another with {remedy}"
            ) from None
    for c in todo:
        check_writable(plots / f"{c.slug}.png")
        if recorded[c.slug]:
            check_writable(kept_in / file_name(c.slug, budget))
        rests_on(c.slug)  # what was imported just now is what the record is about
    failed = []
    for c in todo:
        before = status(c.slug, records)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=err(), transient=True) as bar:
            try:
                record = trial(c, budget, seeds=seeds, folder=plots, progress=_shown(bar, c.slug))
            except KeyboardInterrupt:
                bar.stop()
                complain(
                    f"nothing was recorded of {c.slug}; the same command goes on after its last finished seed",
                    "stopped",
                )
                raise typer.Exit(130) from None
            except ControlError as error:
                bar.stop()
                complain(str(error), "no verdict")
                failed.append(c.slug)
                continue
        own = recorded[c.slug]
        file = (kept_in if own else plots) / (file_name(c.slug, budget) if own else f"{c.slug}.trial.json")
        write(record, file)
        told(record, None)
        was = f", {before.verdict} before" if own and before.verdict not in (None, record.verdict) else ""
        drawn = ""
        try:
            save(record, plots / f"{c.slug}.png")
            drawn = f", {plots / f'{c.slug}.png'}"
        except ArgumentError as error:
            complain(str(error), "note")
        note = "" if own else ": not recorded, for it is not the claim's own budget and seeds"
        out().print(f"[bold]{_near(file)}[/bold]{drawn}  {record.seconds:.0f} s{was}{note}\n", soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _near(path: Path) -> Path:
    """A path as it is reached from here, where it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _shown(bar: Any, slug: str) -> Callable[[str, float], None]:
    """A row of the bar that follows a trial."""
    task = bar.add_task(slug, total=1.0)

    def tell(what: str, share: float) -> None:
        bar.update(task, description=f"{slug}: {what}", completed=share)

    return tell


def told(record: Any, s: Any) -> None:
    """Print a record: statement, cases, verdict, what was learned."""
    from rich.table import Table
    from rich.text import Text

    from reverie.cli.papers import COLOURS
    from reverie.papers.figure import rows
    from reverie.papers.show import lesson

    console = out()
    console.print(Text.assemble((record.slug, "cyan"), f"  {record.statement}"))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 2))
    for name, justify in (("asked", "left"), ("mean found [95 %]", "right"), ("null", "right"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for asked, found, null, verdict in rows(record):
        table.add_row(Text(asked), Text(found), Text(null, "dim"), Text(verdict, COLOURS[verdict]))
    console.print(table)
    how = f"{record.kind}, {record.budget} budget, {len(record.seeds)} seeds, {record.day}; the null control {record.null}"
    console.print(
        Text.assemble("  ", (record.verdict, f"bold {COLOURS[record.verdict]}"), (f"  ({how})", "dim")), soft_wrap=True
    )
    for paragraph in lesson(record.slug):
        console.print(Text(textwrap.indent(textwrap.fill(paragraph, max(40, min(console.width, 120) - 4)), "  ")))
    if s is not None and s.stale:
        console.print(
            Text(f"  stale: {', '.join(s.changed)} changed since; reverie claims run {record.slug}", "yellow"),
            soft_wrap=True,
        )


@app.command("list", epilog=examples("reverie claims list", "reverie claims list --json"))
def list_(
    records: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of the records.", show_default="the package's, and your own"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """List the claims: verdict, kind, when and how it was measured. Exit code 1: a record is broken or was edited."""
    from reverie.papers import claim_of, find

    found = [s for s in find(folder=records) if s.has_claim or s.record is not None or s.problem]
    if as_json:
        entries = []
        for s in found:
            known = claim_of(s.paper.slug) if s.has_claim else s.record
            entries.append(
                s.entry() | {"kind": getattr(known, "kind", None), "statement": getattr(known, "statement", None)}
            )
        typer.echo(json.dumps(entries, indent=1, ensure_ascii=False))
    else:
        from rich.table import Table
        from rich.text import Text

        from reverie.cli.papers import _state

        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for name in ("claim", "verdict", "kind", "measured"):
            table.add_column(name, no_wrap=name in ("claim", "verdict"))
        for s in found:
            r = s.record
            how = "" if r is None else f"{r.day}, {r.budget}, {len(r.seeds)} seeds, {r.seconds:.0f} s"
            kind = claim_of(s.paper.slug).kind if s.has_claim else "its claim is gone"
            table.add_row(
                Text(s.paper.slug, "cyan"), _state(s) if r or s.problem else Text("not run", "dim"), kind, how
            )
        out().print(table)
    _tell_broken(found)


@app.command(epilog=examples("reverie claims report", "reverie claims report -o claims.md"))
def report(
    output: Annotated[
        str | None, typer.Option("-o", "--out", metavar="FILE.md", help="Write it as Markdown, its plots beside it.")
    ] = None,
    records: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of the records.", show_default="the package's, and your own"),
    ] = None,
) -> None:
    """All claims that have run, failures as plainly as successes. Exit code 1: a record is broken or was edited."""
    from reverie.papers import find
    from reverie.papers.report import markdown

    found = [s for s in find(folder=records) if s.record is not None or s.problem]
    if output is not None:
        for note in markdown(found, Path(output)):
            complain(note, "note")
        out().print(f"[bold]{output}[/bold]  {len(found)} claims")
    else:
        for s in found:
            if s.record is not None:
                told(s.record, s)
                out().print()
    _tell_broken(found)


def _tell_broken(found: Sequence[Any]) -> None:
    """Complain of records that could not be used, and exit with 1 if there are any."""
    broken = [s for s in found if s.problem]
    for s in broken:
        complain(s.problem, "broken record")
    if broken:
        raise typer.Exit(1)
