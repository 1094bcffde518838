"""Players: what each trains, when, at which rate; and what cannot be one."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from reverie.base import ArgumentError, UnknownNameError
from reverie.train import Objective, Player, Step, fit, plain


def test_what_a_player_trains_and_keeps() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    net[0].requires_grad_(False)
    player = Player(net)
    assert set(player.parameters) == {"1.weight", "1.bias", "2.weight", "2.bias"}
    assert set(player.state) == {*player.parameters, "1.running_mean", "1.running_var", "1.num_batches_tracked"}
    kept = Player(net, None)
    assert kept.parameters == {}
    assert set(kept.state) == set(net.state_dict())
    one = torch.zeros(3)
    assert Player(one).parameters["value"] is one
    assert one.requires_grad
    named = {"a": torch.zeros(1), "b/c": torch.zeros(2)}
    assert set(Player(named, None).state) == set(Player(named).parameters) == {"a", "b/c"}
    assert not Player(torch.zeros(2, dtype=torch.int64), None).state["value"].requires_grad


def test_a_frozen_weight_under_two_names_is_not_kept() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    net[0].weight.requires_grad_(False)
    assert set(Player(net).state) == {"2.weight", "2.bias"}


@given(every=st.integers(1, 7), offset=st.integers(0, 6), step=st.integers(0, 60))
def test_property_moves_counts_the_steps_that_were_due(every: int, offset: int, step: int) -> None:
    player = Player(torch.zeros(1), every=every, offset=offset % every)
    assert player.moves(step) == sum(player.due(k) for k in range(step))
    assert not Player(torch.zeros(1), None, every=every, offset=offset % every).due(step)


def test_rates() -> None:
    constant = Player(torch.zeros(1), rate=2.0, warmup=4)
    assert [constant.rate_at(k, 9) for k in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    cosine = Player(torch.zeros(1), rate=2.0, schedule="cosine")
    assert [cosine.rate_at(k, 4) for k in (0, 1, 2, 4)] == pytest.approx([2.0, 1 + math.sqrt(0.5), 1.0, 0.0])
    assert all(a > b for a, b in itertools.pairwise(cosine.rate_at(k, 50) for k in range(50)))
    mine = Player(torch.zeros(1), rate=2.0, warmup=2, schedule=lambda k: 1 / (1 + k))
    assert [mine.rate_at(k, 9) for k in range(3)] == pytest.approx([1.0, 1.0, 2 / 3])


def test_an_optimiser_of_ones_own_keeps_its_rates(tmp_path: Path) -> None:
    """Two groups of other rates, of which the warm-up takes half in the first step."""
    pair = {"a": torch.zeros(1), "b": torch.zeros(1)}

    def make(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": parameters[:1], "lr": 4.0}, {"params": parameters[1:]}], lr=0.5)

    player = Player(pair, make, warmup=2)
    objective = Objective(
        {"pair": player}, lambda p, b, s: {"pair": (p["pair"]["a"] + p["pair"]["b"]).sum()}, lambda p, s: None
    )
    fit(objective, tmp_path, 2, quiet=True)
    assert (pair["a"].item(), pair["b"].item()) == (-2.0 - 4.0, -0.25 - 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adamv"}, "unknown optimizer 'adamv'; did you mean 'adam' or 'adamw'"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ({"rate": 0}, "rate of a player must be positive, got 0"),
        ({"rate": math.nan}, "rate of a player must be positive, got nan"),
        ({"rate": math.inf}, "rate of a player must be positive, got inf"),
        ({"warmup": -1}, "warmup of a player must be a whole number of at least 0, got -1"),
        ({"warmup": 1.5}, r"warmup of a player must be a whole number of at least 0, got 1\.5"),
        ({"every": 0}, "every of a player must be a whole number of at least 1, got 0"),
        ({"every": 2.0}, r"every of a player must be a whole number of at least 1, got 2\.0"),
        ({"every": 2, "offset": 2}, "offset of a player must be a whole number from 0 to below every, got 2"),
        ({"offset": -1}, "offset of a player must be a whole number from 0 to below every, got -1"),
        ({"ema": 1.0}, r"ema of a player must be in \[0, 1\), got 1\.0"),
        ({"clip": 0.0}, r"clip of a player must be positive, got 0\.0"),
    ],
)
def test_fields_that_cannot_work(options: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        Player(torch.zeros(1), **options)
    assert isinstance(caught.value, UnknownNameError) == message.startswith("unknown")


def test_what_cannot_be_a_player() -> None:
    with pytest.raises(ArgumentError, match="no parameter that requires a gradient"):
        Player(nn.Linear(1, 1).requires_grad_(False))
    with pytest.raises(ArgumentError, match="no parameter that requires a gradient"):
        Player({})
    with pytest.raises(ArgumentError, match="the tensor 'b' of a player was computed from others; detach it"):
        Player({"b": torch.ones(1, requires_grad=True) * 2})
    with pytest.raises(ArgumentError, match=r"the tensor 'n' of a player holds torch\.int64.*take optimizer=None"):
        Player({"n": torch.ones(1, dtype=torch.int64)})


@pytest.mark.parametrize(
    ("player", "message"),
    [
        ({"options": {"beta": 1}}, "optimizer 'adamw': .*unexpected keyword argument 'beta'"),
        ({"options": {"betas": (2.0, 0.9)}}, "optimizer 'adamw': Invalid beta parameter"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS evaluates the loss itself .*cannot be saved.*take one of adamw, adam, sgd"),
        ({"optimizer": lambda parameters: parameters}, r"must make a torch\.optim\.Optimizer, got list"),
    ],
)  # fmt: skip
def test_optimisers_that_cannot_work(player: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Player(torch.zeros(1), **player).make_optimizer()


@pytest.mark.parametrize("name", ["", "a/b", 3])
def test_names_that_cannot_stand_in_a_checkpoint(name: Any) -> None:
    with pytest.raises(ArgumentError, match=rf"a player's name is a word without '/', got {name!r}"):
        Objective({name: Player(torch.zeros(1))}, lambda p, b, s: {}, lambda p, s: None)


def test_objectives_that_cannot_work() -> None:
    with pytest.raises(ArgumentError, match="needs a player that is trained"):
        Objective({"x": Player(torch.zeros(1), None)}, lambda p, b, s: {}, lambda p, s: None)
    encoder = nn.Linear(2, 2)
    players = {"encoder": Player(encoder), "whole": Player(nn.Sequential(encoder, nn.Linear(2, 2)))}
    with pytest.raises(
        ArgumentError, match=r"'0.weight' belongs to two players, 'encoder' and 'whole'; freeze it in one"
    ):
        Objective(players, lambda p, b, s: {}, lambda p, s: None)
    Objective(players | {"encoder": Player(encoder, None)}, lambda p, b, s: {}, lambda p, s: None)
    with pytest.raises(ArgumentError, match="no batch to train on"):
        plain(encoder, lambda f, x: f(x).sum(), [])


def test_plain_goes_through_its_batches_again_and_again(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def loss(f: nn.Module, x: Tensor) -> Tensor:
        seen.append(x)
        return f(x).sum()

    batches = [torch.full((1, 1), float(k)) for k in range(3)]
    fit(plain(nn.Linear(1, 1), loss, iter(batches)), tmp_path / "a", 5, quiet=True)
    assert [int(x) for x in seen] == [0, 1, 2, 0, 1]
    told: list[tuple[int, int, int]] = []

    def batch(step: Step) -> Tensor:
        told.append((int(step), step.part, step.seed))
        return batches[1]

    fit(plain(nn.Linear(1, 1), loss, batch), tmp_path / "b", 2, accumulate=2, seed=4, quiet=True)
    assert told == [(0, 0, 4), (0, 1, 4), (1, 0, 4), (1, 1, 4)]


@given(parts=st.integers(1, 6), size=st.integers(1, 6))
def test_property_the_parts_share_the_slots(parts: int, size: int) -> None:
    slots = [list(Step(0, part, parts).slots(parts * size)) for part in range(parts)]
    assert [s for part in slots for s in part] == list(range(parts * size))
    assert {len(s) for s in slots} == {size}
