"""Losses, compiled for CUDA: kernels that turn outputs into deltas, in place.

Each block writes its part of the weighted sum of the losses, in float64; `layers.account_kernel` adds the parts up.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastadam.cuda.jit import THREADS, cuda, device, formula, in_module, kernel
from fastadam.cuda.layers import BATCH_WEIGHT
from fastadam.cuda.sums import SHARED, sum_shared
from fastadam.cuda.views import WORD, memory
from fastadam.formulas.losses import LOSSES, class_log_loss

_sum_shared = in_module(sum_shared, globals())


def loss_kernel(name: str, dtype: str) -> Any:
    """Turn outputs into deltas, in place.

    The arguments of the kernel are the addresses of the outputs, the targets and the weights of the batch, and whether
    it has weights; the address of the table of the batch; rows and columns; the addresses of the parameter of the loss,
    and of the parts of the sum.
    """
    return _softmax_kernel(dtype) if LOSSES[name].term is None else _elementwise_kernel(name, dtype)


def loss_tasks(name: str, rows: int, columns: int) -> int:
    """Return the number of blocks that the elements, or the rows, need."""
    if LOSSES[name].term is None:
        return -(-rows // (THREADS // threads_per_row(columns)))
    return -(-rows * columns // THREADS)


@functools.cache
def _elementwise_kernel(name: str, dtype: str) -> Any:
    term, t = formula(LOSSES[name].term), np.dtype(dtype).type  # type: ignore[arg-type]
    load, store, itemsize = memory(dtype).load, memory(dtype).store, memory(dtype).itemsize
    read, write = memory("float64").load, memory("float64").store

    @kernel
    def loss(Z, Y, weights, has_weights, batch, rows, columns, setting_at, sums):
        shared = cuda.shared.array(SHARED, np.float64)
        thread, scale, s = np.int64(cuda.threadIdx.x), read(batch + WORD * BATCH_WEIGHT), t(read(setting_at))
        total = 0.0
        for i in range(np.int64(cuda.grid(1)), rows * columns, np.int64(cuda.gridsize(1))):
            weight = load(weights + (i // columns) * itemsize) if has_weights else t(1)
            value, slope = term(load(Z + i * itemsize), load(Y + i * itemsize), s, t)
            total += weight * value
            store(Z + i * itemsize, slope * t(weight / scale if scale > 0.0 else 0.0))
        shared[thread], shared[THREADS + thread] = total, 0.0
        _sum_shared(shared, thread)
        if thread == 0:
            write(sums + WORD * cuda.blockIdx.x, shared[0])

    return loss


# --- a whole row ----------------------------------------------------------------------------------------------------


def threads_per_row(columns):
    """Return the number of threads that share a row: a power of two, no more than a block has."""
    sharing = 1
    while sharing < columns and sharing < THREADS:
        sharing *= 2
    return sharing


_threads_per_row, _exp = device(threads_per_row), formula(lambda x: math.exp(x))


@functools.cache
def _softmax_kernel(dtype: str) -> Any:
    """Compile the multinomial log-loss: several threads share a row, and go through it three times.

    Each thread sums its classes, and then the threads sum in pairs, where the host sums from left to right.
    """
    term, t = formula(class_log_loss), np.dtype(dtype).type
    load, store, itemsize = memory(dtype).load, memory(dtype).store, memory(dtype).itemsize
    read, write, lowest = memory("float64").load, memory("float64").store, t(-np.inf)
    greatest_of, sum_of = _joined(_greater), _joined(_sum)

    @kernel
    def loss(Z, Y, weights, has_weights, batch, rows, columns, setting_at, sums):
        shared, values = cuda.shared.array(SHARED, np.float64), cuda.shared.array(THREADS, t)
        thread, scale, s = np.int64(cuda.threadIdx.x), read(batch + WORD * BATCH_WEIGHT), t(read(setting_at))
        sharing = np.int64(_threads_per_row(columns))
        place, tile, total = thread % sharing, THREADS // sharing, 0.0
        first = np.int64(cuda.blockIdx.x) * tile
        while first < rows:
            row = first + thread // sharing
            stop = columns if row < rows else 0  # threads without a row take part in the barriers
            z_at, y_at = Z + row * columns * itemsize, Y + row * columns * itemsize
            largest, summed, value = lowest, t(0), t(0)
            for j in range(place, stop, sharing):
                largest = _greater(largest, load(z_at + j * itemsize))
            largest = greatest_of(values, thread, place, sharing, largest)
            for j in range(place, stop, sharing):
                e = _exp(load(z_at + j * itemsize) - largest)
                store(z_at + j * itemsize, e)
                summed += e
            summed = sum_of(values, thread, place, sharing, summed)
            weight = load(weights + row * itemsize) if has_weights and row < rows else t(1)
            factor = t(weight / scale if scale > 0.0 else 0.0)
            for j in range(place, stop, sharing):
                part, slope = term(load(z_at + j * itemsize) / summed, load(y_at + j * itemsize), s, t)
                value += part
                store(z_at + j * itemsize, slope * factor)
            total += weight * value
            first += tile * np.int64(cuda.gridDim.x)
        shared[thread], shared[THREADS + thread] = total, 0.0
        _sum_shared(shared, thread)
        if thread == 0:
            write(sums + WORD * cuda.blockIdx.x, shared[0])

    return loss


@device
def _greater(a, b):
    return b if b > a else a


@device
def _sum(a, b):
    return a + b


def _joined(join: Callable[..., Any]) -> Callable[..., Any]:
    """Make the function that joins the values of all threads of a row, and returns the result to each of them."""

    @device
    def joined(values, thread, place, sharing, value):
        values[thread] = value
        half = sharing // 2
        while half > 0:
            cuda.syncthreads()
            if place < half:
                values[thread] = join(values[thread], values[thread + half])
            half //= 2
        cuda.syncthreads()
        result = values[thread - place]
        cuda.syncthreads()  # before a thread writes its next value there
        return result

    return joined
