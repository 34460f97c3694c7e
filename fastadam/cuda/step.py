"""The kernels of a step: advance its scalars, then update every element in one pass.

Everything a step takes is in device memory, the step count included, and `advance_kernel`, which is one block, computes
the scalars of the step from it, in float64 as on the CPU. So nothing has to come back to the host, and a captured CUDA
graph replays correctly, also after a change of the settings: between replays only the memory changes.

Read from the inside out: `element.element` is a rule, with all that is done in the same pass; `chunk.part_of_chunk`
applies it to a thread's part of a chunk; `step_kernel` goes through all chunks.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastadam.cuda.chunk import Pass, alignment, group_numbers, part_of_chunk
from fastadam.cuda.element import count_of_scalars, step_scalars
from fastadam.cuda.gradients import LARGE_SCALED_BY
from fastadam.cuda.jit import THREADS, cuda, device, formula, in_module, kernel
from fastadam.cuda.minifloat import step_over_codes
from fastadam.cuda.segments import FIRST_CHUNK, chunk_bounds, entry, places_of, word
from fastadam.cuda.sums import SHARED, sum_shared
from fastadam.cuda.tables import (
    CLIP_VALUE,
    EMA_WEIGHT,
    GRAD_SCALE,
    IDLE,
    MAX_NORM,
    NONFINITE,
    SCALARS,
    SKIPPED,
    SKIPS,
    T,
)
from fastadam.cuda.views import WORD, memory
from fastadam.formulas import rules
from fastadam.formulas.step import ACTIVE, DECAY

_clip_factor = formula(rules.clip_factor)

_sum_shared = in_module(sum_shared, globals())

_number, _store_word = memory("float64").load, memory("int64").store


@functools.cache
def step_kernel(form: Pass) -> Any:
    """Compile one step over all segments.

    The arguments of the kernel are addresses, and the counts that go with them: the table of segments; the gradients,
    a table with a row of addresses of segments for each of `rows`; the state and the width of its rows; the counters;
    the numbers of each group.
    """
    if form.spec.state == "uint8" and form.spec.rule.states:
        return step_over_codes(form)
    update, bounds, numbers_of = _chunk_update(form), chunk_bounds(form.chunk), group_numbers(form)
    zero, dithers = np.dtype(form.dtype).type(0), bool(form.spec.state)

    @kernel
    def step(segments, count, table, rows, state_at, width, counters, numbers_at):
        thread, chunk = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)
        chunks, gradients = entry(segments, count, FIRST_CHUNK), (table, rows, count)
        state = (state_at, width, word(counters + WORD * T) if dithers else np.int64(0))
        while chunk < chunks:
            where = bounds(segments, count, chunk)
            places, numbers = places_of(segments, where[0]), numbers_of(segments, where[0], numbers_at)
            if numbers[ACTIVE] != zero:
                update(thread, where, places, gradients, state, numbers)
            chunk += cuda.gridDim.x

    return step


def _chunk_update(form: Pass) -> Callable[..., None]:
    """Make the function that updates a thread's part of a chunk, or of a chunk that is not whole its elements."""
    whole, single = part_of_chunk(form, whole=True), part_of_chunk(form, whole=False)
    aligned, elements, lanes = alignment(form), form.chunk, form.lanes

    @device
    def update(thread, where, places, gradients, state, numbers):
        k, start, stop = where
        if stop - start == elements and aligned(places, gradients, k):
            whole(start + thread * lanes, where, places, gradients, state, numbers)
        else:
            for i in range(start + thread, stop, THREADS):
                single(i, where, places, gradients, state, numbers)

    return update


# --- the scalars of the step ------------------------------------------------------------------------------------------


@functools.cache
def advance_kernel(rule: rules.Rule, dtype: str, measures: bool) -> Any:
    """Count the step, and compute the numbers of each group; for one block.

    An idle step, one with nothing to learn from, changes and counts nothing.

    With `measures`, the factor of the gradient is made from the sums of squares first, and a step whose gradient is not
    finite is skipped if the settings say so: then no group is active, and only the skipped step is counted.

    `carried` has a float64 for each group: the last hyper-parameter, of a rule that changes it.
    """
    write_numbers = _group_writer(rule, dtype)

    @kernel
    def advance(settings, settings_width, groups, counters, carried, sums_at, n_sums, numbers_at):
        shared = cuda.shared.array(SHARED, np.float64)
        thread = np.int64(cuda.threadIdx.x)
        factor, idle = 1.0 / _number(settings + WORD * GRAD_SCALE), _number(settings + WORD * IDLE) != 0.0
        go, nonfinite = 0.0 if idle else 1.0, False
        if measures:
            norm = _norm(shared, thread, sums_at, n_sums)
            factor *= _clip_factor(norm / _number(settings + WORD * GRAD_SCALE), _number(settings + WORD * MAX_NORM))
            nonfinite = not norm < math.inf
            if nonfinite and _number(settings + WORD * SKIPS) != 0.0:
                go = 0.0
        t = word(counters + WORD * T) + 1
        cuda.syncthreads()  # every thread has read the count
        if thread == 0:
            _count(counters, t, go, idle)
            if measures:
                _store_word(counters + WORD * NONFINITE, np.int64(nonfinite))
        extra = (factor, _number(settings + WORD * CLIP_VALUE), _number(settings + WORD * EMA_WEIGHT))
        for group in range(thread, groups, THREADS):
            row = settings + WORD * (1 + group) * settings_width
            write_numbers(group, row, t, go, extra, carried, numbers_at)

    return advance


@device
def _norm(shared, thread, sums_at, n_sums):
    """Compute the norm of the gradient from the sums that `gradients.norm_kernel` wrote."""
    total, large = 0.0, 0.0
    for i in range(thread, n_sums, THREADS):
        total += _number(sums_at + 2 * WORD * i)
        large += _number(sums_at + 2 * WORD * i + WORD)
    shared[thread], shared[THREADS + thread] = total, large
    _sum_shared(shared, thread)
    norm = math.sqrt(shared[0])
    if shared[THREADS] != 0.0:
        norm = math.sqrt(norm * LARGE_SCALED_BY * (norm * LARGE_SCALED_BY) + shared[THREADS]) / LARGE_SCALED_BY
    return norm


@device
def _count(counters, t, go, idle):
    if go != 0.0:
        _store_word(counters + WORD * T, t)
    elif not idle:
        _store_word(counters + WORD * SKIPPED, word(counters + WORD * SKIPPED) + 1)


def _group_writer(rule: rules.Rule, dtype: str) -> Callable[..., None]:
    """Make the function that writes the numbers of a group, whose settings are at `row`."""
    scalars, store, itemsize = step_scalars(rule), memory(dtype).store_all, memory(dtype).itemsize
    row_size = SCALARS + count_of_scalars(rule)

    @device
    def write(group, row, t, go, extra, carried, numbers_at):
        out = numbers_at + group * row_size * itemsize
        decay, active = _number(row + WORD * DECAY), _number(row + WORD * ACTIVE)
        store(out, (decay, go * active) + extra)  # noqa: RUF005 - Numba adds tuples
        if go != 0.0:
            store(out + SCALARS * itemsize, scalars(t, row, carried + WORD * group))

    return write
