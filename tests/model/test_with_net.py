"""A model around another network keeps everything else."""

from __future__ import annotations

import pytest
import torch

import reverie as rv


def test_only_the_network_changes() -> None:
    p = rv.process.flow(3.0)
    codec, null = object(), {"y": torch.tensor(0)}
    m = rv.Model(torch.nn.Linear(3, 3), p, predicts="flow", label="sigma", null=null, codec=codec, shape=(3,), name="a")
    m.calls = m.forwards = 5
    half = m.with_net(torch.nn.Linear(3, 3).half())
    assert (half.process, half.target, half.shape, half.name, half.codec) == (p, m.target, (3,), "a", codec)
    assert (half.label(0.25), half.dtype, half.calls, half.forwards) == (m.label(0.25), torch.float16, 0, 0)
    assert (m.dtype, m.calls) == (torch.float32, 5)
    assert m.with_net(lambda x, t, y: x).dtype == torch.float32
    assert m.with_net(lambda x, t, y: x, dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(rv.base.ArgumentError, match="callable"):
        m.with_net(3)  # type: ignore[arg-type]


def test_guides_stay() -> None:
    m = rv.Model(lambda x, t, c: x * c[:, None], rv.process.vp(), null={"c": torch.tensor(1.0)}, shape=(2,))
    other = (m | rv.guide.CFG(3.0)).with_net(lambda x, t, c: 2 * x * c[:, None])
    x, c = torch.ones(2, 2), torch.tensor([2.0, 3.0])
    assert torch.allclose(other(x, 0.5, c=c).raw, (2 * (1 + 3 * (c - 1)))[:, None] * x)
    assert other.forwards == 2
