"""The mask of dropout as a formula: its bits beside integers of any length, and the share of units that it drops."""

import numpy as np
import pytest

from fastadam.formulas.backend import Backend
from fastadam.formulas.dropout import limit_of, mask_by, mixed

MASK = mask_by(Backend(np.errstate(over="ignore"), {}))
BITS = 2**64 - 1


def mixed_exactly(x):
    """SplitMix64's finalizer with Python's integers."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & BITS
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & BITS
    return x ^ (x >> 31)


@pytest.mark.parametrize("x", [0, 1, 12345, 2**63, BITS])
def test_bits_are_mixed_as_published(x):
    with np.errstate(over="ignore"):
        assert int(mixed(np.uint64(x))) == mixed_exactly(x)


def test_a_unit_is_dropped_by_its_seed_step_sample_layer_and_index():
    seed, step, sample, layer, unit, rate = 7, 3, 11, 2, 5, 0.4
    row = mixed_exactly(mixed_exactly(mixed_exactly(mixed_exactly(seed) + step & BITS) + sample & BITS) + layer & BITS)
    expected = mixed_exactly(row + unit * 0x9E3779B97F4A7C15 & BITS) >> 32 < int(rate * 2**32)
    bits = MASK.of_row(MASK.of_step(seed, step), sample, layer)
    assert int(bits) == row
    assert MASK.is_off(bits, unit, limit_of(rate)) == expected


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_the_limit_drops_a_share_of_the_units(rate):
    bits = MASK.of_row(MASK.of_step(1, 1), 0, 0)
    off = np.mean([MASK.is_off(bits, unit, limit_of(rate)) for unit in range(2000)])
    assert abs(off - rate) <= 5 * np.sqrt(rate * (1 - rate) / 2000)
