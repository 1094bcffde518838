"""Big jobs on the command line: killed, shared, damaged, extended; always the bits of `rv.sample`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.cli.jobs import _clock, form, shown
from reverie.data.shards import Manifest
from reverie.nets import UNet

WORDS = ("--steps", 2, "--batch", 4, "--solver", "ddim", "--option", "eta=1", "--format", "safetensors", "--shard", 8)


@pytest.fixture
def at(monkeypatch):
    """Counts network calls; `at.call = (k, what)` does what at the k-th."""

    class At:
        calls, call = 0, (None, None)

    forward = UNet.forward

    def counted(self, *args, **kwargs):
        At.calls += 1
        if At.calls == At.call[0]:
            At.call[1]()
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(UNet, "forward", counted)
    return At


def interrupt():
    raise KeyboardInterrupt


def want(tiny: str, n: int, start: int = 0, **more) -> torch.Tensor:
    labels = torch.arange(start, start + n) % 10
    settings = {"solver": "ddim", "steps": 2, "eta": 1, "batch": 4} | more
    return rv.sample(rv.load(tiny), n, start=start, cond={"class_labels": labels}, **settings)


def have(folder: str = "job") -> torch.Tensor:
    return torch.cat(list(rv.data.samples(folder)))


def shards(folder: str = "job") -> dict[str, int]:
    return {f.name: f.stat().st_mtime_ns for f in sorted(Path(folder).glob("*.safetensors"))}


def spawn(*words: object, **environment: str) -> subprocess.Popen[bytes]:
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    env |= {"OMP_NUM_THREADS": "1", "REVERIE_DEVICE": "cpu"} | environment
    return subprocess.Popen(
        [sys.executable, *map(str, words)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_a_folder_of_shards_holds_the_bits_and_says_what_made_them(call, tiny):
    done = call("sample", tiny, "-n", 22, "--start", 3, *WORDS, "-o", "job/")
    assert done.exit_code == 0, done.output
    assert "22 samples, ddim, 2 calls" in done.output
    assert "rv.data.samples('job/')" in done.output
    assert torch.equal(have(), want(tiny, 22, start=3))
    assert [name[:19] for name in shards()] == [
        "000000003-000000007", "000000008-000000015", "000000016-000000023", "000000024-000000024",
    ]  # fmt: skip
    said = json.loads(Path("job/job.json").read_text())
    assert (said["start"], said["n"], said["shape"]) == (3, 22, [1, 8, 8])
    assert (said["settings"]["seed"], said["settings"]["nfe"], said["settings"]["model"]) == (0, 2, "tiny")
    assert rv.Plan.load("job/plan.json").solver == "ddim"
    labels = torch.cat([b["class_labels"] for b in rv.data.samples("job").blocks()])
    assert labels.tolist() == [i % 10 for i in range(3, 25)]


def test_killed_in_the_middle_and_resumed(call, tiny):
    n, words = 800, ("--steps", 2, "--batch", 8, "--shard", 16, "--format", "safetensors")
    process = spawn("-m", "reverie.cli", "sample", tiny, "-n", n, *words, "-o", "job/")
    while len(shards() if Path("job").exists() else ()) < 3:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = shards()
    assert len(before) < n // 16
    with pytest.raises(rv.ReverieError, match=r"holds \d+ of 800 samples"):
        have()
    listed = json.loads(Path("job/job.json").read_text())["shards"]
    assert {s["file"] for s in listed} >= set(before)  # what is in place is listed
    Path("job/.000000640-000000655.safetensors.abc.tmp").write_bytes(b"half")  # as a kill while writing leaves it
    done = call("sample", tiny, "-n", n, *words, "-o", "job/")
    assert f"resumed: {len(before) * 16} of 800 samples were done" in done.output
    assert before.items() <= shards().items()  # none was made again
    assert not list(Path("job").glob(".*.tmp"))
    labels = {"class_labels": torch.arange(n) % 10}
    assert torch.equal(have(), rv.sample(rv.load(tiny), n, steps=2, batch=8, cond=labels))


def test_two_processes_under_torchrun_share_a_job(call, tiny):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    process = spawn(*torchrun, "-m", "reverie.cli", "sample", tiny, "-n", 100, *WORDS, "-o", "job/")
    output = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 0, output
    assert output.count("100 samples, ddim") == 1  # one of them speaks
    assert torch.equal(have(), want(tiny, 100))


def test_another_number_of_processes_goes_on(call, tiny, at, monkeypatch):
    call("sample", tiny, "-n", 40, *WORDS, "-o", "job/")
    before = shards()
    for name in list(before)[1:4]:
        Path("job", name).unlink()
        del before[name]
    at.calls = 0
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    done = call("sample", tiny, "-n", 40, *WORDS, "-o", "job/")
    assert (done.exit_code, done.output) == (0, "")
    assert at.calls == 3 * 2 * 2  # its own cells, and those that nobody had claimed
    assert before.items() <= shards().items()
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert torch.equal(have(), want(tiny, 40))
    monkeypatch.setenv("RANK", "2")
    assert "RANK='2' and WORLD_SIZE=None are no share" in call("sample", tiny, "-o", "job/").output


@pytest.mark.parametrize("stop", [interrupt, lambda: os.kill(os.getpid(), signal.SIGTERM)])
def test_stopped_it_keeps_every_finished_batch(call, tiny, at, stop):
    at.call = (2 * 3 + 1, stop)  # in the fourth batch of two calls; a shard has two batches
    stopped = call("sample", tiny, "-n", 20, *WORDS, "-o", "job/")
    assert stopped.exit_code == 130
    assert "stopped: 12 of 20 samples are in job/; the same command goes on from there" in stopped.output
    assert [name[:19] for name in shards()] == ["000000000-000000007", "000000008-000000011"]
    at.calls, at.call = 0, (None, None)
    assert "resumed: 12 of 20" in call("sample", tiny, "-n", 20, *WORDS, "-o", "job/").output
    assert at.calls == 4
    assert torch.equal(have(), want(tiny, 20))


def test_more_samples_extend_a_job_and_fewer_throw_nothing_away(call, tiny, at):
    call("sample", tiny, "-n", 12, *WORDS, "-o", "job/")
    before, at.calls = shards(), 0
    assert "resumed: 12 of 30" in call("sample", tiny, "-n", 30, *WORDS, "-o", "job/").output
    assert at.calls == 5 * 2  # 12..15, 16..19, 20..23, 24..27, 28..29
    assert before.items() <= shards().items()
    assert torch.equal(have(), want(tiny, 30))
    assert "all 10 samples were done" in call("sample", tiny, "-n", 10, *WORDS, "-o", "job/").output
    assert torch.equal(have(), want(tiny, 30)[:10])
    assert len(shards()) == 5


def test_a_damaged_shard_is_named_and_made_anew(call, tiny, at):
    call("sample", tiny, "-n", 24, *WORDS, "-o", "job/")
    bad = Path("job/000000008-000000015.safetensors")
    data = bytearray(bad.read_bytes())
    data[-5] ^= 1
    bad.write_bytes(data)
    with pytest.raises(rv.ReverieError, match=r"000000008-000000015.*SHA-256 differs"):
        have()
    at.calls = 0
    again = call("sample", tiny, "-n", 24, *WORDS, "-o", "job/")
    assert "note: 'job/000000008-000000015.safetensors' is damaged" in again.output
    assert "it is made anew" in again.output
    assert at.calls == 4
    assert torch.equal(have(), want(tiny, 24))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--seed", 1), "seed is 0 there and 1 here"),
        (("--steps", 3), "steps is 2 there and 3 here"),
        (("--guide", "cfg:2"), "guide is None there and 'cfg:2' here"),
        (("--batch", 3), "batch is 4 there and 3 here"),
        (("--start", 8), "start is 0 there and 8 here"),
        (("--option", "eta=0.5"), "options is {'eta': 1} there and {'eta': 0.5} here"),
        (("--format", "npz"), None),  # pictures can be made of what is there
        (("--format", "png"), "pictures are asked"),
        (("--shard", 16), "samples_a_shard is 8 there and 16 here"),
    ],
)
def test_other_settings_are_refused_by_name(call, tiny, at, change, said):
    call("sample", tiny, "-n", 8, *WORDS, "-o", "job/")
    before = shards() | {"json": Path("job/job.json").read_bytes()}
    at.calls, words = 0, dict(zip(WORDS[::2], WORDS[1::2], strict=True)) | dict([change])
    done = call("sample", tiny, "-n", 8, *(w for pair in words.items() for w in pair), "-o", "job/")
    assert done.exit_code == (0 if said is None else 2)
    assert said is None or (said in done.output and "choose another folder" in done.output)
    assert at.calls == 0
    assert before == shards() | {"json": Path("job/job.json").read_bytes()}


def test_another_model_or_prompt_is_refused(call, tiny, tmp_path):
    from reverie.nets import read_tensors, write_tensors

    call("sample", tiny, "-n", 8, *WORDS, "-o", "job/")
    assert "prompt is None there and '7' here" in call("sample", tiny, "7", "-n", 8, *WORDS, "-o", "job/").output
    other = tmp_path / "m"
    other.mkdir()
    (other / "tiny.json").write_bytes(Path(tiny, "tiny.json").read_bytes())
    tensors, _ = read_tensors(Path(tiny, "tiny.safetensors"))
    tensors["last.bias"] = tensors["last.bias"] + 0.01
    write_tensors(other / "tiny.safetensors", tensors)
    assert "weights is" in call("sample", other, "-n", 8, *WORDS, "-o", "job/").output


def test_the_form_of_a_folder(call, tiny, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    assert [form(new, None, n, True) for n in (1000, 1001)] == ["png", "safetensors"]
    assert form(new, None, 10, False) == "safetensors"
    assert form(new, "npz", 10, True) == "npz"
    (new / "000007.png").touch()
    assert form(new, None, 5000, True) == "png"
    for values, want in (("float32", "safetensors"), ("uint8", "npz")):
        Manifest({}, 0, 10, 4, values).write(new)
        assert form(new, None, 10, True) == want
    for words, said in (
        (("--format", "jpg", "-o", "f/"), "the format 'jpg' is none of png, safetensors, npz"),
        (("--format", "npz", "-o", "x.npz.png"), "--format is for folders"),
        (("--shard", 4, "-n", 4, "-o", "f/"), "--shard is of shards"),
        (("--scale", 4, "--format", "npz", "-o", "f/"), "shape pictures"),
    ):
        assert said in call("sample", tiny, *words).output


def test_processes_cannot_share_a_file(call, tiny, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "2 processes cannot share the file 'x.npy'; write -o FOLDER/" in call("sample", tiny, "-o", "x.npy").output


def test_npz_is_what_evaluators_read(call, tiny):
    words = ("--steps", 2, "--batch", 4, "--solver", "ddim", "--option", "eta=1", "--shard", 8)
    assert call("sample", tiny, "-n", 22, *words, "--format", "npz", "-o", "job/").exit_code == 0
    with np.load("job/samples.npz", allow_pickle=False) as file:
        assert file["arr_0"].dtype == np.uint8
        assert np.array_equal(file["arr_0"], rv.data.pixels(want(tiny, 22)).numpy())
        assert file["arr_1"].tolist() == [i % 10 for i in range(22)]
    assert "values is 'uint8' there and 'float32' here" in call("sample", tiny, "-n", 22, *WORDS, "-o", "job/").output
    assert torch.equal(rv.data.pixels(have()), rv.data.pixels(want(tiny, 22)))


def test_pictures_resume_extend_and_refuse(call, tiny, at):
    words = ("--steps", 2, "--batch", 4, "--solver", "ddim", "--option", "eta=1", "-o", "more/")
    at.call = (2 * 2 + 1, interrupt)
    assert "8 of 12 samples are in more/" in call("sample", tiny, "-n", 12, *words).output
    at.call = (None, None)
    assert "resumed: 8 of 12" in call("sample", tiny, "-n", 12, *words).output
    damaged = Path("more/000005.png")
    damaged.write_bytes(damaged.read_bytes()[:-40])
    at.calls = 0
    done = call("sample", tiny, "-n", 14, *words)
    assert "note: 'more/000005.png' is damaged" in done.output
    assert "resumed: 11 of 14" in done.output
    assert at.calls == 4
    assert sorted(f.name for f in Path("more").iterdir()) == [f"{i:06d}.png" for i in range(14)]
    got = np.stack([np.asarray(Image.open(f"more/{i:06d}.png")) for i in range(14)])
    assert np.array_equal(got, rv.data.pixels(want(tiny, 14))[..., 0].numpy())
    assert "seed is 0 there and 1 here" in call("sample", tiny, "-n", 14, "--seed", 1, *words).output
    Image.new("L", (8, 8)).save("more/000020.png")
    refused = call("sample", tiny, "-n", 1, "--start", 20, *words)
    assert "'more/000020.png' is there and no picture of this kind" in refused.output


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with shown("digits", 100, every=0.0) as report:
        report(20, 100)
        time.sleep(0.02)
        report(60, 100)
    said = capsys.readouterr().err
    assert said.startswith("digits: 60 of 100 samples, ")
    assert "/s, 0:00 left" in said
    assert _clock(3661) == "1:01:01"
    with shown("digits", 100, quiet=True) as report:
        report(20, 100)
    assert capsys.readouterr().err == ""


def test_the_same_command_goes_on_with_pictures_as_numbers(call, tiny):
    """Without --format a folder of uint8 shards stays one, and its samples.npz is made anew for a larger -n."""
    assert call("sample", tiny, "-n", 4, "--batch", 2, "--format", "npz", "-o", "np/").exit_code == 0
    done = call("sample", tiny, "-n", 6, "--batch", 2, "-o", "np/")
    assert done.exit_code == 0, done.output
    assert "or samples.npz" in done.output
    assert len(np.load("np/samples.npz")["arr_0"]) == 6


def test_fewer_samples_than_are_there_are_told(call, tiny):
    call("sample", tiny, "-n", 6, "--batch", 2, "--format", "safetensors", "-o", "f/")
    done = call("sample", tiny, "-n", 2, "--batch", 2, "-o", "f/")
    assert "was a job of 6 samples; now its first 2 are the job" in " ".join(done.output.split())
    assert sum(map(len, rv.data.samples("f/"))) == 2
    assert call("sample", tiny, "-n", 6, "--batch", 2, "-o", "f/").output.count("all 6 samples were done") == 1
