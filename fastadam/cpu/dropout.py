"""Dropout, compiled for the CPU."""

import functools
from typing import Any

import numba
import numpy as np
from numba import types

from fastadam.cpu.jit import formula, kernel
from fastadam.cpu.pointers import address_of
from fastadam.formulas.dropout import limit_of, mask_by

_of_step, _of_row, _is_off = mask_by(formula)

_limit_of = formula(limit_of)


@kernel
def drop(Z, rows, units, layer, seed, step, rate):
    """Set each unit of a layer to 0 with probability `rate`, and divide the others by 1 - `rate`."""
    t = Z.dtype.type
    factor, limit, of_step = t(1.0 / (1.0 - rate)), _limit_of(rate), _of_step(seed, step)
    for i in range(rows.size):
        of_row = _of_row(of_step, rows[i], layer)
        for j in range(units):
            z = Z[i, j] * factor
            Z[i, j] = t(0) if _is_off(of_row, j, limit) else z


@functools.cache
def drop_address(dtype: np.dtype[Any]) -> Any:
    """Address of `drop`."""
    integer, matrix = types.int64, types.Array(numba.from_dtype(dtype), 2, "C")
    rows = types.Array(integer, 1, "C")
    return address_of(drop, matrix, rows, integer, integer, integer, integer, types.float64)
