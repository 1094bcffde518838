"""Inpainting: what is known stays on its exact path, with any plan; what is made agrees with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import ArgumentError, ShapeError
from reverie.edit import Inpaint, inpaint

MEANS = torch.tensor([[3.0, 3.0, 3.0, 3.0], [-3.0, -3.0, -3.0, -3.0]])
MASK = torch.tensor([[1.0, 1.0, 0.0, 0.0]])


def mixture(p: rv.process.Process) -> rv.oracle.Mixture:
    return rv.oracle.Mixture(MEANS, 0.4, process=p)


@pytest.mark.parametrize("p", [rv.process.vp(), rv.process.flow(), rv.process.edm()], ids=["vp", "flow", "edm"])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp-3m", "unipc-2", "heun", "dpmpp-2m-sde"])
def test_what_is_known_stays_and_decides_the_rest(solver: str, p: rv.process.Process) -> None:
    o, known = mixture(p), torch.full((200, 4), 3.0)
    known[100:] = -2.5
    settings: dict[str, Any] = {"hooks": Inpaint(), "inputs": {"known": known, "mask": MASK}, "batch": 100}
    plan = rv.solve.plan(solver, p, 20)
    x = rv.sample(o, 200, plan=plan, **settings)
    assert (x[:, 2:] - known[:, 2:]).abs().max() < 1e-4
    assert agreeing(x, known) > (0.85 if solver.endswith("sde") else 0.72)
    assert 0.4 < agreeing(rv.sample(o, 200, plan=plan, batch=100), known) < 0.6, "by chance"


@pytest.mark.parametrize("p", [rv.process.vp(), rv.process.flow()], ids=["vp", "flow"])
def test_time_travel_makes_the_rest_fit(p: rv.process.Process) -> None:
    o, known = mixture(p), torch.full((200, 4), 3.0)
    known[100:] = -2.5
    plan = rv.solve.plan("ddim", p, 20, grid="time").repeat(4, length=5)
    x = rv.sample(o, 200, plan=plan, hooks=Inpaint(), inputs={"known": known, "mask": MASK}, batch=100)
    assert agreeing(x, known) > 0.95
    assert (x[:, 2:] - known[:, 2:]).abs().max() < 1e-4


def agreeing(x: Tensor, known: Tensor) -> float:
    """The share of samples whose free part is in the mode of the known one."""
    return (x[:, :2].sign() == known[:, :2].sign()).all(1).double().mean().item()


def test_the_known_part_moves_on_its_exact_path() -> None:
    p = rv.process.vp()
    o, known = mixture(p), torch.full((3, 4), 1.5)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    plan = rv.solve.plan("dpmpp-3m", p, 6)
    eps = (x - p.alpha(plan.start) * known) / p.sigma(plan.start)
    seen: list[tuple[float, Tensor]] = []

    class Look:
        def after(self, ctx: rv.solve.Run) -> None:
            assert ctx.stage is not None
            seen.append((ctx.stage.to, ctx.x.clone()))

    rv.run(plan, o, x, hooks=[Inpaint(), Look()], inputs={"known": known, "mask": MASK})
    assert len(seen) == 6
    for t, state in seen:
        want = p.alpha(t) * known + p.sigma(t) * eps
        assert (state[:, 2:] - want[:, 2:]).abs().max() < 1e-5


def test_nothing_known_and_everything_known() -> None:
    o, known = mixture(rv.process.vp()), torch.full((4, 4), 1.5)
    plain = rv.sample(o, 4, nfe=6)
    made = [
        rv.sample(o, 4, nfe=6, hooks=Inpaint(), inputs={"known": known, "mask": torch.full((1, 4), v)})
        for v in (1.0, 0.0)
    ]
    assert torch.allclose(made[0], plain, atol=1e-6)
    assert torch.allclose(made[1], known, atol=1e-5)


class Halves:
    """A codec that stands for 2x2 pixels by their mean, times 3."""

    def encode(self, data: Tensor) -> Tensor:
        return 3 * torch.nn.functional.avg_pool2d(data, 2)

    def decode(self, state: Tensor) -> Tensor:
        return state.repeat_interleave(2, -1).repeat_interleave(2, -2) / 3


def net(x: Tensor, t: Tensor) -> Tensor:
    """Pictures of one value: the mean of the state."""
    return x.mean((1, 2, 3), keepdim=True).expand_as(x)


def test_pictures_through_a_codec() -> None:
    m = rv.Model(net, rv.process.vp(), "x0", shape=(1, 4, 4), codec=Halves())
    pictures = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 5:] = 1  # columns 5 to 7: states 2 and 3 are free, since pixel 5 is made from state 2
    settings: dict[str, Any] = {"nfe": 4, "batch": 2}
    pasted, raw = inpaint(m, pictures, mask, **settings), inpaint(m, pictures, mask, paste=False, **settings)
    assert torch.equal(pasted[..., :5], pictures[..., :5])
    assert torch.equal(pasted[..., 5:], raw[..., 5:])
    known = Halves().decode(Halves().encode(pictures))
    assert torch.allclose(raw[..., :4], known[..., :4], atol=1e-5)
    assert not torch.allclose(raw[..., 4], known[..., 4], atol=1e-2)
    one = inpaint(m, pictures[:1], mask, 3, **settings)
    assert one.shape == (3, 1, 8, 8)
    assert torch.equal(one[0], pasted[0])
    assert (one[1, ..., 5:] - one[2, ..., 5:]).abs().max() > 1e-3


def test_strength() -> None:
    o = mixture(rv.process.vp())

    def net(x: Tensor, t: Tensor) -> Tensor:
        return o(x.flatten(1), float(t[0])).x0.reshape(x.shape)

    m = rv.Model(net, o.process, "x0", shape=(1, 2, 2), dtype=torch.float64)
    pictures, mask = torch.full((1, 1, 2, 2), 3.0), torch.ones(1, 1, 2, 2)
    near, far = (inpaint(m, pictures, mask, 20, strength=s, nfe=10, batch=20) for s in (0.3, 1.0))
    assert (near > 0).all()
    assert 0 < (far > 0).flatten(1).all(1).sum() < 20


def test_what_it_refuses() -> None:
    m, x, mask = rv.load("digits"), torch.zeros(2, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    with pytest.raises(ArgumentError, match="known and mask missing"):
        rv.sample(m, 2, nfe=2, hooks=Inpaint())
    with pytest.raises(ShapeError, match=r"for n = 2, got \(2, 1, 8, 8\) and \(1, 1, 4, 4\)"):
        inpaint(m, x, mask[..., :4, :4])
    with pytest.raises(ShapeError, match="for n = 3"):
        inpaint(m, x, mask, 3)
    with pytest.raises(ArgumentError, match="from 0 to 2"):
        inpaint(m, x, mask + 2 * torch.eye(8), nfe=2)
    with pytest.raises(ArgumentError, match=r"strength lies in \(0, 1\], got 0"):
        inpaint(m, x, mask, strength=0)
