"""Arrays in memory: where they begin, what they keep alive, and which views may be written to."""

import weakref

import numpy as np
import pytest

from fastadam._memory import ALIGNMENT, aligned_zeros, array_in_memory, writeable_view


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
@pytest.mark.parametrize("size", [1, 63, 1000])
def test_zeros_begin_at_a_cache_line(size, dtype):
    arrays = [aligned_zeros(size, dtype) for _ in range(5)]
    for array in arrays:
        assert array.__array_interface__["data"][0] % ALIGNMENT == 0
        assert (array.shape, array.dtype) == ((size,), np.dtype(dtype))
        assert not array.any()
        array[:] = 1
    assert not any(np.shares_memory(arrays[0], other) for other in arrays[1:])


def test_an_array_in_memory_is_the_memory_itself_and_keeps_its_owner():
    class Owner:
        memory = np.arange(5.0)

    owner = Owner()
    array = array_in_memory(owner.memory.ctypes.data + 8, 3, float, owner)
    assert array.tolist() == [1.0, 2.0, 3.0]
    array[0] = 7
    assert owner.memory[1] == 7
    gone, view = weakref.ref(owner), array[1:]
    del owner, array
    assert gone() is not None
    del view
    assert gone() is None


def test_nothing_in_memory_needs_no_address():
    assert array_in_memory(0, 0, "float32").dtype == np.float32


def test_a_read_only_matrix_has_a_writeable_view_of_the_same_memory():
    matrix = np.arange(6.0).reshape(2, 3)
    assert writeable_view(matrix) is matrix
    matrix.flags.writeable = False
    view = writeable_view(matrix)
    assert view.flags.writeable
    assert view.shape == (2, 3)
    assert view.ctypes.data == matrix.ctypes.data
