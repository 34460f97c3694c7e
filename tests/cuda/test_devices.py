"""The current device, under Numba's simulator."""

import pytest

from fastadam.cuda import devices
from fastadam.cuda.jit import THREADS

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


@pytest.mark.parametrize(("size", "blocks"), [(0, 1), (1, 1), (THREADS, 1), (THREADS + 1, 2), (10**9, 3)])
def test_blocks_for_elements(size, blocks):
    assert devices.blocks_for(size) == blocks
    assert devices.most_blocks() == 3


def test_nothing_is_captured_by_the_simulator():
    assert not devices.is_capturing(0)
    assert not devices.is_capturing(70)
    with devices.on_current(0):
        devices.synchronize()
