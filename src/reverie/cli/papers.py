"""`reverie papers`, `reverie papers show`, `reverie cite`: the index of the 194, what Reverie has of each paper, and how to cite it."""

from __future__ import annotations

import json
import textwrap
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from reverie.cli.console import complain, examples, out

__all__ = ["CITE_EXAMPLES", "app", "cite", "index", "show"]

EXAMPLES = examples(
    "reverie papers --room solve",
    "# all that is implemented and speaks of guidance",
    "reverie papers --state claimed --text guidance",
    "reverie papers show dpm-solver",
    "reverie papers --json",
)
CITE_EXAMPLES = examples(
    "reverie cite dpm-solver-pp deis", "# a solver, or a saved plan", "reverie cite unipc-2 plan.json"
)


class _Papers(TyperGroup):
    """Says what to do where a slug stands for a command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            from reverie.base import ArgumentError
            from reverie.papers import papers

            if args[0] in papers():
                raise ArgumentError(
                    f"to see {args[0]!r} say: reverie papers show {args[0]}; to search: reverie papers -t {args[0]}"
                )
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Papers, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]}, rich_markup_mode="rich"
)
COLOURS = {
    "planned": "dim", "implemented": "cyan", "claimed": "bold", "holds": "green", "holds weakly": "yellow", "does not hold here": "red",
}  # fmt: skip


@app.callback(invoke_without_command=True)
def index(
    ctx: typer.Context,
    room: Annotated[str | None, typer.Option(metavar="ROOM", help="Only this room: solve, guide, edit, ...")] = None,
    state: Annotated[str | None, typer.Option(metavar="STATE", help="Only: planned, implemented, claimed.")] = None,
    verdict: Annotated[
        str | None, typer.Option(metavar="VERDICT", help="Only: holds, 'holds weakly', 'does not hold here', none.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            "-t",
            metavar="WORD",
            help="Only with this word in title, authors, idea or claim; may be repeated.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """The 194 papers: what each adds, where it is in the code, and what became of its claim."""
    if ctx.invoked_subcommand is not None:
        if room or state or verdict or text or as_json:
            raise typer.BadParameter(f"give the options after '{ctx.invoked_subcommand}'", ctx)
        return
    from reverie.papers import ROOMS, find
    from reverie.papers import state as states

    found = find(room=room, state=state, verdict=verdict, text=text)
    if as_json:
        typer.echo(json.dumps([s.entry() for s in found], indent=1, ensure_ascii=False))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("paper", "room", "state", "title"):
        table.add_column(name, no_wrap=name != "title", overflow="fold", ratio=1 if name == "title" else None)
    for s in found:
        table.add_row(
            Text(s.paper.slug, "cyan"),
            s.paper.room,
            _state(s),
            Text(s.paper.title, "dim" if s.state == "planned" else ""),
        )
    out().print(table)
    by = states.counts(found)
    said = ", ".join(f"{n} {k}" for k, n in by.items() if n and k != "stale")
    what = f"{len(found)} papers" if len(found) != 1 else "1 paper"
    out().print(
        Text(f"\n{what}{': ' + said if said else ''}" + (f"; {by['stale']} stale" if by["stale"] else ""), "dim")
    )
    if not found:
        out().print(Text(f"rooms: {', '.join(ROOMS)}", "dim"))
    for s in found:
        if s.problem:
            complain(s.problem, "broken record")


def _state(s: Any) -> Any:
    from rich.text import Text

    if s.problem:
        return Text("record broken", "bold red")
    shown = Text(s.verdict or s.state, COLOURS[s.verdict or s.state])
    return shown.append(" (stale)", "dim") if s.stale else shown


@app.command(epilog=examples("reverie papers show dpm-solver", "reverie papers show deis --json"))
def show(
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="Of the paper, see 'reverie papers'.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """One paper: its idea, its formula, where it is in the code, three lines of use, its claim, and the figures behind the verdict."""
    from reverie.papers import status
    from reverie.papers.show import formulas, use

    s = status(slug)
    lines = use(slug)
    if as_json:
        record = (
            None
            if s.record is None
            else {"statement": s.record.statement, "cases": list(s.record.cases), "figures": dict(s.record.figures)}
        )
        typer.echo(
            json.dumps(
                s.entry() | {"formulas": formulas(slug), "use": lines, "record": record},
                indent=1,
                ensure_ascii=False,
                default=dict,
            )
        )
        return
    from rich.markup import escape
    from rich.text import Text

    p, console = s.paper, out()
    console.print(Text.assemble((p.title, "bold")))
    names = [" ".join(reversed(a.split(", ", 1))) for a in p.authors]
    who = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    where = f"{p.venue} {p.year}" if p.venue else f"{p.year}"
    console.print(
        Text(f"{who}. {where}. {p.url}" + (f"  github.com/{p.repo}" if p.repo else ""), "dim"), soft_wrap=True
    )
    console.print(
        Text.assemble(
            (f"\n{slug}", "cyan"), f"  paper {p.id} of the index, room {p.room}, adds {', '.join(p.adds)}: ", _state(s)
        )
    )
    _section(console, "Idea", p.idea)
    found = formulas(slug)
    if found:
        _head(console, "Formula")
        for module, blocks in found.items():
            console.print(Text(f"  {module}", "dim"))
            for block in blocks:
                console.print(Text(textwrap.indent(block, "  ") + "\n"), soft_wrap=True)
    _head(console, "Where")
    for place in s.places:
        label = f" (solver {place.solver})" if place.solver else ""
        console.print(
            Text.assemble("  ", (f"{place.module}.{place.name}", "cyan"), f"{label}: {place.summary}"), soft_wrap=True
        )
    if not s.places:
        console.print("  [dim]not in the code yet[/dim]")
    if lines:
        _head(console, "Use")
        console.print(Text(textwrap.indent("import reverie as rv\n\n" + lines, "  ")), soft_wrap=True)
    _section(console, "What the paper reports", p.claim)
    if s.record is not None:
        from reverie.cli.claims import told

        _head(console, "What is claimed here")
        told(s.record, s)
    elif s.problem:
        complain(s.problem, "broken record")
    elif s.has_claim:
        console.print(f"\n[dim]Its claim has not run yet: reverie claims run {escape(slug)}[/dim]")


def _head(console: Any, title: str) -> None:
    console.print(f"\n[bold]{title}[/bold]")


def _section(console: Any, title: str, text: str) -> None:
    _head(console, title)
    console.print(textwrap.indent(textwrap.fill(text, max(40, min(console.width, 120) - 4)), "  "), markup=False)


def cite(
    what: Annotated[
        list[str],
        typer.Argument(metavar="WHAT...", help="Papers (see 'reverie papers'), solvers, saved plans (plan.json)."),
    ],
) -> None:
    """BibTeX of papers, of what a solver rests on, or of everything behind a saved plan."""
    from pathlib import Path

    from reverie.base import unknown
    from reverie.papers import bibliography
    from reverie.papers import cite as entries
    from reverie.solve import SOLVERS, Plan

    things: list[Any] = []
    for word in what:
        if word in bibliography():
            things.append(word)
        elif word in SOLVERS:
            things.append(SOLVERS[word].build)
        elif word.endswith(".json") or Path(word).exists():
            things.append(Plan.load(word))
        else:
            raise unknown(
                "paper, solver or plan", word, {*bibliography(), *SOLVERS}, "`reverie papers` and `reverie solvers`"
            )
    typer.echo(entries(things))
