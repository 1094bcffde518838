"""How far a training is: one live line on a terminal (rich's, if it is installed), a plain line now and then
elsewhere.
"""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

__all__ = ["Progress"]


class Progress:
    """A live line `name  step/steps  loss  steps/s  time left`; use as a context manager.

    Args:
        name: what is trained. steps: in all. start: already done. quiet: print nothing.
        stream: where to; standard error by default. every: seconds between lines where there is no terminal.

    >>> import io
    >>> out = io.StringIO()
    >>> with Progress("tiny", 2, stream=out, every=0) as bar:
    ...     bar.step(2, loss=0.5)
    >>> "2/2  loss 0.5000" in out.getvalue()
    True
    """

    def __init__(
        self,
        name: str,
        steps: int,
        start: int = 0,
        quiet: bool = False,
        stream: TextIO | None = None,
        every: float = 15.0,
    ) -> None:
        self.name, self.steps, self.start, self.quiet, self.every = name, steps, start, quiet, every
        self.stream = sys.stderr if stream is None else stream
        self._live: Any = None
        self._text: Any = str
        self._began = self._shown = time.monotonic()

    def __enter__(self) -> Progress:
        if not self.quiet and self.stream.isatty():
            try:
                from rich.console import Console
                from rich.live import Live
                from rich.text import Text
            except ImportError:
                self.every = 0.5
            else:
                self._text = Text
                self._live = Live(console=Console(file=self.stream), refresh_per_second=4, transient=False)
                self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()

    def line(self, step: int, **figures: float) -> str:
        """The line that says how far it is; figures are shown with four digits."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = (step - self.start) / seconds
        left = f"{_clock((self.steps - step) / rate)} left" if rate > 0 else ""
        shown = "  ".join(f"{k} {v:.4f}" for k, v in figures.items())
        return f"{self.name}  {step}/{self.steps}  {shown}  {rate:.1f} steps/s  {left}".rstrip()

    def step(self, step: int, **figures: float) -> None:
        """Show that `step` steps are done."""
        now = time.monotonic()
        if self._live is not None:
            self._live.update(self._text(self.line(step, **figures)))
        elif not self.quiet and (now - self._shown >= self.every or step == self.steps):
            self._shown = now
            print(self.line(step, **figures), file=self.stream, flush=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.quiet:
            return
        if self._live is not None:
            self._live.console.print(self._text(text))
        else:
            print(text, file=self.stream, flush=True)


def _clock(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}" if hours else f"{minutes}:{s:02d}"
