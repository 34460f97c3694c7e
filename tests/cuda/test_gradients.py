"""Sums, norms and zeroing of gradients, under Numba's simulator."""

import math

import numpy as np
import pytest

from fastadam.optimizers.adam import Adam
from fastadam.optimizers.sgd import SGD
from tests.helpers import naive
from tests.helpers.cuda_steps import (
    FLOATS,
    STEPS,
    N,
    assert_equals,
    on_device,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shift", [0, 1])
def test_clipping_by_norm(dtype, shift):
    p, rng = on_device(naive.start(1100, dtype)), np.random.default_rng(0)
    made, reference = Adam(p, max_norm=2.0), naive.Adam(naive.start(1100, dtype))
    for size in (1.0, 1e-3, 30.0):
        g = (rng.standard_normal(1100) * size).astype(dtype)
        made.step(on_device(g, shift=shift))
        clip = 2.0 / (math.sqrt(math.fsum(np.square(g, dtype=np.float64))) + 1e-6)
        reference.step(g if clip > 1.0 else dtype(clip) * g)
    np.testing.assert_allclose(p.host, reference.p, rtol=4 * np.finfo(dtype).eps)


def test_a_norm_whose_squares_overflow():
    p = on_device(np.zeros(200))
    g = np.full(200, 1e200)
    SGD(p, lr=1.0, max_norm=1.0).step(on_device(g))
    np.testing.assert_allclose(p.host, -g / np.linalg.norm(g / 1e200) / 1e200)


@pytest.mark.parametrize("shift", [0, 2])
def test_the_gradient_is_zeroed(shift):
    p = on_device(naive.start(N, np.float32))
    made = Adam(p, zero_grad=True)
    for g in naive.gradients(N, np.float32)[:STEPS]:
        given = on_device(g, shift=shift)
        made.step(given)
        assert not given.host.any()
    assert_equals(made, p.host, naive.trained(N, np.float32, STEPS))


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("options", [{}, {"zero_grad": True, "max_norm": 1e9}])
def test_several_gradients_are_summed(shift, dtype, options):
    p, rng = on_device(naive.start(N, dtype)), np.random.default_rng(1)
    made, reference = Adam(p, **options), naive.Adam(naive.start(N, dtype))
    for rows in (3, 1, 4, 3):
        grads = rng.standard_normal((rows, N)).astype(dtype)
        made.step(*[on_device(g, shift=shift) for g in grads])
        total = grads[0]
        for g in grads[1:]:
            total = total + g
        reference.step(total)
    assert_equals(made, p.host, reference)
