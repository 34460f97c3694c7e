"""Tables of segments as the kernels read them."""

import numpy as np

from fastadam.formulas.step import G_AT, GROUP, OFFSET, P_AT, SIZE


def segments_of(params, rows):
    """The table of segments for arrays of parameters and rows of as many gradients."""
    table = np.zeros((G_AT + len(rows), len(params) + 1), np.int64)
    table[GROUP] = 1
    table[SIZE, :-1] = [part.size for part in params]
    table[OFFSET, 1:] = np.cumsum(table[SIZE, :-1])
    for row, arrays in [(P_AT, params), *((G_AT + k, grads) for k, grads in enumerate(rows))]:
        table[row, :-1] = [array.ctypes.data for array in arrays]
    return table
