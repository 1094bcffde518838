"""Jobs into folders: memory, locks, writing behind sampling's back, and what a reader refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError, FileError, ShapeError
from reverie.hub.jobs import Claims, Shards, fill
from reverie.model.fingerprint import fingerprint

ZERO = """
import resource, sys, torch, reverie as rv
torch.set_num_threads(1)
m = rv.Model(lambda x, t: x * 0, rv.process.vp(), shape=(1, 32, 32), name="zero")
done = rv.hub.sample_folder(m, sys.argv[1], int(sys.argv[2]), nfe=1, batch=500)
if len(sys.argv) > 3:
    print(sum(len(x) for x in rv.data.samples(sys.argv[1])))
print(done.made, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def gaussian(n: int = 2) -> rv.Model:
    return rv.oracle.Gaussian(torch.zeros(n), torch.eye(n), process=rv.process.vp())


def run(folder: Path, n: int, *more: str) -> subprocess.Popen[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    return subprocess.Popen(
        [sys.executable, "-c", ZERO, str(folder), str(n), *more], env=env, stdout=subprocess.PIPE, text=True
    )


def said(process: subprocess.Popen[str]) -> list[float]:
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    return [float(w) for w in output.split()]


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path):
    small, large = run(tmp_path / "small", 2_000, "read"), run(tmp_path / "large", 20_000, "read")
    (few, _, little), (many, _, much) = said(small), said(large)
    assert (few, many) == (2_000, 20_000)
    assert much - little < 25, "18,000 more samples are 70 MiB"


def test_the_same_command_twice_at_once_shares_the_work(tmp_path):
    one, two = run(tmp_path, 6_000), run(tmp_path, 6_000)
    made = [said(p)[0] for p in (one, two)]
    assert sum(made) == 6_000
    m = rv.Model(lambda x, t: x * 0, rv.process.vp(), shape=(1, 32, 32))
    at = 0
    for block in rv.data.samples(tmp_path).blocks():
        assert block["ids"][0] == at
        at += len(block["ids"])
    assert torch.equal(block["samples"], rv.sample(m, len(block["ids"]), start=int(block["ids"][0]), nfe=1, batch=500))


def test_a_claim_holds_between_processes_and_ends_with_its_process(tmp_path):
    code = (
        "import sys, pathlib, time; from reverie.hub.jobs import Claims; c = Claims(pathlib.Path(sys.argv[1]))\n"
        "print(c.claim(3), flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    claims = Claims(tmp_path)
    assert not claims.claim(3)
    assert claims.claim(4)
    holder.kill()
    holder.communicate()
    assert claims.claim(3)
    claims.close()


def test_sampling_goes_on_while_a_shard_is_written(tmp_path, monkeypatch):
    events: list[str] = []
    write = Shards.write
    second = threading.Event()

    def slow(self, first, x):
        events.append(f"write {first}")
        assert second.wait(20)  # until the next shard's samples are being made
        write(self, first, x)

    monkeypatch.setattr(Shards, "write", slow)
    store = Shards(tmp_path, {}, 0, 8, cell=4)

    def blocks(ids):
        if ids.start == 4:
            second.set()
        yield torch.zeros(len(ids), 2)

    assert fill(store, blocks) == 8
    assert events == ["write 0", "write 4"]


def test_shards_are_cut_at_a_size_and_after_a_time(tmp_path):
    def blocks(ids):
        for i in range(ids.start, ids.stop, 2):
            yield torch.full((2, 256), float(i))

    fill(Shards(tmp_path / "a", {}, 0, 16, cell=16), blocks, limit=6 * 1024)
    assert [s.count for s in rv.data.samples(tmp_path / "a").manifest.shards] == [6, 6, 4]
    store = Shards(tmp_path / "b", {}, 0, 16, cell=16)
    store.every = 0.0
    fill(store, blocks)
    assert [s.count for s in rv.data.samples(tmp_path / "b").manifest.shards] == [2] * 8
    assert torch.equal(
        torch.cat(list(rv.data.samples(tmp_path / "a"))), torch.cat(list(rv.data.samples(tmp_path / "b")))
    )


def test_what_goes_wrong_in_the_writer_is_raised(tmp_path, monkeypatch):
    def full(self, first, x):
        raise FileError("no space left")

    monkeypatch.setattr(Shards, "write", full)
    with pytest.raises(FileError, match="no space left"):
        rv.hub.sample_folder(gaussian(), tmp_path, 100, nfe=1, samples_a_shard=16)


def test_a_failure_keeps_what_is_finished(tmp_path):
    def blocks(ids):
        yield torch.zeros(2, 2)
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fill(Shards(tmp_path, {}, 0, 8, cell=8), blocks)
    assert len(rv.data.samples(tmp_path, partial=True)) == 2


def test_rank_zero_waits_and_takes_over_from_a_process_that_died(tmp_path):
    code = (
        "import sys, time, torch; from reverie.hub.jobs import Shards, fill\n"
        "def blocks(ids):\n    print('begun', flush=True); time.sleep(60); yield\n"
        "fill(Shards(sys.argv[1], {}, 0, 8, cell=4), blocks, share=(1, 2))"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "begun\n"
    made: list[range] = []

    def blocks(ids):
        made.append(ids)
        yield torch.zeros(len(ids), 2)

    threading.Timer(1.0, other.kill).start()
    began = time.monotonic()
    assert fill(Shards(tmp_path, {}, 0, 8, cell=4), blocks, share=(0, 2)) == 8
    assert made == [range(4), range(4, 8)]
    assert time.monotonic() - began > 0.9
    other.communicate()


def test_what_the_reader_yields(tmp_path):
    m = gaussian(3)
    rv.hub.sample_folder(m, tmp_path, 40, nfe=3, start=5, samples_a_shard=16)
    source = rv.data.samples(tmp_path, batch=10)
    assert len(source) == 40
    assert [len(x) for x in source] == [10, 1, 10, 6, 10, 3]
    assert torch.equal(torch.cat(list(source)), rv.sample(m, 40, start=5, nfe=3))
    assert source.settings["nfe"] == 3
    with pytest.raises(ShapeError, match="no pictures"):
        rv.data.write_npz(tmp_path, tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()


def test_a_folder_without_the_manifest_is_refused(tmp_path):
    with pytest.raises(FileError, match=r"no folder of a job: it holds no job\.json"):
        rv.data.samples(tmp_path)
    rv.hub.sample_folder(gaussian(), tmp_path, 4, nfe=1)
    (tmp_path / "job.json").unlink()
    with pytest.raises(FileError, match=r"holds '000000000-000000003.safetensors' but no job\.json"):
        rv.hub.sample_folder(gaussian(), tmp_path, 4, nfe=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "x"}, "its 'format' is not"),
        ({"version": 2}, "upgrade Reverie"),
        ({"n": -1}, "malformed"),
        ({"values": "pickle"}, "malformed"),
        ({"shards": [{"first": 0}]}, "malformed"),
        ({"shards": [{"file": "../x", "first": -3, "count": 1, "bytes": 1, "sha256": ""}]}, "malformed"),
        ({"shape": [5]}, "another shape"),
        ({"values": "uint8"}, "does not hold"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused(tmp_path, change, said):
    rv.hub.sample_folder(gaussian(), tmp_path, 4, nfe=1)
    file = tmp_path / "job.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(FileError, match=said):
        list(rv.data.samples(tmp_path))
    file.write_text(file.read_text()[:-9])
    with pytest.raises(FileError, match="not valid JSON"):
        rv.data.samples(tmp_path)


def test_shards_that_lie_over_each_other_are_read_once(tmp_path):
    """Where locks do not hold, two processes may cut the same ids differently."""
    store = Shards(tmp_path, {}, 0, 8, cell=8)
    for first, count in ((0, 5), (2, 3), (3, 5)):
        store.write(first, torch.arange(first, first + count).float().reshape(-1, 1))
    assert torch.cat(list(rv.data.samples(tmp_path))).flatten().tolist() == list(range(8))
    store.claims.close()


def test_bad_arguments(tmp_path):
    for words, said in (
        ({"n": 0}, "n must be a whole number of at least 1, got 0"),
        ({"n": 4, "start": -1}, "start"),
        ({"n": 4, "samples_a_shard": -1}, "samples_a_shard"),
        ({"n": 4, "batch": 0}, "batch"),
        ({"n": 4, "values": "int4"}, "values are"),
        ({"n": 4, "plan": rv.solve.plan("ddim", rv.process.vp(), 2), "nfe": 3}, "leave out nfe"),
    ):
        with pytest.raises(ArgumentError, match=said):
            rv.hub.sample_folder(gaussian(), tmp_path / "f", **words)
    with pytest.raises(ArgumentError, match="batch must"):
        rv.data.samples(tmp_path, batch=0)


def test_another_environment_is_noted_and_goes_on(tmp_path):
    rv.hub.sample_folder(gaussian(), tmp_path, 4, nfe=1)
    file = tmp_path / "job.json"
    file.write_text(file.read_text().replace(torch.__version__, "1.0"))
    notes: list[str] = []
    rv.hub.sample_folder(gaussian(), tmp_path, 8, nfe=1, tell=notes.append)
    assert len(notes) == 1
    assert "may differ in rounding" in notes[0]
    assert len(rv.data.samples(tmp_path).manifest.made) == 2


def test_a_fingerprint_knows_the_weights_and_the_oracle():
    a, b = gaussian(), rv.oracle.Gaussian(torch.ones(2), torch.eye(2), process=rv.process.vp())
    assert fingerprint(a) == fingerprint(gaussian()) != fingerprint(b)


def test_a_process_begins_with_its_own_cells_and_helps_from_the_end(tmp_path):
    """Those who help begin where the owner comes last."""
    made: list[int] = []

    def blocks(ids):
        made.append(ids.start)
        yield torch.zeros(len(ids), 2)

    fill(Shards(tmp_path, {}, 0, 9, cell=1), blocks, share=(1, 3))
    assert made == [1, 4, 7, 8, 6, 5, 3, 2, 0]
