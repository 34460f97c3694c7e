"""Dropout masks as a function of a seed, the step, the sample, the layer and the unit.

A mask is therefore the same on any number of threads and on a GPU, and the backward pass recomputes the one of the
forward pass instead of storing it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastadam.formulas.backend import Backend

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mixed(x):
    """Mix 64 bits bijectively, so that each depends on all: the finalizer of SplitMix64 (Steele, Lea & Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


class Mask(NamedTuple):
    """Choice of the units to drop, in three functions: the first ones depend on what changes less often."""

    of_step: Callable[..., Any]
    """`of_step(seed, step)` returns 64 bits."""
    of_row: Callable[..., Any]
    """`of_row(bits of the step, sample, layer)` returns 64 bits."""
    is_off: Callable[..., Any]
    """`is_off(bits of the row, unit, limit)`; see `limit_of`."""


def mask_by(backend: Backend) -> Mask:
    """Compile the mask for a backend."""
    mix = backend(mixed)

    @backend
    def of_step(seed, step):
        return mix(mix(np.uint64(seed)) + np.uint64(step))

    @backend
    def of_row(bits, sample, layer):
        return mix(mix(bits + np.uint64(sample)) + np.uint64(layer))

    @backend
    def is_off(bits, unit, limit):
        return mix(bits + np.uint64(unit) * _GOLDEN) >> np.uint64(32) < limit

    return Mask(of_step, of_row, is_off)


def limit_of(rate):
    """Return the number of the 2³² values of 32 bits that drop a unit."""
    return np.uint64(rate * 2.0**32)
