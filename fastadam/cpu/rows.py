"""Lazy Adam over a table: a step updates only the rows that it names, at a cost in proportion to them.

Read from the inside out: `_chained` finds the rows that are named more than once, `_summed` adds their gradients,
`rows_update` runs the rule over each row, and `rows_kernel` is launched from Python.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
from numba import get_num_threads, prange

from fastadam._memory import ALIGNMENT
from fastadam.cpu.element import element_loop, step_scalars
from fastadam.cpu.jit import inner, kernel
from fastadam.cpu.views import array_at, cast_like, prefetch
from fastadam.formulas.step import HYPER, StepSpec

AHEAD = 4
"""Number of rows by which prefetching is ahead of the update: no processor can predict where the next rows lie.

It makes steps 1.5 to 1.8 times as fast if the table lies in memory and not in cache; 2 and 8 are no better.
"""


@inner
def _chained(rows, places):
    """Chain the occurrences of each row, in the order given.

    Returns the number of distinct rows and three arrays. Distinct row s is `distinct[s]`; it occurs at `first[s]` in
    `rows`, then at `following[first[s]]`, and so on until that is negative. If an element of `rows` is not a row of the
    table, `-1 - position` is returned in place of the number.

    `places[row]` is the number s of a row; if the row has none yet, it is any number, with which `distinct` disagrees
    (Briggs & Torczon, "An efficient representation for sparse sets", 1993). This takes a single pass, in which nothing
    is sorted or cleared, and eight bytes per row of the table. Sorting took four times as long.
    """
    distinct, first = np.empty_like(rows), np.empty_like(rows)
    last, following = np.empty_like(rows), np.empty_like(rows)
    count = 0
    for i in range(rows.size):
        row = rows[i]
        if row < 0 or row >= places.size:
            return -1 - i, distinct, first, following
        place = places[row]
        if place < count and distinct[place] == row:
            following[last[place]] = i
        else:
            place = count
            places[row], distinct[place], first[place] = place, row, i
            count += 1
        last[place], following[i] = i, -1
    return count, distinct, first, following


@inner
def _summed(grads, dim, i, following, total):
    """Sum the gradients of a row in the order given, from the one at i on; `total` is used if there are several."""
    g = grads[i * dim : (i + 1) * dim]
    i = following[i]
    if i < 0:
        return g
    total[:] = g
    while i >= 0:
        for j in range(dim):
            total[j] += grads[i * dim + j]
        i = following[i]
    return total


@inner
def _prefetch(array, start, stop):
    """Prefetch the elements `start:stop`, which may begin and end within a cache line."""
    for i in range(start, stop, ALIGNMENT // array.itemsize):
        prefetch(array, i)
    prefetch(array, stop - 1)


@inner
def _after_rest(scalars, missed, group):
    """Scalars of a step in which the old moments also decay for `missed` steps without a gradient."""
    step_size, root_factor, _, one_minus_beta1, _, one_minus_beta2, eps = scalars
    beta1, beta2 = math.pow(group[HYPER + 1], missed + 1.0), math.pow(group[HYPER + 2], missed + 1.0)
    return step_size, root_factor, beta1, one_minus_beta1, beta2, one_minus_beta2, eps


@functools.cache
def rows_update(spec: StepSpec) -> Callable[..., None]:
    """Make the function that updates every `parts`-th distinct row, from number `part` on.

    Rows that occur often tend to come first: a thread that took the first half would have more gradients to sum.
    """
    loop, scalars_of = element_loop(spec), step_scalars(spec.rule)

    @inner
    def update(table, grads, chains, dim, last_step, group, t, part, parts):
        p, m, v = table
        count, distinct, first, following = chains
        total, scalars, no_decay = np.empty(dim, m.dtype), scalars_of(m, t, group), m.dtype.type(0)
        for k in range(part, count, parts):
            if k + AHEAD * parts < count:
                row = distinct[k + AHEAD * parts]
                for array in table:
                    _prefetch(array, row * dim, (row + 1) * dim)
                if last_step.size > 0:
                    prefetch(last_step, row)
            row = distinct[k]
            g = _summed(grads, dim, first[k], following, total)
            own = scalars
            if last_step.size > 0:
                missed, last_step[row] = t - 1 - last_step[row], t
                if missed > 0:
                    own = cast_like(m, _after_rest(scalars, missed, group))
            start, stop = row * dim, (row + 1) * dim
            loop(p[start:stop], g, (m[start:stop], v[start:stop]), 0, dim, 0, no_decay, own, ())

    return update


@functools.cache
def rows_kernel(spec: StepSpec, parallel: bool) -> Callable[..., int]:
    """Compile a step over some rows, in any order, of the table at `p_at`, with their gradients at `g_at`.

    The serial and the parallel form give the same bits. The kernel returns the number of distinct rows; if the table
    does not have a row, it returns `-1 - its position` and changes nothing.
    """
    update = rows_update(spec)

    if parallel:

        @kernel(parallel=True, variant=str(spec))
        def parallel_rows(p_at, m, v, rows, g_at, dim, places, last_step, group, t):
            chains = _chained(rows, places)
            p, grads = array_at(p_at, m.size, m), array_at(g_at, rows.size * dim, m)
            parts = get_num_threads()
            for part in prange(parts):
                update((p, m, v), grads, chains, dim, last_step, group, t, part, parts)
            return chains[0]

        return parallel_rows

    @kernel(variant=str(spec))
    def serial_rows(p_at, m, v, rows, g_at, dim, places, last_step, group, t):
        chains = _chained(rows, places)
        p, grads = array_at(p_at, m.size, m), array_at(g_at, rows.size * dim, m)
        update((p, m, v), grads, chains, dim, last_step, group, t, 0, 1)
        return chains[0]

    return serial_rows
