"""Loading models: house models, files, and every way in which they can be wrong."""

import json

import pytest
import torch

import reverie as rv
from reverie.base import FileError, UnknownNameError
from reverie.nets import build, write_tensors

CARD = {
    "format": 1,
    "kind": "reverie-model",
    "process": rv.process.vp().spec(),
    "predicts": "v",
    "label": "lam",
    "net": {"name": "unet", "args": {"widths": [8, 16], "embed": 16}},
    "null": {"class_labels": 10},
    "shape": [1, 8, 8],
    "classes": [str(d) for d in range(10)],
}


@pytest.fixture
def folder(tmp_path):
    def make(name="tiny", **changes):
        torch.manual_seed(0)
        net = build("unet", CARD["net"]["args"])
        write_tensors(tmp_path / f"{name}.safetensors", {k: v.half() for k, v in net.state_dict().items()})
        (tmp_path / f"{name}.json").write_text(json.dumps({**CARD, **changes}))
        return tmp_path

    return make


def test_a_folder_a_json_and_a_weight_file_are_the_same_model(folder):
    path = folder()
    x, t = torch.ones(2, 1, 8, 8), 0.5
    answers = [
        rv.load(p)(x, t, class_labels=torch.tensor([1, 2])).v
        for p in (path, path / "tiny.json", path / "tiny.safetensors")
    ]
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])
    m = rv.load(path)
    assert m.name == "tiny"
    assert m.card["classes"] == CARD["classes"]
    assert not any(q.requires_grad for q in m.net.parameters())


def test_half_precision_on_disk_is_single_precision_in_use(folder):
    assert {q.dtype for q in rv.load(folder()).net.parameters()} == {torch.float32}


def test_prompts_become_classes(folder):
    m = rv.load(folder())
    assert m.embed("7, 0")["class_labels"].tolist() == [7, 0]
    assert m.embed("all")["class_labels"].tolist() == list(range(10))
    with pytest.raises(UnknownNameError, match="unknown class 'seven'"):
        m.embed("seven")


def test_unknown_names_and_missing_paths(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        rv.load("digit")
    with pytest.raises(FileError, match="does not exist"):
        rv.load(tmp_path / "nothing.json")
    with pytest.raises(FileError, match="holds 0 models"):
        rv.load(tmp_path)


def test_two_models_in_a_folder_must_be_told_apart(folder):
    path = folder("one")
    folder("two")
    with pytest.raises(FileError, match="holds 2 models"):
        rv.load(path)
    assert rv.load(path / "two.json").name == "two"


def test_a_diffusers_folder_is_recognised(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(FileError, match="is a None, no pipeline that Reverie can read"):
        rv.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "something"}, "'kind' is not 'reverie-model'"),
        ({"format": 2}, "reads up to 1"),
        ({"process": {"name": "vq"}}, "unknown process 'vq'"),
        ({"predicts": "noise"}, "unknown prediction type 'noise'"),
        ({"net": {"name": "unet", "args": {"widths": [8, 24], "embed": 16}}}, "do not fit its network"),
        ({"net": {"name": "unot"}}, "unknown network 'unot'"),
        ({"net": None}, "malformed model"),
    ],
)
def test_malformed_cards_say_what_is_wrong(folder, changes, message):
    with pytest.raises(FileError, match=message):
        rv.load(folder(**changes))


def test_broken_files(folder):
    path = folder()
    weights = path / "tiny.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match=r"tiny.safetensors' is truncated"):
        rv.load(path)
    weights.write_bytes(whole)
    (path / "tiny.json").write_text("{not json")
    with pytest.raises(FileError, match="not valid JSON"):
        rv.load(path)
