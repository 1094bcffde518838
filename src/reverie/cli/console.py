"""What is printed where: results on stdout, progress and complaints on stderr."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

__all__ = ["complain", "err", "examples", "out"]


def out() -> Console:
    """The console of results."""
    return Console(highlight=False)


def err() -> Console:
    """The console of progress and complaints."""
    return Console(stderr=True, highlight=False)


def complain(message: str, kind: str = "error") -> None:
    """One line on stderr, `kind: message`, the kind in red."""
    err().print(Text.assemble((f"{kind}: ", "bold red"), " ".join(message.split())), soft_wrap=True)


def examples(*lines: str) -> str:
    """An example block for the end of a command's help; a line `# ...` explains the next one."""
    shown = [f"  [dim]{line}[/dim]" if line.startswith("#") else f"  {line}" for line in lines]
    return "\n".join(["\b", "[bold]Examples[/bold]", *shown])
