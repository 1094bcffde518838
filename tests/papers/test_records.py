"""Records: what is written is read, and nothing that was touched since."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from reverie.base import FileError
from reverie.papers import Record, read, records, trial, write

from . import fakes


@pytest.fixture
def file(tmp_path: Path, record: Record) -> Path:
    path = tmp_path / "deis.json"
    write(record, path)
    return path


def reseal(path: Path, body: dict[str, Any]) -> None:
    """As somebody would who knows how the seal is made."""
    body = {k: v for k, v in body.items() if k != "seal"}
    path.write_text(json.dumps({**body, "seal": records._seal(body)}))


@pytest.mark.parametrize("make", [fakes.superiority, fakes.saving, fakes.identity])
@pytest.mark.parametrize("seeds", [1, 5])
def test_round_trip(tmp_path, make, seeds):
    found = trial(make(), seeds=seeds)
    write(found, tmp_path / "r.json")
    assert read(tmp_path / "r.json") == found
    text = (tmp_path / "r.json").read_text()
    write(read(tmp_path / "r.json"), tmp_path / "r.json")
    assert (tmp_path / "r.json").read_text() == text


def test_the_file_is_json_that_others_read_too(file, record):
    def no_json(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    body = json.loads(file.read_text(), parse_constant=no_json)
    assert body["verdict"] == record.verdict
    assert list(body) == ["format", *(f.name for f in fields(Record)), "seal"]
    assert len(file.read_text().splitlines()) == len(body) + 2, "a line a field, for the sake of diffs"


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    return [path] if parts is None else [leaf for k, v in parts for leaf in leaves(v, (*path, k))]


def put(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(body)
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return changed


EDITS = [
    (("verdict",), "does not hold here"),
    (("null",), "holds"),
    (("figures", "error/8", "method", 2), 0.5),
    (("figures", "error/8", "null", 0), 5.5),
    (("figures", "error/8", "method", 2), float("nan")),
    (("figures", "error/8", "method", 2), float("inf")),
    (("seeds", 0), 7),
    (("seeds",), [0, 1, 2, 3]),
    (("statement",), "The fake is best."),
    (("statement",), "\ud800"),
    (("rests_on", "reverie.papers.verdict"), "000000000000"),
    (("rests_on",), {}),
    (("cases", 0, "factor"), 1.0),
    (("cases", 0, "outcome", "low"), 0.0),
    (("cases", 0, "outcome", "verdict"), "holds weakly"),
    (("cases",), []),
    (("seconds",), 1),
    (("day",), "2020-01-01"),
    (("threads",), 64),
    (("versions", "torch"), "9"),
    (("names", "null"), "nothing"),
    (("seal",), "0" * 64),
    (("seal",), None),
]


@pytest.mark.parametrize(("path", "value"), EDITS)
def test_an_edit_by_hand_is_refused_by_name(file, path, value):
    file.write_text(json.dumps(put(json.loads(file.read_text()), path, value)))
    with pytest.raises(
        FileError, match=r"deis\.json' (was edited|is not the record of a claim).*reverie claims run deis"
    ):
        read(file)


def test_an_edit_of_any_single_value_is_refused(file):
    body = json.loads(file.read_text())
    paths = leaves(body)
    assert len(paths) > 150
    for path in paths:
        if path == ("format",):
            continue
        before = body
        for key in path:
            before = before[key]
        after = before + 1 if isinstance(before, float | int) else "0" if before is None else before + "x"
        file.write_text(json.dumps(put(body, path, after)))
        with pytest.raises(FileError, match=r"deis\.json' was edited"):
            read(file)
    file.write_text(json.dumps(body))
    read(file)


def test_a_digit_changed_in_the_text_is_refused(file, record):
    digits = f"{record.figures['error/8']['method'][0]!r}"
    text = file.read_text()
    file.write_text(text.replace(digits, digits[:-1] + str((int(digits[-1]) + 1) % 10)))
    assert file.read_text() != text
    with pytest.raises(FileError, match="was edited"):
        read(file)


def test_a_value_that_stands_twice_is_refused(file):
    text = file.read_text()
    file.write_text(text.replace('"verdict": "holds"', '"verdict": "does not hold here",\n "verdict": "holds"', 1))
    with pytest.raises(FileError, match=r"deis\.json' is not the record of a claim"):
        read(file)


@pytest.mark.parametrize("verdict", ["holds weakly", "does not hold here", "certainly", ""])
def test_a_verdict_that_its_cases_do_not_give_is_refused_whatever_the_seal(file, verdict):
    body = json.loads(file.read_text())
    assert body["verdict"] == "holds"
    reseal(file, body | {"verdict": verdict})
    with pytest.raises(
        FileError, match=rf"deis\.json' gives the verdict '{verdict}', which its figures do not bear out"
    ):
        read(file)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("cases", 0, "outcome", "verdict"), "holds weakly"),
        (("cases", 0, "outcome", "verdict"), "certainly"),
        (("cases",), []),
        (("null",), "holds"),
        (("cases", 0, "outcome", "mean"), 3.0),
        (("cases", 0, "outcome", "effects", 1), 3.0),
        (("cases", 0, "factor"), -1.0),
        (("cases", 0, "figure"), "error/32"),
        (("figures", "error/8", "method", 1), 0.5),
    ],
)
def test_cases_that_contradict_the_verdict_are_refused_whatever_the_seal(file, path, value):
    reseal(file, put(json.loads(file.read_text()), path, value))
    with pytest.raises(FileError, match="which its figures do not bear out"):
        read(file)


@pytest.mark.parametrize(
    "text", ["", "holds", "[]", "5", "null", '"x"', "{", "{}", '{"format": 1}', "\0", "[" * 200000]
)
def test_what_is_no_record_is_refused(tmp_path, text):
    file = tmp_path / "deis.json"
    file.write_text(text)
    with pytest.raises(FileError, match=r"deis\.json' is not the record of a claim; run `reverie claims run deis`"):
        read(file)


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "deis.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(FileError, match="is not the record of a claim"):
        read(tmp_path / "deis.json")


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_is_refused(file, version):
    reseal(file, json.loads(file.read_text()) | {"format": version})
    with pytest.raises(FileError, match=r"deis\.json' has format .*, this version reads 1; update reverie"):
        read(file)


@pytest.mark.parametrize("name", [f.name for f in fields(Record)])
def test_a_missing_field_is_named(file, name):
    body = json.loads(file.read_text())
    del body[name]
    reseal(file, body)
    with pytest.raises(FileError, match=rf"does not have the fields of a record \({name}\)"):
        read(file)


def test_an_extra_field_is_named(file):
    reseal(file, json.loads(file.read_text()) | {"stars": 5})
    with pytest.raises(FileError, match=r"does not have the fields of a record \(stars\)"):
        read(file)


@pytest.mark.parametrize(
    ("path", "value"), [(("seeds",), 5), (("cases",), [{}]), (("cases",), 5), (("figures",), [1]), (("cases", 0), "x")]
)
def test_a_sealed_file_of_another_shape_is_refused_by_name(file, path, value):
    reseal(file, put(json.loads(file.read_text()), path, value))
    with pytest.raises(FileError, match=r"deis\.json'"):
        read(file)


def test_a_file_too_large_is_not_even_read(file):
    with open(file, "ab") as f:
        f.truncate((4 << 20) + 1)
    with pytest.raises(FileError, match=r"deis\.json' has 4194305 bytes; at most 4194304"):
        read(file)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(FileError, match=r"cannot read .*deis\.json"):
        read(tmp_path / "deis.json")
    with pytest.raises(FileError, match="cannot read"):
        read(tmp_path)


@pytest.mark.parametrize("broken", ["write_text", "replace"])
def test_nothing_is_half_written(file, record, broken, monkeypatch):
    before = file.read_bytes()

    def half(path, text, **more):
        path.write_bytes(text[: len(text) // 2].encode())
        raise OSError(28, "No space left on device")

    def fails(*paths):
        raise OSError(28, "No space left on device")

    if broken == "write_text":
        monkeypatch.setattr(Path, "write_text", half)
    else:
        monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(FileError, match=r"cannot write .*deis\.json"):
        write(replace(record, seconds=9.0), file)
    assert file.read_bytes() == before
    assert [f.name for f in file.parent.iterdir()] == ["deis.json"]


def test_a_folder_that_is_missing_is_told(tmp_path, record):
    with pytest.raises(FileError, match="choose a folder that exists"):
        write(record, tmp_path / "none" / "deis.json")


def test_arms_have_names_for_people(record):
    assert record.name("method") == "Fast & new"
    assert record.name("other") == "other"
