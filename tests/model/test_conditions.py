"""Conditions: per sample, expanded, shared; merged for guidance; other batch sizes refused."""

from __future__ import annotations

import pytest
import torch

from reverie.base import ArgumentError, ShapeError
from reverie.model import Shared, conditions, merge, select
from reverie.model.conditions import unwrap


def test_which_part_belongs_to_a_sample() -> None:
    labels, scalar, table = torch.tensor([1, 2, 3]), torch.tensor(0.5), Shared(torch.zeros(7, 2))
    out = conditions({"a": labels, "b": torch.ones(1, 4), "c": scalar, "d": table, "e": "text", "f": 3, "g": None}, 3)
    assert out["a"] is labels
    assert out["b"].shape == (3, 4)
    assert out["c"] is scalar
    assert isinstance(out["d"], Shared)
    assert (out["e"], out["f"], out["g"]) == ("text", 3, None)
    assert unwrap(out)["d"] is table.value
    assert conditions(None, 3) == {}


def test_numbers_under_a_key_of_null_become_one_a_sample() -> None:
    null = {"class_labels": torch.tensor([10]), "guidance": torch.tensor([1.0]), "flag": False}
    out = conditions({"class_labels": 7, "guidance": 2.5, "flag": True, "other": 4}, 3, null)
    assert out["class_labels"].tolist() == [7, 7, 7]
    assert out["class_labels"].dtype == torch.int64
    assert out["guidance"].tolist() == [2.5] * 3
    assert out["flag"] is True
    assert out["other"] == 4
    assert conditions({"class_labels": 7}, 1, null)["class_labels"].tolist() == [7]
    assert conditions({"class_labels": 7}, 3)["class_labels"] == 7


def test_another_batch_size_is_refused() -> None:
    with pytest.raises(
        ShapeError, match=r"cond\['class_labels'\] has shape \(4,\) for a batch of 3; .* 3 or 1 .*Shared"
    ):
        conditions({"class_labels": torch.zeros(4)}, 3)
    with pytest.raises(ShapeError, match="batch of 1"):
        conditions({"class_labels": torch.zeros(2)}, 1)
    with pytest.raises(ArgumentError, match="cond is a dict"):
        conditions([1, 2], 3)  # type: ignore[arg-type]


def test_select_takes_rows_of_what_is_per_sample() -> None:
    shared = Shared(torch.arange(3))
    cond = conditions({"a": torch.tensor([1, 2, 3]), "b": shared, "c": torch.tensor(5), "d": "x"}, 3)
    out = select(cond, torch.tensor([2, 2, 0]), 3)
    assert out["a"].tolist() == [3, 3, 1]
    assert torch.equal(out["b"].value, shared.value)
    assert (out["c"].item(), out["d"]) == (5, "x")


def test_merge_puts_branches_into_one_batch() -> None:
    shared = Shared(torch.arange(5))
    one = {"a": torch.tensor([1, 2]), "s": shared, "n": 3, "t": torch.tensor(1.0)}
    two = {"a": torch.tensor([9, 9]), "s": Shared(torch.arange(5)), "n": 3, "t": torch.tensor(1.0)}
    out = merge([one, two], 2)
    assert out is not None
    assert out["a"].tolist() == [1, 2, 9, 9]
    assert torch.equal(unwrap(out)["s"], shared.value)
    assert (out["n"], out["t"].item()) == (3, 1.0)
    halves = merge([{"e": torch.zeros(2, 4)}, {"e": torch.ones(2, 4, dtype=torch.bfloat16)}], 2)
    assert halves is not None
    assert halves["e"].dtype == torch.float32
    assert halves["e"][:, 0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"a": torch.tensor([1, 2]), "b": 4},
        {"b": torch.tensor([1, 2])},
        {"a": torch.zeros(2, 3)},  # another shape
        {"a": torch.tensor([0.5, 0.5])},  # would be cut to integers
        {"a": 7},
        {"a": Shared(torch.tensor([1, 2]))},
        {"a": torch.tensor(1)},
    ],
)
def test_branches_that_do_not_merge(other: dict[str, object]) -> None:
    assert merge([{"a": torch.tensor([1, 2])}, other], 2) is None


def test_shared_values_that_differ_do_not_merge() -> None:
    assert merge([{"n": 3}, {"n": 4}], 2) is None
    assert merge([{"s": Shared(torch.zeros(5))}, {"s": Shared(torch.ones(5))}], 2) is None
    nested = [
        {"d": {"e": torch.zeros(2)}},
        {"d": {"e": torch.zeros(2)}},
    ]  # equal dicts of tensors have no single answer
    assert merge(nested, 2) is None
    assert merge([nested[0], nested[0]], 2) == nested[0]
