"""Progress: plain lines where there is no terminal, a live line where there is one."""

from __future__ import annotations

import io
import sys

import pytest

from reverie.train.progress import Progress, _clock


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_are_rare_and_the_last_is_shown() -> None:
    out = io.StringIO()
    with Progress("x", 100, stream=out, every=1000) as bar:
        for step in range(1, 101):
            bar.step(step, loss=1 / step)
    assert out.getvalue().count("\n") == 1
    assert "x  100/100  loss 0.0100" in out.getvalue()


@pytest.mark.parametrize("rich", [True, False])
def test_a_terminal_sees_every_figure(rich: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.live", None)
    out = _Terminal()
    with Progress("x", 3, stream=out) as bar:
        bar.step(3, loss=0.25)
        bar.say("a line that stays [0]")
    assert "3/3  loss 0.2500" in out.getvalue()
    assert "a line that stays [0]" in out.getvalue()


def test_quiet_says_nothing() -> None:
    out = _Terminal()
    with Progress("x", 1, quiet=True, stream=out) as bar:
        bar.step(1, loss=0.0)
        bar.say("no")
    assert out.getvalue() == ""


def test_the_time_left_counts_from_where_it_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    bar = Progress("x", 200, start=100, stream=io.StringIO())
    assert bar.line(120) == "x  120/200    2.0 steps/s  0:40 left"
    assert _clock(3725) == "1:02:05"
