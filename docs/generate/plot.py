"""What the figures of the guide have in common: the frame, the colours, the element of the page."""

from __future__ import annotations

from typing import Any

from reverie.papers.figure import INK, element

__all__ = ["BLUE", "GREY", "INK", "NAVY", "RED", "bare", "framed", "legend", "titled"]

BLUE, GREY, NAVY, RED = "#3f7fe0", "#8d8d96", "#1b3f7d", "#d2456f"


def framed(figure: Any, name: str, said: str) -> str:
    """A figure as an element of the page; `said` is read aloud in its place."""
    made = element(figure, name).replace("<svg", f'<svg role="img" aria-label="{said}"', 1)
    return f'<figure class="plot">{made}</figure>'


def titled(axes: Any, title: str) -> None:
    """A title at the left, and no frame."""
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(colors=INK, length=0, pad=5)


def bare(axes: Any) -> None:
    """A plane without ticks."""
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])


def legend(of: Any, **options: Any) -> None:
    """A legend of axes or of a figure, without a frame."""
    for text in of.legend(frameon=False, fontsize=9, **options).get_texts():
        text.set_color(INK)
