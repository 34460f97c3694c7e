"""Dropout: which units are off is a function of a seed, the step, the sample, the layer and the unit.

So it is the same on any number of threads, and need not be remembered from the forward pass to the backward one.
"""

import functools
from typing import Any

import numba
import numpy as np
from numba import types

from fastadam.jit import address_of, device, kernel

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@device
def mixed(x):
    """A bijection of 64 bits, each of which depends on all: the end of SplitMix64 (Steele, Lea & Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


@kernel
def drop(Z, rows, units, layer, seed, step, rate):
    """Set each unit of a layer to 0 with probability `rate`, and divide the others by 1 - `rate`."""
    t = Z.dtype.type
    factor, limit = t(1.0 / (1.0 - rate)), np.uint64(rate * 2.0**32)
    of_step = mixed(mixed(np.uint64(seed)) + np.uint64(step))
    for i in range(rows.size):
        state = mixed(mixed(of_step + np.uint64(rows[i])) + np.uint64(layer))
        for j in range(units):
            z = Z[i, j] * factor
            Z[i, j] = t(0) if mixed(state + np.uint64(j) * _GOLDEN) >> np.uint64(32) < limit else z


@functools.cache
def drop_address(dtype: np.dtype[Any]) -> Any:
    """Where `drop` stands."""
    integer, matrix = types.int64, types.Array(numba.from_dtype(dtype), 2, "C")
    return address_of(
        drop, matrix, types.Array(integer, 1, "C"), integer, integer, integer, integer, types.float64
    )  # fmt: skip
