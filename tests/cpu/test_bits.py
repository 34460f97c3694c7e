"""Single instructions for the bits of numbers, beside NumPy's views."""

import numba
import numpy as np
import pytest

from fastadam.cpu import bits
from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.target import TARGET
from tests.helpers.naive import assert_same_bits

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="intrinsics are compiled")
NUMBERS = np.float32([0.0, -0.0, 1.0, -2.5, 1e-45, 3.4e38, np.inf, -np.inf, np.nan, 65504, 6e-8, 1 + 2**-11])


def over(intrinsic, x, dtype):
    @numba.njit
    def loop(x, out):
        for i in range(x.size):
            out[i] = intrinsic(x[i])

    loop(x, out := np.empty(x.size, dtype))
    return out


def test_a_float32_is_reinterpreted_as_its_bits_and_back():
    there = over(bits.bits_of, NUMBERS, np.uint32)
    assert_same_bits(there, NUMBERS.view(np.uint32))
    assert_same_bits(over(bits.float_of, there, np.float32), NUMBERS)


@pytest.mark.skipif(not TARGET.halves, reason="the processor does not convert float16")
def test_a_float32_is_rounded_to_the_nearest_float16_and_back():
    there = over(bits.to_float16, NUMBERS, np.uint16)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(there.view(np.float16), NUMBERS.astype(np.float16))
    back = over(bits.from_float16, there, np.float32)
    np.testing.assert_array_equal(back, there.view(np.float16).astype(np.float32))
