"""Settings of an optimizer: numbers and flags that are taken, and those that are refused."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastadam.optimizers.adam import Adam
from tests.helpers.arrays import NOT_NUMBERS, OUT_OF_RANGE, error_of, snapshot

FLAGS = ["decoupled_weight_decay", "amsgrad", "maximize", "epsilon_hat"]


def assert_refused(name, value, error):
    """By the constructor, and by the setter of an optimizer that then stays as it was."""
    with pytest.raises(error, match=name):
        Adam(np.ones(3), **{name: value})
    optimizer = Adam(np.ones(3))
    before = snapshot(optimizer)
    with pytest.raises(error, match=name):
        setattr(optimizer, name, value)
    assert snapshot(optimizer) == before


@pytest.mark.parametrize("name", ["lr", "eps", "weight_decay"])
def test_a_hyper_parameter_that_is_no_finite_number_from_zero_is_refused_by_name(name):
    for value in NOT_NUMBERS:
        assert_refused(name, value, TypeError)
    for value in OUT_OF_RANGE:
        assert_refused(name, value, ValueError)


@pytest.mark.parametrize("position", [0, 1])
def test_betas_that_are_no_two_numbers_from_zero_to_below_one_are_refused_by_name(position):
    def betas(value):
        return (value, 0.9) if position == 0 else (0.9, value)

    for value in NOT_NUMBERS:
        assert_refused("betas", betas(value), TypeError)
    for value in [*OUT_OF_RANGE, 1.0, 1, 1.5, Fraction(10**30 - 1, 10**30)]:
        assert_refused("betas", betas(value), ValueError)
    for value in [0.9, None, "ab", b"ab", {0.9, 0.99}, {0.9: 1, 0.99: 2}, np.array(0.9), np.ones((2, 2)), iter("ab")]:
        assert_refused("betas", value, TypeError)
    for value in [(), (0.9,), (0.9, 0.99, 0.999), np.array([0.9])]:
        assert_refused("betas", value, ValueError)


@given(
    name=st.sampled_from(["lr", "eps", "weight_decay"]),
    value=st.one_of(st.floats(), st.integers(), st.fractions(), st.booleans(), st.none(), st.text(max_size=3)),
)
def test_a_number_is_taken_as_it_is_or_refused_by_name(name, value):
    optimizer = Adam(np.ones(3))
    error = error_of(lambda: setattr(optimizer, name, value))
    if isinstance(value, bool | str | None):
        assert isinstance(error, TypeError)
    elif 0 <= value < 2**1023:
        assert error is None
    if error is None:
        assert 0 <= getattr(optimizer, name) == float(value) < math.inf
    else:
        assert name in str(error)


@pytest.mark.parametrize("betas", [[0.5, 0.25], (np.float32(0.5), Fraction(1, 4)), np.array([0.5, 0.25], np.float32)])
def test_betas_may_be_any_sequence_of_two_numbers(betas):
    optimizer = Adam(np.ones(3), betas=betas)
    assert optimizer.betas == (0.5, 0.25)
    assert {type(beta) for beta in optimizer.betas} == {float}


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("value", [1, 0, None, "True", np.array(True)])
def test_a_flag_is_true_or_false(flag, value):
    with pytest.raises(TypeError, match=flag):
        Adam(np.ones(3), **{flag: value})
