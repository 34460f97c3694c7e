"""Kernels between the matrix products of a network: gather a batch, bias and activation, derivatives, penalty.

The losses are in `losses.py`. The kernels compile the functions of `formulas.activations`. All sums are made in the
same order for every launch of the same shape. Everything that changes from batch to batch is read from device memory,
so that a captured step can be replayed.
"""

import functools
from typing import Any

import numpy as np

from fastadam.cuda.dropout import dropping
from fastadam.cuda.jit import SIMULATED, THREADS, cuda, device, formula, in_module, kernel
from fastadam.cuda.segments import FIRST_CHUNK, chunk_bounds, entry
from fastadam.cuda.sums import SHARED, sum_shared
from fastadam.cuda.tables import IDLE
from fastadam.cuda.views import WORD, memory
from fastadam.formulas.activations import ACTIVATIONS
from fastadam.formulas.step import P_AT

POSITION, BATCH_WEIGHT, LOSS, COUNTED = range(4)
"""Table of a batch, in float64: its first sample in the order of the epoch; its weight; and, over the epoch, the sum of
the losses of the batches, each times its samples, and the samples."""

BATCH = 4
"""Length of the table."""

TILE = 2 if SIMULATED else 8
"""Columns that a block sums: 32 bytes of float32s, the least that memory transfers."""

PARTS = THREADS // TILE
"""Threads that share the sum of a column."""

_sum_shared = in_module(sum_shared, globals())


@functools.cache
def begin_kernel(dtype: str) -> Any:
    """Sum the weights of the batch, and set the weight decay that makes the penalty part of the loss; for one block.

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
            write(batch + WORD * BATCH_WEIGHT, weight)
            write(settings + WORD * IDLE, 0.0 if weight > 0.0 else 1.0)
            if decays and weight > 0.0:
                write(settings + WORD * width, read(alpha_at) / weight)

    return begin


@functools.cache
def gather_kernel(dtype: str) -> Any:
    """Copy the rows of the batch from a matrix: row i is the one of sample `order[position + i]`."""
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
def gather_sparse_kernel(dtype: str, index: str) -> Any:
    """Write the rows of the batch from a CSR matrix, whose indices are of the type `index`, as dense rows.

    A block takes one row after the other. No row may have two entries of the same column.
    """
    load, store, word = memory(dtype).load, memory(dtype).store, memory("int64").load
    place, place_size = memory(index).load, memory(index).itemsize
    read, itemsize, zero = memory("float64").load, memory(dtype).itemsize, np.dtype(dtype).type(0)

    @kernel
    def gather(data, indices, indptr, columns, order, batch, rows, out):
        thread, row = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)
        position = np.int64(read(batch + WORD * POSITION))
        while row < rows:
            start = out + row * columns * itemsize
            for column in range(thread, columns, THREADS):
                store(start + column * itemsize, zero)
            cuda.syncthreads()
            sample = word(order + WORD * (position + row))
            first, stop = place(indptr + sample * place_size), place(indptr + (sample + 1) * place_size)
            for k in range(np.int64(first) + thread, np.int64(stop), THREADS):
                store(start + np.int64(place(indices + k * place_size)) * itemsize, load(data + k * itemsize))
            row += np.int64(cuda.gridDim.x)

    return gather


@functools.cache
def activate_kernel(name: str, dtype: str, drops: bool = False) -> Any:
    """Compute Z ← f(Z + b) in one pass; write what the derivative needs to `kept`, unless it is 0.

    With `drops`, some units of this layer are then set to 0, and the others are scaled up: `mask` is the table of the
    mask, see `dropout.py`.
    """
    value, by_input, t = formula(ACTIVATIONS[name].value), ACTIVATIONS[name].by_input, np.dtype(dtype).type
    load, store, itemsize = memory(dtype).load, memory(dtype).store, memory(dtype).itemsize
    opened, dropped = dropping(dtype)

    @kernel
    def activate(Z, b, rows, columns, kept, mask, layer):
        if drops:
            off = opened(mask)
        for i in range(np.int64(cuda.grid(1)), rows * columns, np.int64(cuda.gridsize(1))):
            row, column = i // columns, i % columns
            z = load(Z + i * itemsize) + load(b + column * itemsize)
            a = value(z, t)
            if kept != 0:
                store(kept + i * itemsize, z if by_input else a)
            if drops:
                a = dropped(a, off, row, layer, column)
            store(Z + i * itemsize, a)

    return activate


@functools.cache
def backward_kernel(name: str, dtype: str, drops: bool = False) -> Any:
    """Compute D ← D · f'(z) in one pass with the gradient of the bias, the sums of the columns of D.

    A block takes `TILE` columns, and sums each in `PARTS` parts. With `drops`, the derivatives of the units that were
    off are 0, and those of the others are scaled up.
    """
    backward, t = formula(ACTIVATIONS[name].backward), np.dtype(dtype).type
    load, store, itemsize = memory(dtype).load, memory(dtype).store, memory(dtype).itemsize
    opened, dropped = dropping(dtype)

    @kernel
    def differentiate(D, X, rows, columns, out, mask, layer):
        shared = cuda.shared.array(THREADS, np.float64)
        thread, tile = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)
        part = thread // TILE
        if drops:
            off = opened(mask)
        while tile * TILE < columns:
            column, total = tile * TILE + thread % TILE, 0.0
            if column < columns:
                for row in range(part, rows, PARTS):
                    at = (row * columns + column) * itemsize
                    d = load(D + at)
                    if drops:
                        d = dropped(d, off, row, layer, column)
                    d = backward(d, load(X + at), t)
                    store(D + at, d)
                    total += d
            shared[thread] = total
            _sum_parts(shared, thread)
            if part == 0 and column < columns:
                store(out + column * itemsize, shared[thread])
            cuda.syncthreads()
            tile += cuda.gridDim.x

    return differentiate


@device
def _sum_parts(shared, thread):
    """Sum the parts of each column into those of the first threads."""
    half = THREADS // 2
    while half >= TILE:
        cuda.syncthreads()
        if thread < half:
            shared[thread] += shared[thread + half]
        half //= 2
    cuda.syncthreads()


@functools.cache
def penalize_kernel(dtype: str, chunk_elements: int) -> Any:
    """Add the derivative of the penalty to the gradient of the weights, which lies `behind` bytes after them.

    `segments` is the table of the weights, see `segments.py`; at `decay_at` is the strength of the penalty, in float64.
    """
    load, store, itemsize = memory(dtype).load, memory(dtype).store, memory(dtype).itemsize
    read, t, bounds = memory("float64").load, np.dtype(dtype).type, chunk_bounds(chunk_elements)

    @kernel
    def penalize(segments, count, behind, decay_at):
        thread, chunk = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)
        chunks, decay = entry(segments, count, FIRST_CHUNK), t(read(decay_at))
        while chunk < chunks:
            k, start, stop = bounds(segments, count, chunk)
            p = entry(segments, k, P_AT)
            for i in range(start + thread, stop, THREADS):
                at = p + i * itemsize
                store(at + behind, load(at + behind) + decay * load(at))
            chunk += cuda.gridDim.x

    return penalize


@functools.cache
def account_kernel() -> Any:
    """Add the loss of the batch, penalty included, to that of the epoch, and go on to the next batch; for one block."""
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
            weight = read(batch + WORD * BATCH_WEIGHT)
            if weight > 0.0:
                loss = (shared[0] / per_sample + 0.5 * read(alpha_at) * shared[THREADS]) / weight
                write(batch + WORD * LOSS, read(batch + WORD * LOSS) + loss * rows)
                write(batch + WORD * COUNTED, read(batch + WORD * COUNTED) + rows)
            write(batch + WORD * POSITION, read(batch + WORD * POSITION) + rows)

    return account


def kept_by(name: str) -> bool:
    """Tell whether the derivative of an activation is computed from its input."""
    return ACTIVATIONS[name].by_input
