"""A model's own recommendation, and what sets it aside."""

import pytest
import torch

import reverie as rv
from reverie.base import ArgumentError
from reverie.solve import plan, plan_for


def model(**sampling):
    return rv.Model(lambda x, t: 0.1 * x, rv.process.vp(), predicts="v", shape=(3,), sampling=sampling)


def same(a, b):
    return str(a) == str(b)


def test_without_a_recommendation_the_defaults_hold():
    m = model()
    assert same(plan_for(m, nfe=8), plan("dpmpp-2m", m.process, nfe=8))
    assert plan_for(m).nfe == 20
    assert same(plan_for(m, "heun", steps=5, end="zero"), plan("heun", m.process, 5, end="zero"))


def test_the_recommendation_holds_where_the_call_says_nothing():
    m = model(solver="dpm-2m", grid="karras:5", end="zero")
    assert same(plan_for(m, steps=8), plan("dpm-2m", m.process, 8, grid="karras:5", end="zero"))
    assert same(plan_for(m, "dpm-2m", steps=8), plan("dpm-2m", m.process, 8, grid="karras:5", end="zero"))
    assert same(plan_for(m, steps=8, grid="time"), plan("dpm-2m", m.process, 8, grid="time", end="zero"))
    assert same(plan_for(m, steps=8, end="denoise"), plan("dpm-2m", m.process, 8, grid="karras:5"))


def test_another_solver_sets_it_aside():
    m = model(grid="karras:5", end="zero")
    assert same(plan_for(m, "dpmpp-3m", steps=8), plan("dpmpp-3m", m.process, 8))
    assert same(plan_for(m, "dpmpp-2m", steps=8), plan("dpmpp-2m", m.process, 8, grid="karras:5", end="zero"))


def test_one_step_and_given_times_have_no_room_for_an_end_of_their_own():
    m = model(end="zero")
    assert plan_for(m, nfe=1).nfe == 1
    assert plan_for(m, grid=[1.0, 0.5, 0.0]).nfe == 2


def test_sample_takes_the_recommendation_and_guided_models_keep_it():
    m = model(grid="time")
    assert torch.equal(rv.sample(m, 3, nfe=4), rv.sample(m, 3, nfe=4, grid="time"))
    assert not torch.equal(rv.sample(m, 3, nfe=4), rv.sample(m, 3, nfe=4, grid="logsnr"))
    assert (rv.load("digits") | rv.guide.CFG(2.0)).sampling == rv.load("digits").sampling


def test_a_recommendation_knows_three_things():
    with pytest.raises(ArgumentError, match=r"not \['steps'\]"):
        model(steps=8)
