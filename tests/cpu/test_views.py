"""Views, casts and small arrays inside compiled code."""

import numba
import numpy as np
import pytest

from fastadam._memory import ALIGNMENT
from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.views import array_at, cast_like, empty_of, empty_stored, prefetch, stack_array, taker, view

DTYPES = [np.float32, np.float64]
take_two, ten_on_the_stack = taker(1, 2), stack_array(10)


@numba.njit
def take(array):
    return take_two(array)


@numba.njit
def block(array, offset, rows, columns):
    return view(array, offset, (rows, columns)).copy()


@numba.njit
def write_block(array, offset, rows, columns):
    view(array, offset, (rows, columns))[:] = 7


@numba.njit
def at(address, size, like):
    array_at(address, size, like)[:] += 1


@numba.njit
def cast(like, values):
    return cast_like(like, values)


@numba.njit
def on_the_stack(like, n):
    total = 0.0
    for k in range(n):
        own = ten_on_the_stack(like)
        for i in range(own.size):
            own[i] = k * i
        total += own[own.size - 1]
    return total, own.size, own.itemsize


@numba.njit
def prefetched(array):
    for i in range(array.size):
        prefetch(array, i)
    return array.sum()


@pytest.mark.parametrize("dtype", DTYPES)
def test_elements_are_taken_as_a_tuple(dtype):
    assert take(np.arange(4, dtype=dtype)) == (1, 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_view_has_the_shape_and_the_memory_asked_for(dtype):
    array = np.arange(12, dtype=dtype)
    np.testing.assert_array_equal(block(array, 3, 2, 4), array[3:11].reshape(2, 4))
    np.testing.assert_array_equal(block(array.reshape(3, 4), 4, 4, 2), array[4:].reshape(4, 2))
    write_block(array, 3, 2, 4)
    assert array.tolist() == [0, 1, 2, *[7] * 8, 11]


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_array_at_an_address_is_the_memory_there(dtype):
    array = np.zeros(5, dtype)
    at(array.ctypes.data + array.itemsize, 3, empty_of(dtype))
    assert array.tolist() == [0, 1, 1, 1, 0]


def test_numbers_are_cast_to_the_type_of_an_array_and_rounded_once():
    a, b = cast(np.empty(0, np.float32), (1 / 3, 2))
    assert float(a) == float(np.float32(1 / 3)) != 1 / 3
    assert b == 2
    assert cast(np.empty(0), (1 / 3,))[0] == 1 / 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_array_on_the_stack_has_its_size_and_type(dtype):
    total, size, itemsize = on_the_stack(np.empty(0, dtype), 100)
    assert (total, size, itemsize) == (9 * sum(range(100)), 10, np.dtype(dtype).itemsize)


def test_asking_for_memory_ahead_changes_nothing():
    assert prefetched(np.arange(ALIGNMENT, dtype=float)) == sum(range(ALIGNMENT))


def test_numbers_in_a_form_of_storage_are_bits():
    assert empty_stored("float32", "bfloat16").dtype == np.uint16
    assert empty_stored("float32", "").dtype == np.float32
    assert JIT_DISABLED or empty_of("float64").size == 0
