"""Access to memory by address, under Numba's simulator."""

import numpy as np
import pytest

from fastadam.cuda.views import cast_like, loader, memory

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


@pytest.mark.parametrize(
    ("dtype", "lanes"), [("float32", 4), ("float64", 2), ("uint16", 4), ("uint8", 4), ("int64", 2)]
)
def test_loads_and_stores(dtype, lanes):
    array, access = np.arange(64, dtype=dtype)[:16], memory(dtype)
    address, itemsize = array.ctypes.data, array.itemsize
    assert (access.itemsize, access.lanes) == (itemsize, lanes)
    assert access.load(address + 3 * itemsize) == 3
    assert loader(dtype, 3)(address + itemsize) == (1, 2, 3)
    first = -address % (lanes * itemsize) // itemsize  # the first address that a vector may have
    assert access.load_vector(address + first * itemsize) == tuple(range(first, first + lanes))
    access.store_vector(address + first * itemsize, (7,) * lanes)
    access.store(address + 15 * itemsize, 9)
    access.store_all(address + (first + lanes) * itemsize, (8, 8, 8))
    assert array[first : first + lanes + 3].tolist() == [7] * lanes + [8] * 3
    assert array[15] == 9


def test_a_vector_off_its_alignment():
    array = np.zeros(16, np.float32)
    with pytest.raises(AssertionError):
        memory("float32").load_vector(array.ctypes.data + (-array.ctypes.data % 16) + 4)


def test_casts():
    cast = cast_like(np.empty(0, np.float32), (1, 0.1, True))
    assert cast == (1, np.float32(0.1), 1)
    assert all(type(value) is np.float32 for value in cast)
