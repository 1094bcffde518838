"""The application: its commands, and how an error is told.

Whatever Reverie itself finds wrong (`ReverieError`) is one line on stderr and exit code 2. Commands import what they need when they
run, so that `reverie --help` does not wait for torch.
"""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from reverie.cli import claims, comparing, converting, demo, papers, plans, sampling, training, tuning
from reverie.cli.console import complain

__all__ = ["app"]


class _Commands(TyperGroup):
    """Takes --debug anywhere on the line, and turns errors into one line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--debug" in args:
            args = ["--debug", *(a for a in args if a != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        before = warnings.showwarning
        warnings.showwarning = _told
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            complain("interrupted", "stopped")
            raise typer.Exit(130) from None
        except Exception as error:
            from reverie.base.errors import ReverieError

            if ctx.params.get("debug") or not isinstance(error, ReverieError):
                raise
            complain(str(error))
            raise typer.Exit(2) from None
        finally:
            warnings.showwarning = before


def _told(
    message: Any, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Reverie's own warnings as a line, others as Python shows them."""
    from reverie.base.errors import OriginWarning

    if issubclass(category, OriginWarning):
        complain(str(message), "note")
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="[bold]Begin with[/bold]  reverie sample digits -o out.png",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        import reverie

        typer.echo(f"reverie {reverie.__version__} (torch {version('torch')}, python {sys.version.split()[0]})")
        raise typer.Exit


@app.callback()
def reverie_(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere on the line.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Everything that is done with a trained diffusion or flow model."""


for _function, _epilog in (
    (sampling.sample, sampling.EXAMPLES),
    (plans.solvers, plans.SOLVERS_EXAMPLES),
    (plans.plan, plans.PLAN_EXAMPLES),
    (comparing.compare, comparing.EXAMPLES),
    (tuning.tune, tuning.EXAMPLES),
    (converting.convert, converting.EXAMPLES),
    (training.train, training.EXAMPLES),
    (papers.cite, papers.CITE_EXAMPLES),
    (demo.demo, demo.EXAMPLES),
):
    app.command(epilog=_epilog)(_function)

app.add_typer(papers.app, name="papers")
app.add_typer(claims.app, name="claims")
