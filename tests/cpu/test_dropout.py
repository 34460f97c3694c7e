"""Dropout: which units are off, how many, and that it depends on nothing else than it should."""

import numpy as np
import pytest

from fastadam.cpu.dropout import drop
from fastadam.cpu.jit import JIT_DISABLED

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="interpreted arithmetic of 64 bits warns of its overflows")


def dropped(rows, *, units=300, layer=0, seed=1, step=1, rate=0.3, dtype=np.float64):
    Z = np.ones((len(rows), units), dtype)
    drop(Z, np.asarray(rows), units, layer, seed, step, rate)
    return Z


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rate", [0.01, 0.3, 0.5, 0.97])
def test_so_many_units_are_off_and_the_others_are_scaled_up(rate, dtype):
    Z = dropped(range(400), rate=rate, dtype=dtype)
    off = Z == 0
    np.testing.assert_array_equal(Z[~off], dtype(1 / (1 - rate)))
    deviation = np.sqrt(rate * (1 - rate) / off.size)
    assert abs(off.mean() - rate) < 5 * deviation
    for axis, count in ((0, 400), (1, 300)):  # no unit and no sample is favoured
        spread = np.sqrt(rate * (1 - rate) / count)
        assert np.abs(off.mean(axis=axis) - rate).max() < 6 * spread


def test_what_is_off_is_independent_between_samples_steps_layers_and_seeds():
    first = dropped(range(100)) == 0
    for changed in ({"step": 2}, {"layer": 1}, {"seed": 2}):
        other = dropped(range(100), **changed) == 0
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(first[:50].ravel(), first[50:].ravel())[0, 1]) < 0.04
    assert abs(np.corrcoef(first[:, :150].ravel(), first[:, 150:].ravel())[0, 1]) < 0.04


def test_a_sample_has_the_same_units_off_wherever_it_stands_in_the_batch():
    together = dropped([5, 9, 2, 7])
    np.testing.assert_array_equal(dropped([2])[0], together[2])
    np.testing.assert_array_equal(dropped([7, 5])[1], together[0])


def test_what_lies_beyond_the_units_is_left_alone():
    Z = np.full((3, 10), np.nan)
    Z[:, :6] = 1
    drop(Z, np.arange(3), 6, 0, 1, 1, 0.5)
    assert np.isnan(Z[:, 6:]).all()
    assert np.isfinite(Z[:, :6]).all()
