"""Gradients of one row, or summed over several: loads, zeroing, and the norm.

`gradients` is a tuple: the address of a table that has the address of each segment in each row, the number of rows, and
the number of segments.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastadam.cuda.jit import SIMULATED, THREADS, cuda, device, in_module, kernel
from fastadam.cuda.segments import FIRST_CHUNK, chunk_bounds, entry, word
from fastadam.cuda.storage import each, row
from fastadam.cuda.sums import SHARED, sum_shared
from fastadam.cuda.views import WORD, memory
from fastadam.formulas.backend import from_text

_sum_shared = in_module(sum_shared, globals())

_HEAD = "gradient(gradients, k, i)"

_UNPACKED = "table, rows, count = gradients"

_OF_ROW = f"word(table + {WORD} * (row * count + k)) + i * itemsize"


@functools.cache
def gradient_loader(dtype: str, sums: bool, lanes: int) -> Callable[..., Any]:
    """Make the function that loads the gradient of neighbours from element `i` of segment k on, as a tuple.

    Rows are summed in the type that is computed with.
    """
    access = row(dtype, lanes)
    lines = [_UNPACKED, "row = 0", f"g = load({_OF_ROW})"]
    if sums:
        total = each(lanes, "g[{lane}] + x[{lane}]")
        lines += ["for row in range(1, rows):", f"    x = load({_OF_ROW})", f"    g = {total}"]
    names = {"word": word, "load": access.load, "itemsize": access.itemsize}
    return device(from_text(_HEAD, *lines, "return g", **names))


@functools.cache
def gradient_zeroing(dtype: str, sums: bool, lanes: int) -> Callable[..., None]:
    """Make the function that writes zeros to neighbours in every row."""
    kind = "uint16" if row(dtype, lanes).itemsize == 2 else dtype
    access, rows = row(kind, lanes), "rows" if sums else "1"
    names = {"word": word, "store": access.store, "itemsize": access.itemsize}
    names |= {"zeros": (np.dtype(kind).type(0),) * lanes}
    lines = (_UNPACKED, f"for row in range({rows}):", f"    store({_OF_ROW}, zeros)")
    return device(from_text(_HEAD, *lines, **names))


@functools.cache
def gradient_alignment(dtype: str, sums: bool, lanes: int) -> Callable[..., bool]:
    """Make the function that tells whether the gradients of segment k begin at multiples of the size of a vector."""
    vector = lanes * row(dtype, lanes).itemsize

    @device
    def aligned(gradients, k):
        table, rows, count = gradients
        bits = word(table + WORD * k)
        if sums:
            for row_of in range(1, rows):
                bits |= word(table + WORD * (row_of * count + k))
        return bits % vector == 0

    return aligned


# --- the norm ---------------------------------------------------------------------------------------------------------

LARGE_GRADIENT, LARGE_SCALED_BY = 2.0**490, 2.0**-600
"""Squares of float64s beyond the first would overflow, and are taken of the numbers times the second."""

NORM_TASKS = 3 if SIMULATED else 2048
"""Most pairs of sums: enough for every multiprocessor to have several, few enough for one block to add them up.

It does not depend on the device, and so no number does.
"""


def norm_tasks(chunks: int) -> tuple[int, int]:
    """Return how many pairs of sums `norm_kernel` writes for a number of chunks, and the chunks of each pair."""
    per_task = max(1, -(-chunks // NORM_TASKS))
    return -(-chunks // per_task), per_task


@functools.cache
def norm_kernel(dtype: str, gradient: str, sums: bool, chunk_elements: int) -> Any:
    """Sum squares in float64: two sums for every `per_task` chunks, of the gradients and of those that are large.

    The order of the sums does not depend on where the arrays lie.
    """
    lanes = memory(dtype).lanes
    bounds, store = chunk_bounds(chunk_elements), memory("float64").store
    aligned, load_one = gradient_alignment(gradient, sums, lanes), gradient_loader(gradient, sums, 1)
    add = _adding(with_large=dtype == "float64")
    add_part = _adding_parts(gradient_loader(gradient, sums, lanes), add, lanes, chunk_elements)

    @device
    def add_chunk(segments, count, gradients, chunk, thread, total, large):
        k, start, stop = bounds(segments, count, chunk)
        if stop - start == chunk_elements and aligned(gradients, k):
            total, large = add_part(gradients, k, start + thread * lanes, total, large)
        else:  # the same elements for each thread, in the same order
            for first in range(start + thread * lanes, stop, THREADS * lanes):
                for i in range(first, min(first + lanes, stop)):
                    total, large = add(load_one(gradients, k, i)[0], total, large)
        return total, large

    @kernel
    def measure(segments, count, table, rows, per_task, sums_at):
        shared = cuda.shared.array(SHARED, np.float64)
        thread, task = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)
        chunks, gradients = entry(segments, count, FIRST_CHUNK), (table, rows, count)
        while task * per_task < chunks:
            total, large = 0.0, 0.0
            for chunk in range(task * per_task, min((task + 1) * per_task, chunks)):
                total, large = add_chunk(segments, count, gradients, chunk, thread, total, large)
            shared[thread], shared[THREADS + thread] = total, large
            _sum_shared(shared, thread)
            if thread == 0:
                store(sums_at + 2 * WORD * task, shared[0])
                store(sums_at + 2 * WORD * task + WORD, shared[THREADS])
            cuda.syncthreads()
            task += cuda.gridDim.x

    return measure


def _adding(*, with_large: bool) -> Callable[..., Any]:
    """Make the function that adds the square of a gradient to one of the two sums."""

    @device
    def add(g, total, large):
        x = np.float64(g)
        if with_large and abs(x) >= LARGE_GRADIENT:
            large += (x * LARGE_SCALED_BY) * (x * LARGE_SCALED_BY)
        else:
            total += x * x
        return total, large

    return add


def _adding_parts(load: Any, add: Any, lanes: int, chunk_elements: int) -> Callable[..., Any]:
    """Make the function that adds the squares of a thread's vectors of a whole chunk, all loaded first."""
    parts = range(chunk_elements // (THREADS * lanes))
    loads = [f"g{u} = load(gradients, k, i + {u * THREADS * lanes})" for u in parts]
    additions = [f"total, large = add(g{u}[{lane}], total, large)" for u in parts for lane in range(lanes)]
    lines = (*loads, *additions, "return total, large")
    return device(from_text("part(gradients, k, i, total, large)", *lines, load=load, add=add))
