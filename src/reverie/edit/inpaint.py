"""Inpainting with any model and any plan: what is known stays, the rest is sampled.

    x0 <- mask x0 + (1 - mask) known                        at every evaluation,

mask 1 where the picture is to be made. A deterministic plan then carries the known part along its exact path, alpha known + sigma eps with the
eps it began with, whatever its order, and ends at it; what is made sees it at every evaluation. This is replacement, not posterior sampling: early,
what is made may commit itself to what does not fit. On two far modes of which half the coordinates are known, 82 % of ddim's samples end in the
right one, 93 % of a stochastic plan's, and 98 to 99 % after time travel, `plan.repeat(4, length=1)` or `length=5` (RePaint's).

Sources: Song et al. 2021 (2011.13456, appendix I.2), who replace the state; here x0 is replaced, so that multistep plans keep their history. Lugmayr
et al. 2022 (2201.09865) for the time travel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from reverie.base import ArgumentError, ShapeError
from reverie.model import Model, Prediction, as_target
from reverie.solve import Run, sample

__all__ = ["Inpaint", "inpaint", "known_part", "pasted"]


class Inpaint:
    """A hook that holds the known part of each sample.

    The run's inputs hold it: "known" `(B, *shape)`, in the model's states, and "mask", broadcastable to it, in [0, 1], 1 where the state is free.

    Raises `ArgumentError` where the run has no such inputs.

    >>> import torch, reverie as rv
    >>> o = rv.oracle.Gaussian(torch.zeros(4), torch.eye(4), process=rv.process.vp())
    >>> known, mask = torch.ones(2, 4), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    >>> x = rv.sample(o, 2, nfe=5, hooks=Inpaint(), inputs={"known": known, "mask": mask})
    >>> bool((x[:, 2:] - 1).abs().max() < 1e-5)
    True
    """

    def start(self, ctx: Run) -> None:
        """Check that the run has what is known."""
        lacks = [name for name in ("known", "mask") if name not in ctx.inputs]
        if lacks:
            raise ArgumentError(
                f"Inpaint needs inputs={{'known': ..., 'mask': ...}} of the run; {' and '.join(lacks)} missing"
            )

    def predicted(self, ctx: Run) -> None:
        """Put what is known into the prediction."""
        said, known, mask = ctx.pred, ctx.inputs["known"], ctx.inputs["mask"]
        x0 = mask * said.x0 + (1 - mask) * known
        ctx.pred = Prediction(said.x, said.t, x0, as_target("x0"), said.process, said.y)


def known_part(m: Model, pictures: Tensor, mask: Tensor, batch: int = 16) -> dict[str, Tensor]:
    """The inputs of a run that `Inpaint` holds: "known" `(n, *shape)`, the pictures as states, and "mask" `(n, 1 or C, ...)`, which states are free.

    A state is known where all of the picture that it stands for is.

    Args:
        pictures: `(n, C, H, W)` in the range of the model's data. mask: `(n or 1, 1 or C, H, W)`, 1 where the picture is to be made. batch: pictures
            encoded at once.
    """
    with torch.no_grad():
        known = torch.cat([m.encode(part) for part in pictures.to(m.device).split(batch)])
    mask = mask.to(known)
    return {
        "known": known,
        "mask": mask if known.shape[-2:] == mask.shape[-2:] else adaptive_max_pool2d(mask, known.shape[-2:]),
    }


def pasted(made: Tensor, pictures: Tensor, mask: Tensor) -> Tensor:
    """What was made where the mask is 1, the given pictures where it is 0, all `(n, C, H, W)`."""
    mask = mask.to(made)
    return mask * made + (1 - mask) * pictures.to(made)


def inpaint(
    m: Model,
    pictures: Tensor,
    mask: Tensor,
    n: int | None = None,
    *,
    strength: float = 1.0,
    paste: bool = True,
    hooks: Any = (),
    batch: int = 16,
    **settings: Any,
) -> Tensor:
    """n pictures that are the given ones outside of the mask, `(n, C, H, W)`.

    Args:
        pictures: `(n, C, H, W)`, or one for all, `(1, C, H, W)`, in the range of the model's data. mask: `(n or 1, 1, H, W)` in [0, 1], 1 where
            the picture is to be made. n: how many; as many as there are pictures or masks.
        strength: in (0, 1]; below 1 the run begins that far up the grid, from the given picture, so that what is made resembles what was there.
        paste: whether what lies outside of the mask is the given picture itself, not its way through the codec.
        hooks, batch, settings: see `sample`; guide, cond, plan or solver, seed, ...

    Raises:
        ShapeError: pictures, masks and n that do not fit each other. ArgumentError: a mask outside [0, 1], strength outside (0, 1]; as `sample`.

    >>> import torch, reverie as rv
    >>> m, mask = rv.load("digits"), torch.zeros(1, 1, 8, 8)
    >>> mask[..., 4:] = 1
    >>> x, _ = rv.data.digits("heldout")
    >>> made = inpaint(m, x[:2], mask, nfe=6, cond=m.embed(["3", "5"]))
    >>> bool((made[..., :4] == x[:2, ..., :4]).all())
    True
    """
    sizes = {len(pictures), len(mask)} if pictures.ndim == mask.ndim == 4 else {0}
    n = max(sizes) if n is None else n
    if not sizes <= {1, n} or pictures.shape[-2:] != mask.shape[-2:] or mask.shape[1] not in (1, pictures.shape[1]):
        raise ShapeError(
            f"pictures (n or 1, C, H, W) and a mask (n or 1, 1, H, W) are needed for n = {n}, got {tuple(pictures.shape)} and {tuple(mask.shape)}"
        )
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ArgumentError(
            f"a mask lies in [0, 1], 1 where the picture is made, got values from {float(mask.min()):g} to {float(mask.max()):g}"
        )
    if not 0 < strength <= 1:
        raise ArgumentError(f"strength lies in (0, 1], got {strength!r}")
    pictures, mask = pictures.float().to(m.device), mask.float().to(m.device)
    held = {k: v.expand(n, *v.shape[1:]) for k, v in known_part(m, pictures, mask, batch).items()}
    if strength < 1:
        settings |= {"init": pictures.expand(n, *pictures.shape[1:]), "span": (strength, 0.0)}
    every = (Inpaint(), *(hooks if isinstance(hooks, list | tuple) else (hooks,)))
    made = sample(m, n, shape=tuple(held["known"].shape[1:]), inputs=held, hooks=every, batch=batch, **settings)
    return pasted(made, pictures, mask) if paste else made
