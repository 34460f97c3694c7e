"""Dropout, compiled for CUDA: the mask of `formulas.dropout`, computed where it is needed."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastadam.cuda.jit import device, formula
from fastadam.cuda.views import WORD, memory
from fastadam.formulas.dropout import limit_of, mask_by

MASK_SEED, LIMIT, FACTOR, ORDER_AT, POSITION_AT, STEPS_AT = range(6)
"""Entries of the table of a mask: seed, limit, and factor of the units that are kept, in the type of the elements; then
addresses: of the order of the samples, of the position of the batch in it (a float64), and of the number of steps
before this one."""


def mask_table(
    seed: int, rate: float, dtype: np.dtype[Any], order_at: int, position_at: int, steps_at: int
) -> NDArray[Any]:
    """Make the table of a mask, on the host."""
    table = np.array([seed, int(limit_of(rate)), 0, order_at, position_at, steps_at], np.int64)
    table[FACTOR:ORDER_AT].view(dtype)[0] = 1.0 / (1.0 - rate)
    return table


class Dropping(NamedTuple):
    """Functions that read the table of a mask, and apply it."""

    opened: Callable[..., Any]
    """`opened(table)` returns the mask; each thread calls it once."""
    dropped: Callable[..., Any]
    """`dropped(x, mask, row of the batch, layer, unit)` returns 0 or the scaled element."""


@functools.cache
def dropping(dtype: str) -> Dropping:
    """Make the functions of a mask for elements of a type."""
    of_step, of_row, is_off = mask_by(formula)
    load, word, read, zero = memory(dtype).load, memory("int64").load, memory("float64").load, np.dtype(dtype).type(0)

    @device
    def opened(table):
        bits = of_step(word(table + WORD * MASK_SEED), word(word(table + WORD * STEPS_AT)) + 1)
        position = np.int64(read(word(table + WORD * POSITION_AT)))
        samples, limit = word(table + WORD * ORDER_AT) + WORD * position, np.uint64(word(table + WORD * LIMIT))
        return bits, samples, limit, load(table + WORD * FACTOR)

    @device
    def dropped(x, mask, row, layer, unit):
        bits, samples, limit, factor = mask
        return zero if is_off(of_row(bits, word(samples + WORD * row), layer), unit, limit) else x * factor

    return Dropping(opened, dropped)
