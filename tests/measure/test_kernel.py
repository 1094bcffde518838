"""The kernel distance: against sums by hand, without bias, and sensitive to what it should be."""

import math

import pytest
import torch

from reverie.base import ArgumentError, NonFiniteError, ShapeError
from reverie.measure import kernel_distance


def by_hand(a, b):
    def k(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    def within(f):
        return sum(k(f[i], f[j]) for i in range(len(f)) for j in range(len(f)) if i != j) / (len(f) * (len(f) - 1))

    return within(a) + within(b) - 2 * sum(k(x, y) for x in a for y in b) / (len(a) * len(b))


def test_it_is_the_sum_over_pairs():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 3, generator=g, dtype=torch.float64), torch.randn(7, 3, generator=g, dtype=torch.float64)
    assert kernel_distance(a, b) == pytest.approx(by_hand(a, b), rel=1e-12)
    assert kernel_distance(b, a) == pytest.approx(kernel_distance(a, b), rel=1e-12)


@pytest.mark.parametrize("n", [5, 40])
def test_equal_distributions_have_expectation_zero_however_few_the_samples(n):
    g = torch.Generator().manual_seed(1)
    found = torch.tensor(
        [kernel_distance(torch.randn(n, 4, generator=g), torch.randn(30, 4, generator=g)) for _ in range(1500)]
    )
    assert abs(found.mean()) < 3.5 * found.std() / math.sqrt(len(found))


def test_a_shift_has_its_exact_expectation():
    """Of N(m, I) against N(0, I) in 1-d, by the moments of E k = 1 + 3 mm' + 3 E[x^2] E[y^2] + E[x^3] E[y^3]."""
    m, g = 0.5, torch.Generator().manual_seed(2)

    def expected(a, b):
        def moments(c):
            return c, c * c + 1, c**3 + 3 * c

        return 1 + sum(w * x * y for w, x, y in zip((3, 3, 1), moments(a), moments(b), strict=True))

    exact = expected(m, m) + expected(0, 0) - 2 * expected(m, 0)
    found = torch.tensor(
        [kernel_distance(torch.randn(60, 1, generator=g) + m, torch.randn(60, 1, generator=g)) for _ in range(1500)]
    )
    assert abs(found.mean() - exact) < 3.5 * found.std() / math.sqrt(len(found))


def test_bad_input_is_named():
    a = torch.zeros(3, 2)
    for bad, error, words in (
        (torch.zeros(3, 4), ShapeError, r"\(samples, 2\)"),
        (torch.zeros(1, 2), ArgumentError, "at least 2"),
        (torch.full((3, 2), math.nan), NonFiniteError, "NaN"),
    ):
        with pytest.raises(error, match=words):
            kernel_distance(a, bad)
