"""Sums and norms of gradients."""

import functools
import math
from collections.abc import Callable

import numpy as np
from numba import prange

from fastadam._typing import Array
from fastadam.cpu.jit import inner, kernel
from fastadam.cpu.matmul import squared_norm
from fastadam.cpu.storage import DECODERS
from fastadam.cpu.threads import BLOCK
from fastadam.cpu.views import array_at, empty_of, empty_stored, stack_array
from fastadam.formulas.step import G_AT, OFFSET, SIZE

SUM_BLOCK = 1024
"""Elements whose gradients are summed, or decoded for their norm, at a time: 4 or 8 KiB, which stay in the L1 cache."""


@functools.cache
def gradient_sum(dtype: str, grad: str) -> Callable[..., None]:
    """Make the function that sums the rows of gradients of a segment, in their order, from element `at` on."""
    like, read = empty_stored(dtype, grad), DECODERS[grad]
    itemsize = like.itemsize

    @inner
    def add(total, g, is_first):
        if is_first:
            for i in range(np.uint64(total.size)):
                total[i] = read(g[i])
        else:
            for i in range(np.uint64(total.size)):
                total[i] += read(g[i])

    @inner
    def sum_rows(segments, k, at, total):
        for row in range(G_AT, segments.shape[0]):
            add(total, array_at(segments[row, k] + at * itemsize, total.size, like), row == G_AT)

    return sum_rows


@functools.cache
def norm_kernel(dtype: str, grad: str, sums: bool, parallel: bool) -> Callable[..., None]:
    """Make the kernel that sums the squares of each block of the gradient.

    The size of the blocks is independent of the number of threads, and so are the bits.
    """
    like, sum_rows, work = empty_of(dtype), gradient_sum(dtype, grad), stack_array(SUM_BLOCK)
    direct = not (sums or grad)

    @inner
    def piece(segments, k, start, stop, total):
        if direct:
            return squared_norm(array_at(segments[G_AT, k], segments[SIZE, k], like), start, stop)
        result = 0.0
        for a in range(start, stop, SUM_BLOCK):
            size = min(SUM_BLOCK, stop - a)
            sum_rows(segments, k, a, total[:size])
            result += squared_norm(total, 0, size)
        return result

    @inner
    def blocks(segments, start, stop):
        total, k = 0.0, np.searchsorted(segments[OFFSET], start, side="right") - 1
        memory = work(like)
        while start < stop:
            first, last = segments[OFFSET, k], min(segments[OFFSET, k] + segments[SIZE, k], stop)
            if start < last:
                total += piece(segments, k, start - first, last - first, memory)
            k += 1
            start = segments[OFFSET, k]
        return total

    name = "_".join([dtype, grad, "sums" * sums])
    if parallel:

        @kernel(parallel=True, variant=name)
        def parallel_norm(segments, results):
            for block in prange(results.size):
                results[block] = blocks(segments, block * BLOCK, min((block + 1) * BLOCK, segments[OFFSET, -1]))

        return parallel_norm

    @kernel(variant=name)
    def serial_norm(segments, results):
        for block in range(results.size):
            results[block] = blocks(segments, block * BLOCK, min((block + 1) * BLOCK, segments[OFFSET, -1]))

    return serial_norm


def gradient_norm(segments: Array, dtype: str, grad: str, parallel: bool) -> float:
    """Euclidean norm of the sum of all rows of gradients; infinite or NaN only if that sum is.

    If the squares overflow and the gradients do not, the norm is computed again relative to the largest element.
    """
    results = np.empty(-(-int(segments[OFFSET, -1]) // BLOCK))
    norm_kernel(dtype, grad, len(segments) > G_AT + 1, parallel)(segments, results)
    total = float(results.sum())
    return math.sqrt(total) if math.isfinite(total) else _scaled_norm(segments, dtype, grad)


def _scaled_norm(segments: Array, dtype: str, grad: str) -> float:
    """Compute the same norm relative to the largest element, in float64."""
    pieces = [np.empty(size, dtype) for size in segments[SIZE, :-1]]
    for k, piece in enumerate(pieces):
        sum_kernel(dtype, grad)(segments, k, piece)
    largest = float(np.max([np.abs(piece).max(initial=0) for piece in pieces]))
    if not math.isfinite(largest):
        return largest
    return largest * math.sqrt(sum(float(np.square(piece / largest, dtype=np.float64).sum()) for piece in pieces))


@functools.cache
def sum_kernel(dtype: str, grad: str) -> Callable[..., None]:
    """Make the kernel that sums the rows of gradients of a segment."""
    sum_rows = gradient_sum(dtype, grad)

    @kernel(variant=f"{dtype}_{grad}")
    def summed(segments, k, total):
        sum_rows(segments, k, 0, total)

    return summed
