"""The judge that comes with the package, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reverie.base import ArgumentError, FileError, ShapeError
from reverie.data import digits
from reverie.measure import Judge, judge


def test_it_reads_held_out_digits() -> None:
    net = judge()
    assert net.accuracy(*digits("heldout")) >= 0.985
    assert sum(p.numel() for p in net.parameters()) < 60_000
    assert not net.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in net.parameters())


def test_its_accuracy_is_a_share_of_right_answers() -> None:
    x, y = digits("heldout")
    wrong = torch.where(torch.arange(len(y)) < 100, (y + 1) % 10, y)
    net = judge()
    right = net.read(x) == y
    assert net.accuracy(x, y) == right.sum().item() / len(y)
    assert net.accuracy(x, wrong) == (net.read(x) == wrong).sum().item() / len(y)
    assert net.accuracy(x, wrong) < net.accuracy(x, y) - 0.2


def test_features_are_what_the_last_layer_sees() -> None:
    x, _ = digits("heldout")
    net = judge()
    features = net.features(x, batch=100)
    assert features.shape == (len(x), 64)
    with torch.no_grad():
        torch.testing.assert_close(net.head(features), net(x), rtol=1e-5, atol=1e-4)


def test_dropout_acts_while_training_only() -> None:
    net, x = Judge(dropout=0.5), torch.ones(4, 1, 8, 8)
    torch.manual_seed(0)
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ShapeError, match=r"got \(2, 3, 8, 8\)"):
        judge()(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ShapeError, match="one label a picture"):
        judge().accuracy(torch.zeros(2, 1, 8, 8), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ArgumentError, match="multiples of 4"):
        Judge(widths=(6, 8))
    with pytest.raises(ArgumentError, match="dropout"):
        Judge(dropout=1.0)


def test_a_damaged_file_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self)[:-10])
    judge.cache_clear()
    with pytest.raises(FileError, match="install reverie again"):
        judge()
    monkeypatch.undo()
    judge.cache_clear()
    assert judge().accuracy(*digits("heldout")) >= 0.985
