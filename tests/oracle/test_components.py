"""Sums that do not depend on their surroundings, and spectra."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_problems import covariance, normal

from reverie.base import ArgumentError
from reverie.oracle.components import as_float64, spectrum, total


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(1, 9), st.sampled_from([0, 1]))
def test_total_is_the_sum_and_blind_to_other_rows(n, rows, dim):
    x = normal(rows, n, seed=n)
    x = x if dim else x.T
    torch.testing.assert_close(total(x, dim), x.sum(dim), rtol=1e-12, atol=1e-12)
    alone = total((x[:1] if dim else x[:, :1]).clone(), dim)
    assert torch.equal(alone[0], total(x, dim)[0])


def test_spectrum_rebuilds_and_cuts_rounding():
    covs = torch.stack([covariance(4), torch.diag(torch.tensor([1.0, 1e-17, 0.0, 2.0], dtype=torch.float64))])
    var, basis = spectrum(covs)
    torch.testing.assert_close(basis * var[:, None, :] @ basis.mT, covs, rtol=0, atol=1e-14)
    assert (var[1] == 0).sum() == 2
    with pytest.raises(ArgumentError, match="covariance 1 is not positive"):
        spectrum(torch.stack([covariance(4), -covariance(4)]))


def test_python_numbers_keep_double_precision():
    assert as_float64([0.1], "means").item() == 0.1


def test_total_of_one_long_row_is_that_of_the_row_among_others():
    """`Tensor.sum` splits a single long row among threads and rounds differently (seen with two threads)."""
    x, threads = normal(3, 70_001), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert all(torch.equal(total(x[i : i + 1].clone())[0], total(x)[i]) for i in range(3))
    finally:
        torch.set_num_threads(threads)
