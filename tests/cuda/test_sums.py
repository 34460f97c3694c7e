"""Sums over the threads of a block, under Numba's simulator."""

import numpy as np
import pytest
from numba import cuda

from fastadam.cuda.jit import THREADS, in_module, kernel
from fastadam.cuda.sums import SHARED, sum_shared

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


_sum_shared = in_module(sum_shared, globals())


def test_both_halves_of_the_memory_of_a_block_are_summed():
    @kernel
    def summed(values, out):
        shared, thread = cuda.shared.array(SHARED, np.float64), cuda.threadIdx.x
        shared[thread], shared[THREADS + thread] = values[thread], 10 * values[thread]
        _sum_shared(shared, thread)
        if thread == 0:
            out[0], out[1] = shared[0], shared[THREADS]

    values, out = np.arange(1.0, THREADS + 1), np.zeros(2)
    summed[1, THREADS](values, out)
    assert out.tolist() == [values.sum(), 10 * values.sum()]
