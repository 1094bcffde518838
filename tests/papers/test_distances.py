"""The problems that claims measure on: what their figures are, against the same measured by hand."""

import pytest
import torch

from reverie.data import digits as real
from reverie.measure import frechet_distance, judge, kernel_distance
from reverie.papers.problems import digits, mixture
from reverie.process import ve


@pytest.fixture(scope="module")
def drawn():
    torch.set_num_threads(1)
    return digits(3, 40)


def test_fresh_digits_are_held_out_and_have_all_classes_in_turn(drawn):
    held, labels = real("heldout")
    where = [int((held == x).flatten(1).all(1).nonzero()[0]) for x in drawn.fresh]
    assert labels[where].tolist() == [i % 10 for i in range(40)]
    assert len(set(where)) == 40
    assert not torch.equal(drawn.fresh, digits(4, 40).fresh)
    assert torch.equal(drawn.data, real("train")[0])


def test_distances_are_those_of_the_features(drawn):
    _, x = drawn.samples("ddim@logsnr", 4)
    with torch.no_grad():
        made, data = judge().features(x.float()), judge().features(drawn.data)
    assert drawn.frechet("ddim@logsnr", 4) == pytest.approx(frechet_distance(made, data), rel=1e-9)
    assert drawn.kernel("ddim@logsnr", 4) == pytest.approx(kernel_distance(made, data), rel=1e-9)
    assert drawn.frechet("data", 4) < drawn.frechet("ddim@logsnr", 4)


def test_the_kernel_distance_of_fresh_data_of_the_mixture_is_next_to_nothing():
    p = mixture(0, 500, process=ve())
    fresh, coarse = abs(p.kernel("data", 5)), p.kernel("ddim@logsnr", 5)
    assert fresh < 0.01 < coarse
    assert p.figures("kernel", {"method": ("ddim@logsnr", 4), "ideal": "data"}, [5])["mixture/5"] == {
        "method": p.kernel("ddim@logsnr", 20), "ideal": p.kernel("data", 5),
    }  # fmt: skip
