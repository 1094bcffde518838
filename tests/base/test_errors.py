"""Errors: one family, each kind also the built-in that a Python user would catch."""

import pytest

from reverie.base import (
    ArgumentError,
    FileError,
    NonFiniteError,
    ReverieError,
    ShapeError,
    TimeError,
    UnknownNameError,
    unknown,
)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (ArgumentError, ValueError),
        (UnknownNameError, ValueError),
        (TimeError, ValueError),
        (ShapeError, ValueError),
        (NonFiniteError, ArithmeticError),
        (FileError, OSError),
    ],
)
def test_a_kind_is_caught_as_ours_and_as_the_builtin(kind, builtin):
    for caught in (ReverieError, builtin):
        with pytest.raises(caught, match="what was wrong"):
            raise kind("what was wrong")


def test_a_non_finite_error_says_where():
    error = NonFiniteError("NaN at stage 3", stage=3, samples=(1, 4))
    assert (str(error), error.stage, error.samples) == ("NaN at stage 3", 3, (1, 4))


def test_an_unknown_name_is_answered_with_the_nearest_and_all_names():
    assert "did you mean 'karras'?" in str(unknown("grid", "karas", {"time", "karras"}))
    far = str(unknown("grid", "zzz", {"time", "karras"}))
    assert "did you mean" not in far
    assert far.endswith("Known: karras, time")
