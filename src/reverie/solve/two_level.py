"""The two-level schedule: where to end is chosen on noise levels, the nodes on the labels that the network knows as time.

    karras(n, low, high, r)_j = (high^(1/r) + j / (n - 1) (low^(1/r) - high^(1/r)))^r,    j = 0 .. n - 1,

    s_end = karras(m, s_min, s_max, r1)_e         with s = sigma / alpha, s_min and s_max at the ends of the process
    labels = karras(N + 1, label(s_end), label(s_max), r2).

The second curve, r2 = 1.2, is almost even in the label. It ends well above the least noise the network knows: for Stable Diffusion at s = 0.147 with
N = 8. There is no step to sigma = 0: a decoder takes that noise, and a plan of N steps with end "sigma_min" is the paper's. Pixels do not take it:
with end "denoise" one more evaluation gives x0, so that a plan of N + 1 steps has the paper's nodes of N.

    N        m    e    r1        the constants, which were found on Stable Diffusion 1.5
    4        8    5    5
    5, 6     8    6    5
    8       12    9    7
    others  12    N   10         up to 11

On `ddpm` labels are labels. Elsewhere they are times counted from t_min: the curve does not depend on their unit, but on where they begin.

Source: Li 2025 (2510.02390).
"""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.base import ArgumentError, TimeError, implements
from reverie.process import DDPM, Process
from reverie.solve.grids import GRIDS, NUMBERED, PLACED

__all__ = ["CONSTANTS", "two_level"]

CONSTANTS = {4: (8, 5, 5.0), 5: (8, 6, 5.0), 6: (8, 6, 5.0), 8: (12, 9, 7.0)}
"""N: (m, e, r1)."""


@implements("two-level-schedule")
def two_level(
    p: Process,
    n: int,
    first: float,
    last: float,
    m: float | None = None,
    e: float = 0,
    r1: float = 0.0,
    r2: float = 1.2,
) -> Tensor:
    """The times of n = N + 1 nodes, float64; as a grid "two-level", or "two-level:m,e,r1,r2" (r2 may be left out).

    Args:
        p: the process. n: nodes. first, last: the part of the curve, 1 and 0 for all of it.
        m, e: levels of the first curve, from 2, and which of them ends the nodes, from 1 to m - 1 (s_min). r1, r2: the bends of the two curves, > 0;
            1 is even, a large one nearly geometric. By default the paper's.

    Raises:
        ArgumentError: constants out of range. TimeError: more steps than the paper has constants for.

    >>> import reverie as rv
    >>> betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    >>> p = rv.process.ddpm((1 - betas).cumprod(0))
    >>> [round(t, 1) for t in rv.solve.plan("ddim", p, 5, grid="two-level", end="sigma_min").times]
    [999.0, 772.5, 556.7, 354.2, 170.0, 18.3]
    """
    if m is None:
        steps = max(n - 1, 1)
        if steps > 11:
            raise TimeError(
                f"two-level has constants for at most 11 steps, got {steps}; give your own, two-level:m,e,r1"
            )
        m, e, r1 = CONSTANTS.get(steps, (12, steps, 10.0))
    if not (m == int(m) >= 2 and e == int(e) and 1 <= e <= m - 1 and r1 > 0 and r2 > 0):
        raise ArgumentError(
            f"two-level:m,e,r1,r2 takes whole numbers m >= 2 and e from 1 to m - 1, and r1, r2 > 0, got {m:g},{e:g},{r1:g},{r2:g}"
        )
    base = 0.0 if isinstance(p, DDPM) else p.t_min
    end = GRIDS["karras"](p, torch.tensor([1 - e / (m - 1)], dtype=torch.float64), r1).item()
    low, high = (t - base for t in (end, p.t_max))
    u = torch.linspace(first, last, n, dtype=torch.float64)
    t = base + (low ** (1 / r2) + u * (high ** (1 / r2) - low ** (1 / r2))) ** r2
    return torch.where(u == 1, p.t_max, torch.where(u == 0, end, t)).clamp(p.t_min, p.t_max)


PLACED["two-level"], NUMBERED["two-level"] = two_level, "its m,e,r1,r2"
