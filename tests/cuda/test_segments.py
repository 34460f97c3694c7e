"""Tables of segments, and steps over many arrays, under Numba's simulator."""

import numpy as np
import pytest

from fastadam.cuda.segments import FIRST_CHUNK, Segments, chunk_bounds, places_of, segment_of, table_of
from fastadam.optimizers.adam import Adam
from tests.helpers import naive
from tests.helpers.cuda_steps import (
    FLOATS,
    STEPS,
    assert_equals,
    on_device,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", [list, dict])
def test_many_arrays_are_one(dtype, kind):
    sizes = [0, 5, 64, 1, 33, 40, 0]
    parts = np.split(naive.start(sum(sizes), dtype), np.cumsum(sizes)[:-1])
    arrays = {f"part{k}": on_device(part) for k, part in enumerate(parts)}
    made = Adam(arrays if kind is dict else list(arrays.values()), amsgrad=True)
    for t in range(STEPS):
        grads = np.split(naive.gradients(sum(sizes), dtype)[t], np.cumsum(sizes)[:-1])
        given = {f"part{k}": on_device(part) for k, part in reversed(list(enumerate(grads)))}
        made.step(given if kind is dict else list(reversed(given.values())))
    params = np.concatenate([array.host for array in arrays.values()])
    assert_equals(made, params, naive.trained(sum(sizes), dtype, STEPS, naive.Adam, amsgrad=True))


def table_in_memory(sizes, chunk):
    addresses = [1000 * (k + 1) for k in range(len(sizes))]
    starts = np.cumsum([0, *(chunk * -(-size // chunk) for size in sizes)]).tolist()
    segments = Segments(addresses, sizes, starts, [0] * len(sizes), [7 + k for k in range(len(sizes))])
    return table_of(segments, chunk)


@pytest.mark.parametrize("sizes", [[8], [0, 5, 16, 0, 1], [1] * 9])
def test_every_chunk_is_found_in_its_segment(sizes):
    table = table_in_memory(sizes, 8)
    found = []
    for chunk in range(table[-1, FIRST_CHUNK]):
        k, start, stop = chunk_bounds(8)(table.ctypes.data, len(sizes), chunk)
        assert segment_of(table.ctypes.data, len(sizes), chunk) == k
        found.append((k, start, stop))
    assert found == [(k, a, min(a + 8, size)) for k, size in enumerate(sizes) for a in range(0, size, 8)]


def test_places_of_a_segment():
    table = table_in_memory([3, 20], 8)
    assert places_of(table.ctypes.data, 1) == (2000, 0, 8, 8)
