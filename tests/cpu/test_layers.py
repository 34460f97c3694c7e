"""Layers: bias and activation over a block of rows."""

import numpy as np
import pytest

from fastadam.cpu.layers import forward_kernel
from fastadam.formulas.activations import ACTIVATIONS
from tests.helpers.activations import REFERENCE


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_bias_is_added_and_the_same_comes_out_whether_something_is_kept_or_not(name):
    rng = np.random.default_rng(0)
    Z, b = rng.standard_normal((7, 5)), rng.standard_normal(5)
    plain, kept = Z.copy(), Z.copy()
    forward_kernel(name)(plain, b, np.empty((0, 5)))
    forward_kernel(name)(kept, b, np.empty((7, 5)))
    np.testing.assert_array_equal(plain, kept)
    np.testing.assert_allclose(plain, REFERENCE[name][0](Z + b), rtol=1e-12, atol=1e-14)
