"""The kernels of a step: measure the gradient, advance the step's scalars, update every element in one pass.

What a step takes is in device memory, the step count included, and `advance_kernel`, which is one block, computes the
scalars of the step from it, in float64 as on the CPU. So nothing has to come back to the host, and a captured CUDA
graph replays correctly, also after a change of the settings: between replays only the memory changes.
"""

import functools
import math
from typing import Any

import numpy as np

from fastadam.cuda import minifloat as codes
from fastadam.cuda.chunk import (
    DITHER_AT,
    FIRST_CHUNK,
    NONFINITE,
    SCALARS,
    SKIPPED,
    Pass,
    alignment,
    entry,
    gradient_alignment,
    gradient_loader,
    part_of_chunk,
    scalars_of,
    segment_of,
)
from fastadam.cuda.chunk import T as T
from fastadam.cuda.jit import SIMULATED, THREADS, WORD, cuda, device, formula, kernel, loader, memory
from fastadam.cuda.storage import row
from fastadam.formulas import rules
from fastadam.formulas.backend import from_text
from fastadam.formulas.step import ACTIVE, COPY_AT, DECAY, GROUP, HYPER, OFFSET, P_AT, SIZE

# The settings, in float64: a row of what is not a group's, then a row a group as `Optimizer._row` makes it.
GRAD_SCALE, CLIP_VALUE, EMA_WEIGHT, MAX_NORM, SKIPS, IDLE = range(6)

SETTINGS = 6

SHARED = 2 * THREADS
"""Elements of a block's own memory in which it sums: two a thread."""

_clip_factor = formula(rules.clip_factor)

_LARGE, _SMALLER = 2.0**490, 2.0**-600
"""Squares of float64s beyond this overflow: they are made smaller first."""


@functools.cache
def step_kernel(form: Pass) -> Any:
    """One step over all segments.

    Its arguments are addresses, and the counts that go with them: the table of segments; the gradients, a row of
    addresses of segments for each of `rows`; the state and its elements in a row; the counters; each group's numbers.
    """
    if form.spec.state == "uint8" and form.spec.rule.states:
        return codes.step_kernel(form)
    whole, single = part_of_chunk(form, whole=True), part_of_chunk(form, whole=False)
    aligned, load_numbers = alignment(form), loader(form.dtype, form.row_size)
    numbers_bytes, chunk_elements, lanes = form.row_size * memory(form.dtype).itemsize, form.chunk, form.lanes
    zero, dithers, word = np.dtype(form.dtype).type(0), bool(form.spec.state), memory("int64").load

    @kernel
    def step(segments, count, gradients, rows, state, width, counters, numbers_at):
        thread, chunk = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)
        chunks = entry(segments, count, FIRST_CHUNK)
        t = word(counters + WORD * T) if dithers else np.int64(0)
        while chunk < chunks:
            k = segment_of(segments, count, chunk)
            start = (chunk - entry(segments, k, FIRST_CHUNK)) * chunk_elements
            size, p, copy = entry(segments, k, SIZE), entry(segments, k, P_AT), entry(segments, k, COPY_AT)
            at, index = entry(segments, k, OFFSET), entry(segments, k, DITHER_AT)
            numbers = load_numbers(numbers_at + entry(segments, k, GROUP) * numbers_bytes)
            stop = min(start + chunk_elements, size)
            if numbers[ACTIVE] != zero:
                if stop - start == chunk_elements and aligned(p, copy, gradients, rows, count, k):
                    i = start + thread * lanes
                    whole(p, copy, gradients, rows, count, k, i, state, width, at + i, index + i, t, numbers)
                else:
                    for i in range(start + thread, stop, THREADS):
                        single(p, copy, gradients, rows, count, k, i, state, width, at + i, index + i, t, numbers)
            chunk += cuda.gridDim.x

    return step


# --- the gradient's norm --------------------------------------------------------------------------------------------


@functools.cache
def norm_kernel(dtype: str, gradient: str, sums: bool, chunk_elements: int) -> Any:
    """Sums of squares, in float64: two for every `per_task` chunks, of the gradients and of those that are large.

    They are summed in the same order wherever the arrays lie.
    """
    lanes, with_large = memory(dtype).lanes, dtype == "float64"
    parts = range(chunk_elements // (THREADS * lanes))
    load, load_one = (gradient_loader(gradient, sums, n) for n in (lanes, 1))
    aligned, store = gradient_alignment(gradient, sums, lanes), memory("float64").store

    @device
    def add(g, total, large):
        x = np.float64(g)
        if with_large and abs(x) >= _LARGE:
            large += (x * _SMALLER) * (x * _SMALLER)
        else:
            total += x * x
        return total, large

    loads = [f"g{u} = load(gradients, rows, count, k, i + {u * THREADS * lanes})" for u in parts]
    additions = [f"total, large = add(g{u}[{lane}], total, large)" for u in parts for lane in range(lanes)]
    lines = (*loads, *additions, "return total, large")
    add_part = device(from_text("part(gradients, rows, count, k, i, total, large)", *lines, load=load, add=add))

    @kernel
    def measure(segments, count, gradients, rows, per_task, sums_at):
        shared = cuda.shared.array(SHARED, np.float64)
        thread, task = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)
        chunks = entry(segments, count, FIRST_CHUNK)
        while task * per_task < chunks:
            total, large = 0.0, 0.0
            for chunk in range(task * per_task, min((task + 1) * per_task, chunks)):
                k = segment_of(segments, count, chunk)
                start = (chunk - entry(segments, k, FIRST_CHUNK)) * chunk_elements
                stop = min(start + chunk_elements, entry(segments, k, SIZE))
                if stop - start == chunk_elements and aligned(gradients, rows, count, k):
                    total, large = add_part(gradients, rows, count, k, start + thread * lanes, total, large)
                else:  # the same elements a thread, in the same order
                    for first in range(start + thread * lanes, stop, THREADS * lanes):
                        for i in range(first, min(first + lanes, stop)):
                            total, large = add(load_one(gradients, rows, count, k, i)[0], total, large)
            shared[thread], shared[THREADS + thread] = total, large
            sum_shared(shared, thread)
            if thread == 0:
                store(sums_at + 2 * WORD * task, shared[0])
                store(sums_at + 2 * WORD * task + WORD, shared[THREADS])
            cuda.syncthreads()
            task += cuda.gridDim.x

    return measure


NORM_TASKS = 3 if SIMULATED else 2048
"""Pairs of sums at most: enough for every multiprocessor to have several, few enough for one block to add them up.

It does not depend on the device, and so no number does.
"""


def norm_tasks(chunks: int) -> tuple[int, int]:
    """How many pairs of sums `norm_kernel` writes for so many chunks, and the chunks of each."""
    per_task = max(1, -(-chunks // NORM_TASKS))
    return -(-chunks // per_task), per_task


@device
def sum_shared(shared, thread):
    """Sum both halves of the block's memory, each into its first element."""
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if thread < half:
            shared[thread] += shared[thread + half]
            shared[THREADS + thread] += shared[THREADS + thread + half]
        half //= 2
    cuda.syncthreads()


# --- the step's scalars ---------------------------------------------------------------------------------------------


@functools.cache
def advance_kernel(rule: rules.Rule, dtype: str, measures: bool) -> Any:
    """Count the step, and compute each group's numbers; for one block.

    An idle step, which is so called where there is nothing to learn from, changes and counts nothing.

    With `measures`, it first makes the gradient's factor from the sums of squares, and a step whose gradient is not
    finite is skipped, if the settings say so: then no group is active, and nothing is counted but that.

    `carried` has a float64 for each group: the last hyper-parameter, of a rule that changes it.
    """
    last = len(rule.hyper) - (rule.carry is not None)
    take, compute, carry = loader("float64", last), formula(rule.scalars), rule.carry and formula(rule.carry)
    load, store = memory("float64").load, memory("float64").store
    word, store_word = memory("int64").load, memory("int64").store
    store_all, itemsize, row_size = memory(dtype).store_all, memory(dtype).itemsize, SCALARS + scalars_of(rule)

    if carry:

        @device
        def scalars(t, row, carried):
            hyper = take(row) + (load(carried),)  # noqa: RUF005 - Numba adds tuples
            store(carried, carry(t, *hyper))
            return compute(t, *hyper)

    else:

        @device
        def scalars(t, row, carried):
            return compute(t, *take(row))

    @kernel
    def advance(settings, settings_width, groups, counters, carried, sums_at, n_sums, numbers_at):
        shared = cuda.shared.array(SHARED, np.float64)
        thread = np.int64(cuda.threadIdx.x)
        factor, idle = 1.0 / load(settings + WORD * GRAD_SCALE), load(settings + WORD * IDLE) != 0.0
        go = 0.0 if idle else 1.0
        if measures:
            total, large = 0.0, 0.0
            for i in range(thread, n_sums, THREADS):
                total += load(sums_at + 2 * WORD * i)
                large += load(sums_at + 2 * WORD * i + WORD)
            shared[thread], shared[THREADS + thread] = total, large
            sum_shared(shared, thread)
            norm = math.sqrt(shared[0])
            if shared[THREADS] != 0.0:
                norm = math.sqrt(norm * _SMALLER * (norm * _SMALLER) + shared[THREADS]) / _SMALLER
            factor *= _clip_factor(norm / load(settings + WORD * GRAD_SCALE), load(settings + WORD * MAX_NORM))
            nonfinite = not norm < math.inf
            if nonfinite and load(settings + WORD * SKIPS) != 0.0:
                go = 0.0
        t = word(counters + WORD * T) + 1
        cuda.syncthreads()  # every thread has read the count
        if thread == 0:
            if go != 0.0:
                store_word(counters + WORD * T, t)
            elif not idle:
                store_word(counters + WORD * SKIPPED, word(counters + WORD * SKIPPED) + 1)
            if measures:
                store_word(counters + WORD * NONFINITE, np.int64(nonfinite))
        clip, weight = load(settings + WORD * CLIP_VALUE), load(settings + WORD * EMA_WEIGHT)
        for group in range(thread, groups, THREADS):
            row, out = settings + WORD * (1 + group) * settings_width, numbers_at + group * row_size * itemsize
            decay, active = load(row + WORD * DECAY), load(row + WORD * ACTIVE)
            store_all(out, (decay, go * active, factor, clip, weight))
            if go != 0.0:
                store_all(out + SCALARS * itemsize, scalars(t, row + WORD * HYPER, carried + WORD * group))

    return advance


# --- memory ---------------------------------------------------------------------------------------------------------


@functools.cache
def fill_kernel(dtype: str) -> Any:
    """Write one value to every element from an address on."""
    store, itemsize = memory(dtype).store, memory(dtype).itemsize

    @kernel
    def fill(address, size, value):
        for i in range(np.int64(cuda.grid(1)), size, np.int64(cuda.gridsize(1))):
            store(address + i * itemsize, value)

    return fill


@functools.cache
def copy_kernel(source: str, target: str) -> Any:
    """Copy so many elements from one address to another, from one type to another, "bfloat16" among them."""
    load, store = row(source, 1).load, row(target, 1).store
    source_bytes, target_bytes = row(source, 1).itemsize, row(target, 1).itemsize

    @kernel
    def copy(source, address, size):
        for i in range(np.int64(cuda.grid(1)), size, np.int64(cuda.gridsize(1))):
            store(address + i * target_bytes, load(source + i * source_bytes))

    return copy
