"""The engine: who moves when, by which gradient; the same bits after a kill; the same step however it is divided."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import accelerate
import peft
import pytest
import shared_by_two
import torch
from PIL import Image
from torch import Tensor, nn
from trainings import STEPS, TRAININGS, critic_loss, gan, gan_batch, generator_loss, pixels

from reverie.base import ArgumentError, FileError, NonFiniteError, UnknownNameError
from reverie.nets import read_tensors
from reverie.train import Objective, Player, Step, ema, engine, fit, plain, states, train

HERE = Path(__file__).parent


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}


def _log(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def _last(folder: Path) -> dict[str, Tensor]:
    return read_tensors(states.checkpoints(folder)[-1])[0]


def _values(what: nn.Module | Tensor) -> list[Tensor]:
    return [what.detach().clone()] if isinstance(what, Tensor) else [v.clone() for v in what.state_dict().values()]


# -- killed


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Any]]]:
    """Each training whole, and five times killed at a random step and resumed."""
    folder = tmp_path_factory.mktemp("killed")
    run = subprocess.run(
        [sys.executable, str(HERE / "killed.py"), "test_engine", str(folder)],
        capture_output=True, timeout=300, env=_environment(),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr.decode()
    return folder, json.loads(run.stdout)


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize("k", range(5))
def test_killed_at_a_random_step_it_ends_with_the_same_bits(killed: tuple[Path, dict], name: str, k: int) -> None:
    root, report = killed
    folder, place, step, status, left, resumed = report[name][k]
    assert os.WIFSIGNALED(status), (place, step)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert f"checkpoint-{STEPS:08d}.safetensors" not in left, "it was killed after its end"
    assert resumed == 0
    whole, other = root / name / "whole", root / name / folder
    assert states.checkpoints(other)[-1].read_bytes() == states.checkpoints(whole)[-1].read_bytes()
    assert _log(other) == _log(whole)
    assert not list(other.glob(".*")), "half a file is left"


def test_what_was_compared_holds_weights_averages_and_optimisers(killed: tuple[Path, dict]) -> None:
    kinds = {name: {k.rsplit("/", 1)[0] for k in _last(killed[0] / name / "whole")} for name in TRAININGS}
    moments = ("weights", "average", "exp_avg", "exp_avg_sq", "step")
    assert kinds["gan"] == {f"{p}/{m}" for p in ("critic", "generator") for m in moments}
    assert kinds["rollout"] == {f"student/{m}" for m in moments}
    assert kinds["pixels"] == {"change/weights", "change/average", "change/momentum_buffer", "reader/weights"}


# -- players in turn


def test_oracle_a_critic_and_a_generator_by_hand(tmp_path: Path) -> None:
    """To the last bit: the generator's loss is of the critic after its step, in steps 1, 3, ...; clip, averages and rates written out."""
    objective = gan()
    fitted = fit(objective, tmp_path, 7, seed=3, quiet=True)
    got = {name: p.what for name, p in objective.players.items()}

    mine = gan()
    d, g = mine.players["critic"].what, mine.players["generator"].what
    of_d = torch.optim.Adam(d.parameters(), lr=2e-3, betas=(0.5, 0.9))
    of_g = torch.optim.AdamW(g.parameters(), lr=1e-2)
    averages = {name: {k: v.clone() for k, v in net.state_dict().items()} for name, net in (("d", d), ("g", g))}
    moved = 0
    with torch.random.fork_rng():
        for k in range(7):
            step = Step(k, seed=3)
            real, z = gan_batch(step)
            engine._seed(step, 1)
            of_d.zero_grad()
            critic_loss(d, g, real, z).backward()
            nn.utils.clip_grad_norm_(d.parameters(), 1.0)
            of_d.step()
            ema.update(averages["d"], d, k, 0.5)
            if k % 2 == 1:
                of_g.param_groups[0]["lr"] = 1e-2 * min(1, (k + 1) / 3)
                engine._seed(step, 2)
                of_g.zero_grad()
                generator_loss(d, g, z).backward()
                of_g.step()
                ema.update(averages["g"], g, moved, 0.9)
                moved += 1
    for a, b in zip(_values(got["critic"]) + _values(got["generator"]), _values(d) + _values(g), strict=True):
        assert torch.equal(a, b)
    for name, short in (("critic", "d"), ("generator", "g")):
        assert all(torch.equal(fitted.averages[name][k], v) for k, v in averages[short].items())
    assert objective.players["generator"].moves(7) == moved == 3


def test_losses_that_share_a_graph_reach_their_own_players_only(tmp_path: Path) -> None:
    """SGD of rate 1 moves each by minus its own gradient; all are taken at the same weights."""
    torch.manual_seed(0)
    parts = {name: nn.Linear(3, 3).double() for name in ("a", "b", "c")}
    before = copy.deepcopy(parts)
    x = torch.randn(5, 3, dtype=torch.float64)

    def losses(p: Any, batch: Any = None, step: Any = None) -> dict[str, Tensor]:
        hidden = p["a"](x).tanh()
        out = p["b"](hidden).tanh()
        return {"b": out.square().mean(), "c": (p["c"](out) - hidden).square().mean(), "a": out.mean() + hidden.sum()}

    fit(
        Objective({k: Player(net, "sgd", 1.0) for k, net in parts.items()}, losses, lambda p, step: None),
        tmp_path,
        1,
        quiet=True,
    )
    for name, loss in losses(before).items():
        gradients = torch.autograd.grad(loss, list(before[name].parameters()), retain_graph=True)
        for p, old, gradient in zip(parts[name].parameters(), before[name].parameters(), gradients, strict=True):
            torch.testing.assert_close(p.detach(), old.detach() - gradient, rtol=1e-12, atol=1e-12)
            assert p.grad is None


def test_lazy_losses_are_called_in_their_own_order_and_only_when_due(tmp_path: Path) -> None:
    called: list[tuple[int, str]] = []
    a, b = torch.zeros(1), torch.zeros(1)

    def losses(p: Any, batch: Any, step: Step) -> dict[str, Any]:
        def of(name: str) -> Tensor:
            called.append((int(step), name))
            return (p[name] - 1).square().sum()

        return {"b": lambda: of("b"), "a": lambda: of("a")}

    players = {"a": Player(a, "sgd", 0.1, every=3, offset=2), "b": Player(b, "sgd", 0.1)}
    fit(Objective(players, losses, lambda p, step: None), tmp_path, 4, quiet=True, check_every=4)
    assert called == [(0, "b"), (1, "b"), (2, "b"), (2, "a"), (3, "b")]
    line = _log(tmp_path)[-1]
    assert (line["loss a"], line["rate a"]) == (1.0, 0.1), "a player's last figures stay in the log"


def test_a_resumed_log_has_the_figures_of_players_that_rest(tmp_path: Path) -> None:
    def run(folder: Path, steps: int) -> list[dict[str, float]]:
        players = {name: Player(torch.zeros(1), every=every) for name, every in (("often", 1), ("seldom", 5))}
        losses = {name: (lambda p, name=name: (p[name] - 1).square().sum()) for name in players}
        objective = Objective(
            players, lambda p, b, s: {name: loss(p) for name, loss in losses.items()}, lambda p, s: None
        )
        fit(objective, folder, steps, check_every=2, quiet=True)
        return _log(folder)

    whole = run(tmp_path / "a", 4)
    assert [line["loss seldom"] for line in whole] == [1.0, 1.0]
    run(tmp_path / "b", 2)
    assert run(tmp_path / "b", 4) == whole


def test_only_the_pixels_move(tmp_path: Path) -> None:
    objective = pixels()
    reader = objective.players["reader"].what
    before = copy.deepcopy(reader)
    fit(objective, tmp_path, 30, quiet=True, check_every=10, picture_every=20)
    log = _log(tmp_path)
    assert log[-1]["loss"] < log[0]["loss"] < 2.5
    assert objective.players["change"].what.abs().max() > 0.01
    assert all(torch.equal(a, b) for a, b in zip(_values(reader), _values(before), strict=True))
    assert all(p.grad is None for p in reader.parameters())
    assert not any(part.training for part in reader.modules()), "what is not moved stays in evaluation mode"
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["samples-00000020.png", "samples-00000030.png"]
    page = Image.open(tmp_path / "samples-00000030.png")
    assert page.size == (2 + 2 * 10, 2 + 2 * 10)


def test_averages_and_modes_are_for_the_check_only(tmp_path: Path) -> None:
    seen: list[tuple[bool, bool, float]] = []
    net = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5))
    still = net[1]

    def check(f: nn.Module) -> dict[str, float]:
        seen.append((f.training, still.training, f[0].weight.item()))
        return {"w": f[0].weight.item()}

    objective = plain(net, lambda f, x: f[0](x).square().mean(), [torch.ones(2, 1)], check, ema=0.5, rate=0.1)
    modes: list[bool] = []
    source = objective.source
    objective = Objective(
        objective.players,
        objective.losses,
        lambda p, s: (modes.append(net.training and still.training), source(p, s))[1],
        objective.check,
    )
    fitted = fit(objective, tmp_path, 2, check_every=1, quiet=True)
    assert modes == [True, True]
    assert [s[:2] for s in seen] == [(False, False)] * 2
    assert seen[-1][2] == fitted.averages["net"]["0.weight"].item() == fitted.figures["w"] != net[0].weight.item()
    assert fit(objective, tmp_path, 2, quiet=True).figures == fitted.figures, "a finished training has its figures"


def test_figures_by_a_name_of_the_log_are_told_apart(tmp_path: Path) -> None:
    net = nn.Linear(1, 1)
    objective = plain(net, lambda f, x: f(x).square().mean(), [torch.ones(2, 1)], lambda f: {"loss": 7.0, "step": 1})
    assert fit(objective, tmp_path, 1, quiet=True).figures == {"check loss": 7.0, "check step": 1.0}
    assert set(_log(tmp_path)[0]) == {"step", "loss", "gradient", "rate", "check loss", "check step"}


def test_gradients_that_others_left_do_not_count(tmp_path: Path) -> None:
    value = torch.zeros(2, requires_grad=True)
    value.grad = torch.full((2,), 100.0)

    def source(p: Any, step: Step) -> None:
        (p["x"] * 50).sum().backward()  # as an attack on a network does, which leaves gradients behind

    def losses(p: Any, batch: Any, step: Step) -> dict[str, Tensor]:
        return {"x": p["x"].sum()}

    fit(Objective({"x": Player(value, "sgd", 1.0)}, losses, lambda p, s: None), tmp_path / "a", 1, quiet=True)
    assert value.tolist() == [-1.0, -1.0]
    fit(Objective({"x": Player(value, "sgd", 1.0)}, losses, source), tmp_path / "b", 1, accumulate=2, quiet=True)
    assert value.tolist() == [-2.0, -2.0]


# -- a batch in parts


def _digest(objective: Objective, folder: Path, **options: Any) -> dict[str, Tensor]:
    fit(objective, folder, shared_by_two.STEPS, seed=5, save_every=3, check_every=3, quiet=True, **options)
    return _last(folder)


def _close(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert set(got) == set(want)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("parts", [2, 4])
def test_identity_accumulated_parts_make_the_step_of_the_whole_batch(tmp_path: Path, parts: int) -> None:
    whole = _digest(shared_by_two.objective(), tmp_path / "whole")
    _close(_digest(shared_by_two.objective(), tmp_path / "parts", accumulate=parts), whole)
    for a, b in zip(_log(tmp_path / "whole"), _log(tmp_path / "parts"), strict=True):
        assert b == pytest.approx(a, rel=1e-4)


def test_each_part_has_draws_of_its_own(tmp_path: Path) -> None:
    drawn: list[float] = []

    def source(p: Any, step: Step) -> Tensor:
        drawn.append(torch.rand(()).item())
        return torch.ones(1)

    value = torch.zeros(1)
    objective = Objective({"x": Player(value)}, lambda p, x, step: {"x": (p["x"] - x).square().sum()}, source)
    fit(objective, tmp_path / "a", 3, accumulate=2, quiet=True)
    assert len(set(drawn)) == 6
    fit(objective, tmp_path / "b", 3, seed=1, accumulate=2, quiet=True)
    assert len(set(drawn)) == 12
    fit(objective, tmp_path / "c", 3, accumulate=2, quiet=True)
    assert drawn[12:] == drawn[:6]


def test_a_lazy_loss_is_accumulated_too(tmp_path: Path) -> None:
    """Losses 2 x and 4 x in two parts: the gradient is 3, not 6."""
    value = torch.zeros(1)

    def losses(p: Any, batch: Any, step: Step) -> dict[str, Any]:
        return {"x": lambda: (2.0 + 2 * step.part) * p["x"].sum()}

    fit(
        Objective({"x": Player(value, "sgd", 1.0)}, losses, lambda p, step: None), tmp_path, 1, accumulate=2, quiet=True
    )
    assert value.item() == -3.0
    assert _log(tmp_path)[-1]["gradient"] == 3.0


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training of `shared_by_two` by two processes."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", str(port),
            str(HERE / "shared_by_two.py"), str(folder),
        ],
        capture_output=True, timeout=300, env=_environment(),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr.decode()
    return folder


def test_two_processes_make_the_steps_of_one(by_two: Path, tmp_path: Path) -> None:
    """They start apart (other seeds of the weights), take process 0's, and each takes half of every batch."""
    got = _last(by_two / "of-0")
    _close(got, _digest(shared_by_two.objective(), tmp_path / "whole"))
    _close(got, _digest(shared_by_two.objective(), tmp_path / "parts", accumulate=2))
    assert "net/exp_avg/rare.weight" in got, "what only process 0 reaches"
    assert "net/exp_avg/never.weight" not in got, "what nobody reaches"
    for a, b in zip(_log(by_two / "of-0"), _log(tmp_path / "whole"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_of_two_processes_only_the_first_writes(by_two: Path) -> None:
    assert {p.name for p in (by_two / "of-0").iterdir()} == {
        "checkpoint-00000003.safetensors", "checkpoint-00000006.safetensors", "train.jsonl",
    }  # fmt: skip
    assert list((by_two / "of-1").iterdir()) == []


def test_two_processes_train_a_recipe(by_two: Path, tmp_path: Path) -> None:
    alone = train(shared_by_two.RECIPE, tmp_path, quiet=True)
    assert list((by_two / "recipe-1").iterdir()) == []
    got, want = (read_tensors(path)[0] for path in (by_two / "recipe-0" / "tiny.safetensors", alone.weights))
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-2, atol=2e-3)


def test_two_processes_resume_with_the_same_bits(by_two: Path) -> None:
    pair = [states.checkpoints(by_two / folder)[-1].read_bytes() for folder in ("of-0", "stopped")]
    assert pair[0] == pair[1]


def test_a_batch_that_the_parts_do_not_divide(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"a batch of 16 cannot be divided into 3 equal parts"):
        fit(shared_by_two.objective(), tmp_path, 1, accumulate=3, quiet=True)


# -- precision


def test_bfloat16_computes_in_half_and_keeps_float32(tmp_path: Path) -> None:
    kinds: set[torch.dtype] = set()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss(f: nn.Module, x: Tensor) -> Tensor:
        y = f(x)
        kinds.add(y.dtype)
        return (y.float() - 1).square().mean()

    objective = plain(
        net, loss, [torch.ones(4, 4)], lambda f: {"kind": float(f(torch.ones(1, 4)).dtype.itemsize)}, ema=0.9
    )
    fitted = fit(objective, tmp_path, 20, precision="bfloat16", check_every=10, quiet=True)
    assert kinds == {torch.bfloat16}
    assert fitted.figures == {"kind": 4.0}, "the check is in float32"
    assert {v.dtype for v in _last(tmp_path).values()} == {torch.float32}
    assert _log(tmp_path)[-1]["loss"] < _log(tmp_path)[0]["loss"]


def test_precisions_follow_each_other_and_leave_the_callers_accelerator_alone(tmp_path: Path) -> None:
    mine = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    net = nn.Linear(1, 1)
    for precision in ("float32", "bfloat16", "float32"):
        objective = plain(net, lambda f, x: f(x).square().mean(), [torch.ones(2, 1)])
        fit(objective, tmp_path, 2, precision=precision, resume=False, quiet=True)
    assert mine.mixed_precision == "bf16"
    accelerate.state.AcceleratorState._reset_state()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_float16_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"'float16' needs a GPU; take 'bfloat16'"):
        fit(gan(), tmp_path, 1, precision="float16")


def _scaled(folder: Path, scale: float, steps: int) -> tuple[engine._Run, Tensor]:
    """Some steps under a scaler of losses, as half precision has one on a GPU."""
    value = torch.linspace(-1, 1, 4)
    objective = Objective(
        {"x": Player(value, clip=0.5, rate=0.1, ema=0.5), "y": Player(torch.zeros(1), every=2)},
        lambda p, b, s: {"y": (p["y"] - 1).square().sum(), "x": lambda: (p["x"] ** 3).sum()},
        lambda p, s: None,
    )
    run = engine._Run(objective, folder, steps, 0, 1, "float32", {})
    run.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    run.go(run.begin(True, {}), "scaled", 2, 10, 0, True)
    return run, value


def test_a_scaler_changes_nothing_skips_what_overflows_and_is_kept(tmp_path: Path) -> None:
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
    _, x = _scaled(tmp_path / "a", 1.0, 5)
    sixteen, y = _scaled(tmp_path / "b", 16.0, 5)
    assert torch.equal(x, y)
    assert sixteen.scaler.get_scale() == 16.0 * 4
    states.checkpoints(tmp_path / "b")[-1].unlink()
    again, z = _scaled(tmp_path / "b", 1.0, 5)
    assert torch.equal(x, z)
    assert again.scaler.get_scale() == 16.0 * 4
    over, still = _scaled(tmp_path / "c", 2.0**127, 1)
    assert torch.equal(still, torch.linspace(-1, 1, 4))
    assert over.scaler.get_scale() == 2.0**126


# -- adapters


def _adapted(seed: int = 0) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(seed)
    base = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    config = peft.LoraConfig(r=2, target_modules=["0", "2"], lora_dropout=0.2)
    torch.manual_seed(100 + seed)
    return base, peft.get_peft_model(base, config)  # type: ignore[arg-type]


def test_adapters_are_trained_alone_and_resume(tmp_path: Path) -> None:
    def objective(net: nn.Module) -> Objective:
        return plain(net, lambda f, x: (f(x) - 1).square().mean(), [torch.eye(4)], rate=0.05, ema=0.9)

    _, net = _adapted()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    whole = fit(objective(net), tmp_path / "a", 8, save_every=3, check_every=2, quiet=True)
    after = net.state_dict()
    adapters = {k for k in before if "lora" in k}
    assert len(adapters) == 4
    assert all(not torch.equal(before[k], after[k]) for k in adapters)
    assert all(torch.equal(before[k], after[k]) for k in set(before) - adapters)
    assert {k.split("/", 2)[2] for k in _last(tmp_path / "a")} == adapters
    assert set(whole.averages["net"]) == adapters
    assert _log(tmp_path / "a")[-1]["loss"] < _log(tmp_path / "a")[0]["loss"]

    fit(objective(_adapted()[1]), tmp_path / "b", 8, save_every=3, check_every=2, quiet=True)
    states.checkpoints(tmp_path / "b")[-1].unlink()  # as if killed after step 6
    torch.manual_seed(77)
    again = _adapted()[1]
    for name, p in again.named_parameters():
        if "lora" in name:
            nn.init.constant_(p, 9.0)
    fit(objective(again), tmp_path / "b", 8, save_every=3, check_every=2, quiet=True)
    assert states.checkpoints(tmp_path / "b")[-1].read_bytes() == states.checkpoints(tmp_path / "a")[-1].read_bytes()


# -- what cannot work


def _one(losses: Any, **player: Any) -> Objective:
    return Objective({"x": Player(torch.ones(3), "sgd", 0.1, **player)}, losses, lambda p, step: None)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (lambda p, b, s: {"y": p["x"].sum()}, r"losses is a mapping from players \(x\) to losses, got y"),
        (lambda p, b, s: p["x"].sum(), r"losses is a mapping from players \(x\) to losses, got Tensor"),
        (lambda p, b, s: {}, "nobody has a loss in this step: x are due, losses were given for none"),
        (lambda p, b, s: {"x": p["x"]}, r"the loss of 'x' must be a scalar tensor, got \(3,\)"),
        (lambda p, b, s: {"x": lambda: p["x"]}, r"the loss of 'x' must be a scalar tensor, got \(3,\)"),
        (lambda p, b, s: {"x": 1.0}, r"the loss of 'x' must be a scalar tensor, got 1\.0"),
        (lambda p, b, s: {"x": lambda: 2.0}, r"the loss of 'x' must be a scalar tensor, got 2\.0"),
        (lambda p, b, s: {"x": torch.ones(())}, "the loss of 'x' does not depend on any of its parameters; was something detached"),
        (lambda p, b, s: {"x": p["x"].detach().sum()}, "the loss of 'x' does not depend on any of its parameters"),
        (lambda p, b, s: {"x": torch.ones((), requires_grad=True) * 2}, "the loss of 'x' does not depend"),
    ],
)  # fmt: skip
def test_losses_that_cannot_be_minimised(tmp_path: Path, losses: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        fit(_one(losses), tmp_path, 1, quiet=True)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_weights_are_spoiled(tmp_path: Path, bad: float, where: str) -> None:
    def losses(p: Any, batch: Any, step: Step) -> dict[str, Tensor]:
        loss = p["x"].square().sum()
        if int(step) == 2:
            loss = loss * bad if where == "loss" else loss + (p["x"] * 0).clamp(min=0).sqrt().sum()
        return {"x": loss}

    objective = _one(losses)
    with pytest.raises(NonFiniteError, match=r"loss of 'x' in step 2 is .*lower its rate \(now 0\.1\).*checkpoints in"):
        fit(objective, tmp_path, 4, save_every=1, quiet=True)
    assert objective.players["x"].what.isfinite().all()
    assert states.checkpoints(tmp_path)[-1].name == "checkpoint-00000002.safetensors"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 2.0}, r"steps must be a whole number of at least 1, got 2\.0"),
        ({"accumulate": True}, "accumulate must be a whole number of at least 1, got True"),
        ({"save_every": 0}, "save_every must be"),
        ({"check_every": -1}, "check_every must be"),
        ({"picture_every": -1}, "picture_every must be a whole number of at least 0, got -1"),
        ({"seed": -1}, r"seed must be a whole number in \[0, 2\^32\), got -1"),
        ({"precision": "bf16"}, "unknown precision 'bf16'; did you mean 'bfloat16'"),
    ],
)
def test_settings_that_cannot_work(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        fit(gan(), tmp_path, **({"steps": 1} | options))
    if "precision" in options:
        with pytest.raises(UnknownNameError):
            fit(gan(), tmp_path, 1, **options)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"cannot make the folder.*choose another"):
        fit(gan(), tmp_path / "file" / "out", 1)


def test_the_callers_random_state_and_handlers_stay(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before, handler = torch.get_rng_state(), signal.getsignal(signal.SIGTERM)
    objective = _one(lambda p, b, s: {"x": (p["x"] * torch.rand(3)).sum()})
    fit(objective, tmp_path, 3, quiet=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert signal.getsignal(signal.SIGTERM) is handler


def test_without_accelerate_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ArgumentError, match=r"pip install 'reverie\[train\]'"):
        fit(gan(), tmp_path, 1)
