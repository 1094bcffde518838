from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.nets import UNet, read_tensors, write_tensors


@pytest.fixture
def count(monkeypatch):
    """How often the network was called; `count.stop = k` presses Ctrl-C at the k-th call."""

    class Count:
        calls, stop = 0, None

    forward = UNet.forward

    def counted(self, *args, **kwargs):
        Count.calls += 1
        if Count.calls == Count.stop:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(UNet, "forward", counted)
    return Count


def samples(path: str) -> torch.Tensor:
    return read_tensors(path)[0]["samples"]


def test_a_sheet_with_its_settings(call, tiny):
    done = call("sample", tiny, "-n", 6, "--steps", 2, "--guide", "cfg:2", "--seed", 5, "-o", "out.png")
    assert done.exit_code == 0, done.output
    assert "out.png  6 samples, dpmpp-2m, 2 calls and 4 network forwards each" in done.output
    said = json.loads(Image.open("out.png").text["reverie"])
    assert (said["model"], said["solver"], said["nfe"], said["guide"], said["seed"]) == (
        "tiny",
        "dpmpp-2m",
        2,
        "cfg:2",
        5,
    )
    assert said["ids"] == list(range(6))
    assert said["classes"] == list("012345")
    assert said["plan"].startswith("dpmpp-2m: ")
    assert said["versions"]["torch"] == torch.__version__


def test_raw_samples_are_those_of_the_library(call, tiny):
    assert (
        call(
            "sample",
            tiny,
            "7,3",
            "-n",
            5,
            "--nfe",
            3,
            "--solver",
            "heun",
            "--guide",
            "cfg:2",
            "--batch",
            4,
            "-o",
            "x.safetensors",
        ).exit_code
        == 0
    )
    m = rv.load(tiny)
    cond = {"class_labels": torch.tensor([7, 3, 7, 3, 7])}
    assert torch.equal(
        samples("x.safetensors"), rv.sample(m, 5, solver="heun", nfe=3, guide=rv.guide.CFG(2.0), cond=cond, batch=4)
    )


def test_options_reach_the_solver(call, tiny):
    call(
        "sample",
        tiny,
        "1",
        "-n",
        2,
        "--solver",
        "ddim",
        "--steps",
        3,
        "--option",
        "eta=0.5",
        "--grid",
        "time",
        "--end",
        "sigma_min",
        "-o",
        "x.npy",
    )
    cond = {"class_labels": torch.tensor([1, 1])}
    want = rv.sample(rv.load(tiny), 2, solver="ddim", steps=3, eta=0.5, grid="time", end="sigma_min", cond=cond)
    assert np.array_equal(np.load("x.npy"), want.numpy())


def test_the_default_is_eight_steps(call, tiny):
    assert "8 calls and 8 network forwards each" in call("sample", tiny, "-n", 1, "-o", "x.npy").output


def test_start_continues_a_job(call, tiny):
    call("sample", tiny, "-n", 7, "--steps", 2, "--batch", 4, "-o", "all.safetensors")
    call("sample", tiny, "-n", 3, "--start", 4, "--steps", 2, "--batch", 4, "-o", "part.safetensors")
    assert torch.equal(samples("part.safetensors"), samples("all.safetensors")[4:])


def test_a_folder_gets_a_picture_each(call, tiny):
    assert call("sample", tiny, "-n", 3, "--start", 2, "--steps", 1, "-o", "more/").exit_code == 0
    assert sorted(f.name for f in Path("more").iterdir()) == ["000002.png", "000003.png", "000004.png"]


def test_a_saved_plan(call, tiny):
    assert call("plan", "ddim", "--steps", 3, "-o", "plan.json").exit_code == 0
    call("sample", tiny, "-n", 2, "--plan", "plan.json", "-o", "a.safetensors")
    call("sample", tiny, "-n", 2, "--solver", "ddim", "--steps", 3, "-o", "b.safetensors")
    assert torch.equal(samples("a.safetensors"), samples("b.safetensors"))


def test_an_interrupted_job_resumes_with_the_same_bits(call, tiny, count):
    words = ("sample", tiny, "-n", 10, "--steps", 2, "--batch", 4, "--solver", "ddim", "--option", "eta=1", "-o")
    call(*words, "whole.safetensors")
    assert count.calls == 6
    count.calls, count.stop = 0, 4  # in the second of three blocks
    stopped = call(*words, "x.safetensors")
    assert stopped.exit_code == 130
    assert (
        "4 samples are kept in .x.safetensors.partial.safetensors; the same command goes on from there"
        in stopped.output
    )
    assert Path(".x.safetensors.partial.safetensors").exists()
    assert not Path("x.safetensors").exists()
    count.calls, count.stop = 0, None
    done = call(*words, "x.safetensors")
    assert "resumed: 4 of 10 samples were done" in done.output
    assert count.calls == 4
    assert torch.equal(samples("x.safetensors"), samples("whole.safetensors"))
    assert not Path(".x.safetensors.partial.safetensors").exists()


def test_stopped_before_anything_is_finished(call, tiny, count):
    count.stop = 1
    stopped = call("sample", tiny, "-n", 2, "-o", "x.png")
    assert stopped.exit_code == 130
    assert "nothing was finished yet" in stopped.output
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "change", [("--seed", 1), ("--guide", "cfg:2"), ("--steps", 3), ("--batch", 3), ("--solver", "euler")]
)
def test_other_settings_do_not_resume(call, tiny, count, change):
    words = {"--seed": 0, "--steps": 2, "--batch": 2, "--solver": "ddim"}

    def go(settings):
        return call("sample", tiny, "-n", 4, *(w for pair in settings.items() for w in pair), "-o", "x.safetensors")

    count.stop = 3
    assert go(words).exit_code == 130
    count.stop = None
    other = go(words | dict([change]))
    assert "other settings; it is ignored" in other.output
    assert "resumed" not in other.output
    fresh = call(
        "sample", tiny, "-n", 4, *(w for pair in (words | dict([change])).items() for w in pair), "-o", "y.safetensors"
    )
    assert fresh.exit_code == 0
    assert torch.equal(samples("x.safetensors"), samples("y.safetensors"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-o", "missing/x.png"), "error: cannot write"),
        (("-o", "x.jpg"), "must end with .png"),
        (("--steps", 0), "steps must be a whole number of at least 1, got 0"),
        (("--nfe", 0), "nfe must be a whole number of at least 1, got 0"),
        (("--steps", 2, "--nfe", 2), "give --steps or --nfe, not both"),
        (("--solver", "dpmpp2m"), "did you mean 'dpmpp-2m'"),
        (("--grid", "karas"), "did you mean 'karras'"),
        (("--end", "denoised"), "did you mean 'denoise'"),
        (("--option", "ets=1", "--solver", "ddim"), "did you mean 'eta'"),
        (("--option", "eta"), "NAME=VALUE"),
        (("--guide", "cfg"), "lacks its scale"),
        (("--plan", "no.json"), "no.json"),
        (("--plan", "no.json", "--steps", 3), "leave out --steps"),
        (("--seed", -1), "seed"),
        (("--columns", 0), "columns must be at least 1, got 0"),
        (("--scale", 2, "-o", "x.npy"), "raw samples"),
        (("--device", "tpu9"), "device 'tpu9' cannot be used here"),
    ],
)
def test_bad_input_is_found_before_sampling(call, tiny, count, words, said):
    done = call("sample", tiny, *words)
    assert done.exit_code == 2
    assert len(done.output.strip().splitlines()) == 1
    assert said in done.output
    assert count.calls == 0
    assert list(Path().iterdir()) == []


def test_a_model_without_classes_or_pictures(call, monkeypatch):
    flat = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=rv.process.vp(), name="flat")
    monkeypatch.setattr("reverie.hub.load", lambda name, device: flat)
    assert call("sample", "flat", "-n", 3, "-o", "x.npy").exit_code == 0
    assert np.array_equal(np.load("x.npy"), rv.sample(flat, 3, steps=8).numpy())
    calls = flat.calls
    refused = call("sample", "flat", "-n", 3, "-o", "x.png")
    assert refused.exit_code == 2
    assert "samples of shape (2,) are no pictures" in refused.output
    assert flat.calls == calls
    assert "takes no prompt, got '7'" in call("sample", "flat", "7", "-o", "x.npy").output


def test_prompts_and_models_that_are_unknown(call, tiny):
    assert "unknown class '11'" in call("sample", tiny, "11").output
    assert "unknown model 'digit'" in call("sample", "digit").output
    assert "does not exist" in call("sample", "no/model.json").output
    assert call("sample", tiny, "-n", 0).exit_code == 2


def test_a_plan_of_another_process_is_refused(call, tiny, count):
    call("plan", "ddim", "--process", "flow", "-o", "plan.json")
    done = call("sample", tiny, "--plan", "plan.json")
    assert done.exit_code == 2
    assert "was made for" in done.output
    assert count.calls == 0


@pytest.fixture
def broken(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "m")
    return tmp_path / "m"


def test_weights_that_are_nan_are_named(call, broken):
    tensors, _ = read_tensors(broken / "tiny.safetensors")
    tensors["last.bias"] = tensors["last.bias"] * float("nan")
    write_tensors(broken / "tiny.safetensors", tensors)
    done = call("sample", broken, "-n", 2, "--steps", 3)
    assert done.exit_code == 2
    assert "stage 0" in done.output
    assert not Path("out.png").exists()


def test_weights_that_are_truncated_are_named(call, broken):
    file = broken / "tiny.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    done = call("sample", broken)
    assert done.exit_code == 2
    assert "truncated" in done.output
