"""Losses on a device: kernels that turn outputs into deltas, in place, by the formulas of `formulas.losses`.

Each block writes its part of the weighted sum of the losses, in float64; `layers.account_kernel` adds the parts up.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastadam.cuda.jit import THREADS, WORD, cuda, device, formula, in_module, kernel, memory
from fastadam.cuda.layers import BATCH_WEIGHT
from fastadam.cuda.step import SHARED, sum_shared
from fastadam.formulas.losses import LOSSES, class_log_loss

_sum_shared = in_module(sum_shared, globals())


def loss_kernel(name: str, dtype: str) -> Any:
    """Turn outputs into deltas, in place.

    Its arguments: the outputs, the targets and the weights of the batch, by address, and whether it has weights; the
    batch; rows and columns; where the loss's own number is, and where the parts of the sum will be.
    """
    return _softmax_kernel(dtype) if LOSSES[name].term is None else _elementwise_kernel(name, dtype)


def loss_tasks(name: str, rows: int, columns: int) -> int:
    """How many blocks have something to do: as many as elements or rows need."""
    if LOSSES[name].term is None:
        return -(-rows // (THREADS // lanes_of(columns)))
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


def lanes_of(columns):
    """Threads that share a row: a power of two, no more than a block has."""
    lanes = 1
    while lanes < columns and lanes < THREADS:
        lanes *= 2
    return lanes


_lanes_of, _exp = device(lanes_of), formula(lambda x: math.exp(x))


@functools.cache
def _softmax_kernel(dtype: str) -> Any:
    """The multinomial log-loss: each row is shared by lanes, and goes through three times.

    The sum over the classes is made lane by lane, and then of the lanes in pairs, where the host goes from left to
    right.
    """
    term, t = formula(class_log_loss), np.dtype(dtype).type
    load, store, itemsize = memory(dtype).load, memory(dtype).store, memory(dtype).itemsize
    read, write, lowest = memory("float64").load, memory("float64").store, t(-np.inf)
    greatest_of, sum_of = _joined(_greater), _joined(_sum)

    @kernel
    def loss(Z, Y, weights, has_weights, batch, rows, columns, setting_at, sums):
        shared, values = cuda.shared.array(SHARED, np.float64), cuda.shared.array(THREADS, t)
        thread, scale, s = np.int64(cuda.threadIdx.x), read(batch + WORD * BATCH_WEIGHT), t(read(setting_at))
        lanes = np.int64(_lanes_of(columns))
        lane, tile, total = thread % lanes, THREADS // lanes, 0.0
        first = np.int64(cuda.blockIdx.x) * tile
        while first < rows:
            row = first + thread // lanes
            stop = columns if row < rows else 0  # the threads of no row take part in what the others wait for
            z_at, y_at = Z + row * columns * itemsize, Y + row * columns * itemsize
            largest, summed, value = lowest, t(0), t(0)
            for j in range(lane, stop, lanes):
                largest = _greater(largest, load(z_at + j * itemsize))
            largest = greatest_of(values, thread, lane, lanes, largest)
            for j in range(lane, stop, lanes):
                e = _exp(load(z_at + j * itemsize) - largest)
                store(z_at + j * itemsize, e)
                summed += e
            summed = sum_of(values, thread, lane, lanes, summed)
            weight = load(weights + row * itemsize) if has_weights and row < rows else t(1)
            factor = t(weight / scale if scale > 0.0 else 0.0)
            for j in range(lane, stop, lanes):
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
    """What joins the values of all lanes of each row, and gives the result to each of them."""

    @device
    def joined(values, thread, lane, lanes, value):
        values[thread] = value
        half = lanes // 2
        while half > 0:
            cuda.syncthreads()
            if lane < half:
                values[thread] = join(values[thread], values[thread + half])
            half //= 2
        cuda.syncthreads()
        result = values[thread - lane]
        cuda.syncthreads()  # before anyone writes the next ones there
        return result

    return joined
