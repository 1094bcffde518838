"""The trainer: a training that was stopped, however rudely, ends with the bits of one that was not."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_recipe import TINY

import reverie as rv
from reverie.base import ArgumentError, FileError, NonFiniteError, UnknownNameError
from reverie.data import digits
from reverie.nets import UNet, read_tensors
from reverie.train import Augment, Recipe, Step, ema, engine, states, train, trainer
from reverie.train.tasks import Task, task

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from reverie.train import Recipe, train
torch.set_num_threads(1)
write, count = Path.write_bytes, [0]
def dies(self, data):
    if ".checkpoint-" not in self.name:
        return write(self, data)
    count[0] += 1
    if count[0] < 2:
        return write(self, data)
    write(self, data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
Path.write_bytes = dies
train(Recipe.of(eval(sys.argv[1])), sys.argv[2], quiet=True)
"""


def _files(folder: Path) -> tuple[bytes, bytes, list[dict]]:
    log = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    for line in log:
        del line["seconds"]
    return (folder / "tiny.safetensors").read_bytes(), states.checkpoints(folder)[-1].read_bytes(), log


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    train(Recipe.of(TINY), folder, quiet=True)
    return folder


def test_killed_while_saving_it_resumes_with_the_same_bits(tmp_path: Path, whole: Path, tiny: Recipe) -> None:
    run = subprocess.run([sys.executable, "-c", KILLED, repr(TINY), str(tmp_path)], capture_output=True, timeout=120)
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    assert [p.name for p in states.checkpoints(tmp_path)] == ["checkpoint-00000003.safetensors"]
    assert list(tmp_path.glob(".checkpoint-*.tmp")), "the kill did not fall into a save"
    train(tiny, tmp_path, quiet=True)
    assert _files(tmp_path) == _files(whole)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_saves_says_how_to_resume_and_does(
    tmp_path: Path, whole: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch, stop: signal.Signals
) -> None:
    update = ema.update

    def interrupted(average: dict, net: dict, step: int, decay: float) -> None:
        if step == 4:
            signal.raise_signal(stop)
        update(average, net, step, decay)

    monkeypatch.setattr(ema, "update", interrupted)
    handler = signal.getsignal(stop)
    with pytest.raises(KeyboardInterrupt, match=r"step 5; saved .*checkpoint-00000005.*same folder resumes"):
        train(tiny, tmp_path, quiet=True)
    assert signal.getsignal(stop) is handler
    monkeypatch.undo()
    train(tiny, tmp_path, quiet=True)
    assert _files(tmp_path) == _files(whole)


def test_the_callers_random_state_neither_matters_nor_changes(tmp_path: Path, whole: Path, tiny: Recipe) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    train(tiny, tmp_path, quiet=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert _files(tmp_path) == _files(whole)


def test_another_seed_is_another_training(tmp_path: Path, whole: Path, tiny: Recipe) -> None:
    train(dataclasses.replace(tiny, seed=1), tmp_path, quiet=True)
    assert _files(tmp_path)[0] != _files(whole)[0]


def test_finished_it_has_nothing_to_do_and_anew_it_does_all(tmp_path: Path, whole: Path, tiny: Recipe) -> None:
    train(tiny, tmp_path, quiet=True)
    stamp = states.checkpoints(tmp_path)[-1].stat().st_mtime_ns
    assert train(tiny, tmp_path, quiet=True).steps == 8
    assert states.checkpoints(tmp_path)[-1].stat().st_mtime_ns == stamp
    train(tiny, tmp_path, quiet=True, resume=False)
    assert states.checkpoints(tmp_path)[-1].stat().st_mtime_ns != stamp
    assert _files(tmp_path) == _files(whole)


def test_the_model_it_writes_is_the_average_in_half(whole: Path) -> None:
    card = json.loads((whole / "tiny.json").read_text())
    weights, _ = read_tensors(whole / "tiny.safetensors")
    last, _ = read_tensors(states.checkpoints(whole)[-1])
    assert all(torch.equal(v, last[f"net/average/{k}"].half()) for k, v in weights.items())
    assert any(not torch.equal(last[f"net/average/{k}"], last[f"net/weights/{k}"]) for k in weights)
    net = UNet(**card["net"]["args"])
    net.load_state_dict(weights)
    assert (card["format"], card["kind"], card["predicts"], card["label"]) == (1, "reverie-model", "v", "lam")
    assert card["null"] == {"class_labels": 10}
    assert card["shape"] == [1, 8, 8]
    assert card["steps"] == 8
    assert rv.process.from_spec(card["process"]) == rv.process.vp("linear")
    assert Recipe.of(card["recipe"]).spec() == Recipe.of(TINY).spec()
    assert set(card["figures"]) == {"heldout", "trained"}


def test_the_log_has_a_line_each_check(whole: Path) -> None:
    log = _files(whole)[2]
    assert [line["step"] for line in log] == [4, 8]
    assert set(log[0]) == {"step", "loss", "gradient", "rate", "heldout", "trained"}


def test_oracle_its_step_is_adamws(tmp_path: Path, tiny: Recipe) -> None:
    """Two steps against the update written out: m and v from the gradient, weight decay apart."""
    recipe = dataclasses.replace(tiny, steps=2, ema=0.0, clip=1e9, decay=0.1)
    train(recipe, tmp_path, quiet=True)
    got, _ = read_tensors(states.checkpoints(tmp_path)[-1])
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        work = task(recipe)
        state = {k: (torch.zeros_like(p), torch.zeros_like(p)) for k, p in work.net.named_parameters()}
        for step in range(2):
            engine._seed(Step(step, seed=recipe.seed), 0)
            work.net.zero_grad()
            work.loss(Step(step)).backward()
            rate = trainer._player(recipe, work).rate_at(step, 2)
            for k, p in work.net.named_parameters():
                m, v = state[k] = (0.9 * state[k][0] + 0.1 * p.grad, 0.999 * state[k][1] + 0.001 * p.grad**2)
                hat = m / (1 - 0.9 ** (step + 1)) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
                p.data = p.data * (1 - rate * 0.1) - rate * hat
    for k, p in work.net.named_parameters():
        sure = p.grad.abs() > 1e-5  # elsewhere m / sqrt(v) is a ratio of rounding errors
        torch.testing.assert_close(got[f"net/weights/{k}"][sure], p.data[sure], rtol=1e-4, atol=1e-6)


def test_the_rate_rises_and_falls(tiny: Recipe) -> None:
    recipe = dataclasses.replace(tiny, steps=100, warmup=10, rate=2.0)
    player = trainer._player(recipe, task(tiny))
    rates = [player.rate_at(s, 100) for s in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (s + 1) for s in range(10)])
    assert rates[55] == pytest.approx(1.0)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[99] == pytest.approx(1 + math.cos(math.pi * 89 / 90))


def test_training_lowers_the_loss_on_held_out_data(tmp_path: Path, tiny: Recipe) -> None:
    recipe = dataclasses.replace(tiny, steps=60, batch=32, rate=5e-3, ema=0.5, check_every=60, save_every=60)
    before = train(dataclasses.replace(recipe, steps=1), tmp_path / "a", quiet=True).figures["heldout"]
    assert train(recipe, tmp_path / "b", quiet=True).figures["heldout"] < 0.75 * before


def test_a_classifier_is_trained_by_the_same_trainer(tmp_path: Path) -> None:
    spec = {
        "name": "reader",
        "task": "classification",
        "net": {"name": "judge"},
        "augment": {"shift": 0.5, "noise": 0.1},
    }
    recipe = Recipe.of(spec | {"steps": 40, "batch": 64, "rate": 5e-3, "warmup": 2, "ema": 0.5, "check_every": 20})
    result = train(recipe, tmp_path, quiet=True)
    assert result.figures["accuracy"] > 0.7
    assert json.loads(result.card.read_text())["kind"] == "reverie-judge"


def test_dropped_classes_are_told_as_null(tiny: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[torch.Tensor] = []
    monkeypatch.setattr(UNet, "forward", lambda self, x, label, class_labels: told.append(class_labels) or x * 0)
    for drop in (0.0, 0.3):
        work = task(dataclasses.replace(tiny, drop=drop, batch=1442))
        work.loss(Step(0))
    assert not (told[0] == 10).any()
    kept = told[1] != 10
    assert torch.equal(told[1][kept], told[0][kept])
    assert (~kept).double().mean().item() == pytest.approx(0.3, abs=0.05)


def test_a_weight_of_the_recipe_reaches_the_loss(tiny: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[tuple] = []
    monkeypatch.setattr("reverie.train.tasks.denoising", lambda *a: got.append(a) or a[1].mean())
    task(tiny).loss(Step(0))
    task(dataclasses.replace(tiny, weight="min-snr:5")).loss(Step(0, 1, 2))
    assert got[0][-1] is None
    model, x0, t, *_, weight = got[1]
    assert len(x0) == 4
    snr = (2 * model.process.lam(t)).exp()
    torch.testing.assert_close(weight, snr.clamp(max=5) / (snr + 1))


def test_noise_in_training_is_of_the_processs_own_law(tiny: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[tuple] = []
    monkeypatch.setattr("reverie.train.tasks.denoising", lambda *a: got.append(a) or a[1].mean())
    for process in (rv.process.pfgmpp(4).spec(), rv.process.edm().spec()):
        task(dataclasses.replace(tiny, batch=1442, process=process, predicts="edm")).loss(Step(0))
    student, normal = (a[3] for a in got)
    assert torch.allclose(normal.std(), torch.ones(()), atol=0.01)
    ratio = (student / normal).flatten(1)  # sqrt(D / chi-square), one number a sample
    torch.testing.assert_close(ratio, ratio.median(1, keepdim=True).values.expand_as(ratio), rtol=1e-3, atol=0)
    assert float((4 / ratio.median(1).values.square()).mean()) == pytest.approx(4.0, abs=4 * (8 / 1442) ** 0.5)


def test_parts_of_a_recipes_batch_are_the_whole_batch(tmp_path: Path, tiny: Recipe) -> None:
    net = {"name": "unet", "args": dict(tiny.net["args"]) | {"dropout": 0.0}}
    one = dataclasses.replace(tiny, net=net, augment=Augment(shift=0.5))
    got = [
        read_tensors(train(dataclasses.replace(one, accumulate=n), tmp_path / str(n), quiet=True).weights)[0]
        for n in (1, 2)
    ]
    for name, value in got[0].items():
        torch.testing.assert_close(got[1][name], value, rtol=1e-2, atol=2e-3)


def test_held_out_figures_use_held_out_data_only(tiny: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    work = task(tiny)
    monkeypatch.setattr("reverie.train.tasks.denoising", lambda m, x0, *a: seen.append(len(x0)) or x0.mean())
    figures = work.check()
    assert seen == [len(digits("heldout")[0])] * 8
    assert figures["heldout"] == pytest.approx(digits("heldout")[0].mean().item(), rel=1e-5)
    assert figures["trained"] != figures["heldout"]


def test_a_truncated_checkpoint_is_named_and_the_previous_one_survives(
    tmp_path: Path, tiny: Recipe, whole: Path
) -> None:
    train(tiny, tmp_path, quiet=True)
    previous, newest = states.checkpoints(tmp_path)
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.raises(FileError, match=r"checkpoint-00000008.*truncated.*resumes from checkpoint-00000006"):
        train(tiny, tmp_path, quiet=True)
    newest.unlink()
    train(tiny, tmp_path, quiet=True)
    assert _files(tmp_path) == _files(whole)
    previous = states.checkpoints(tmp_path)[0]
    states.checkpoints(tmp_path)[1].unlink()
    previous.write_bytes(b"")
    with pytest.raises(FileError, match="the training starts anew"):
        train(tiny, tmp_path, quiet=True)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path, tiny: Recipe) -> None:
    train(tiny, tmp_path, quiet=True)
    with pytest.raises(ArgumentError, match=r"rate = 0\.001 \(now 0\.5\).*resume=False"):
        train(dataclasses.replace(tiny, rate=0.5), tmp_path, quiet=True)
    with pytest.raises(ArgumentError, match=r"steps = 8 \(now 9\)"):
        train(tiny, tmp_path, steps=9, quiet=True)
    train(dataclasses.replace(tiny, save_every=1, check_every=1), tmp_path, quiet=True)


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path, tiny: Recipe, whole: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        update, limit = ema.update, resource.getrlimit(resource.RLIMIT_FSIZE)

        def fills(average: dict, net: dict, step: int, decay: float) -> None:
            if step == 5:
                resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limit[1]))
            update(average, net, step, decay)

        patch.setattr(ema, "update", fills)
        try:
            with pytest.raises(FileError, match=r"checkpoint-00000006.*untouched"):
                train(tiny, tmp_path, quiet=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [p.name for p in states.checkpoints(tmp_path)] == ["checkpoint-00000003.safetensors"]
    train(tiny, tmp_path, quiet=True)
    assert _files(tmp_path) == _files(whole)


def test_a_loss_that_is_not_finite_stops_before_it_spoils_the_weights(
    tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(recipe: Recipe) -> Task:
        work = task(recipe)
        return dataclasses.replace(work, loss=lambda step: work.loss(step) * (math.nan if step == 4 else 1.0))

    monkeypatch.setattr(trainer, "task", spoiled)
    with pytest.raises(NonFiniteError, match=r"loss of 'net' in step 4 is nan.*lower its rate"):
        train(tiny, tmp_path, quiet=True)
    tensors, _ = read_tensors(states.checkpoints(tmp_path)[-1])
    assert all(v.isfinite().all() for v in tensors.values())


def test_figures_are_taken_without_dropout_and_of_the_average(
    tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool, torch.Tensor]] = []

    def spied(recipe: Recipe) -> Task:
        work = task(recipe)

        def note(kind: str) -> None:
            seen.append((kind, work.net.training, work.net.last.weight.detach().clone()))

        return dataclasses.replace(
            work,
            loss=lambda step: (note("loss"), work.loss(step))[1],
            check=lambda: (note("check"), work.check())[1],
        )

    monkeypatch.setattr(trainer, "task", spied)
    train(dataclasses.replace(tiny, steps=5, check_every=4), tmp_path, quiet=True)
    assert [(kind, training) for kind, training, _ in seen] == [
        *[("loss", True)] * 4, ("check", False), ("loss", True), ("check", False), ("check", False),
    ]  # fmt: skip
    last, _ = read_tensors(states.checkpoints(tmp_path)[-1])
    assert torch.equal(seen[-2][2], last["net/average/last.weight"])
    assert torch.equal(seen[-1][2], last["net/average/last.weight"].half().float())
    assert not torch.equal(seen[4][2], seen[5][2]), "training went on from the average"


def test_bad_arguments_are_named(tmp_path: Path, tiny: Recipe) -> None:
    with pytest.raises(ArgumentError, match="steps must be at least 1, got 0"):
        train(tiny, tmp_path, steps=0)
    with pytest.raises(UnknownNameError, match="unknown recipe 'digitz'"):
        train("digitz", tmp_path)
    with pytest.raises(UnknownNameError, match="unknown data set 'cifar'"):
        train(dataclasses.replace(tiny, data="cifar"), tmp_path)
    with pytest.raises(UnknownNameError, match="unknown network 'unit'; did you mean 'unet'"):
        train(dataclasses.replace(tiny, net={"name": "unit"}), tmp_path)
    with pytest.raises(UnknownNameError, match="unknown prediction type"):
        train(dataclasses.replace(tiny, predicts="vv"), tmp_path)
    with pytest.raises(UnknownNameError, match="unknown process 'vp-liner'; did you mean 'vp-linear'"):
        train(dataclasses.replace(tiny, process={"name": "vp-liner"}), tmp_path)
    with pytest.raises(UnknownNameError, match="unknown label 'lamb'"):
        train(dataclasses.replace(tiny, label="lamb"), tmp_path)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(FileError, match="cannot make the folder"):
        train(tiny, blocked / "out")
