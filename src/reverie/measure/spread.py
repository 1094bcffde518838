"""How varied the samples of each class are: the root of the total variance, sqrt(tr Cov)."""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.base import ArgumentError, ShapeError

__all__ = ["class_spread", "spread_ratio"]


def class_spread(x: Tensor, labels: Tensor, classes: int | None = None) -> Tensor:
    """sqrt(tr Cov) of each class, in the data's unit: the root mean square distance of a sample from the mean of its
    class.

    Args:
        x: samples `(N, ...)`.
        labels: `(N,)`, int64 in 0 to classes - 1.
        classes: how many; by default as many as the largest label says.

    Returns:
        `(classes,)`, float64.

    Raises:
        ShapeError: not one label a sample. ArgumentError: a label out of range, or a class with fewer than two samples.

    >>> class_spread(torch.tensor([[1.0], [3.0], [5.0], [5.0]]), torch.tensor([0, 0, 1, 1])).tolist()
    [1.4142135623730951, 0.0]
    """
    if not len(x) or labels.shape != (len(x),):
        raise ShapeError(f"one label a sample is needed, got {tuple(labels.shape)} for {tuple(x.shape)}")
    highest = int(labels.max())
    classes = highest + 1 if classes is None else classes
    if int(labels.min()) < 0 or highest >= classes:
        raise ArgumentError(f"labels must be in 0 to {classes - 1}, got {int(labels.min())} to {highest}")
    counts = labels.bincount(minlength=classes)
    if int(counts.min()) < 2:
        raise ArgumentError(
            f"class {int(counts.argmin())} has {int(counts.min())} sample(s); a spread needs at least 2"
        )
    flat = x.flatten(1).double()
    return torch.stack([flat[labels == c].var(0).sum().sqrt() for c in range(classes)])


def spread_ratio(x: Tensor, labels: Tensor, reference: Tensor, reference_labels: Tensor) -> Tensor:
    """Each class's spread in units of the reference's, `(classes,)`: below 1, samples are less varied than the data.

    Args:
        x, labels: samples `(N, ...)` and their classes `(N,)`. reference, reference_labels: the data's.

    Raises:
        as `class_spread`; ArgumentError: a reference class without any spread.

    >>> x, c = torch.tensor([[1.0], [3.0]]), torch.tensor([0, 0])
    >>> spread_ratio(x, c, 2 * x, c).tolist()
    [0.5]
    """
    data = class_spread(reference, reference_labels)
    if not bool((data > 0).all()):
        raise ArgumentError(f"class {int(data.argmin())} of the reference has no spread to compare with")
    return class_spread(x, labels, len(data)) / data
