"""Fingerprints: what they tell apart, and what they do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reverie as rv
from reverie.model.fingerprint import _KNOWN, fingerprint


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.register_buffer("scale", torch.ones(3), persistent=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.inner(x) * self.scale


def model(seed: int = 0, **changes: Any) -> rv.Model:
    torch.manual_seed(seed)
    return rv.Model(
        Net(),
        **{"process": rv.process.vp(), "predicts": "v", "null": {"label": torch.tensor([7])}, "shape": (3,)} | changes,
    )


def test_alike_models_have_one_and_others_another() -> None:
    assert fingerprint(model()) == fingerprint(model())
    others = [
        model(1), model(process=rv.process.vp("cosine")), model(predicts="eps"), model(label="lam"), model(null={"label": torch.tensor([8])}),
        model(shape=(4,)), model(null=None),
    ]  # fmt: skip
    for exact in (True, False):
        assert len({fingerprint(m, exact) for m in (model(), *others)}) == 1 + len(others)


@pytest.mark.parametrize("exact", [True, False])
def test_every_field_of_a_guide_counts(exact: bool) -> None:
    m, cfg = model(), rv.guide.CFG
    guides = [
        cfg(3.0), cfg(3.0000001), cfg(3.0, interval=(0.2, 0.5)), cfg(3.0, rescale=0.7), cfg(torch.tensor([3.0, 2.0])),
        cfg(torch.tensor([3.0, 1.0])), cfg(lambda t: 3.0),
    ]  # fmt: skip
    found = [fingerprint(m | g, exact) for g in guides] + [
        fingerprint(m, exact),
        fingerprint(m | cfg(3.0) | cfg(3.0), exact),
    ]
    assert len(set(found)) == len(found)
    assert fingerprint(model() | cfg(3.0), exact) == found[0]


def test_weights_written_in_place_and_buffers_are_noticed() -> None:
    m = model()
    before = fingerprint(m)
    assert fingerprint(m) == before
    with torch.no_grad():
        m.net.inner.weight[0, 0] += 1  # type: ignore[union-attr]
    changed = fingerprint(m)
    assert changed != before
    m.net.scale.mul_(2)  # type: ignore[union-attr]
    assert fingerprint(m) not in (before, changed)


def test_weights_are_read_once() -> None:
    m = model()
    first = fingerprint(m | rv.guide.CFG(2.0), exact=False)
    version, digest = _KNOWN[m.net][False]  # type: ignore[index]
    _KNOWN[m.net][False] = version, "0" * 64  # type: ignore[index]
    assert fingerprint(m | rv.guide.CFG(2.0), exact=False) != first
    _KNOWN[m.net][False] = version, digest  # type: ignore[index]
    assert fingerprint(m | rv.guide.CFG(2.0), exact=False) == first


def test_precision_names_and_codecs_count_only_exactly() -> None:
    class Codec:
        def __init__(self, net: nn.Module) -> None:
            self.vae = net

        def encode(self, data: Tensor) -> Tensor:
            return data

        decode = encode

    m = model()
    half = m.with_net(Net().bfloat16())
    half.net.load_state_dict({k: v.bfloat16() for k, v in m.net.state_dict().items()})  # type: ignore[union-attr]
    named, coded, other = model(name="other"), model(codec=Codec(nn.Linear(2, 2))), model(codec=Codec(nn.Linear(2, 2)))
    for changed in (half, named, coded, other):
        assert fingerprint(changed, exact=False) == fingerprint(m, exact=False)
        assert fingerprint(changed) != fingerprint(m)
    torch.manual_seed(5)
    again = model(codec=Codec(nn.Linear(2, 2)))
    assert fingerprint(again) != fingerprint(coded) or torch.equal(again.codec.vae.weight, coded.codec.vae.weight)  # type: ignore[union-attr]


def test_functions_and_oracles() -> None:
    a = rv.Model(lambda x, t: x, rv.process.vp(), name="a")
    b = rv.Model(lambda x, t: x, rv.process.vp(), name="b")
    assert fingerprint(a, exact=False) != fingerprint(b, exact=False)
    means = torch.zeros(2, 3)
    one, two = (rv.oracle.Mixture(means + s, 0.5, process=rv.process.vp()) for s in (0.0, 0.1))
    for exact in (True, False):
        assert fingerprint(one, exact) == fingerprint(rv.oracle.Mixture(means, 0.5, process=rv.process.vp()), exact)
        assert fingerprint(one, exact) != fingerprint(two, exact)
