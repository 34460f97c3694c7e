import copy
import math
from fractions import Fraction

import numpy as np
import pytest

from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.step import step_kernel
from fastadam.cpu.threads import PARALLEL_BYTES
from fastadam.formulas import rules
from fastadam.formulas.step import StepSpec
from fastadam.optimizers.adam import Adam
from tests.helpers import naive
from tests.helpers.arrays import (
    EVERYTHING,
    a_byte_off,
    each_holder,
    flattened,
    one_array,
    pickled,
    snapshot,
    split_into_37,
    train,
)
from tests.helpers.naive import assert_same_bits

FLAGS = ["decoupled_weight_decay", "amsgrad", "maximize", "epsilon_hat"]
SIZES = [0, 1, 7, 16, 4099] + [1_000_003] * (not JIT_DISABLED)


# Ways to hold the same values in memory: each copies flat `values` into its structure.


def assert_equals_reference(optimizer, reference):
    state = optimizer.state_dict()
    assert state["t"] == optimizer.t == reference.t
    assert_same_bits(flattened(optimizer.params), reference.p)
    assert_same_bits(state["m"], reference.m)
    assert_same_bits(state["v"], reference.v)
    if "v_max" in state:
        assert_same_bits(state["v_max"], reference.v_max)


# The same bits as the naive reference


@pytest.mark.thin(14)
@each_holder
@pytest.mark.parametrize("n", SIZES)
def test_fifty_steps_in_float32_give_the_bits_of_the_reference(n, hold, threads):
    optimizer = Adam(hold(naive.start(n, np.float32)))
    train(optimizer, [hold(g) for g in naive.gradients(n, np.float32)], 50)
    assert_equals_reference(optimizer, naive.trained(n, np.float32))


@pytest.mark.parametrize("hold", [one_array, split_into_37, a_byte_off], ids=lambda hold: hold.__name__)
@pytest.mark.parametrize("n", [7] + [PARALLEL_BYTES // 8 + 1] * (not JIT_DISABLED))
def test_fifty_steps_in_float64_give_the_bits_of_the_reference(n, hold, threads):
    optimizer = Adam(hold(naive.start(n, np.float64)))
    train(optimizer, [hold(g) for g in naive.gradients(n, np.float64)], 50)
    assert_equals_reference(optimizer, naive.trained(n, np.float64))


# The same numbers as PyTorch and scikit-learn


# State


@each_holder
def test_a_state_dict_goes_on_bit_for_bit(hold):
    cycle = [hold(g) for g in naive.gradients(50, np.float32)]
    first = Adam(hold(naive.start(50, np.float32)), lr=0.01, **EVERYTHING)
    train(first, cycle, 7)
    second = Adam(copy.deepcopy(first.params), **(EVERYTHING | {"weight_decay": 0.0}))
    second.load_state_dict(first.state_dict())
    train(second, cycle, 8)
    assert second.t == 15
    assert_equals_reference(second, naive.trained(50, np.float32, 15, lr=0.01, **EVERYTHING))
    assert first.t == 7


def test_a_state_dict_is_a_copy_of_plain_numbers_and_arrays():
    optimizer = Adam(np.ones(3), lr=0.1)
    state = optimizer.state_dict()
    assert {type(value) for value in state.values()} == {int, float, tuple, bool, np.ndarray}
    state["m"][:] = 5
    assert not optimizer.state_dict()["m"].any()
    optimizer.load_state_dict(state)
    state["m"][:] = 6
    assert (optimizer.state_dict()["m"] == 5).all()


def test_loading_replaces_the_hyper_parameters():
    state = Adam(np.ones(3), lr=0.5, betas=(0.1, 0.2), eps=0.25, weight_decay=0.125).state_dict()
    optimizer = Adam(np.ones(3))
    optimizer.load_state_dict(state)
    assert (optimizer.lr, optimizer.betas, optimizer.eps, optimizer.weight_decay) == (0.5, (0.1, 0.2), 0.25, 0.125)


BAD_STATES = {
    "t negative": ({"t": -1}, ValueError, "'t'"),
    "t too large": ({"t": 2**63 - 1}, ValueError, "'t'"),
    "t a float": ({"t": 1.0}, TypeError, "'t'"),
    "t a bool": ({"t": True}, TypeError, "'t'"),
    "lr": ({"lr": -1.0}, ValueError, "lr"),
    "betas": ({"lr": 0.5, "betas": (0.9, 1.0)}, ValueError, "betas"),
    "eps": ({"lr": 0.5, "eps": math.nan}, ValueError, "eps"),
    "weight_decay": ({"lr": 0.5, "eps": 0.5, "weight_decay": "0"}, TypeError, "weight_decay"),
    "another flag": ({"amsgrad": True}, ValueError, "amsgrad"),
    "a flag as text": ({"maximize": ""}, TypeError, "maximize"),
    "m a list": ({"m": [0.0] * 5}, TypeError, "'m'"),
    "m of another size": ({"m": np.zeros(4)}, ValueError, "'m'"),
    "m of another dtype": ({"m": np.zeros(5, np.float32)}, ValueError, "'m'"),
    "m of another byte order": ({"m": np.zeros(5, np.dtype(float).newbyteorder())}, ValueError, "'m'"),
    "v of another shape": ({"v": np.zeros((5, 1))}, ValueError, "'v'"),
    "an unknown entry": ({"momentum": 0.9}, ValueError, "momentum"),
    "v_max without amsgrad": ({"v_max": np.zeros(5)}, ValueError, "v_max"),
}


@pytest.mark.parametrize(("change", "error", "match"), BAD_STATES.values(), ids=BAD_STATES)
def test_a_bad_state_is_refused_by_name_and_changes_nothing(change, error, match):
    optimizer = Adam(naive.start(5, np.float64), lr=0.1, weight_decay=0.1)
    train(optimizer, naive.gradients(5, np.float64), 2)
    state, before = optimizer.state_dict(), snapshot(optimizer)
    train(optimizer, naive.gradients(5, np.float64), 1)
    after = snapshot(optimizer)
    with pytest.raises(error, match=match):
        optimizer.load_state_dict({**state, **change})
    assert snapshot(optimizer) == after != before
    train(optimizer, naive.gradients(5, np.float64), 1)
    assert_equals_reference(optimizer, naive.trained(5, np.float64, 4, lr=0.1, weight_decay=0.1))


@pytest.mark.parametrize("missing", ["t", "lr", "betas", "maximize", "v"])
def test_a_state_with_a_missing_entry_is_a_value_error(missing):
    optimizer = Adam(np.ones(5))
    state = optimizer.state_dict()
    del state[missing]
    with pytest.raises(ValueError, match=missing):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize("state", [None, [], "t", 1])
def test_a_state_that_is_not_a_mapping_is_a_type_error(state):
    with pytest.raises(TypeError, match="state must be a mapping"):
        Adam(np.ones(5)).load_state_dict(state)


@each_holder
@pytest.mark.parametrize("duplicate", [pickled, copy.deepcopy], ids=lambda duplicate: duplicate.__name__)
def test_a_duplicate_keeps_the_parameters_that_it_shares_and_goes_on_bit_for_bit(hold, duplicate):
    cycle = [hold(g) for g in naive.gradients(50, np.float32)]
    original = Adam(hold(naive.start(50, np.float32)), epsilon_hat=True, **EVERYTHING)
    train(original, cycle, 3)
    params, optimizer = duplicate((original.params, original))
    assert optimizer.params is params
    train(optimizer, cycle, 4)
    assert_equals_reference(optimizer, naive.trained(50, np.float32, 7, epsilon_hat=True, **EVERYTHING))
    assert_same_bits(flattened(params), flattened(optimizer.params))
    assert_equals_reference(original, naive.trained(50, np.float32, 3, epsilon_hat=True, **EVERYTHING))


@pytest.mark.parametrize("array", [np.ones((3, 4), order="F"), np.array(1.0), np.ones((0, 2))], ids=repr)
def test_pickling_keeps_shape_and_memory_order(array):
    optimizer = pickled(Adam({"W": array}))
    assert optimizer.params["W"].shape == array.shape
    assert optimizer.params["W"].flags.f_contiguous == array.flags.f_contiguous
    optimizer.step({"W": np.ones_like(array)})
    assert optimizer.t == 1


def test_the_moments_are_the_state_itself():
    optimizer = Adam(np.ones(5), amsgrad=True)
    moments = optimizer.moments
    assert list(moments) == ["m", "v", "v_max"]
    assert list(Adam(np.ones(5)).moments) == ["m", "v"]
    optimizer.step(np.ones(5))
    for name, moment in optimizer.moments.items():
        assert moment is moments[name]
        assert moment.all()


def test_repr_tells_what_it_optimizes_and_how():
    optimizer = Adam([np.zeros((2, 3), np.float32), np.zeros(3, np.float32)], lr=0.5, amsgrad=True)
    assert repr(optimizer) == (
        "Adam(9 float32 parameters, lr=0.5, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, amsgrad=True, t=0)"
    )


# Hyper-parameters


@pytest.mark.skipif(JIT_DISABLED, reason="counts compilations")
def test_a_new_lr_takes_effect_at_once_and_compiles_nothing():
    optimizer, reference = Adam(np.ones(5)), naive.Adam(np.ones(5))
    optimizer.step(g := np.arange(5.0))
    reference.step(g)
    compiled = len(step_kernel(StepSpec(rules.ADAM), "float64", False).signatures)
    for lr in (0.5, 0, 1, np.float32(0.25), Fraction(1, 3), np.int64(2)):
        optimizer.lr = reference.lr = float(lr)
        optimizer.lr = lr
        assert type(optimizer.lr) is float
        optimizer.step(g)
        reference.step(g)
    assert_equals_reference(optimizer, reference)
    assert len(step_kernel(StepSpec(rules.ADAM), "float64", False).signatures) == compiled


# Parameters and gradients that are refused


def test_a_stream_is_refused_for_parameters_on_the_host():
    optimizer = Adam(np.ones(3))
    before = snapshot(optimizer)
    with pytest.raises(TypeError, match="stream must be None where params lie on the host, got 0"):
        optimizer.step(np.ones(3), stream=0)
    assert snapshot(optimizer) == before
