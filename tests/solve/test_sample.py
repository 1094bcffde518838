"""Sampling: the same bits in any job, image-to-image, conditions, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reverie as rv
from reverie.base import ArgumentError, Noise, NonFiniteError, ShapeError, TimeError, UnknownNameError
from reverie.solve.sample import blocks

from . import reference as ref

P = ref.PROCESSES["vp"]


class Net(nn.Module):
    """Convolutions and matrix products round differently for other batch sizes; class conditional."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.mix = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1), nn.Linear(18, 18)
        self.names, self.sizes = nn.Embedding(4, 18), set[int]()

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        self.sizes.add(len(x))
        h = self.b(torch.tanh(self.a(x))).flatten(1) + t[:, None]
        return self.mix(h if class_labels is None else h + self.names(class_labels)).reshape(x.shape)


def model(**more: Any) -> rv.Model:
    return rv.Model(Net(), P, shape=(2, 3, 3), **more)


STOCHASTIC = [("dpmpp-2m", {}), ("ddim", {"eta": 1.0}), ("heun", {"churn": 4.0, "steps": 5})]


@pytest.mark.parametrize(("solver", "options"), STOCHASTIC)
def test_bits_do_not_depend_on_the_job(solver: str, options: dict[str, Any]) -> None:
    m = model()
    labels = torch.arange(21) % 4
    how = {"solver": solver, "steps": 4, "batch": 8, "seed": 5} | options
    x = rv.sample(m, 21, cond={"class_labels": labels}, **how)
    assert x.shape == (21, 2, 3, 3)
    assert m.net.sizes == {8}
    assert len({tuple(row.flatten().tolist()) for row in x}) == 21
    alone = rv.sample(m, 1, start=7, cond={"class_labels": labels[7:8]}, **how)
    assert torch.equal(alone[0], x[7])
    order = [20, 7, 3, 15, 7, 0]
    assert torch.equal(rv.sample(m, index=order, cond={"class_labels": labels[order]}, **how), x[order])
    assert torch.equal(rv.sample(m, 6, start=11, cond={"class_labels": labels[11:17]}, **how), x[11:17])
    streamed = [
        (i, row)
        for at, rows in rv.solve.sample_blocks(m, 21, cond={"class_labels": labels}, **how)
        for i, row in zip(at, rows, strict=True)
    ]
    assert all(torch.equal(x[i], row) for i, row in streamed)
    assert not torch.equal(rv.sample(m, 1, cond={"class_labels": labels[:1]}, **(how | {"seed": 6}))[0], x[0])


def test_blocks_keep_every_sample_at_its_row() -> None:
    ids = [9, 1, 5, 3, 3, 17, 2]
    seen = []
    for positions, rows in blocks(ids, 4):
        assert [ids[j] % 4 for j in positions] == rows
        assert len(set(rows)) == len(rows)
        seen += positions
    assert sorted(seen) == list(range(7))


def test_sampling_is_prior_run_decode() -> None:
    class Double:
        def encode(self, data: Tensor) -> Tensor:
            assert len(data) == 8
            return data / 2

        def decode(self, state: Tensor) -> Tensor:
            assert len(state) == 8
            return 2 * state

    for p in (P, ref.PROCESSES["edm"]):
        m = rv.Model(lambda x, t: 0.5 * x, p, predicts="x0", shape=(3,), codec=Double())
        plan = rv.solve.plan("dpmpp-2m", p, steps=4)
        z = Noise(2).normal((3,), index=range(8))
        want = rv.run(plan, m, p.prior(z))
        assert torch.equal(rv.sample(m, 8, seed=2, steps=4, batch=8), 2 * want)
        assert torch.equal(rv.sample(m, 8, seed=2, steps=4, batch=8, decode=False), want)
        assert torch.equal(rv.sample(m, 8, seed=2, plan=plan, batch=8), 2 * want)
        assert rv.sample(m, 2, dtype=torch.float64, steps=2, batch=8).dtype == torch.float64
        data = torch.randn(5, 3)
        made = rv.sample(m, 5, init=data, span=(0.5, 0.0), steps=3, batch=8, seed=2)
        half = rv.solve.plan("dpmpp-2m", p, steps=3, span=(0.5, 0.0))
        x = p.perturb(data / 2, half.start, z[:5])
        assert torch.allclose(made, 2 * rv.run(half, m, x), atol=1e-6)
        assert torch.equal(
            rv.sample(m, 1, start=3, init=data[3:4], span=(0.5, 0.0), steps=3, batch=8, seed=2)[0], made[3]
        )


def test_codec_does_not_build_a_graph() -> None:
    class Codec(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(()))

        def encode(self, data: Tensor) -> Tensor:
            return data * self.w

        decode = encode

    m = model(codec=Codec())
    assert not rv.sample(m, 2, steps=2).requires_grad
    assert not rv.sample(m, 2, steps=2, init=torch.zeros(2, 2, 3, 3), span=(0.5, 0)).requires_grad


def test_guides_hooks_inputs_and_shared_conditions() -> None:
    m = model(null={"class_labels": 0})
    for labels in (torch.tensor([2, 1, 3]), torch.tensor([2]), 2):
        plain = rv.sample(m, 3, steps=3, cond={"class_labels": labels})
        guided = rv.sample(m, 3, steps=3, cond={"class_labels": labels}, guide=rv.guide.CFG(3.0))
        assert not torch.allclose(plain, guided)
        assert torch.equal(rv.sample(m | rv.guide.CFG(3.0), 3, steps=3, cond={"class_labels": labels}), guided)
    one = rv.sample(m, 3, steps=3, cond={"class_labels": 2})
    assert torch.equal(rv.sample(m, 3, steps=3, cond={"class_labels": torch.tensor([2, 2, 2])}), one)

    class Count:
        calls = 0

        def end(self, r: Any) -> None:
            self.calls += 1
            assert torch.equal(r.inputs["y"][:1], torch.full((1, 2, 3, 3), 3.0 * (self.calls - 1)))

    hook = Count()
    y = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 2, 3, 3)
    rv.sample(m, 4, steps=2, batch=3, cond={"class_labels": 1}, inputs={"y": y}, hooks=hook)
    assert hook.calls == 2

    class Drop:
        def after(self, r: Any) -> None:
            r.select(torch.tensor([0]))

    with pytest.raises(ArgumentError, match="run"):
        rv.sample(m, 3, steps=2, cond={"class_labels": 1}, hooks=Drop())


def test_defaults() -> None:
    m = model()
    rv.sample(m, 2)
    assert m.calls == 20
    rv.sample(m, 2, nfe=9, solver="heun")
    assert m.calls == 29
    rv.sample(m, 2, grid=[1.0, 0.5, 0.1])
    assert m.calls == 31


@pytest.mark.parametrize(
    ("bad", "error", "match"),
    [
        ({"solver": "dpm++2m"}, UnknownNameError, "dpmpp-2m"),
        ({"grid": "kaaras", "steps": 3}, UnknownNameError, "karras"),
        ({"steps": 0}, ArgumentError, "steps"),
        ({"steps": 3, "nfe": 3}, ArgumentError, "either"),
        ({"n": 0}, ArgumentError, "n must"),
        ({"n": 2.5}, ArgumentError, "n must"),
        ({"start": -1}, ArgumentError, "start"),
        ({"index": []}, ArgumentError, "index"),
        ({"index": [-3]}, ArgumentError, "index"),
        ({"batch": 0}, ArgumentError, "batch"),
        ({"batch": True}, ArgumentError, "batch"),
        ({"seed": -1}, ArgumentError, "seed"),
        ({"span": (0.5, 0.0)}, ArgumentError, "init"),
        ({"init": torch.zeros(3, 2, 3, 3)}, ShapeError, "init has 3"),
        ({"cond": {"class_labels": torch.zeros(3, dtype=torch.long)}}, ShapeError, "batch of 4"),
        ({"grid": [1.2, 0.5]}, TimeError, "outside"),
        ({"etaa": 1.0}, ArgumentError, "option"),
        ({"plan": "dpmpp-2m"}, ArgumentError, "Plan"),
    ],
)
def test_bad_input(bad: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        rv.sample(model(), **({"n": 4} | bad))


@pytest.mark.parametrize(
    "more",
    [{"steps": 3}, {"nfe": 3}, {"grid": "time"}, {"eta": 1.0}, {"end": "zero"}, {"span": (0.5, 0)}, {"solver": "ddim"}],
)
def test_a_plan_goes_with_no_options_of_its_own(more: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="compiled plan"):
        rv.sample(model(), 2, plan=rv.solve.plan("ddim", P, steps=2), **more)


def test_more_steps_than_labels_and_a_model_without_shape() -> None:
    p = ref.PROCESSES["ddpm"]
    with pytest.raises(TimeError, match="fewer steps"):
        rv.sample(rv.Model(lambda x, t: x, p, shape=(2,)), 1, solver="ddpm", steps=1001)
    with pytest.raises(ShapeError, match="shape="):
        rv.sample(rv.Model(lambda x, t: x, p), 1, steps=2)
    assert rv.sample(rv.Model(lambda x, t: x, p), 1, steps=2, shape=(5,)).shape == (1, 5)


def test_a_padded_batch_names_each_sample_once() -> None:
    m = rv.Model(lambda x, t: x * float("nan"), rv.process.vp(), shape=(3,))
    with pytest.raises(NonFiniteError, match=r"samples 5, 6 \(2 of 2\)") as caught:
        rv.sample(m, 2, start=5, nfe=3)
    assert caught.value.samples == (5, 6)
