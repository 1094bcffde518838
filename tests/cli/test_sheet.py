from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reverie.base import ArgumentError, ShapeError
from reverie.cli.sheet import columns_for, contact_sheet, enlarged, pixels


def test_every_sample_is_on_the_sheet_pixel_for_pixel():
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sheet = np.asarray(contact_sheet(x, columns=3, scale=4))
    want = pixels(x).repeat_interleave(4, 1).repeat_interleave(4, 2).numpy()
    places = [(top, left) for top in range(sheet.shape[0] - 31) for left in range(sheet.shape[1] - 31)]
    found = []
    for tile in want:
        hits = [
            p
            for p in places
            if sheet[p[0], p[1], 0] == tile[0, 0, 0] and (sheet[p[0] : p[0] + 32, p[1] : p[1] + 32] == tile).all()
        ]
        assert len(hits) == 1
        found.append(hits[0])
    assert found == sorted(found)  # reading order
    assert [f[0] == found[0][0] for f in found] == [True, True, True, False, False]


def test_captions_change_only_what_is_below_the_tiles():
    x = torch.zeros(2, 3, 8, 8)
    bare, said = np.asarray(contact_sheet(x, scale=8)), np.asarray(contact_sheet(x, ["3", "4"], scale=8))
    assert said.shape[0] > bare.shape[0]
    assert (said[:70] == bare[:70]).all()
    assert (said[72:].min(axis=2) < 200).any()


def test_pixels_map_minus_one_to_black_and_one_to_white():
    assert pixels(torch.tensor([-9.0, -1.0, 1.0, 9.0]).reshape(1, 1, 2, 2)).flatten().tolist() == [0, 0, 255, 255]


def test_enlarged_repeats_each_pixel():
    picture = torch.tensor([[[0], [255]]], dtype=torch.uint8)
    assert np.asarray(enlarged(picture, 2)).tolist() == [[0, 0, 255, 255]] * 2


@given(st.integers(1, 500), st.integers(1, 30))
def test_a_grid_is_tidy(n, cycle):
    columns = columns_for(n, cycle)
    rows = -(-n // columns)
    assert 1 <= columns <= n
    assert columns * (rows - 1) < n  # no empty row
    if 1 < cycle <= 16 and n % cycle == 0:
        assert columns == cycle
    else:
        assert rows <= columns <= max(3, 2.3 * n**0.5 + 3)


def test_a_grid_has_few_empty_places():
    assert [columns_for(n) for n in (1, 2, 4, 12, 13, 16, 100)] == [1, 2, 2, 4, 7, 4, 10]


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 8), (2, 2, 8, 8)])
def test_what_is_no_picture_is_refused(shape):
    with pytest.raises(ShapeError, match=r"no pictures.*\.safetensors"):
        contact_sheet(torch.zeros(shape))


@pytest.mark.parametrize("wrong", [{"columns": 0}, {"scale": 0}])
def test_columns_and_scale_start_at_one(wrong):
    with pytest.raises(ArgumentError, match="at least 1"):
        contact_sheet(torch.zeros(1, 1, 2, 2), **wrong)
