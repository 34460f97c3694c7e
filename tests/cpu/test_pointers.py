"""Calls by address: what is called, with which arguments, and that its errors come through."""

import numba
import numpy as np
import pytest
from numba import types

from fastadam.cpu.jit import JIT_DISABLED, kernel
from fastadam.cpu.pointers import address_of, call_pointer

FLAT = types.Array(types.float64, 1, "C")
call_with_result, call_without = call_pointer(types.float64), call_pointer(types.none)


@kernel(cached=False)
def scaled_sum(x, factor):
    return factor * x.sum()


@kernel(cached=False)
def doubled(x, factor):
    x *= 2 * factor


@kernel(cached=False)
def failing(x, factor):
    if x.size:
        raise ValueError("x must be empty")
    return factor


@numba.njit
def call(address, x, factor):
    return call_with_result(address, (x, factor))


@numba.njit
def call_for_effect(address, x, factor):
    call_without(address, (x, factor))


def test_the_function_at_an_address_is_called_with_the_arguments():
    address = address_of(scaled_sum, FLAT, types.float64)
    assert JIT_DISABLED or isinstance(address, int)
    assert call(address, np.array([1.0, 2.0]), 10.0) == 30.0
    call_for_effect(address_of(doubled, FLAT, types.float64), x := np.array([1.0, 2.0]), 3.0)
    assert x.tolist() == [6.0, 12.0]


def test_an_error_of_the_function_is_the_callers():
    address = address_of(failing, FLAT, types.float64)
    assert call(address, np.empty(0), 1.5) == 1.5
    with pytest.raises(ValueError, match="x must be empty"):
        call(address, np.ones(1), 1.5)


def test_two_kernels_have_two_addresses_that_stay():
    addresses = [address_of(made, FLAT, types.float64) for made in (scaled_sum, failing, scaled_sum)]
    assert addresses[0] == addresses[2] != addresses[1]
