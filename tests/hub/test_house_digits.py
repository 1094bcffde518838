"""The house model keeps what its card says, on fewer samples than the card's."""

import pytest
import torch

import reverie as rv
from reverie.data import digits
from reverie.measure import class_spread, frechet_distance, judge, nearest_distance

N = 1000
LABELS = torch.arange(N) % 10


@pytest.fixture(scope="module")
def eight():
    return rv.sample(rv.load("digits"), N, nfe=8, cond={"class_labels": LABELS}, batch=250)


def test_eight_evaluations_are_read_as_their_class(eight):
    real = judge().accuracy(*digits("heldout"))
    assert real > 0.98
    assert judge().accuracy(eight, LABELS) >= real - 0.01
    wrong = (LABELS + 1) % 10
    assert judge().accuracy(eight, wrong) < 0.02


def test_eight_evaluations_are_as_near_to_real_digits_as_many(eight):
    features = judge().features(digits("all")[0])
    many = rv.sample(rv.load("digits"), N, nfe=24, cond={"class_labels": LABELS}, batch=250)
    near, far = (frechet_distance(judge().features(x), features) for x in (eight, many))
    assert near <= 1.25 * far
    blurred = rv.sample(rv.load("digits"), N, solver="ddim", nfe=8, cond={"class_labels": LABELS}, batch=250)
    assert frechet_distance(judge().features(blurred), features) > 2 * far  # the measure sees what it should


def test_every_class_is_as_wide_as_the_datas(eight):
    ratio = class_spread(eight, LABELS) / class_spread(*digits("all"))
    assert ratio.min() >= 0.9
    assert ratio.max() <= 1.15


def test_it_does_not_copy_its_training_pictures(eight):
    train, held = digits("train")[0], digits("heldout")[0]
    assert nearest_distance(eight, train).median() > 0.9 * nearest_distance(held, train).median()


def test_guidance_makes_classes_clearer_and_narrower(eight):
    guided = rv.sample(rv.load("digits"), N, nfe=6, cond={"class_labels": LABELS}, guide=rv.guide.CFG(3.0), batch=250)
    assert judge().accuracy(guided, LABELS) >= judge().accuracy(eight, LABELS)
    assert class_spread(guided, LABELS).mean() < class_spread(eight, LABELS).mean()
