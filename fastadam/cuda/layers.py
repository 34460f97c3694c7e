"""The kernels between a network's matrix products: gather a batch, bias and activation, loss and deltas, derivatives.

The formulas are those of `fastadam.activations` and `fastadam.losses`, the same function objects. All sums are made in
the same order for every launch of the same shape. What changes from batch to batch is read from device memory, so that
a captured step can be replayed.
"""

import functools
from typing import Any

import numpy as np

from fastadam.activations import ACTIVATIONS
from fastadam.cuda.jit import SIMULATED, THREADS, cuda, device, in_module, kernel, memory, scalar_rule
from fastadam.cuda.step import IDLE, SHARED, WORD, sum_shared
from fastadam.losses import LOSSES

# What is known of a batch, in float64: the first of its samples in the order of the epoch; its weight; and, over the
# epoch, the sum of the batches' losses, each times its samples, and the samples.
POSITION, WEIGHT, LOSS, COUNTED = range(4)
BATCH = 4

TILE = 2 if SIMULATED else 8
"""Columns that a block sums: 32 bytes of float32s, which is what memory gives at least."""
LANES = THREADS // TILE

_sum_shared = in_module(sum_shared, globals())


@functools.cache
def begin_kernel(dtype: str) -> Any:
    """Sum the weights of the batch; set the decay that makes the penalty part of the loss. For one block.

    The step of a batch without weight is idle.
    """
    load, word = memory(dtype).load, memory("int64").load
    read, write = memory("float64").load, memory("float64").store
    itemsize = memory(dtype).itemsize

    @kernel
    def begin(batch, order, weights, has_weights, rows, alpha_at, decays, settings, width):
        shared = cuda.shared.array(SHARED, np.float64)
        thread, position = np.int64(cuda.threadIdx.x), np.int64(read(batch + WORD * POSITION))
        total = 0.0
        if has_weights:
            for i in range(thread, rows, THREADS):
                total += load(weights + itemsize * word(order + WORD * (position + i)))
        elif thread == 0:
            total = np.float64(rows)
        shared[thread], shared[THREADS + thread] = total, 0.0
        _sum_shared(shared, thread)
        if thread == 0:
            weight = shared[0]
            write(batch + WORD * WEIGHT, weight)
            write(settings + WORD * IDLE, 0.0 if weight > 0.0 else 1.0)
            if decays and weight > 0.0:
                write(settings + WORD * width, read(alpha_at) / weight)

    return begin


@functools.cache
def gather_kernel(dtype: str) -> Any:
    """Copy the batch's rows of a matrix: row i is that of sample `order[position + i]`."""
    load, store, word = memory(dtype).load, memory(dtype).store, memory("int64").load
    read, itemsize = memory("float64").load, memory(dtype).itemsize

    @kernel
    def gather(X, columns, order, batch, rows, out):
        position = np.int64(read(batch + WORD * POSITION))
        for i in range(np.int64(cuda.grid(1)), rows * columns, np.int64(cuda.gridsize(1))):
            row, column = i // columns, i % columns
            sample = word(order + WORD * (position + row))
            store(out + i * itemsize, load(X + (sample * columns + column) * itemsize))

    return gather


@functools.cache
def activate_kernel(name: str, dtype: str) -> Any:
    """Z ← f(Z + b), in one pass; `kept`, unless it is 0, gets what went in."""
    value, t = scalar_rule(ACTIVATIONS[name].value), np.dtype(dtype).type
    load, store, itemsize = memory(dtype).load, memory(dtype).store, memory(dtype).itemsize

    @kernel
    def activate(Z, b, rows, columns, kept):
        for i in range(np.int64(cuda.grid(1)), rows * columns, np.int64(cuda.gridsize(1))):
            z = load(Z + i * itemsize) + load(b + (i % columns) * itemsize)
            if kept != 0:
                store(kept + i * itemsize, z)
            store(Z + i * itemsize, value(z, t))

    return activate


@functools.cache
def loss_kernel(name: str, dtype: str) -> Any:
    """Turn outputs into deltas, in place; each block writes its part of the weighted sum of the losses."""
    term, t = scalar_rule(LOSSES[name].term), np.dtype(dtype).type
    load, store, itemsize = memory(dtype).load, memory(dtype).store, memory(dtype).itemsize
    read, write = memory("float64").load, memory("float64").store

    @kernel
    def loss(Z, Y, weights, has_weights, batch, rows, columns, setting_at, sums):
        shared = cuda.shared.array(SHARED, np.float64)
        thread, scale, s = np.int64(cuda.threadIdx.x), read(batch + WORD * WEIGHT), t(read(setting_at))
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


@functools.cache
def backward_kernel(name: str, dtype: str) -> Any:
    """D ← D · f'(z), in one pass with the gradient of the bias, the sums of the columns of D.

    A block takes `TILE` columns, and sums each in `LANES` parts.
    """
    backward, t = scalar_rule(ACTIVATIONS[name].backward), np.dtype(dtype).type
    load, store, itemsize = memory(dtype).load, memory(dtype).store, memory(dtype).itemsize

    @kernel
    def differentiate(D, X, rows, columns, out):
        shared = cuda.shared.array(THREADS, np.float64)
        thread, tile = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)
        lane = thread // TILE
        while tile * TILE < columns:
            column, total = tile * TILE + thread % TILE, 0.0
            if column < columns:
                for row in range(lane, rows, LANES):
                    at = (row * columns + column) * itemsize
                    d = backward(load(D + at), load(X + at), t)
                    store(D + at, d)
                    total += d
            shared[thread] = total
            _sum_lanes(shared, thread)
            if lane == 0 and column < columns:
                store(out + column * itemsize, shared[thread])
            cuda.syncthreads()
            tile += cuda.gridDim.x

    return differentiate


@device
def _sum_lanes(shared, thread):
    half = THREADS // 2
    while half >= TILE:
        cuda.syncthreads()
        if thread < half:
            shared[thread] += shared[thread + half]
        half //= 2
    cuda.syncthreads()


@functools.cache
def account_kernel() -> Any:
    """Add the batch's loss, the penalty in it, to that of the epoch, and go on to the next batch. For one block."""
    read, write = memory("float64").load, memory("float64").store

    @kernel
    def account(batch, rows, sums, n_sums, per_sample, squares, n_squares, alpha_at):
        shared = cuda.shared.array(SHARED, np.float64)
        thread = np.int64(cuda.threadIdx.x)
        total, square = 0.0, 0.0
        for i in range(thread, n_sums, THREADS):
            total += read(sums + WORD * i)
        for i in range(thread, n_squares, THREADS):
            square += read(squares + 2 * WORD * i)
        shared[thread], shared[THREADS + thread] = total, square
        _sum_shared(shared, thread)
        if thread == 0:
            weight = read(batch + WORD * WEIGHT)
            if weight > 0.0:
                loss = (shared[0] / per_sample + 0.5 * read(alpha_at) * shared[THREADS]) / weight
                write(batch + WORD * LOSS, read(batch + WORD * LOSS) + loss * rows)
                write(batch + WORD * COUNTED, read(batch + WORD * COUNTED) + rows)
            write(batch + WORD * POSITION, read(batch + WORD * POSITION) + rows)

    return account


def kept_by(name: str) -> bool:
    """Whether the derivative of an activation is computed from what went in."""
    return ACTIVATIONS[name].by_input
