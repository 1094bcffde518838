"""Whether pictures are what their captions ask for, by reading them (`reverie.measure.scene`).

With m_j of the d_j demands of caption j met by picture j (`reverie.data.request`),

    reward_j = m_j / d_j,      accuracy = share of the captions with m_j = d_j, over all, by category, and of demands by their kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.base import ShapeError
from reverie.data.parsing import parse
from reverie.data.request import Demand, Request, demands
from reverie.measure.categories import CATEGORIES, category
from reverie.measure.scene import read

__all__ = ["Accuracy", "accuracy", "reward", "table"]

KINDS = ("count", "shape", "colour", "size", "filled", "place", "relation", "background")
"""What a caption can demand."""


def _judged(pictures: Tensor, captions: str | Sequence[str]) -> tuple[list[Request], list[list[Demand]]]:
    texts = [captions] * len(pictures) if isinstance(captions, str) else list(captions)
    if len(texts) != len(pictures):
        raise ShapeError(f"one caption a picture is needed, got {len(texts)} for {len(pictures)}")
    known = {text: parse(text) for text in dict.fromkeys(texts)}
    requests = [known[text] for text in texts]
    return requests, [demands(request, scene) for request, scene in zip(requests, read(pictures), strict=True)]


def _share(met: list[Demand]) -> float:
    return sum(d.met for d in met) / len(met)


def reward(pictures: Tensor, captions: str | Sequence[str]) -> Tensor:
    """The share of its caption's demands that each picture meets, `(N,)` in [0, 1]; 1 only if it meets all.

    A caption demands its number of objects, and the shape, colour, size, filling and place of each as far as it names them, its relations and
    its background (`rv.data.demands`).

    Args:
        pictures: `(N, 3, 64, 64)` in [-1, 1]. captions: N of them, or one for all.

    Raises:
        ArgumentError: a caption that cannot be understood. ShapeError: other pictures, or not one caption a picture. NonFiniteError: NaN.

    >>> import reverie as rv
    >>> x, captions = rv.data.shapes(2)
    >>> reward(x, captions).tolist(), reward(x[:1], "a circle").item() < 1
    ([1.0, 1.0], True)
    """
    _, met = _judged(pictures, captions)
    return torch.tensor([_share(one) for one in met])


@dataclass(frozen=True)
class Accuracy:
    """How often pictures are what their captions ask for; it prints as a table.

    Args:
        categories: share of the captions of each category that are met in full, and how many there are.
        kinds: share of the demands of each kind that are met, and how many there are.
        overall: share of all captions that are met in full, and how many there are.
        reward: the mean share of a caption's demands that are met.
    """

    categories: Mapping[str, tuple[float, int]]
    kinds: Mapping[str, tuple[float, int]]
    overall: tuple[float, int]
    reward: float

    def __str__(self) -> str:
        return table({"met": self})


def accuracy(pictures: Tensor, captions: str | Sequence[str]) -> Accuracy:
    """How often pictures are what their captions ask for, by category, by kind of demand and overall.

    Args:
        pictures: `(N, 3, 64, 64)` in [-1, 1]. captions: N of them, or one for all.

    Raises:
        as `reward`; ShapeError: no picture.

    >>> import reverie as rv
    >>> accuracy(*rv.data.shapes(8)).overall
    (1.0, 8)
    """
    requests, met = _judged(pictures, captions)
    if not met:
        raise ShapeError("an accuracy needs at least one picture, got none")
    full = [all(d.met for d in one) for one in met]
    tasks = [category(request) for request in requests]

    def share(values: list[bool]) -> tuple[float, int]:
        return sum(values) / len(values), len(values)

    by_task = {c: [ok for ok, task in zip(full, tasks, strict=True) if task == c] for c in CATEGORIES}
    by_kind = {kind: [d.met for one in met for d in one if d.kind == kind] for kind in KINDS}
    return Accuracy(
        {c: share(values) for c, values in by_task.items() if values},
        {kind: share(values) for kind, values in by_kind.items() if values},
        share(full),
        sum(map(_share, met)) / len(met),
    )


def table(columns: Mapping[str, Accuracy]) -> str:
    """Several accuracies side by side, by name."""
    names = list(columns)
    first = columns[names[0]]
    wide = [max(9, len(name) + 2) for name in names]
    head = f"{'':14}{'n':>6}" + "".join(f"{n:>{w}}" for n, w in zip(names, wide, strict=True))
    lines = [head, "caption met in full"]

    def row(label: str, of: Mapping[str, tuple[float, int]], cells: Sequence[Mapping[str, tuple[float, int]]]) -> str:
        shown = (f"{100 * c[label][0]:.1f}%" if label in c else "-" for c in cells)
        count = of[label][1] if label in of else 0
        return f"  {label:12}{count:>6}" + "".join(f"{s:>{w}}" for s, w in zip(shown, wide, strict=True))

    all_of = [{**a.categories, "overall": a.overall} for a in columns.values()]
    lines += [row(label, all_of[0], all_of) for label in (*CATEGORIES, "overall")]
    lines.append("demands met, by kind")
    kinds = [a.kinds for a in columns.values()]
    lines += [row(label, first.kinds, kinds) for label in KINDS]
    means = (f"{100 * a.reward:.1f}%" for a in columns.values())
    lines.append(f"{'mean reward':20}" + "".join(f"{s:>{w}}" for s, w in zip(means, wide, strict=True)))
    return "\n".join(lines)
