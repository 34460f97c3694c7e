"""Steps of every rule under Numba's simulator, bit for bit as the naive references."""

from itertools import product

import numpy as np
import pytest

from fastadam.cuda.stepper import DeviceStepper
from fastadam.optimizers.adam import Adam, NAdam
from tests.helpers import naive
from tests.helpers.cuda_steps import (
    FLOATS,
    STEPS,
    N,
    assert_equals,
    on_device,
    steps,
)
from tests.helpers.family import GRID

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


ADAM = [
    (
        Adam,
        dict(
            zip(("amsgrad", "epsilon_hat", "weight_decay", "decoupled_weight_decay", "maximize"), values, strict=True)
        ),
    )
    for values in product([False, True], [False, True], [0.0, 0.1], [False, True], [False, True])
]


@pytest.mark.parametrize(("of", "options"), GRID + ADAM, ids=lambda value: getattr(value, "__name__", None))
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_rule_and_decay_gives_the_bits_of_the_reference(of, options, dtype):
    p, gradients = on_device(naive.start(N, dtype)), naive.gradients(N, dtype)
    made = of(p, **options)
    count = 7 if of.__name__ == "RAdam" else STEPS  # it adapts from its sixth step on
    steps(made, gradients, count)
    reference = naive.trained(N, dtype, count, getattr(naive, of.__name__), **options)
    assert isinstance(made.stepper, DeviceStepper)
    assert made.t == count
    assert_equals(made, p.host, reference)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("where", [0, 40, 74])
def test_steps_that_are_not_finite_are_skipped(bad, dtype, where):
    p, cycle = on_device(naive.start(N, dtype)), naive.gradients(N, dtype)
    made, spoilt = NAdam(p, on_nonfinite="skip", zero_grad=True), np.array(cycle[0])
    spoilt[where] = bad
    for g in (cycle[0], spoilt, cycle[1], spoilt, cycle[2]):
        given = on_device(g)
        made.step(given)
        assert given.host.any() == (g is spoilt)
    assert (made.t, made.skipped_steps) == (3, 2)
    assert_equals(made, p.host, naive.trained(N, dtype, 3, naive.NAdam))


def test_settings_change_between_steps():
    p, cycle = on_device(naive.start(N, np.float32)), naive.gradients(N, np.float32)
    made, reference = Adam(p), naive.Adam(naive.start(N, np.float32))
    for t, lr in enumerate([1e-3, 1e-1, 1e-2]):
        made.lr = reference.lr = lr
        made.weight_decay = reference.weight_decay = 0.1 * t
        made.step(on_device(cycle[t]))
        reference.step(cycle[t])
    assert_equals(made, p.host, reference)
