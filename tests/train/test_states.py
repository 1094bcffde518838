"""Checkpoints: they hold all that a training is, come back bit for bit, and refuse what is another's, damaged, or a pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainings import gan, pixels

from reverie.base import ArgumentError, FileError
from reverie.nets import read_tensors, write_tensors
from reverie.train import Objective, Player, Recipe, fit, load_recipe, plain, states, train


def _objective(what: Any, loss: Any = None, **player: Any) -> Objective:
    def losses(p: Any, batch: Any, step: int) -> dict[str, Tensor]:
        x = p["x"]
        values = x.parameters() if isinstance(x, nn.Module) else [x]
        return {"x": sum(((v - 1) ** 2).sum() for v in values if v.requires_grad)}  # type: ignore[dict-item]

    return Objective({"x": Player(what, **player)}, loss or losses, lambda p, step: None)


def _relabel(path: Path, **changes: Any) -> None:
    tensors, metadata = read_tensors(path)
    header = json.loads(metadata["reverie"])
    header |= {k: v(header[k]) if callable(v) else v for k, v in changes.items()}
    write_tensors(path, tensors, {"reverie": json.dumps(header)})


OPTIMIZERS = {
    "adamw": "adamw",
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5, centered=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
}


class Counting(torch.optim.SGD):
    """Keeps a number in its state and one in its group, as some do."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
            for p in group["params"]:
                self.state[p]["scale"] = 0.5 * self.state[p].get("scale", 1.0)
                p.data.sub_(p.grad, alpha=group["lr"] * self.state[p]["scale"] / group["k"])


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS.values(), Counting], ids=[*OPTIMIZERS, "numbers"])
def test_any_optimisers_state_comes_back(tmp_path: Path, optimizer: Any) -> None:
    def made() -> Objective:
        return _objective(torch.linspace(-1, 1, 6).reshape(2, 3), optimizer=optimizer, rate=0.1)

    fit(made(), tmp_path / "a", 6, save_every=3, quiet=True)
    fit(made(), tmp_path / "b", 6, save_every=3, quiet=True)
    states.checkpoints(tmp_path / "b")[-1].unlink()
    fit(made(), tmp_path / "b", 6, save_every=3, quiet=True)
    assert states.checkpoints(tmp_path / "a")[-1].read_bytes() == states.checkpoints(tmp_path / "b")[-1].read_bytes()


def test_an_optimiser_whose_state_is_neither_tensors_nor_numbers(tmp_path: Path) -> None:
    class Listing(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for p in self.param_groups[0]["params"]:
                self.state[p]["past"] = [p.grad]

    with pytest.raises(
        ArgumentError, match=r"the optimiser of 'x' keeps a list \(past\); a checkpoint holds tensors and"
    ):
        fit(_objective(torch.zeros(2), optimizer=Listing), tmp_path, 1, quiet=True)
    assert not states.checkpoints(tmp_path)


def test_several_averages_and_what_is_not_moved_are_kept(tmp_path: Path) -> None:
    fit(gan(), tmp_path / "gan", 4, quiet=True)
    last, _ = read_tensors(states.checkpoints(tmp_path / "gan")[-1])
    for name, player in gan().players.items():
        assert {k.split("/", 2)[2] for k in last if k.startswith(f"{name}/average/")} == set(player.state)
    first = pixels()
    fit(first, tmp_path / "pixels", 2, quiet=True)
    other = pixels(seed=9)
    fit(other, tmp_path / "pixels", 2, quiet=True)
    reader, restored = (o.players["reader"].what.state_dict() for o in (first, other))  # type: ignore[union-attr]
    assert all(torch.equal(v, restored[k]) for k, v in reader.items()), "a player that is not moved is restored"
    assert torch.equal(first.players["change"].what, other.players["change"].what)  # type: ignore[arg-type]


def test_frozen_parameters_are_neither_moved_nor_saved(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].requires_grad_(False)
    before = [p.detach().clone() for p in net.parameters()]
    fit(_objective(net, rate=0.1), tmp_path, 3, quiet=True)
    assert [torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True)] == [True, True, False, False]
    names = {k.split("/", 2)[2] for k in read_tensors(states.checkpoints(tmp_path)[-1])[0]}
    assert names == {"1.weight", "1.bias"}


def test_weights_that_are_tied_stay_tied(tmp_path: Path) -> None:
    def made() -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        net[1].weight = net[0].weight
        return net

    nets = [made(), made()]
    fit(_objective(nets[0], rate=0.1, ema=0.5), tmp_path / "a", 6, save_every=3, quiet=True)
    for steps in (3, 6):
        fit(_objective(nets[1], rate=0.1, ema=0.5), tmp_path / "b", steps, save_every=3, quiet=True)
    assert nets[1][1].weight is nets[1][0].weight
    assert states.checkpoints(tmp_path / "a")[-1].read_bytes() == states.checkpoints(tmp_path / "b")[-1].read_bytes()


def test_only_the_newest_two_are_kept_and_scraps_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-00000001.safetensors.abc.tmp").write_bytes(b"half")
    fit(_objective(torch.zeros(2)), tmp_path, 7, save_every=2, quiet=True)
    assert [p.name for p in sorted(tmp_path.iterdir())] == [
        "checkpoint-00000006.safetensors", "checkpoint-00000007.safetensors", "train.jsonl",
    ]  # fmt: skip


# -- another training's


def _trained(folder: Path, **options: Any) -> Path:
    fit(_objective(torch.zeros(2), rate=0.1), folder, 4, save_every=2, quiet=True, **options)
    return states.checkpoints(folder)[-1]


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda: _objective(torch.zeros(1)), r"it has shape \(2,\) for 'x/weights/value', the training shape \(1,\)"),
        (lambda: _objective(torch.zeros(2), ema=0.5), "it has nothing for 'x/average/value', the training shape"),
        (
            lambda: gan(),
            r"it has nothing for 'critic/average/0\.bias', the training shape \(8,\); choose another folder",
        ),
        (lambda: _objective({"a": torch.zeros(2)}), "it has nothing for 'x/weights/a'.*resume=False"),
    ],
)
def test_other_players_are_refused_before_anything_is_changed(tmp_path: Path, objective: Any, message: str) -> None:
    _trained(tmp_path)
    made = objective()
    before = [v.clone() for p in made.players.values() for v in p.state.values()]
    with pytest.raises(ArgumentError, match=message):
        fit(made, tmp_path, 4, quiet=True)
    after = [v for p in made.players.values() for v in p.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_another_optimiser_is_refused(tmp_path: Path) -> None:
    _trained(tmp_path)
    with pytest.raises(ArgumentError, match=r"trained with AdamW for 'x', now it is SGD; take AdamW again"):
        fit(_objective(torch.zeros(2), optimizer="sgd"), tmp_path, 4, quiet=True)
    with pytest.raises(ArgumentError, match=r"now it is no optimiser"):
        fit(
            Objective({"x": Player(torch.zeros(2), None), "y": Player(torch.zeros(1))}, lambda p, b, s: {}, lambda p, s: None),
            _renamed(tmp_path), 4, quiet=True,
        )  # fmt: skip


def _renamed(folder: Path) -> Path:
    """The same checkpoint, with a second player."""
    path = states.checkpoints(folder)[-1]
    tensors, metadata = read_tensors(path)
    write_tensors(path, tensors | {"y/weights/value": torch.zeros(1)}, metadata)
    return folder


def test_another_seed_spec_or_fewer_steps_are_refused(tmp_path: Path) -> None:
    path = _trained(tmp_path, spec={"data": "mine", "size": 3})
    again = _objective(torch.zeros(2), rate=0.1)
    with pytest.raises(ArgumentError, match=r"by another recipe: size = 3 \(now 4\).*resume=False"):
        fit(again, tmp_path, 4, spec={"data": "mine", "size": 4}, quiet=True)
    with pytest.raises(ArgumentError, match=r"seed = 0 \(now 1\)"):
        fit(again, tmp_path, 4, seed=1, spec={"data": "mine", "size": 3}, quiet=True)
    with pytest.raises(ArgumentError, match=r"has done 4 steps, more than steps = 3; ask for as many"):
        fit(again, tmp_path, 3, spec={"data": "mine", "size": 3}, quiet=True)
    with pytest.raises(ArgumentError, match=r"new = None \(now 1\)"):
        fit(again, tmp_path, 4, spec={"data": "mine", "size": 3, "new": 1}, quiet=True)
    old = {"data": "mine", "size": 3, "new": 1}
    assert fit(again, tmp_path, 4, spec=old, defaults={"new": 1, "size": 9, "other": 2}, quiet=True).steps == 4
    with pytest.raises(ArgumentError, match=r"new = 1 \(now 2\)"):
        fit(again, tmp_path, 4, spec=old | {"new": 2}, defaults={"new": 1}, quiet=True)
    fit(again, tmp_path, 1, seed=1, resume=False, quiet=True)
    assert not path.exists()


def test_a_checkpoint_from_before_a_field_of_the_recipe_was_there_goes_on(tmp_path: Path, tiny: Recipe) -> None:
    whole = train(tiny, tmp_path / "a", quiet=True)
    train(tiny, tmp_path / "b", quiet=True)
    states.checkpoints(tmp_path / "b")[-1].unlink()
    path = states.checkpoints(tmp_path / "b")[-1]
    new = ("weight", "precision", "accumulate", "kl")
    _relabel(path, spec=lambda spec: {k: v for k, v in spec.items() if k not in new}, said={}, groups={}, optimizers={})
    assert train(tiny, tmp_path / "b", quiet=True).weights.read_bytes() == whole.weights.read_bytes()
    _relabel(states.checkpoints(tmp_path / "b")[-1], spec=lambda spec: {k: v for k, v in spec.items() if k not in new})
    other = Recipe.of(tiny.spec() | {"weight": "min-snr:5"})
    with pytest.raises(ArgumentError, match=r"weight = 'none' \(now 'min-snr:5'\)"):
        train(other, tmp_path / "b", quiet=True)


def test_a_format_2_header_without_our_additions_is_read(tmp_path: Path) -> None:
    """The first files of format 2 have neither figures nor groups nor a seed in the spec."""
    path = _trained(tmp_path)
    tensors, metadata = read_tensors(path)
    header = {k: v for k, v in json.loads(metadata["reverie"]).items() if k not in ("said", "groups", "optimizers")} | {
        "spec": {}
    }
    write_tensors(path, tensors, {"reverie": json.dumps(header)})
    assert fit(_objective(torch.zeros(2), rate=0.1), tmp_path, 6, quiet=True).steps == 6


def test_the_shipped_recipes_hold_the_fields_a_running_training_had() -> None:
    had = {
        "name", "task", "data", "net", "process", "predicts", "label", "drop", "times", "augment", "steps", "batch", "seed", "rate", "decay",
        "warmup", "clip", "ema", "kl", "precision", "accumulate", "sampling", "save_every", "check_every",
    }  # fmt: skip
    assert had <= set(load_recipe("shapes-vae").spec())


# -- damaged, or no checkpoint


def test_damage_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = _trained(tmp_path)
    again = _objective(torch.zeros(2), rate=0.1)
    whole = path.read_bytes()
    for size in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(FileError, match=r"checkpoint-00000004.*truncated.*resumes from checkpoint-00000002"):
            fit(again, tmp_path, 4, quiet=True)
    path.write_bytes(whole)
    _relabel(path, format=1)
    with pytest.raises(
        FileError, match=r"is a reverie-checkpoint of format 1; this version reads .* of format 2: delete"
    ):
        fit(again, tmp_path, 4, quiet=True)
    write_tensors(path, {"w": torch.zeros(1)})
    states.checkpoints(tmp_path)[0].unlink()
    with pytest.raises(FileError, match=r"truncated or damaged.*the training starts anew"):
        fit(again, tmp_path, 4, quiet=True)


class Trap:
    """Unpickling it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.pt", "last.pth", "epoch=3.ckpt", "pytorch_model.bin"])
def test_pickles_are_never_read(tmp_path: Path, name: str) -> None:
    folder, sprung = tmp_path / "run", tmp_path / "sprung"
    folder.mkdir()
    torch.save({"weights": Trap(sprung)}, folder / name)
    objective = _objective(torch.zeros(2), rate=0.1)
    with pytest.raises(
        FileError, match=rf"{name}.*torch\.load\('{name}', weights_only=True\).*safetensors\.torch\.save_file"
    ):
        fit(objective, folder, 2, quiet=True)
    fit(objective, folder, 2, resume=False, quiet=True)
    fit(objective, folder, 3, quiet=True)  # there is one of ours now
    (folder / states.name_of(9)).write_bytes((folder / name).read_bytes())
    with pytest.raises(FileError, match=r"checkpoint-00000009.*truncated or damaged"):
        fit(objective, folder, 9, quiet=True)
    assert not sprung.exists()


def test_no_way_to_a_pickle_is_in_the_source() -> None:
    folder = Path(states.__file__).parent
    for path in folder.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "import pickle" not in text
        assert [line for line in text.splitlines() if "torch.load(" in line and "weights = " not in line] == [], path


def test_what_fits_a_plain_training_fits_itself(tmp_path: Path) -> None:
    net = nn.Linear(1, 1)
    fit(plain(net, lambda f, x: f(x).square().mean(), [torch.ones(1, 1)]), tmp_path, 2, quiet=True)
    last, metadata = read_tensors(states.checkpoints(tmp_path)[-1])
    assert set(last) == {
        f"net/{kind}/{p}" for kind in ("weights", "exp_avg", "exp_avg_sq", "step") for p in ("weight", "bias")
    }
    header = json.loads(metadata["reverie"])
    assert (header["kind"], header["format"], header["step"], header["spec"]) == (
        "reverie-checkpoint",
        2,
        2,
        {"seed": 0},
    )
