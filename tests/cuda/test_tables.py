"""Layouts of the tables of a step, which the kernel that advances it fills; under Numba's simulator."""

import numpy as np
import pytest

from fastadam.cuda.jit import THREADS
from fastadam.cuda.step import advance_kernel
from fastadam.cuda.tables import COUNTERS, EXTRA_AT, GRAD_SCALE, IDLE, SCALARS, SETTINGS, SKIPS
from fastadam.formulas import rules
from fastadam.formulas.step import ACTIVE, DECAY, HYPER

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's threads compute as NumPy does


def advanced(t=3, **first_row):
    """Run the kernel that advances a step: the counters after it, and the numbers of two groups."""
    settings, numbers = np.zeros((3, SETTINGS + 2)), np.full((2, SCALARS + 2), -1.0, np.float32)
    settings[0, GRAD_SCALE] = 4.0
    for column, value in first_row.items():
        settings[0, {"idle": IDLE, "skips": SKIPS}[column]] = value
    settings[1:, DECAY], settings[1:, ACTIVE] = (0.5, 0.25), (1.0, 0.0)
    settings[1:, HYPER : HYPER + 4] = [1e-3, 0.9, 0.999, 1e-8]
    counters, carried = np.array([t, 0, 0]), np.ones(2)
    where = (array.ctypes.data for array in (settings, counters, carried, numbers))
    settings_at, counters_at, carried_at, numbers_at = where
    width = settings.shape[1]
    advance_kernel(rules.SGD, "float32", False)[1, THREADS](
        settings_at, width, 2, counters_at, carried_at, 0, 0, numbers_at
    )
    return counters.tolist(), numbers


def test_the_numbers_of_each_group():
    counters, numbers = advanced()
    assert (counters, len(counters)) == ([4, 0, 0], COUNTERS)
    rows = numbers.ravel()[: 2 * (SCALARS + 1)].reshape(2, -1)  # SGD takes one scalar
    assert rows[:, DECAY].tolist() == [0.5, 0.25]
    assert rows[:, ACTIVE].tolist() == [1.0, 0.0]
    assert (rows[:, EXTRA_AT] == 0.25).all()  # the reciprocal of the scale
    assert (rows[:, SCALARS] == np.float32(1e-3)).all()


def test_an_idle_step_counts_nothing_and_no_group_is_active():
    counters, numbers = advanced(idle=1.0)
    assert counters == [3, 0, 0]
    assert numbers.ravel()[ACTIVE] == 0.0
