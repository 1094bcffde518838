from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reverie as rv
from reverie.base import ArgumentError, UnknownNameError
from reverie.cli import parse


def test_a_guide_is_what_its_words_say():
    assert parse.guide("cfg:4") == rv.guide.CFG(4.0)
    assert parse.guide("cfg:2.5:0.1,0.9") == rv.guide.CFG(2.5, (0.1, 0.9))
    assert parse.guide("cfg:2:rescale=0.7") == rv.guide.CFG(2.0, (-math.inf, math.inf), 0.7)
    assert parse.guide("cfg:2:0,1:rescale=0.7") == rv.guide.CFG(2.0, (0.0, 1.0), 0.7)


@pytest.mark.parametrize(
    "text",
    ["cfg", "cfg:", "cfg:x", "cfg:4:1", "cfg:4:1,2,3", "cfg:4:rescale=", "cfg:4:rescale=7", "cfg:4:2,1", "cfg:inf"],
)
def test_a_guide_that_cannot_be_is_refused(text):
    with pytest.raises(ArgumentError):
        parse.guide(text)


def test_an_unknown_guide_is_named():
    with pytest.raises(UnknownNameError, match="unknown guide 'cgf'; did you mean 'cfg'"):
        parse.guide("cgf:4")


@given(st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.none()))
def test_values_of_options_come_back(value):
    assert parse.options([f"a={value}"]) == {"a": value}
    assert type(parse.options([f"a={value}"])["a"]) is type(value)


@given(st.lists(st.integers(), min_size=2))
def test_lists_of_options_come_back(values):
    assert parse.options([f"orders={','.join(map(str, values))}", "name=text"]) == {
        "orders": tuple(values),
        "name": "text",
    }


@pytest.mark.parametrize("words", [["eta"], ["=1"], ["eta="], ["eta=1", "eta=2"]])
def test_options_that_are_none_are_refused(words):
    with pytest.raises(ArgumentError, match="eta"):
        parse.options(words)


@pytest.mark.parametrize(
    ("text", "process"),
    [
        ("vp", rv.process.vp()),
        ("vp:cosine", rv.process.vp("cosine")),
        ("vp:scaled_linear", rv.process.vp("scaled_linear")),
        ("subvp", rv.process.subvp()),
        ("ve", rv.process.ve()),
        ("edm", rv.process.edm()),
        ("flow", rv.process.flow()),
        ("flow:3", rv.process.flow(3.0)),
    ],
)
def test_processes_by_name(text, process):
    assert parse.process(text) == process


def test_a_model_names_its_process(tiny):
    assert parse.process(tiny) == rv.process.vp()


@pytest.mark.parametrize(
    ("text", "what"),
    [("flow:x", "'x'"), ("flow:-1", "-1"), ("flow:", "number"), ("vq", "did you mean"), ("vp:cosin", "vp:cosine")],
)
def test_processes_that_are_none(text, what):
    with pytest.raises(ArgumentError, match=what):
        parse.process(text)


def test_a_class_is_a_function_of_the_id(tiny):
    model = rv.load(tiny)
    cond, names, cycle = parse.cycled(model, "7,0,2", range(4, 9))
    assert cond["class_labels"].tolist() == [0, 2, 7, 0, 2]
    assert (names, cycle) == (["0", "2", "7", "0", "2"], 3)
    assert parse.cycled(model, None, [12, 3])[0]["class_labels"].tolist() == [2, 3]


def test_prompts_that_cannot_be(tiny):
    with pytest.raises(UnknownNameError, match="'11'"):
        parse.cycled(rv.load(tiny), "11", [0])
    plain = rv.oracle.Gaussian(torch.zeros(2), torch.eye(2), process=rv.process.vp())
    assert parse.cycled(plain, None, [0]) == ({}, None, 1)
    with pytest.raises(ArgumentError, match="takes no prompt, got 'cat'"):
        parse.cycled(plain, "cat", [0])
