"""Dropout on a device: the mask of `fastadam.formulas.dropout`, computed where it is needed."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastadam.cuda.jit import WORD, device, formula, memory
from fastadam.formulas.dropout import limit_of, mask_by

MASK_SEED, LIMIT, FACTOR, ORDER_AT, POSITION_AT, STEPS_AT = range(6)
"""A table of words: what the mask is a function of, and what the others are multiplied by, in the type of the elements;
then addresses: of the order of the samples, of the place of the batch's first in it (a float64), and of the number of
steps before this one."""


def mask_table(
    seed: int, rate: float, dtype: np.dtype[Any], order_at: int, position_at: int, steps_at: int
) -> NDArray[Any]:
    """The table, on the host."""
    table = np.array([seed, int(limit_of(rate)), 0, order_at, position_at, steps_at], np.int64)
    table[FACTOR:ORDER_AT].view(dtype)[0] = 1.0 / (1.0 - rate)
    return table


@functools.cache
def dropping(dtype: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What reads the table, once a thread; and what drops an element of a row of the batch, or scales it up."""
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

    return opened, dropped
