"""The compiler for CUDA: its primitives, and what it says without a device."""

import math
from itertools import product

import numpy as np
import pytest
from numba import cuda

from fastadam.cuda import jit
from fastadam.optimizers.adam import Adam
from tests.helpers.cuda_steps import (
    on_device,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


def test_no_device(monkeypatch):

    monkeypatch.setattr(cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"no CUDA device can be used.*needs an NVIDIA GPU and its driver"):
        Adam(on_device(np.ones(3)))


def test_extrema_keep_their_first_argument_as_pythons_do():
    for a, b in product([1.0, 2.0, math.nan], repeat=2):
        np.testing.assert_equal(jit.maximum(a, b), max(a, b))
        np.testing.assert_equal(jit.minimum(a, b), min(a, b))


def test_floats_and_their_bits():
    x = np.float32(-1.5)
    assert jit.bits_of(x) == x.view(np.uint32)
    assert jit.float_of(jit.bits_of(x)) == x
