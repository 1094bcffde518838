"""Bits: a sample is the same in any job, on one process or two (same kind of CPU), on an oracle and on the house model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import reverie as rv

WORKER = """
import os, sys, torch, reverie as rv
folder, rank, world = sys.argv[1], int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
sys.path.insert(0, os.path.dirname(sys.argv[2]))
from test_bits import JOBS
from reverie.nets import write_tensors
half = 24 // world
write_tensors(f"{folder}/{rank}.safetensors", {name: job(n=half, start=rank * half) for name, job in JOBS.items()})
"""


def mixture():
    means = torch.linspace(-2, 2, 30).reshape(3, 10)
    return rv.oracle.Mixture(means, 0.5, process=rv.process.vp("cosine"))


def oracle_job(solver, **more):
    return lambda **k: rv.sample(mixture(), solver=solver, nfe=6, seed=3, **more, **k)


def digits_job(solver, **more):
    def job(index=None, n=24, start=0):
        ids = list(range(start, start + n)) if index is None else list(index)
        labels = torch.tensor([i % 10 for i in ids])
        where = {"index": index} if index is not None else {"n": n, "start": start}
        return rv.sample(
            rv.load("digits"), solver=solver, nfe=4, seed=3, cond={"class_labels": labels}, **more, **where
        )

    return job


JOBS = {
    "mixture deterministic": oracle_job("dpmpp-3m"),
    "mixture stochastic": oracle_job("ddim", eta=1.0),
    "digits deterministic": digits_job("dpmpp-2m"),
    "digits stochastic": digits_job("ddpm"),
    "digits guided": digits_job("dpmpp-2m", guide=rv.guide.CFG(2.0)),
}


@pytest.fixture
def threads():
    """Sets the number of threads for a while."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", JOBS)
def test_the_number_of_threads_does_not_matter(name, threads):
    threads(1)
    one = JOBS[name](n=3)
    threads(2)
    assert torch.equal(JOBS[name](n=3), one)


@pytest.mark.parametrize("name", JOBS)
def test_alone_reordered_and_resumed_are_bit_identical(name):
    job = JOBS[name]
    whole = job(n=24)
    assert torch.equal(job(n=1, start=7)[0], whole[7])
    assert torch.equal(job(n=5, start=14), whole[14:19])
    order = [23, 7, 0, 16, 5]
    assert torch.equal(job(index=order), whole[torch.tensor(order)])
    assert not torch.equal(whole[0], whole[1])


def test_two_processes_under_torchrun_are_bit_identical(tmp_path: Path, threads):
    threads(2)  # torchrun gives each of its processes one
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS")}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*command, str(script), str(tmp_path), __file__], check=True, env=env, capture_output=True, timeout=240
    )
    parts = [rv.nets.read_tensors(tmp_path / f"{rank}.safetensors")[0] for rank in (0, 1)]
    for name, job in JOBS.items():
        assert torch.equal(torch.cat([parts[0][name], parts[1][name]]), job(n=24)), name
