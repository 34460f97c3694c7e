"""All that is done to an element in the same pass, under Numba's simulator, bit for bit."""

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
from tests.helpers.naive import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


@pytest.mark.parametrize("dtype", FLOATS)
def test_gradients_are_divided_by_their_scale_and_bounded(dtype):
    p, cycle = on_device(naive.start(N, dtype)), naive.gradients(N, dtype)
    made, reference = Adam(p, clip_value=0.5), naive.Adam(naive.start(N, dtype))
    for t, scale in enumerate([1024.0, 8.0, 8.0, None]):
        factor = 1.0 if scale is None else scale
        made.step(on_device(cycle[t] * dtype(factor)), grad_scale=scale)
        reference.step(np.clip(cycle[t] * dtype(factor) * dtype(1.0 / factor), dtype(-0.5), dtype(0.5)))
    assert_equals(made, p.host, reference)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_average_of_the_parameters(dtype):
    p, cycle = on_device(naive.start(N, dtype)), naive.gradients(N, dtype)
    made, reference = SGD(p, lr=0.1, momentum=0.9, ema_decay=0.75), naive.SGD(naive.start(N, dtype), 0.1, 0.9)
    average = naive.start(N, dtype)
    for t in range(STEPS):
        made.step(on_device(cycle[t]))
        reference.step(cycle[t])
        average = average + dtype(0.25) * (reference.p - average)
    assert_equals(made, p.host, reference)
    assert_same_bits(made.state_dict()["ema"], average)
