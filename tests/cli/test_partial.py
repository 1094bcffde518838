from __future__ import annotations

import torch

import reverie as rv
from reverie.cli.partial import Partial, digest

X = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))


def test_what_was_kept_comes_back(tmp_path):
    first = Partial(tmp_path / "p", "mine")
    assert not first.save()  # nothing to keep
    first.add([4, 9], X[:2])
    first.add([2], X[2:])
    assert not (tmp_path / "p").exists()  # the last save was just now
    assert first.save()
    again = Partial(tmp_path / "p", "mine")
    assert again.note == ""
    assert {i: x.tolist() for i, x in again.samples.items()} == {4: X[0].tolist(), 9: X[1].tolist(), 2: X[2].tolist()}
    again.remove()
    assert not (tmp_path / "p").exists()


def test_it_saves_by_itself_after_a_while(tmp_path):
    Partial(tmp_path / "p", "mine", every=0.0).add([0], X[:1])
    assert list(Partial(tmp_path / "p", "mine").samples) == [0]


def test_another_job_is_ignored_and_said(tmp_path):
    Partial(tmp_path / "p", "mine", every=0.0).add([0], X[:1])
    other = Partial(tmp_path / "p", "yours")
    assert other.samples == {}
    assert "other settings" in other.note


def test_a_truncated_file_is_ignored_and_said(tmp_path):
    Partial(tmp_path / "p", "mine", every=0.0).add([0], X[:1])
    (tmp_path / "p").write_bytes((tmp_path / "p").read_bytes()[:-3])
    torn = Partial(tmp_path / "p", "mine")
    assert torn.samples == {}
    assert "no unfinished job" in torn.note


def test_a_digest_knows_weights_plan_and_settings(tiny):
    model, said = rv.load(tiny), {"seed": 0}
    plan = rv.solve.plan("ddim", model.process, steps=3)
    own = digest(model, plan, said)
    assert own == digest(rv.load(tiny), rv.solve.plan("ddim", model.process, steps=3), {"seed": 0})
    others = [
        digest(model, plan, {"seed": 1}),
        digest(model, rv.solve.plan("ddim", model.process, steps=3, eta=1e-9), said),
    ]
    next(model.net.parameters()).view(-1)[0] += 1e-3
    others.append(digest(model, plan, said))
    assert len({own, *others}) == 4
